"""What is masked in a line: what the user marked, a word, a share of the tokens, or one at random.

Everything random about a line is drawn from the seed, the line's number and the variant, so that
neither batches nor shards change it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uertool.errors import UsageError, VocabError
from uertool.io.encodings import UTF8
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.text.detokenize import UNDERLINE
from uertool.text.readers import read_lines
from uertool.text.segmentation import chinese_words
from uertool.text.tokenizers.base import Tokenizer

#: Why a line has nothing masked.
Unmasked = Literal["blank", "no known token", "no such word", "beyond the cut"]

#: How a mask may be written in a text, in addition to its name in the vocabulary: [MASK] in
#: capitals or not, also in full-width letters or brackets, and <mask>.
_WRITTEN_MASK = re.compile(
    r"\[mask\]|［(?:mask|ｍａｓｋ)］|【(?:mask|ｍａｓｋ)】|<mask>", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Masked:
    """A line as ids with some of them masked.

    Attributes:
        ids: special tokens included, cut to the most that fits.
        positions: where the masks are in `ids`, rising.
        labels: the tokens that were replaced; None where the user wrote the mask.
        was_cut: whether tokens did not fit.
        reason: why there are no masks, or None where there are.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    labels: tuple[int | None, ...]
    was_cut: bool = False
    reason: Unmasked | None = None


class Masker:
    """Masks lines with one tokenizer.

    Args:
        tokenizer: gives the ids; its [CLS] and [SEP] go around every line.
        settings: what to mask in lines that have no mask.
        most: tokens that fit, special ones included; what is beyond is cut, as UER-py does it.

    Raises:
        VocabError: the vocabulary has no [MASK], or not the tokens of the word to mask.
        UsageError: nothing fits.
    """

    def __init__(self, tokenizer: Tokenizer, settings: ClozeSettings, most: int) -> None:
        self.mask_id = tokenizer.vocab.require("mask", "a cloze test masks tokens with it")
        self._tokenizer = tokenizer
        self._settings = settings
        self._most = most
        if most <= len(tokenizer.prefix_ids):
            raise UsageError(
                f"`seq_length` {most} leaves room only for special tokens.",
                "Give more, for example 128.",
            )
        self._name = str(tokenizer.vocab.mask)
        self._longest = max(map(len, settings.words), default=0)
        self._never = tokenizer.vocab.special_ids
        self._spellings = (
            [] if settings.mask_word is None else self._spellings_of(settings.mask_word)
        )

    def _spellings_of(self, word: str) -> list[list[int]]:
        """The ids of a word at the start of a text, within it, and after a blank, longest first."""
        encode = self._tokenizer.encode
        found = [encode(word), self._tokenizer.encode_parts([["", word]])[0][1], encode(f" {word}")]
        unknown = self._tokenizer.unk_id
        known = [ids for ids in found if ids and unknown not in ids]
        if not known:
            raise VocabError(
                f"The vocabulary {self._tokenizer.vocab.source} cannot spell {word!r}, so it is "
                "never found.",
                "Give another `mask_word`.",
            )
        return sorted(known, key=len, reverse=True)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts without special tokens around them; written masks are masks."""
        if self._tokenizer.special_in_text:
            return self._tokenizer.encode_batch([self.canonical(text) for text in texts])
        rows = self._tokenizer.encode_parts([self._split(text) for text in texts])
        return [self._joined(row) for row in rows]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        """Where each token of `encode` is in `canonical(text)`; see `Tokenizer.spans`."""
        if self._tokenizer.special_in_text:
            return self._tokenizer.spans(self.canonical(text))
        parts = self._split(text)
        start = 0
        found: list[tuple[int, int]] = []
        for place, (part, ids) in enumerate(
            zip(parts, self._tokenizer.encode_parts([parts])[0], strict=True)
        ):
            if place:
                found.append((start, start + len(self._name)))
                start += len(self._name)
            spans = self._tokenizer.spans(part) if ids else []
            if spans is None or len(spans) != len(ids):
                return None
            found.extend((start + first, start + last) for first, last in spans)
            start += len(part)
        return found

    def canonical(self, text: str) -> str:
        """The text with every mask written as the vocabulary names it."""
        return _WRITTEN_MASK.sub(lambda _: self._name, text)

    def _split(self, text: str) -> list[str]:
        """The stretches of text between written masks."""
        return self.canonical(text).split(self._name)

    def _joined(self, parts: Sequence[Sequence[int]]) -> list[int]:
        ids = list(parts[0])
        for part in parts[1:]:
            ids.append(self.mask_id)
            ids.extend(part)
        return ids

    def mask(self, number: int, ids: Sequence[int], variant: int = 0) -> Masked:
        """Mask what the rule says in one line.

        Args:
            number: the line's place in the whole input.
            ids: what `encode` gave.
            variant: another one, another choice.
        """
        kept, tokens, was_cut = self._cut(ids)
        written = [place for place in tokens if kept[place] == self.mask_id]
        if not ids:
            return Masked(tuple(kept), (), (), was_cut, "blank")
        if self.mask_id in ids:
            reason: Unmasked | None = None if written else "beyond the cut"
            return Masked(tuple(kept), tuple(written), (None,) * len(written), was_cut, reason)
        if self._settings.mask_word is not None:
            places = self._places_of_word(kept, tokens)
            reason = None if places else "no such word"
        else:
            places = self._at_random(number, variant, kept, tokens)
            reason = None if places else "no known token"
        return self._masked(kept, places, was_cut, reason)

    def each_word(self, ids: Sequence[int]) -> Iterator[Masked]:
        """A line with one of its words masked, for every word that the vocabulary knows."""
        kept, tokens, was_cut = self._cut(ids)
        for word in self._known_words(kept, tokens):
            yield self._masked(kept, word, was_cut)

    def _cut(self, ids: Sequence[int]) -> tuple[list[int], range, bool]:
        """What fits of a line: its ids, the positions of its text, and whether some are missing."""
        around = self._tokenizer.prefix_ids
        kept = [*around, *ids, *self._tokenizer.suffix_ids][: self._most]
        end = len(around) + len(ids)
        return kept, range(len(around), min(end, len(kept))), len(kept) < end

    def _masked(
        self,
        kept: Sequence[int],
        places: Sequence[int],
        was_cut: bool,
        reason: Unmasked | None = None,
    ) -> Masked:
        ids = list(kept)
        for place in places:
            ids[place] = self.mask_id
        labels = tuple(kept[place] for place in places)
        return Masked(tuple(ids), tuple(places), labels, was_cut, reason)

    def _places_of_word(self, ids: Sequence[int], tokens: range) -> list[int]:
        words = self.words(ids, tokens, listed=False)
        starts = {word.start for word in words}
        ends = {word.stop for word in words}
        places: list[int] = []
        start = tokens.start
        while start < tokens.stop:
            for spelling in self._spellings:
                end = start + len(spelling)
                # "play" is not a word of "playing".
                if start in starts and end in ends and list(ids[start:end]) == spelling:
                    places.extend(range(start, end))
                    start = end
                    break
            else:
                start += 1
        return places

    def _at_random(self, number: int, variant: int, ids: Sequence[int], tokens: range) -> list[int]:
        # A string as the seed: Python hashes it the same on every machine and in every run.
        draw = random.Random(f"{self._settings.seed}/{number}/{variant}")
        words = self._known_words(ids, tokens)
        if not words:
            return []
        wanted = (
            1
            if self._settings.mask_ratio is None
            else max(1, round(self._settings.mask_ratio * len(tokens)))
        )
        if wanted == 1:
            return list(words[draw.randrange(len(words))])
        places: list[int] = []
        for word in draw.sample(words, len(words)):
            if not places or len(places) + len(word) <= wanted:
                places.extend(word)
        return sorted(places)

    def _known_words(self, ids: Sequence[int], tokens: range) -> list[range]:
        """What may be masked together: words, or single tokens."""
        words = (
            self.words(ids, tokens)
            if self._settings.whole_word
            else [range(place, place + 1) for place in tokens]
        )
        # A text may hold special tokens too: unknown ones, and some tokenizers read [SEP] as such.
        return [word for word in words if not self._never.intersection(ids[p] for p in word)]

    def words(self, ids: Sequence[int], tokens: range, *, listed: bool = True) -> list[range]:
        """The words among some positions of `ids`, as ranges of positions.

        Args:
            ids: the line.
            tokens: positions that are its text.
            listed: whether neighbours that are a Chinese word, or an entry of the word list, are
                one word.
        """
        names = self._tokenizer.tokens(ids[tokens.start : tokens.stop])
        grouped = self._tokenizer.whole_words(names)
        if listed:
            texts = [self._written(names, ids, tokens.start, group) for group in grouped]
            words = chinese_words(
                texts,
                self._settings.words,
                self._longest,
                segment=self._tokenizer.joining != "blanks",  # its tokens are words
            )
            grouped = [range(grouped[w.start].start, grouped[w.stop - 1].stop) for w in words]
        return [range(tokens.start + g.start, tokens.start + g.stop) for g in grouped]

    def _written(self, names: Sequence[str], ids: Sequence[int], start: int, group: range) -> str:
        """What some tokens are in a text, without blanks."""
        if self._tokenizer.joining == "bytes":
            return self._tokenizer.decode(ids[start + group.start : start + group.stop]).strip()
        return "".join(names[i].removeprefix("##").removeprefix(UNDERLINE) for i in group)


def words_of(given: str | Path | Iterable[str], *, encoding: str = UTF8) -> frozenset[str]:
    """Words themselves, or those of a file: the first field of every line that has one."""
    if not isinstance(given, (str, Path)):
        return frozenset(given)
    lines = read_lines(given, encoding=encoding)
    return frozenset(fields[0] for line in lines if (fields := line.text.split()))
