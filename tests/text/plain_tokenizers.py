"""A plain second implementation of the tokenizers, written from their descriptions, as a judge.

Slow and literal on purpose: one function a rule, no tables shared with the program.
"""

from __future__ import annotations

import itertools
import unicodedata

import regex

CHINESE = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]


def clean(text: str) -> str:
    kept = ""
    for c in text:
        if c in " \t\n\r" or unicodedata.category(c) == "Zs":
            kept += " "
        elif ord(c) not in (0, 0xFFFD) and unicodedata.category(c) not in ("Cc", "Cf"):
            kept += c
    return kept


def spaced(text: str) -> str:
    return "".join(f" {c} " if any(a <= ord(c) <= b for a, b in CHINESE) else c for c in text)


def without_accents(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")


def punctuation(c: str) -> bool:
    ascii_sign = (
        33 <= ord(c) <= 47 or 58 <= ord(c) <= 64 or 91 <= ord(c) <= 96 or 123 <= ord(c) <= 126
    )
    return ascii_sign or unicodedata.category(c)[0] == "P"


def basic(text: str, lower: bool) -> list[str]:
    words = []
    for word in spaced(clean(text)).split():
        if lower:
            word = without_accents(word.lower())
        words.append("".join(f" {c} " if punctuation(c) else c for c in word))
    return " ".join(words).split()


def wordpiece(word: str, vocab: set[str]) -> list[str]:
    if len(word) > 200:
        return ["[UNK]"]
    pieces: list[str] = []
    rest = word
    while rest:
        lead = "##" if pieces else ""
        for size in range(len(rest), 0, -1):
            if lead + rest[:size] in vocab:
                pieces.append(lead + rest[:size])
                rest = rest[size:]
                break
        else:
            return ["[UNK]"]
    return pieces


def bert(text: str, vocab: set[str], lower: bool) -> list[str]:
    return [piece for word in basic(text, lower) for piece in wordpiece(word, vocab)]


GPT2_WORDS = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def byte_characters() -> dict[int, str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(rest)}


def bpe(text: str, merges: list[tuple[str, str]]) -> list[str]:
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    table = byte_characters()
    tokens: list[str] = []
    for word in GPT2_WORDS.findall(text):
        pieces = [table[b] for b in word.encode()]
        while True:
            known = {p for p in itertools.pairwise(pieces) if p in ranks}
            if not known:
                break
            left, right = min(known, key=ranks.__getitem__)
            merged: list[str] = []
            while pieces:
                if pieces[:2] == [left, right]:
                    merged.append(left + right)
                    pieces = pieces[2:]
                else:
                    merged.append(pieces.pop(0))
            pieces = merged
        tokens += pieces
    return tokens
