"""GPT-2's byte-level BPE: a vocabulary, a list of merges, and bytes written as characters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uertool.errors import VocabError
from uertool.text.detokenize import BYTE_TO_CHAR
from uertool.text.tokenizers.base import Tokenizer, check_characters
from uertool.text.vocab import Vocab, read_vocab_text, split_lines

Merge = tuple[str, str]

_CACHED_WORDS = 1 << 16


def read_merges(path: str | Path, *, as_uer: bool = True) -> list[Merge]:
    """The merges of a file, best first. Lines that are no pair are never applied.

    Args:
        path: the file.
        as_uer: as in GPT-2's first code and in UER-py the first line is a heading whatever it
            says, and a last line without line end is left out. Otherwise, as in Hugging Face's
            library, a heading is a line that starts with #version, and all others count.

    Raises:
        VocabError: the file is missing, not text, or holds no merge.
    """
    text = read_vocab_text(path)
    lines = split_lines(text)
    if as_uer:
        lines = lines[1:] if text.endswith(("\n", "\r")) else lines[1:-1]
    pairs = [tuple(line.split()) for line in lines if as_uer or not line.startswith("#version")]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if not merges:
        raise VocabError(
            f"{path} holds no merges.",
            "It needs a heading, then two pieces a line with a blank between them.",
        )
    return merges


class BpeTokenizer(Tokenizer):
    """Byte-level BPE with UER-py's ids: blanks and line ends of the text are tokens too.

    Args:
        vocab: the pieces, in byte characters.
        merges: pairs of pieces, best first.
    """

    name = "bpe"
    joining = "bytes"

    def __init__(self, vocab: Vocab, merges: Sequence[Merge]) -> None:
        super().__init__(vocab)
        # UER-py numbers a merge that occurs twice by its later place.
        self._ranks: dict[Merge, int] = {merge: rank for rank, merge in enumerate(merges)}
        self._rust: Any = None
        self._fits_rust = self._is_regular()
        self._splitter: Any = None
        self._words: dict[str, list[str]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_rust": None, "_splitter": None, "_words": {}}

    def _is_regular(self) -> bool:
        """Whether Rust's merging, pair by pair, gives what UER-py's, rank by rank, gives.

        It does when all pieces are in the vocabulary, and each is made before it is used.
        """
        known = self.vocab.mapping
        if not all(char in known for char in BYTE_TO_CHAR.values()):
            return False
        made: dict[str, int] = {}
        for (left, right), rank in self._ranks.items():
            whole = left + right
            if not (left in known and right in known and whole in known):
                return False
            made[whole] = max(made.get(whole, -1), rank)
        return all(made.get(part, -1) < rank for pair, rank in self._ranks.items() for part in pair)

    def _tokenize(self, text: str) -> list[str]:
        if self._fits_rust:
            return super()._tokenize(text)
        return [piece for word in self._split(text) for piece in self._pieces(word)]

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if not self._fits_rust:
            find = self.vocab.id
            return [[find(piece) for piece in self._tokenize(text)] for text in texts]
        rust = self._rust or self._build()
        check_characters(texts)
        found = rust.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def _build(self) -> Any:
        from tokenizers import Tokenizer as RustTokenizer
        from tokenizers.models import BPE

        merges = sorted(self._ranks, key=self._ranks.__getitem__)
        rust = RustTokenizer(BPE(dict(self.vocab.mapping), merges))
        rust.pre_tokenizer = _byte_level()
        self._rust = rust
        return rust

    # -- the Python way -----------------------------------------------------------------------

    def _split(self, text: str) -> list[str]:
        """Words in byte characters."""
        if self._splitter is None:
            self._splitter = _byte_level()
        return [word for word, _ in self._splitter.pre_tokenize_str(text)]

    def _pieces(self, word: str) -> list[str]:
        pieces = self._words.get(word)
        if pieces is None:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            pieces = self._words[word] = self._merge(word)
        return pieces

    def _merge(self, word: str) -> list[str]:
        """Join the best pair everywhere from left to right, again and again."""
        pieces = list(word)
        while len(pieces) > 1:
            best = min(
                itertools.pairwise(pieces),
                key=lambda pair: self._ranks.get(pair, math.inf),
            )
            if best not in self._ranks:
                break
            joined: list[str] = []
            at = 0
            while at < len(pieces):
                width = 2 if tuple(pieces[at : at + 2]) == best else 1
                joined.append("".join(pieces[at : at + width]))
                at += width
            pieces = joined
        return pieces


def _byte_level() -> Any:
    """GPT-2's way to split text: contractions, words, numbers, the rest, each with its blank."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel(add_prefix_space=False, use_regex=True)
