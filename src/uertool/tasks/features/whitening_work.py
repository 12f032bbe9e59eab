"""Fitting and applying whitenings to files of vectors, as `uertool.engine.work.Work`.

A block is a file here. Fitting is two passes: moments of every file, merged in the order of the
files, then the cosines after whitening.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uertool.engine.order import Order, Watch
from uertool.engine.run import Gathered, gather, put_together
from uertool.engine.storage.files import file_system
from uertool.engine.storage.shards import Shards
from uertool.engine.work import Counts, Event, Finished, Progress, Tasks, clause
from uertool.errors import InputError, UertoolError
from uertool.io.display import Report
from uertool.io.vector_reader import open_vectors
from uertool.io.vector_writer import open_sink
from uertool.tasks.features.settings import FitSettings
from uertool.tasks.features.whitening import (
    BLOCK,
    MeanCosine,
    Moments,
    Whitening,
    check_size,
    finish,
    real_rows,
)

if TYPE_CHECKING:
    import torch

_SUMS = ".sums.npz"


@dataclass(repr=False)
class WhiteningReport(Report):
    """Figures of a whitening.

    Attributes:
        rows: vectors that were read; rows of zeros are counted, but otherwise ignored.
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


@dataclass(frozen=True)
class _FileWork:
    """Work on files of vectors, one by one."""

    name: str
    suffix: str
    whitening: Whitening | None = None
    window: int = 1
    block_lines: int | None = 1
    in_hand: int = 2
    notices: Sequence[str] = ()
    details: Sequence[str] = ()

    def open(self, device: torch.device | None) -> _FileWork:
        """There is no model to load."""
        del device
        return self

    def run(self, tasks: Tasks) -> Iterator[Event]:
        """Work on the files of blocks."""
        for task in tasks:
            counts: Counts = {"rows": 0}
            for line in task.lines:
                with _here(line.text, task.path.parent) as file:
                    try:
                        counts["rows"] += self.one_file(file, task.path)
                    except UertoolError as error:
                        if task.fail is None:
                            raise
                        # Half of a file would be half of a sum.
                        task.fail(line.number, clause(error))
                        self.no_file(task.path)
                yield Progress(task.index, 1)
            yield Finished(task.index, counts)

    def one_file(self, file: Path, shard: Path) -> int:
        """Turn a file into a shard and return its number of rows."""
        raise NotImplementedError

    def no_file(self, shard: Path) -> None:
        """Write a shard for a file that cannot be read."""


@contextmanager
def _here(path: str, folder: Path) -> Iterator[Path]:
    """A file as one of this machine, copied if it is elsewhere."""
    if "://" not in path:
        yield Path(path)
        return
    system, inner = file_system(path)
    copy = folder.parent / f".{folder.name}-{Path(inner).name}"
    try:
        with system.read(inner) as source, open(copy, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


@dataclass(frozen=True)
class MomentsWork(_FileWork):
    """Mean and scatter of the vectors of a file, and the sum of their unit vectors.

    Attributes:
        whitening: sum the unit vectors after this whitening, and nothing else.
        whitening_size: directions that a whitening is to keep; an early error if there are fewer.
    """

    name: str = "whiten fit"
    suffix: str = ".npz"
    whitening_size: int | None = None

    def one_file(self, file: Path, shard: Path) -> int:
        """Write the sums of a file."""
        moments: Moments | None = None
        before, after = MeanCosine(), MeanCosine()
        rows = 0
        for vectors, _ in open_vectors(file).blocks(BLOCK):
            if self.whitening is None:
                check_size(self.whitening_size, vectors.shape[1])
                moments = moments or Moments(vectors.shape[1])
                moments.add(vectors[real_rows(vectors)])
                before.add(vectors)
            else:
                after.add(finish(vectors, self.whitening, None))
            rows += len(vectors)
        _save_moments(shard, moments or Moments(0))
        save_sums(shard, before, after)
        return rows

    def no_file(self, shard: Path) -> None:
        """Sums of nothing."""
        _save_moments(shard, Moments(0))
        save_sums(shard, MeanCosine(), MeanCosine())


def _save_moments(path: Path, moments: Moments) -> None:
    np.savez(path, count=moments.count, mean=moments.mean, scatter=moments.scatter)


def _load_moments(path: Path) -> Moments:
    moments = Moments(0)
    with np.load(path) as found:
        moments.count = int(found["count"])
        moments.mean, moments.scatter = found["mean"], found["scatter"]
    return moments


def fit(
    order: Order, settings: FitSettings, watch: Watch | None = None
) -> tuple[WhiteningReport, Gathered]:
    """Fit a whitening on all vectors of some files and save it.

    Args:
        order: of `whitening_orders.fit_order`.
        settings: the same.
        watch: called during the work.

    Raises:
        InputError: vectors have different sizes, or there is nothing to fit on.
    """
    about = {"vectors": ", ".join(Path(path).name for path in order.inputs)}
    watch = watch or Watch()
    with gather(order, watch) as found:
        if found.is_complete:
            whitening = Whitening.load(order.output)
        else:
            moments = _merged(found.shards)
            whitening = Whitening.from_moments(
                moments,
                settings.whitening_size,
                beta=settings.beta,
                gamma=settings.gamma,
                about=about,
            )
        before, _ = read_sums(found.shards)
        work = MomentsWork(whitening=whitening)
        with gather(_second(order, work), replace(watch, total=lambda _: None)) as second:
            _, after = read_sums(second.shards)
        if not found.is_complete:
            whitening.save(order.output, overwrite=found.overwrite)
    return _report(whitening, found.manifest["rows"], before, after), found


def _second(order: Order, work: MomentsWork) -> Order:
    identity = {**order.identity, "pass": 2}
    return replace(
        order, work=work, output=f"{order.output}.2", identity=identity, resume=True, sides=()
    )


def _merged(shards: Shards) -> Moments:
    """The moments of all files, in their order."""
    moments = Moments(0)
    for number, entry in enumerate(shards.files()):
        with shards.file(entry) as path:
            part = _load_moments(path)
        if moments.count == 0:
            moments = part
        elif part.count and len(part.mean) != len(moments.mean):
            raise InputError(
                f"File {number + 1} has vectors of {len(part.mean)} numbers, "
                f"and those before it of {len(moments.mean)}.",
                "Fit on vectors of one model.",
            )
        else:
            moments.merge(part)
    return moments


# -- applying -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ApplyWork(_FileWork):
    """The vectors of a file, whitened.

    Attributes:
        whitening: as fitted or loaded.
        normalize: scale to length 1.
        precision: see `uertool.io.vector_writer.quantize`.
        sums: also write the sums of unit vectors before and after.
    """

    name: str = "whiten apply"
    suffix: str = ".npy"
    normalize: bool = True
    precision: str = "float32"
    sums: bool = True

    def one_file(self, file: Path, shard: Path) -> int:
        """Write whitened vectors."""
        assert self.whitening is not None
        opened = open_vectors(file)
        before, after = MeanCosine(), MeanCosine()
        rows = 0
        size = self.whitening.size
        with open_sink(shard, size, precision=self.precision, tokens=opened.tokens) as sink:
            for block, notes in opened.blocks(BLOCK):
                done = finish(block, self.whitening, self.normalize)
                before.add(block)
                after.add(done)
                sink.write(done, notes)
                rows += len(block)
        if self.sums:
            save_sums(shard, before, after)
        return rows


def save_sums(shard: Path, before: MeanCosine, after: MeanCosine) -> None:
    """Write the sums of unit vectors next to a shard, see `read_sums`."""
    np.savez(
        shard.with_name(shard.stem + _SUMS),
        before=before.total,
        after=after.total,
        before_count=before.count,
        after_count=after.count,
    )


def read_sums(shards: Shards) -> tuple[MeanCosine, MeanCosine]:
    """The mean cosines before and after whitening, from what is next to shards."""
    before, after = MeanCosine(), MeanCosine()
    for entry in shards.files(_SUMS):
        with shards.file(entry) as path, np.load(path) as sums:
            for name, total in (("before", before), ("after", after)):
                total.count += int(sums[f"{name}_count"])
                total.total = total.total + sums[name]
    return before, after


def apply(
    order: Order, whitening: Whitening, watch: Watch | None = None
) -> tuple[WhiteningReport, Gathered]:
    """Whiten the vectors of files into one file, or on a cluster into a shard for each file.

    Args:
        order, whitening: of `whitening_orders.apply_order`.
        watch: called during the work.
    """
    with gather(order, watch) as found:
        before, after = read_sums(found.shards)
        put_together(order, found)
    return _report(whitening, found.manifest["rows"], before, after), found


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
