"""Tokens back to words and to readable text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

# How the tokens of a tokenizer make words: "wordpieces" (## continues), "characters", "blanks"
# (a token is a word), "bytes" (byte-level BPE) and "pieces" (sentencepiece).
Joining = Literal["wordpieces", "characters", "blanks", "bytes", "pieces"]

UNDERLINE = "\u2581"

#: A piece of a sentencepiece model with byte fallback that is one byte.
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_characters() -> dict[int, str]:
    """The character that represents each byte in byte-level BPE.

    Printable characters of Latin-1 represent themselves, the others are U+0100 and on in order.
    """
    table: dict[int, str] = {}
    shifted = 0x100
    for byte in range(0x100):
        char = chr(byte)
        if "!" <= char <= "~" or (byte >= 0xA1 and byte != 0xAD):
            table[byte] = char
        else:
            table[byte] = chr(shifted)
            shifted += 1
    return table


BYTE_TO_CHAR = _byte_characters()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def join(tokens: Iterable[str], joining: Joining) -> str:
    """Readable text of tokens, special tokens already left out."""
    if joining == "characters":
        return "".join(tokens)
    if joining == "blanks":
        return " ".join(tokens)
    if joining == "bytes":
        return _bytes_of(tokens).decode("utf-8", "replace")
    if joining == "pieces":
        return join_pieces(tokens).removeprefix(" ")
    return _join_wordpieces(tokens)


def readable(token: str, joining: Joining) -> str:
    """A token for people: what the bytes of byte-level BPE mean, where they are whole characters.

    Tokens of other tokenizers stay as they are.
    """
    if joining != "bytes":
        return token
    text = join([token], joining).strip()
    return text if text and "\ufffd" not in text else token


def join_pieces(tokens: Iterable[str]) -> str:
    """Text of sentencepiece's pieces, with the blank before its first word.

    Pieces such as <0xE4> are bytes of a character that has no piece; bytes that are no character
    become U+FFFD.
    """
    parts: list[bytes] = []
    for token in tokens:
        byte = BYTE_PIECE.fullmatch(token)
        text = token.replace(UNDERLINE, " ")
        parts.append(text.encode("utf-8") if byte is None else bytes((int(byte[1], 16),)))
    return b"".join(parts).decode("utf-8", "replace")


def _bytes_of(tokens: Iterable[str]) -> bytes:
    found = bytearray()
    for token in tokens:
        for char in token:
            byte = CHAR_TO_BYTE.get(char)
            # A token that was added to the vocabulary is written as it is.
            found += char.encode("utf-8") if byte is None else bytes((byte,))
    return bytes(found)


# -- spacing --------------------------------------------------------------------------------------

_TIGHT_BEFORE = frozenset(",.!?;:)]}%\u2019\u2026\u00b0")
_TIGHT_AFTER = frozenset("([{#$@\u2018")
_TIGHT_BOTH = frozenset("'\"-/_\\~&*+=<>^|`\u2013\u2014\u00b7")
_OPEN_AFTER = frozenset(",.!?;:)]}%\u2026")


def _join_wordpieces(tokens: Iterable[str]) -> str:
    """Words of pieces, with blanks between Latin words and without blanks in Chinese."""
    words: list[str] = []
    for token in tokens:
        if token.startswith("##") and len(token) > 2 and words:
            words[-1] += token[2:]
        elif token:
            words.append(token)
    text: list[str] = []
    for place, word in enumerate(words):
        if place and _needs_blank(words[place - 2] if place > 1 else "", words[place - 1], word):
            text.append(" ")
        text.append(word)
    return "".join(text)


def _needs_blank(before: str, left: str, right: str) -> bool:
    """Whether two words have a blank between them; `before` is the word before `left`."""
    last, first = left[-1], right[0]
    if not (_is_spaced(last) and _is_spaced(first)):
        return False
    if first in _TIGHT_BEFORE or first in _TIGHT_BOTH or last in _TIGHT_AFTER:
        return False
    if left in {".", ",", ":"} and before[-1:].isdigit() and first.isdigit():
        return False  # 3.14, 1,000, 12:30
    if last in _OPEN_AFTER:
        return True
    return last not in _TIGHT_BOTH


def _is_spaced(char: str) -> bool:
    """Whether a character belongs to a script that sets words apart (Korean does, Chinese not)."""
    return char.isascii() or (unicodedata.east_asian_width(char) not in "WF") or _is_hangul(char)


def _is_hangul(char: str) -> bool:
    return "\uac00" <= char <= "\ud7a3" or "\u1100" <= char <= "\u11ff"


# -- whole words ----------------------------------------------------------------------------------


def words(tokens: Sequence[str], joining: Joining, special: Collection[str]) -> list[range]:
    """Positions of tokens grouped into words; a special token is a group of its own."""
    goes_on = _GOES_ON[joining](tokens)
    starts = [
        place
        for place, token in enumerate(tokens)
        if place == 0 or token in special or tokens[place - 1] in special or not goes_on[place]
    ]
    ends = [*starts[1:], len(tokens)][: len(starts)]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def _blanks_go_on(tokens: Sequence[str]) -> list[bool]:
    return [False] * len(tokens)


def _wordpieces_go_on(tokens: Sequence[str]) -> list[bool]:
    return [token.startswith("##") and len(token) > 2 for token in tokens]


def _letters_go_on(tokens: Sequence[str]) -> list[bool]:
    """A token continues a word where two letters of a script with blanks meet."""
    before = ["", *tokens]
    return [
        _is_word_letter(left[-1:]) and _is_word_letter(right[:1])
        for left, right in zip(before, tokens, strict=False)
    ]


def _bytes_go_on(tokens: Sequence[str]) -> list[bool]:
    """As with letters, and where a token starts within a character of several bytes."""
    lengths = [len(_bytes_of([token])) for token in tokens]
    owners: list[tuple[int, str]] = []  # of each byte: the number of its character, and that
    data = _bytes_of(tokens)
    at = 0
    while at < len(data):
        char = data[at : at + 4].decode("utf-8", "ignore")[:1]
        width = len(char.encode("utf-8"))
        if not char or data[at : at + width].decode("utf-8", "ignore") != char:
            char, width = "\ufffd", 1
        owners += [(at, char)] * width
        at += width
    result = []
    start = 0
    for length in lengths:
        inside = 0 < start < len(owners)
        left, right = (owners[start - 1], owners[start]) if inside else ((-1, ""), (-2, ""))
        result.append(
            left[0] == right[0] or (_is_word_letter(left[1]) and _is_word_letter(right[1]))
        )
        start += length
    return result


def _is_word_letter(char: str) -> bool:
    """A letter or digit of a script that puts blanks between words."""
    return bool(char) and char.isalnum() and _is_spaced(char)


_GOES_ON: dict[str, Callable[[Sequence[str]], list[bool]]] = {
    "blanks": _blanks_go_on,
    "wordpieces": _wordpieces_go_on,
    "characters": _letters_go_on,
    "pieces": _letters_go_on,
    "bytes": _bytes_go_on,
}
