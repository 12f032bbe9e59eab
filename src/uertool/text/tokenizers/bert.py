"""BERT's tokenizer: basic cleaning and splitting, then the longest known pieces of each word.

The Rust library does the work. It follows other rules than UER-py (Python's) for some characters:
private use, U+2B820..U+2B91F, the lower case of a final sigma, and every character whose category
changed or was added in a Unicode version that the two do not share. A line with any character
outside `_COMMON`, where both were compared one character after the other, takes the Python way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uertool.errors import VocabError
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.vocab import Vocab

LONGEST_WORD = 200  # characters; a longer word is unknown as a whole
_CACHED_WORDS = 1 << 16

# Blocks where the two tables agree: European scripts, Hangul, Hebrew and Thai letters, punctuation
# and symbols, everything Chinese and Japanese, emoji. tests/text verifies each character.
_COMMON = (
    "\0-\u0377\u037b-\u052f\u0531-\u0556\u0561-\u0586\u05d0-\u05ea\u0e01-\u0e3a\u0e40-\u0e5b"
    "\u1100-\u11ff\u1e00-\u1f15\u2000-\u2064\u2070-\u2bff\u2e80-\u2fd5\u2ff0-\u2ffb"
    "\u3000-\u9fff\uac00-\ud7a3\uf900-\ufad9\ufb00-\ufb06\ufe10-\ufe19\ufe30-\ufe6b"
    "\uff01-\uffdc\uffe0-\uffee\ufffd"
    "\U0001f000-\U0001faff\U00020000-\U0002b81f\U0002f800-\U0002fa1f"
)
_UNCOMMON = re.compile(f"[^{_COMMON}]")
_UNCOMMON_OR_SIGMA = re.compile(f"[^{_COMMON}]|\u03a3")

_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def rust_wordpiece(
    pieces: Mapping[str, int],
    unk: str | None,
    lower_case: bool,
    *,
    accents: bool | None,
    chinese: bool = True,
    longest: int = 100,
) -> Any:
    """BERT's tokenizer in the Rust library, without special tokens.

    Args:
        pieces: the vocabulary.
        unk: its token for unknown words.
        lower_case: whether text is lower-cased.
        accents: whether they are removed; None does so if text is lower-cased.
        chinese: whether Chinese characters are set apart.
        longest: the most characters of a word; a longer one is unknown.
    """
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    model = WordPiece(dict(pieces), unk_token=unk, max_input_chars_per_word=longest)
    rust = RustTokenizer(model)
    rust.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=accents,
        lowercase=lower_case,
    )
    rust.pre_tokenizer = BertPreTokenizer()
    return rust


class BertTokenizer(Tokenizer):
    """Basic tokenizer and wordpiece, with UER-py's ids.

    Args:
        vocab: the pieces; those that go on a word start with ##.
        do_lower_case: lower-case and strip accents.
    """

    name = "bert"
    joining = "wordpieces"

    def __init__(self, vocab: Vocab, *, do_lower_case: bool = True) -> None:
        super().__init__(vocab)
        self.do_lower_case = do_lower_case
        self._rust: Any = None
        self._words: dict[str, list[int]] = {}

    def __getstate__(self) -> dict[str, object]:
        # Built again on the other side, which is faster than carrying it as JSON.
        return {**self.__dict__, "_rust": None, "_words": {}}

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if self.unk_id is None:
            # Rust stops at the first unknown word with a message of its own.
            return [self._encode_in_python(text) for text in texts]
        uncommon = (_UNCOMMON_OR_SIGMA if self.do_lower_case else _UNCOMMON).search
        encoded: list[list[int] | None] = [
            self._encode_in_python(text) if uncommon(text) else None for text in texts
        ]
        common = [index for index, ids in enumerate(encoded) if ids is None]
        if common:
            rust = self._rust or self._build()
            batch = [texts[index] for index in common]
            found = rust.encode_batch_fast(batch, add_special_tokens=False)
            for index, encoding in zip(common, found, strict=True):
                encoded[index] = encoding.ids
        return [ids for ids in encoded if ids is not None]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        if self.unk_id is None:
            return None
        found = (self._rust or self._build()).encode(text, add_special_tokens=False)
        # Where the two ways differ, Rust's places are those of other tokens.
        return list(found.offsets) if found.ids == self.encode(text) else None

    def _build(self) -> Any:
        lower = self.do_lower_case
        rust = rust_wordpiece(
            self.vocab.mapping, self.vocab.unk, lower, accents=lower, longest=LONGEST_WORD
        )
        self._rust = rust
        return rust

    # -- the Python way -----------------------------------------------------------------------

    def _encode_in_python(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in basic_words(text, do_lower_case=self.do_lower_case):
            pieces = self._words.get(word)
            if pieces is None:
                if len(self._words) >= _CACHED_WORDS:
                    self._words.clear()
                pieces = self._words[word] = self._wordpieces(word)
            ids.extend(pieces)
        return ids

    def _wordpieces(self, word: str) -> list[int]:
        """The longest known piece, then the longest that continues from there, and so on."""
        ids: list[int] = []
        start = 0
        find = self.vocab.mapping.get
        while start < len(word) <= LONGEST_WORD:
            lead = "##" if start else ""
            for end in range(len(word), start, -1):
                index = find(lead + word[start:end])
                if index is not None:
                    break
            else:
                return self._unknown(word)
            ids.append(index)
            start = end
        return ids if start else self._unknown(word)

    def _unknown(self, word: str) -> list[int]:
        if self.unk_id is None:
            raise VocabError(
                f"{self.vocab.source} has no [UNK] token, and no pieces for the word {word!r}.",
                "Add a line [UNK] to it, or use the vocabulary that the model was trained with.",
            )
        return [self.unk_id]


class _CleanUp(dict[int, str]):
    """For `str.translate`: controls away, blanks to a space, Chinese characters set apart."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            result = " "
        elif code in (0, 0xFFFD) or category in ("Cc", "Cf"):
            result = ""
        elif any(first <= code <= last for first, last in _CHINESE):
            result = f" {char} "
        else:
            result = char
        self[code] = result
        return result


_CLEAN_UP = _CleanUp()


def basic_words(text: str, *, do_lower_case: bool) -> Iterator[str]:
    """The words of a text after BERT's basic tokenization, in Python's own Unicode version.

    Controls, zero bytes and U+FFFD are dropped, Chinese characters and punctuation (ASCII symbols
    too) are words of their own; lower-casing also removes the accents.
    """
    for chunk in text.translate(_CLEAN_UP).split():
        word = chunk
        if do_lower_case:
            decomposed = unicodedata.normalize("NFD", chunk.lower())
            word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        start = 0
        for index, char in enumerate(word):
            if _is_punctuation(char):
                if index > start:
                    yield word[start:index]
                yield char
                start = index + 1
        if start < len(word):
            yield word[start:]


def _is_punctuation(char: str) -> bool:
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")
