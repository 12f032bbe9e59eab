"""Comparing two vocabularies: their tokens, their ids, and how well they cover a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from uertool.io.display import Report
from uertool.tasks.vocab.counting import corpus_files, count_corpus
from uertool.tasks.vocab.settings import DiffSettings
from uertool.tasks.vocab.tallies import Counting
from uertool.text.readers import read_lines
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.bert import BertTokenizer
from uertool.text.tokenizers.char import CharTokenizer
from uertool.text.tokenizers.space import SpaceTokenizer
from uertool.text.vocab import Vocab

_LINES_AT_A_TIME = 2048


@dataclass(frozen=True)
class Coverage:
    """How well a vocabulary covers a corpus.

    Attributes:
        units: characters or words of the corpus.
        covered: those that are in the vocabulary.
        kinds: different characters or words.
        covered_kinds: those that are in the vocabulary.
        tokens: the number of tokens that the tokenizer gives.
        unknown: how many of these are [UNK].
    """

    units: int
    covered: int
    kinds: int
    covered_kinds: int
    tokens: int
    unknown: int

    @property
    def share(self) -> float:
        """Covered units over all units; 1 for an empty corpus."""
        return self.covered / self.units if self.units else 1.0

    @property
    def unknown_rate(self) -> float:
        """[UNK] over all tokens; 0 for an empty corpus."""
        return self.unknown / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, repr=False)
class VocabDiff(Report):
    """How two vocabularies differ; blank entries are not counted as tokens.

    Attributes:
        size_1, size_2: different tokens.
        only_1, only_2: tokens that the other does not have, in the order of their ids.
        common: tokens of both, in the order of the first one's ids.
        moved: common tokens with other ids: (token, id in the first, id in the second).
        duplicates_1, duplicates_2: tokens that occur more than once, with their ids.
        blanks_1, blanks_2: entries that are empty or white space.
        coverage_1, coverage_2: on the corpus, where one was given.
    """

    size_1: int
    size_2: int
    only_1: list[str]
    only_2: list[str]
    common: list[str]
    moved: list[tuple[str, int, int]]
    duplicates_1: dict[str, tuple[int, ...]]
    duplicates_2: dict[str, tuple[int, ...]]
    blanks_1: int
    blanks_2: int
    coverage_1: Coverage | None = None
    coverage_2: Coverage | None = None

    @property
    def jaccard(self) -> float:
        """Common tokens over all tokens of both; 1 for two empty vocabularies."""
        union = len(self.common) + len(self.only_1) + len(self.only_2)
        return len(self.common) / union if union else 1.0

    def words(self, name: str) -> list[list[Any]]:
        """One of the lists in `DIFF_LISTS`: each entry is a token, with its ids where they differ.

        An entry of duplicates begins with the number of its vocabulary.
        """
        if name == "moved":
            return [[*entry] for entry in self.moved]
        if name == "duplicates":
            tables = (("1", self.duplicates_1), ("2", self.duplicates_2))
            return [[which, word, *ids] for which, table in tables for word, ids in table.items()]
        return [[word] for word in getattr(self, name)]

    def as_record(self) -> dict[str, Any]:
        """The figures as JSON types."""
        counted = ("only_1", "only_2", "common", "moved", "duplicates_1", "duplicates_2")
        record: dict[str, Any] = {
            "size_1": self.size_1,
            "size_2": self.size_2,
            **{name: len(getattr(self, name)) for name in counted},
            "jaccard": self.jaccard,
            "blanks_1": self.blanks_1,
            "blanks_2": self.blanks_2,
        }
        for name, coverage in (("corpus_1", self.coverage_1), ("corpus_2", self.coverage_2)):
            if coverage is not None:
                record[name] = {
                    "units": coverage.units,
                    "covered": coverage.share,
                    "kinds": coverage.kinds,
                    "covered_kinds": coverage.covered_kinds,
                    "tokens": coverage.tokens,
                    "unknown": coverage.unknown,
                    "unknown_rate": coverage.unknown_rate,
                }
        return record


def diff_vocabs(first: Vocab, second: Vocab, settings: DiffSettings | None = None) -> VocabDiff:
    """Compare two vocabularies, and on a corpus what each makes of it.

    Args:
        first: a vocabulary.
        second: another.
        settings: the corpus, if there is one, and how it is measured.

    Raises:
        InputError: the corpus cannot be read.
    """
    tokens_1, tokens_2 = _tokens(first), _tokens(second)
    known_1, known_2 = set(tokens_1), set(tokens_2)
    common = [token for token in tokens_1 if token in known_2]
    coverages: tuple[Coverage | None, Coverage | None] = (None, None)
    if settings is not None and settings.corpus_path:
        coverages = _coverages((first, second), settings)
    return VocabDiff(
        size_1=len(tokens_1),
        size_2=len(tokens_2),
        only_1=[token for token in tokens_1 if token not in known_2],
        only_2=[token for token in tokens_2 if token not in known_1],
        common=common,
        moved=[
            (token, first.id(token), second.id(token))
            for token in common
            if first.id(token) != second.id(token)
        ],
        duplicates_1=_without_blanks(first.duplicates),
        duplicates_2=_without_blanks(second.duplicates),
        blanks_1=sum(not token.strip() for token in first.tokens),
        blanks_2=sum(not token.strip() for token in second.tokens),
        coverage_1=coverages[0],
        coverage_2=coverages[1],
    )


def _tokens(vocab: Vocab) -> list[str]:
    """The different tokens that are not blank, in the order of their first occurrence."""
    return [token for token in dict.fromkeys(vocab.tokens) if token.strip()]


def _without_blanks(duplicates: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {token: ids for token, ids in duplicates.items() if token.strip()}


# -- on a corpus ----------------------------------------------------------------------------------


def _coverages(vocabs: tuple[Vocab, Vocab], settings: DiffSettings) -> tuple[Coverage, Coverage]:
    files = corpus_files(settings.corpus_path)
    makers = [_tokenizer(settings, vocab) for vocab in vocabs]
    counting = Counting(settings.delimiter, encoding=settings.encoding)
    tally = count_corpus(files, counting, workers=settings.workers_num)
    tokens, unknown = [0, 0], [0, 0]
    for batch in _batches(files, settings.encoding):
        for place, maker in enumerate(makers):
            for ids in maker.encode_batch(batch):
                tokens[place] += len(ids)
                unknown[place] += ids.count(maker.unk_id) if maker.unk_id is not None else 0
    found = [
        Coverage(
            units=tally.total,
            covered=sum(count for token, count in tally.counts.items() if token in vocab),
            kinds=len(tally.counts),
            covered_kinds=sum(token in vocab for token in tally.counts),
            tokens=tokens[place],
            unknown=unknown[place],
        )
        for place, vocab in enumerate(vocabs)
    ]
    return found[0], found[1]


def _tokenizer(settings: DiffSettings, vocab: Vocab) -> Tokenizer:
    if vocab.unk is None:
        # Tokens that a vocabulary without [UNK] does not have are counted all the same.
        vocab = Vocab([*vocab.tokens, "[UNK]"], source=vocab.source)
    if settings.tokenizer == "bert":
        return BertTokenizer(vocab, do_lower_case=settings.do_lower_case)
    return CharTokenizer(vocab) if settings.tokenizer == "char" else SpaceTokenizer(vocab)


def _batches(files: Iterable[str | Path], encoding: str) -> Iterator[list[str]]:
    lines = (
        line.text
        for file in files
        for line in read_lines(file, limit=None, encoding=encoding)
        if line.text.strip()
    )
    while batch := list(islice(lines, _LINES_AT_A_TIME)):
        yield batch
