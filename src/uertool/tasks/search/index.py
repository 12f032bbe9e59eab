"""An approximate index of a corpus: a graph of near rows (HNSW) that usearch builds and maps.

A folder holds the index (vectors.usearch, which usearch opens without uertool) and about.json: what
its vectors are and how well it finds them. Malkov and Yashunin (2018), "Efficient and robust
approximate nearest neighbor search using Hierarchical Navigable Small World graphs".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uertool.errors import InputError, OutputError, import_extra
from uertool.io.atomic import atomic_folder
from uertool.io.vector_reader import sampled, spread_rows
from uertool.tasks.features.whitening import real_rows
from uertool.tasks.search.exact import Found, nearest
from uertool.tasks.search.vectors import Floats, Vectors

GRAPH = "vectors.usearch"
ABOUT = "about.json"
_FORMAT = "uertool-index-1"

#: Neighbours of a row in the graph, and candidates while it is built.
_DEGREE = 16
_BUILDING = 96
#: Candidates of a search: the smallest of these is taken that finds `RECALL` of the nearest rows.
_EFFORTS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
RECALL = 0.99
#: Rows whose neighbours are searched to measure that, and neighbours of each.
_SAMPLE = 200
_NEAREST = 10


@dataclass(frozen=True)
class About:
    """What an index holds.

    Attributes:
        identity: what determines its vectors, see `difference`.
        rows, zero, size: all rows; those that are zero and so not in it; numbers of a vector.
        effort: candidates that a search looks at.
        recall: share of the 10 nearest rows that it finds with that effort.
    """

    identity: Mapping[str, Any]
    rows: int
    zero: int
    size: int
    effort: int
    recall: float


class SavedIndex:
    """An index in a folder, mapped.

    Raises:
        InputError: there is none, or it is broken.
        MissingExtraError: usearch is not installed.
    """

    def __init__(self, path: Path) -> None:
        about, graph = path / ABOUT, path / GRAPH
        try:
            record = json.loads(about.read_text("utf-8"))
            known = record.pop("format") == _FORMAT and graph.is_file()
            self.about = About(**record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            known = False
        if not known:
            raise InputError(f"{path} is not an index that `index` built.", "Name another folder.")
        self._index = _new_index(self.about.size)
        try:
            self._index.view(str(graph))
        except Exception as error:
            raise InputError(f"The index {graph} is broken: {error}.", "Build it again.") from None
        if len(self._index) != self.about.rows - self.about.zero:
            raise InputError(f"The index {graph} does not fit {ABOUT}.", "Build it again.")
        self._index.expansion_search = self.about.effort

    def nearest(self, queries: Floats, topn: int) -> Found:
        """As `uertool.tasks.search.exact.nearest`, nearly; cosines are of float16 vectors."""
        self._index.expansion_search = max(self.about.effort, 2 * topn)
        return _found(self._index, queries, topn)


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first thing in which two identities differ, in words; None if they are the same."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            return f"{name} is {_short(now.get(name))}, not {_short(before.get(name))}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def build(
    path: Path,
    vectors: Vectors,
    identity: Mapping[str, Any],
    *,
    threads: int,
    overwrite: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
) -> About:
    """Build an index of vectors and measure its recall; the folder appears when it is complete.

    Args:
        path: the folder.
        vectors: the corpus.
        identity: what decides the vectors; an index of others is not used in its place.
        threads: threads that build; with more than one, two runs do not give the same graph.
        overwrite: whether an existing folder may be replaced.
        on_rows: called with the number of further rows.

    Raises:
        InputError: fewer than two rows that are not zero.
        OutputError: the folder exists or cannot be written.
    """
    require_usearch()
    with atomic_folder(path, overwrite=overwrite) as partial:
        index: Any = None
        rows = zero = 0
        for block in vectors.blocks():
            if index is None:
                index = _new_index(block.units.shape[1])
            kept = np.flatnonzero(real_rows(block.units))
            try:
                index.add(kept + rows, block.units[kept], threads=threads)
            except RuntimeError as error:
                if "terminated" in str(error):  # usearch's message after a signal
                    raise KeyboardInterrupt from None
                raise
            rows, zero = rows + len(block.units), zero + len(block.units) - len(kept)
            on_rows(len(block.units))
        if rows - zero < 2:
            raise InputError(f"An index needs at least 2 vectors, not {rows - zero}.")
        effort, recall = _measured(index, vectors, rows)
        about = About(identity, rows, zero, index.ndim, effort, recall)
        try:
            index.save(str(partial / GRAPH))
        except RuntimeError as error:  # usearch gives no details
            raise OutputError(
                f"The index {path} cannot be written: {error}.", "Is the disk full?"
            ) from None
        text = json.dumps({"format": _FORMAT, **asdict(about)}, ensure_ascii=False, indent=1)
        (partial / ABOUT).write_text(text + "\n", encoding="utf-8")
    return about


def _measured(index: Any, vectors: Vectors, rows: int) -> tuple[int, float]:
    """The least effort that finds enough of the nearest rows of a sample, and its recall."""
    sample, _ = sampled(vectors.blocks(), rows, _SAMPLE)
    are_real = real_rows(sample)
    sample, own = sample[are_real], spread_rows(rows, _SAMPLE)[are_real]
    # A row finds itself, which would be too easy, so it does not count.
    true = nearest(sample, vectors.blocks(), _NEAREST, own=own)
    recall = 0.0
    for effort in _EFFORTS:
        index.expansion_search = effort
        near = _found(index, sample, _NEAREST + 1).rows
        hits = (true.rows[:, :, None] == near[:, None, :]).any(axis=2)
        recall = float(hits[true.rows >= 0].mean())
        if recall >= RECALL:
            break
    return effort, recall


def require_usearch() -> None:
    """Raise MissingExtraError unless usearch is installed."""
    import_extra("usearch", "search", "An index")


def _new_index(size: int) -> Any:
    require_usearch()
    from usearch.index import Index

    return Index(ndim=size, metric="ip", dtype="f16", connectivity=_DEGREE, expansion_add=_BUILDING)


def _found(index: Any, queries: Floats, topn: int) -> Found:
    """What an index finds; of equal cosines the earlier row first."""
    # A single query would give arrays of another shape.
    asked = queries.repeat(2, axis=0) if len(queries) == 1 else np.ascontiguousarray(queries)
    found = index.search(asked, topn)
    missing = np.arange(topn) >= found.counts[:, None]
    cosines = (1 - np.where(missing, np.inf, found.distances)).astype(np.float32)[: len(queries)]
    rows = np.where(missing, -1, found.keys.astype(np.int64))[: len(queries)]
    order = np.lexsort((rows, -cosines))
    return Found(np.take_along_axis(cosines, order, 1), np.take_along_axis(rows, order, 1))
