"""Whitening of vectors that lie in files already: fitting one, and applying one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from uertool.errors import InputError
from uertool.io.vector_reader import open_vectors
from uertool.io.vector_writer import open_sink
from uertool.tasks.features.job import finish, real_rows
from uertool.tasks.features.whitening import BLOCK, MeanCosine, Moments, Whitening


@dataclass
class WhiteningReport:
    """What a whitening does.

    Attributes:
        rows: vectors that were read; rows of zeros count, but take no part.
        dims, size: numbers of a vector before and after.
        fitted_on: vectors that it was fitted on.
        rank: directions in which they vary.
        explained: share of the variance that is kept, 0 to 1.
        cosine_before, cosine_after: mean cosine of all pairs of vectors.
        remarks: what a user should know, in sentences.
    """

    rows: int
    dims: int
    size: int
    fitted_on: int
    rank: int
    explained: float
    cosine_before: float
    cosine_after: float
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return asdict(self)


def fit_files(
    paths: Sequence[str | Path],
    size: int | None = None,
    *,
    about: Mapping[str, str] | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> tuple[Whitening, WhiteningReport]:
    """Fit a whitening on all vectors of some files, which are read twice, block by block.

    Args:
        paths: see `uertool.io.vector_reader`.
        size: directions to keep; None keeps all.
        about: what is remembered of where the vectors come from.
        on_rows: told how many more vectors are done, of either reading.

    Raises:
        UertoolError: a file cannot be read, sizes differ, or there is nothing to fit on.
    """
    files = [open_vectors(path) for path in paths]
    moments: Moments | None = None
    for file in files:
        gathered: Moments | None = None  # by file, as processes would, then merged
        for block, _ in file.blocks(BLOCK):
            gathered = gathered or Moments(block.shape[1])
            gathered.add(block[real_rows(block)])
            if on_rows is not None:
                on_rows(len(block))
        if gathered is None:
            continue
        if moments is not None and len(moments.mean) != len(gathered.mean):
            raise InputError(
                f"{file.path} has vectors of {len(gathered.mean)} numbers, "
                f"and {files[0].path} of {len(moments.mean)}.",
                "Fit on vectors of one model.",
            )
        if moments is None:
            moments = gathered
        else:
            moments.merge(gathered)
    whitening = Whitening.from_moments(moments or Moments(0), size, about=about)
    before, after = MeanCosine(), MeanCosine()
    rows = 0
    for block, _ in chain.from_iterable(file.blocks(BLOCK) for file in files):
        before.add(block)
        after.add(finish(block, whitening, None))
        rows += len(block)
        if on_rows is not None:
            on_rows(len(block))
    return whitening, _report(whitening, rows, before, after)


def apply_file(
    path: str | Path,
    whitening: Whitening,
    output: str | Path,
    *,
    normalize: bool = True,
    precision: str = "float32",
    overwrite: bool = False,
    on_rows: Callable[[int], None] | None = None,
) -> WhiteningReport:
    """Whiten the vectors of a file into another, block by block; rows of zeros stay.

    Args:
        path, output: the suffixes are the formats; "-" writes JSON lines to standard output.
        whitening: as fitted or loaded.
        normalize: scale to length 1.
        precision: how numbers are stored, see `uertool.io.vector_writer.quantize`.
        overwrite: whether an existing output may be replaced.
        on_rows: told how many more vectors are done.

    Raises:
        UertoolError: the file cannot be read, its vectors have another size, or the output exists.
    """
    file = open_vectors(path)
    before, after = MeanCosine(), MeanCosine()
    rows = 0
    with open_sink(
        output, whitening.size, precision=precision, tokens=file.tokens, overwrite=overwrite
    ) as sink:
        for block, notes in file.blocks(BLOCK):
            done = finish(block, whitening, normalize)
            before.add(block)
            after.add(done)
            sink.write(done, notes)
            rows += len(block)
            if on_rows is not None:
                on_rows(len(block))
    return _report(whitening, rows, before, after)


def _report(
    whitening: Whitening, rows: int, before: MeanCosine, after: MeanCosine
) -> WhiteningReport:
    return WhiteningReport(
        rows=rows,
        dims=whitening.dims,
        size=whitening.size,
        fitted_on=whitening.count,
        rank=whitening.rank,
        explained=whitening.explained,
        cosine_before=before.value,
        cosine_after=after.value,
        remarks=whitening.remarks(),
    )
