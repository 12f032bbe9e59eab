"""Near-duplicates: equal lines first, then lines with vectors of a large cosine.

Lines are taken by priority: in their order, or the longest first. A line is kept unless its cosine
with a line that was kept before is at least the threshold; then it belongs to the group of the
kept line that is nearest to it. So no two kept lines are duplicates of one another, every other
line is a duplicate of the one that is kept in its place, and the result does not depend on chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from uertool.errors import InputError, UsageError
from uertool.io.vector_reader import spread_rows
from uertool.tasks.features.job import FeatureJob
from uertool.tasks.features.whitening import real_rows
from uertool.tasks.search.exact import nearest
from uertool.tasks.search.job import given_vectors
from uertool.tasks.search.lines import LineFile
from uertool.tasks.search.plots import draw_nearest
from uertool.tasks.search.settings import CorpusSettings, DedupeSettings
from uertool.tasks.search.vectors import (
    BLOCK,
    Floats,
    OnRows,
    Progress,
    Rows,
    Vectors,
    silent,
    write_vectors,
)

#: Lines whose nearest neighbours a histogram shows.
SAMPLE = 2000

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """Which line is kept for each line.

    Attributes:
        kept: for each line the row that is kept in its place; itself if it is kept [lines].
        cosines: the cosine of both [lines].
        are_equal: whether a line is equal to an earlier one [lines].
    """

    kept: Numbers
    cosines: Floats
    are_equal: npt.NDArray[np.bool_]

    @property
    def are_kept(self) -> npt.NDArray[np.bool_]:
        """Which lines are kept [lines]."""
        return np.asarray(self.kept == np.arange(len(self.kept)), dtype=np.bool_)

    def groups(self) -> Iterator[tuple[int, Numbers]]:
        """The kept row and the other rows of every group with several lines, in order."""
        others = np.flatnonzero(~self.are_kept)
        others = others[np.lexsort((others, self.kept[others]))]
        keys, starts = np.unique(self.kept[others], return_index=True)
        if len(keys):
            yield from zip(keys.tolist(), np.split(others, starts[1:]), strict=True)

    def figures(self) -> dict[str, int]:
        """How many lines there are of each kind."""
        sizes = np.bincount(self.kept) if len(self.kept) else np.zeros(1, dtype=np.int64)
        kept, equal = int(self.are_kept.sum()), int(self.are_equal.sum())
        return {
            "lines": len(self.kept),
            "kept": kept,
            "equal": equal,
            "near": len(self.kept) - kept - equal,
            "groups": int((sizes > 1).sum()),
            "largest_group": int(sizes.max()),
        }


def check_settings(settings: DedupeSettings, corpus: CorpusSettings) -> None:
    """Raise UsageError if settings contradict each other, or there is no threshold."""
    compares = settings.threshold is not None or settings.plot is not None
    if settings.only_exact and (compares or corpus.vectors):
        raise UsageError(
            "`only_exact` compares no vectors, so `threshold`, `plot` and `vectors` do nothing.",
            "Leave them out.",
        )
    if not settings.only_exact and settings.threshold is None and settings.plot is None:
        raise UsageError(
            "There is no threshold, and it depends on the model.",
            "Draw the cosines of nearest lines with `plot`, or start with `threshold` 0.98.",
        )


def dedupe(
    lines: LineFile,
    settings: DedupeSettings,
    corpus: CorpusSettings,
    make_job: Callable[[], FeatureJob],
    scratch: Path,
    *,
    device: torch.device | None = None,
    progress: Progress = silent,
    overwrite: bool = False,
) -> Duplicates | None:
    """Equal lines, then near-duplicates; None if there is no threshold, so only a picture is drawn.

    Args:
        lines: all lines.
        settings: what are duplicates.
        corpus: names vectors of the lines, or none.
        make_job: loads the model, if it is needed.
        scratch: a folder for files that are mapped.
        device: where products are computed.
        progress: shows how many lines are done.
        overwrite: whether an existing picture may be replaced.

    Raises:
        UertoolError: what `units_of`, `nearest_cosines` and `draw_nearest` raise.
    """
    with progress(len(lines), "Reading") as advance:
        first, lengths = equal_lines(lines, advance)
    units: Units | None = None
    if not settings.only_exact:
        chosen = np.flatnonzero(first == np.arange(len(first)))
        with progress(len(chosen), "Encoding") as advance:
            units = units_of(lines, chosen, scratch, make_job, given_vectors(corpus), advance)
        if settings.plot is not None:
            cosines = nearest_cosines(units, device)
            draw_nearest(settings.plot, cosines, settings.threshold, overwrite=overwrite)
        if settings.threshold is None:
            return None
    with progress(len(lines), "Comparing") as advance:
        return find_duplicates(first, lengths, units, settings, device=device, on_rows=advance)


def equal_lines(lines: LineFile, on_lines: OnRows) -> tuple[Numbers, Numbers]:
    """For each line the first with the same text [lines], and its characters [lines].

    Blanks around a text do not count. Texts are compared by digests of 128 bits.
    """
    digests = np.empty((len(lines), 2), dtype=np.uint64)
    lengths = np.empty(len(lines), dtype=np.int64)
    for row, line in enumerate(lines):
        text = line.text.strip()
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        digests[row] = np.frombuffer(digest, dtype=np.uint64)
        lengths[row] = len(text)
        on_lines(1)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones in their order
    ordered = digests[order]
    begins = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(order)]
    first = np.empty(len(lines), dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first, lengths


@dataclass(frozen=True)
class Units:
    """Vectors of chosen lines in a mapped file.

    Attributes:
        rows: the lines, in order [chosen].
        units: their vectors of length 1, or zero [chosen, size].
    """

    rows: Numbers
    units: Floats

    def blocks(self, places: Numbers) -> Iterator[Rows]:
        """The vectors at some places, in order."""
        for start in range(0, len(places), BLOCK):
            yield Rows(np.array(self.units[places[start : start + BLOCK]]), [])


def units_of(
    lines: LineFile,
    chosen: Numbers,
    scratch: Path,
    make_job: Callable[[], FeatureJob],
    given: Vectors,
    on_lines: OnRows,
) -> Units:
    """The vectors of chosen lines: taken from files, or computed if there are none.

    Args:
        lines: all lines.
        chosen: their rows, ascending.
        scratch: a folder for files that are mapped.
        make_job: loads the model, if it is needed.
        given: vectors of all lines, or no files; its whitening is applied in any case.
        on_lines: called with the number of further lines whose vectors are computed.

    Raises:
        InputError: there are not as many vectors as lines.
        UsageError: they are of tokens.
    """
    wanted = np.full(len(lines), -1, dtype=np.int64)
    wanted[chosen] = np.arange(len(chosen))
    vectors = given
    if not given.files:
        texts = (lines.line(row) for row in chosen.tolist())
        path = scratch / "vectors.npy"
        vectors = Vectors(write_vectors(make_job(), texts, path, on_lines).files, given.whitening)
        wanted = np.arange(len(chosen))
    units: Any = None
    there = np.zeros(len(chosen), dtype=np.bool_)
    start = 0
    for block in vectors.blocks():
        if units is None:
            shape = (len(chosen), block.units.shape[1])
            units = np.memmap(scratch / "units", np.float32, "w+", shape=shape)
        numbers = np.arange(start, start + len(block.units))
        if vectors.have_notes:
            if block.notes[0].position is not None:
                raise UsageError("Vectors of tokens were given, but lines are to be compared.")
            numbers = np.array([lines.row_of(note.line) for note in block.notes])
        start += len(block.units)
        if numbers.max() >= len(wanted) or numbers.min() < 0:
            raise InputError(
                f"There are more vectors than the {len(lines):,} lines of {lines.name}.",
                "Name the file that the vectors were extracted from.",
            )
        places = wanted[numbers]
        units[places[places >= 0]] = block.units[places >= 0]
        there[places[places >= 0]] = True
    if not there.all():
        line = int(chosen[~there][0]) + 1
        raise InputError(
            f"There is no vector of line {line} of {lines.name}.",
            "Extract the vectors of this file again, without `blank` skip.",
        )
    return Units(chosen, units)


def find_duplicates(
    first: Numbers,
    lengths: Numbers,
    units: Units | None,
    settings: DedupeSettings,
    *,
    device: torch.device | None = None,
    on_rows: OnRows = lambda _: None,
) -> Duplicates:
    """Which line is kept for each line, see the module's docstring.

    Args:
        first, lengths: see `equal_lines`.
        units: vectors of the lines that are equal to no earlier one; None if only equal lines are
            duplicates.
        settings: the threshold, and which line is kept.
        device: where products are computed.
        on_rows: called with the number of further lines that are decided.
    """
    kept = first.copy()
    cosines = np.ones(len(first), dtype=np.float32)
    if units is not None and settings.threshold is not None:
        order = np.arange(len(units.rows))
        if settings.keep == "longest":
            order = np.lexsort((order, -lengths[units.rows]))
        leaders = order[:0]
        for start in range(0, len(order), BLOCK):
            some = order[start : start + BLOCK]
            leader, cosine = _leaders_of(some, leaders, units, settings.threshold, device)
            kept[units.rows[some]] = units.rows[leader]
            cosines[units.rows[some]] = cosine
            leaders = np.append(leaders, some[leader == some])
            on_rows(len(some))
        # Equal lines follow the first of them.
        kept, cosines = kept[first], cosines[first]
    return Duplicates(kept, cosines, first != np.arange(len(first)))


def _leaders_of(
    places: Numbers, before: Numbers, units: Units, threshold: float, device: torch.device | None
) -> tuple[Numbers, Floats]:
    """The place that is kept for each of some places, which come by priority, and both's cosine.

    Args:
        places: of vectors.
        before: the places that are kept of those with a higher priority.
        units: the vectors.
        threshold: see `DedupeSettings`.
        device: where products are computed.
    """
    vectors = np.array(units.units[places])
    found = nearest(vectors, units.blocks(before), 1, device=device)
    best = found.cosines[:, 0]
    leader = np.append(before, -1)[found.rows[:, 0]]
    # Nothing is near a row of zeros.
    are_real = real_rows(vectors)
    best[~are_real] = -np.inf
    real, block = (torch.from_numpy(one).to(device) for one in (are_real, vectors))
    pairs = (real[:, None] & real).tril(-1)  # of a row and a prior one
    among = (block @ block.T).masked_fill_(~pairs, -torch.inf)
    near, is_kept = (among >= threshold).cpu().numpy(), best < threshold
    for row in np.flatnonzero(near.any(axis=1) & is_kept).tolist():
        is_kept[row] = not (near[row] & is_kept).any()
    among[:, torch.from_numpy(~is_kept).to(device)] = -torch.inf
    values, nearest_one = (one.cpu().numpy() for one in among.max(dim=1))
    leader = np.where(values > best, places[nearest_one], leader)
    cosines = np.maximum(values, best)
    leader[is_kept], cosines[is_kept] = places[is_kept], 1
    return leader, cosines


def nearest_cosines(units: Units, device: torch.device | None = None) -> Floats:
    """The cosine of the nearest other line, for at most `SAMPLE` lines spread over all of them.

    Raises:
        InputError: fewer than two lines have a vector that is not zero.
    """
    real = np.flatnonzero(units.units.any(axis=1))
    if len(real) < 2:
        raise InputError("There are no two different lines to compare.", "Give more lines.")
    chosen = real[spread_rows(len(real), SAMPLE)]
    sample = np.array(units.units[chosen])
    places = np.arange(len(units.units))
    found = nearest(sample, units.blocks(places), 1, own=chosen, device=device)
    cosines: Floats = found.cosines[found.rows[:, 0] >= 0, 0]
    return cosines


def group_record(
    lines: LineFile, found: Duplicates, row: int, others: Numbers
) -> Mapping[str, Any]:
    """A group as JSON types; lines are counted from 1."""
    leader = lines.line(row)
    duplicates = [
        {
            "line": lines.line(other).number + 1,
            "score": float(f"{found.cosines[other]:.6g}"),
            "text": lines.line(other).text,
        }
        for other in others.tolist()
    ]
    return {"line": leader.number + 1, "text": leader.text, "duplicates": duplicates}
