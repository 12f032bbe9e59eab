"""Texts as tokens and ids, with their places in the text, and ids as texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from uertool.errors import InputError
from uertool.tasks.tokenize.settings import TokenizeSettings
from uertool.text.tokenizers.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text and its tokens.

    Attributes:
        text: the text.
        tokens, ids: with `add_special` those around the text too.
        spans: the (start, stop) of each token in the text, in characters; of a special token around
            it None. None for all where the tokenizer does not know.
        decoded: the text that the tokens give, see `Tokenizer.decode`.
        unknown: how many tokens are [UNK].
    """

    text: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int] | None, ...] | None
    decoded: str
    unknown: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether decoding gives the text back, apart from white space."""
        return "".join(self.decoded.split()) == "".join(self.text.split())

    def __str__(self) -> str:
        return " ".join(self.tokens)


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], settings: TokenizeSettings | None = None
) -> list[Tokenized]:
    """Tokens, ids and places of some texts.

    Raises:
        VocabError: a token is unknown and the vocabulary has no [UNK].
    """
    settings = settings or TokenizeSettings()
    before = tokenizer.special_in_text
    tokenizer.special_in_text = before or settings.special_in_text
    try:
        return list(_tokenized(tokenizer, texts, settings))
    finally:
        tokenizer.special_in_text = before


def _tokenized(
    tokenizer: Tokenizer, texts: Sequence[str], settings: TokenizeSettings
) -> Iterator[Tokenized]:
    prefix = tokenizer.prefix_ids if settings.add_special else ()
    suffix = tokenizer.suffix_ids if settings.add_special else ()
    for text, inner in zip(texts, tokenizer.encode_batch(list(texts)), strict=True):
        places = tokenizer.places(text)
        spans = None
        if places is not None:
            spans = (*[None] * len(prefix), *places, *[None] * len(suffix))
        ids = (*prefix, *inner, *suffix)
        yield Tokenized(
            text,
            tuple(tokenizer.tokens(ids)),
            ids,
            spans,
            tokenizer.decode(ids),
            sum(index == tokenizer.unk_id for index in inner),
        )


def decode(tokenizer: Tokenizer, lines: Iterable[str]) -> list[Tokenized]:
    """The texts of lines of ids.

    Raises:
        InputError: a line is not a list of ids.
        VocabError: an id is outside the vocabulary.
    """
    found = []
    for line in lines:
        words = re.split(r"[\s,]+", line.strip(" \t[]"))
        try:
            ids = tuple(int(word) for word in words if word)
        except ValueError:
            raise InputError(
                f"{line[:60]!r} is not a list of ids.",
                "Write whole numbers separated by blanks or commas.",
            ) from None
        text = tokenizer.decode(ids)
        unknown = sum(index == tokenizer.unk_id for index in ids)
        found.append(Tokenized(text, tuple(tokenizer.tokens(ids)), ids, None, text, unknown))
    return found
