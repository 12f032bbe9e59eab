"""The base class of tokenizers: text to the ids that UER-py gives, and back to readable text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from uertool.errors import InputError
from uertool.text import detokenize
from uertool.text.vocab import Vocab


class Tokenizer:
    """Text to ids and back; a subclass defines how plain text is split.

    Attributes:
        name: its name on the command line.
        vocab: the entries; ids index them.
        special_in_text: whether a special token written in a text, such as [MASK], is that
            token. Off by default, since UER-py reads it as ordinary characters.
        prefix_ids, suffix_ids: what `with_special` puts around a sequence.
        joining: how tokens become words again, see `uertool.text.detokenize`.
        ends_texts: whether `suffix_ids` are those that the model's own library puts behind a text.
    """

    name: ClassVar[str] = ""
    ends_texts: ClassVar[bool] = False
    joining: detokenize.Joining = "characters"

    def __init__(self, vocab: Vocab, *, special_in_text: bool = False) -> None:
        self.vocab = vocab
        self.special_in_text = special_in_text
        self.pad_id = vocab.pad_id
        self.unk_id = vocab.unk_id
        self.cls_id = vocab.cls_id
        self.sep_id = vocab.sep_id
        self.mask_id = vocab.mask_id
        self.bos_id = vocab.cls_id
        self.eos_id = vocab.sep_id
        self.prefix_ids: tuple[int, ...] = () if vocab.cls_id is None else (vocab.cls_id,)
        self.suffix_ids: tuple[int, ...] = () if vocab.sep_id is None else (vocab.sep_id,)
        self._special_pattern: re.Pattern[str] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} tokenizer, {len(self.vocab)} tokens from {self.vocab.source}>"

    def __len__(self) -> int:
        return len(self.vocab)

    # -- text to tokens -----------------------------------------------------------------------

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without special tokens around them."""
        if not self.special_in_text:
            return self._tokenize(text)
        found: list[str] = []
        for part, special in self._parts(text):
            found.extend([part] if special else self._tokenize(part))
        return found

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens around them.

        Raises:
            VocabError: a token is unknown and the vocabulary has no [UNK].
            InputError: the text is not valid Unicode (it holds lone surrogates).
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts: the same as `encode` of each, but faster. Raises as `encode`."""
        if not self.special_in_text:
            return self._encode_batch(texts)
        return self._encode_batch_with_special(texts)

    def _encode_batch_with_special(self, texts: Sequence[str]) -> list[list[int]]:
        parts = [self._parts(text) for text in texts]
        plain = iter(self._encode_batch([p for row in parts for p, special in row if not special]))
        mapping = self.vocab.mapping
        encoded: list[list[int]] = []
        for row in parts:
            ids: list[int] = []
            for part, special in row:
                ids.extend([mapping[part]] if special else next(plain))
            encoded.append(ids)
        return encoded

    def _parts(self, text: str) -> list[tuple[str, bool]]:
        """A text split at the special tokens written in it: (part, is it a special token)."""
        if self._special_pattern is None:
            names = sorted(self._special_names(), key=len, reverse=True)
            # A pattern that never matches where there are none.
            self._special_pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        parts: list[tuple[str, bool]] = []
        end = 0
        for match in self._special_pattern.finditer(text):
            if match.start() > end:
                parts.append((text[end : match.start()], False))
            parts.append((match.group(), True))
            end = match.end()
        if end < len(text) or not parts:
            parts.append((text[end:], False))
        return parts

    def _special_names(self) -> list[str]:
        return [self.vocab.tokens[index] for index in self.vocab.special_ids]

    def _tokenize(self, text: str) -> list[str]:
        """The tokens of plain text."""
        tokens = self.vocab.tokens
        return [tokens[index] for index in self._encode_batch([text])[0]]

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of plain texts; by default the pieces of each are looked up in the vocabulary."""
        return [self._ids_of(self._pieces(text)) for text in texts]

    def _pieces(self, text: str) -> Sequence[str]:
        """The pieces of plain text, for tokenizers that look them up as they are."""
        raise NotImplementedError

    def _ids_of(self, pieces: Iterable[str]) -> list[int]:
        """The ids of pieces, `unk_id` for unknown ones; raises VocabError where that is None."""
        unk = self.unk_id
        if unk is None:
            return [self.vocab.id(piece) for piece in pieces]
        find = self.vocab.mapping.get
        return [find(piece, unk) for piece in pieces]

    def encode_parts(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """The ids of texts that come in parts, with something other than text between the parts.

        Args:
            rows: the parts of each text; a part other than the first continues where another ended.

        Returns:
            For every text the ids of each part. Raises as `encode`.
        """
        plain = iter(self._encode_batch([part for row in rows for part in row]))
        return [[next(plain) for _ in row] for row in rows]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        """The place of each token of `encode` in a text, as (start, stop).

        None if this tokenizer does not know, or a token is not a range of characters.
        """
        return None

    def places(self, text: str) -> list[tuple[int, int]] | None:
        """As `spans`, also for special tokens in a text where these are read as such."""
        if not self.special_in_text:
            return self.spans(text)
        found: list[tuple[int, int]] = []
        start = 0
        for part, special in self._parts(text):
            spans = [(0, len(part))] if special else self.spans(part)
            if spans is None:
                return None
            found.extend((start + first, start + last) for first, last in spans)
            start += len(part)
        return found

    def with_special(self, ids: Sequence[int]) -> list[int]:
        """The ids with what the model expects around a sequence, [CLS] and [SEP] for UER-py's."""
        return [*self.prefix_ids, *ids, *self.suffix_ids]

    # -- tokens to text -----------------------------------------------------------------------

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids. Raises VocabError for an id outside the vocabulary."""
        ids = list(ids)
        if ids and min(ids) >= 0 and max(ids) < len(self.vocab):
            return list(map(self.vocab.tokens.__getitem__, ids))
        return [self.vocab.token(index) for index in ids]

    def decode(self, ids: Iterable[int], *, raw: bool = False) -> str:
        """Readable text: Chinese without blanks, Latin words apart, special tokens left out.

        Args:
            ids: what to read.
            raw: join the tokens as they are, special tokens and ## included, as the old scripts do.
        """
        if raw:
            return "".join(self.tokens(ids))
        special = self.vocab.special_ids
        return detokenize.join(self.tokens(i for i in ids if i not in special), self.joining)

    def whole_words(self, tokens: Sequence[str] | Sequence[int]) -> list[range]:
        """Positions grouped into words: `range(2, 4)` says that tokens 2 and 3 are one word.

        Every position is in one range. Where nothing marks words, as in Chinese, each character
        is its own.
        """
        named = [t if isinstance(t, str) else self.vocab.token(t) for t in tokens]
        special = frozenset(self._special_names())
        return detokenize.words(named, self.joining, special)


def check_characters(texts: Iterable[str]) -> None:
    """Raises InputError for a text with lone surrogates, which Rust and C++ libraries refuse."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"A text holds {text[error.start]!r}, which is not a character.",
                "It was not UTF-8 where it came from.",
            ) from None
