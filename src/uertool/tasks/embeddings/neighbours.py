"""Words near a word: by their vectors in the embedding layer, or in any file of word vectors.

    model = uertool.load_model("zh-mlm-small")
    uertool.nearest(model, ["好", "人"], topn=5)

What depends on a sentence is in `uertool.tasks.embeddings.substitutes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uertool.errors import UsageError
from uertool.io.display import Results
from uertool.loading.registry import LoadedModel
from uertool.settings import as_keywords
from uertool.tasks.embeddings.settings import NeighbourSettings
from uertool.tasks.embeddings.word_files import WordFile, WordSource
from uertool.tasks.embeddings.word_vectors import WordTable
from uertool.text.readers import as_texts

Measure = Literal["cosine", "dot", "euclidean"]

#: Scores that are held at a time; queries are cut into groups so that there are no more.
_SCORES = 1 << 25


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A word that is near.

    Attributes:
        word: the word.
        score: cosine or dot product (more is nearer), or Euclidean distance (less is nearer).
        id: its row.
    """

    word: str
    score: float
    id: int


@dataclass(frozen=True, slots=True)
class Query:
    """A query.

    Attributes:
        plus: words whose vectors are added; one word, or those of an analogy.
        minus: words whose vectors are subtracted.
    """

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    @property
    def is_analogy(self) -> bool:
        """Whether it is more than one word."""
        return len(self.plus) + len(self.minus) > 1

    @property
    def words(self) -> tuple[str, ...]:
        """All words of it; none of them is its own neighbour."""
        return (*self.plus, *self.minus)

    def __str__(self) -> str:
        return " + ".join(self.plus) + "".join(f" - {word}" for word in self.minus)


@dataclass(frozen=True, slots=True)
class Found:
    """The neighbours of one query.

    Attributes:
        query: what was asked.
        neighbours: nearest first.
        problem: why there are none, or None.
    """

    query: Query
    neighbours: tuple[Neighbour, ...] = ()
    problem: str | None = None


def neighbours(
    source: WordSource,
    queries: Sequence[Query],
    *,
    topn: int = 15,
    by: Measure = "cosine",
    on_rows: Callable[[int], None] | None = None,
) -> list[Found]:
    """The nearest words of each query, itself left out.

    The source is read block by block, and each block is compared with all queries in one
    matrix product; memory holds one block and the best so far.

    Args:
        source: a `WordTable` or a `WordFile`.
        queries: an analogy is the sum of its words' vectors, scaled to length 1, with signs
            (Mikolov et al. 2013, "Linguistic Regularities in Continuous Space Word
            Representations", section 4).
        topn: how many neighbours.
        by: what counts as near.
        on_rows: called with the number of further words that were compared.

    Returns:
        One for each query, in their order; a word that is not there is a `problem`.

    Raises:
        UsageError: topn is below 1, or there is no such measure.
    """
    NeighbourSettings(topn=topn, by=by)  # validates them
    if isinstance(source, WordTable):
        source = source.readable()
    known = source.find({word for query in queries for word in query.words})
    asked = [query for query in queries if all(word in known for word in query.words)]
    best = iter(_search(source, asked, known, topn, by, on_rows) if asked else [])
    results = []
    for query in queries:
        unknown = [word for word in query.words if word not in known]
        if unknown:
            which = "The target word is" if not query.is_analogy else f"{', '.join(unknown)}:"
            results.append(Found(query, problem=f"{which} not in the vocabulary."))
        else:
            results.append(Found(query, next(best)))
    return results


@as_keywords("vectors", "plot")
def nearest(
    source: LoadedModel | WordSource | str | Path,
    words: str | Path | Iterable[str],
    *,
    settings: NeighbourSettings,
) -> Results[Results[Neighbour]]:
    """The nearest words of each word by their vectors in the embedding layer, itself left out.

    Args:
        source: a model; a file of word vectors; or a `WordSource`.
        words: one word or several, or the `Path` of a file with one a line.

    Returns:
        A list for each word, in their order, nearest first.

    Raises:
        UsageError: a word is not in the vocabulary.
    """
    if isinstance(source, LoadedModel):
        table: WordSource = WordTable.of(source)
    elif isinstance(source, (str, Path)):
        table = WordFile(source)
    else:
        table = source
    asked = as_texts(words)
    queries = [Query((word, *settings.plus), settings.minus) for word in asked]
    found = neighbours(table, queries, topn=settings.topn, by=settings.by)
    for one in found:
        if one.problem is not None:
            raise UsageError(f"{one.query}: {one.problem}")
    return Results(Results(one.neighbours) for one in found)


def _vector(query: Query, known: dict[str, tuple[int, npt.NDArray[np.float32]]]) -> Tensor:
    if not query.is_analogy:
        return torch.tensor(known[query.plus[0]][1])
    total = torch.zeros(len(known[query.words[0]][1]))
    for sign, words in ((1.0, query.plus), (-1.0, query.minus)):
        for word in words:
            total += sign * torch.nn.functional.normalize(torch.tensor(known[word][1]), dim=0)
    return total


def _search(
    source: WordSource,
    queries: Sequence[Query],
    known: dict[str, tuple[int, npt.NDArray[np.float32]]],
    topn: int,
    by: Measure,
    on_rows: Callable[[int], None] | None,
) -> list[tuple[Neighbour, ...]]:
    vectors = torch.stack([_vector(query, known) for query in queries])
    # A word that occurs twice must not be its own neighbour either.
    own: dict[str, list[int]] = {}
    for number, query in enumerate(queries):
        for word in query.words:
            own.setdefault(word, []).append(number)
    keepers = [_Best(topn) for _ in queries]
    for start, words, rows in source.blocks():
        table = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
        own_places = [(n, place) for place, word in enumerate(words) for n in own.get(word, ())]
        group = max(1, _SCORES // len(words))
        for first in range(0, len(queries), group):
            part = vectors[first : first + group]
            scores = _SCORES_BY[by](part, table)
            for number, place in own_places:
                if first <= number < first + group:
                    scores[number - first, place] = -torch.inf
            found, places = scores.topk(min(topn, len(words)), dim=1)
            for keeper, values, at in zip(
                keepers[first : first + group], found.tolist(), places.tolist(), strict=True
            ):
                keeper.add(
                    (value, start + place, words[place])
                    for value, place in zip(values, at, strict=True)
                    if value > -torch.inf
                )
        if on_rows is not None:
            on_rows(len(words))
    sign = -1.0 if by == "euclidean" else 1.0
    return [
        tuple(Neighbour(word, sign * value, row) for value, row, word in keeper.rows)
        for keeper in keepers
    ]


class _Best:
    """The best few of what is added, best first; of equals the one with the lower row."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: list[tuple[float, int, str]] = []

    def add(self, rows: Iterable[tuple[float, int, str]]) -> None:
        self.rows = sorted([*self.rows, *rows], key=lambda row: (-row[0], row[1]))[: self.count]


def _cosine(queries: Tensor, table: Tensor) -> Tensor:
    return torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(table).T


def _dot(queries: Tensor, table: Tensor) -> Tensor:
    return queries @ table.T


def _euclidean(queries: Tensor, table: Tensor) -> Tensor:
    """Distances with their sign turned, so that more is nearer."""
    # In float64, since squares of near vectors take away nearly all of each other.
    return -torch.cdist(queries.double(), table.double()).float()


_SCORES_BY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
}
