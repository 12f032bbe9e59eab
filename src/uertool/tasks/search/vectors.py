"""Rows of vectors that are compared: read from files as they are, or computed of lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uertool.engine.batching import windows_of
from uertool.engine.inputs.sources import Reading, list_sources
from uertool.engine.jobs import run_job
from uertool.errors import InputError, UsageError
from uertool.io.vector_reader import open_vectors
from uertool.io.vector_writer import Note, open_sink
from uertool.tasks.features.job import FeatureJob
from uertool.tasks.features.whitening import Whitening, finish
from uertool.tasks.features.work import rows_and_notes
from uertool.text.readers import Line

#: Rows that are read and compared at a time.
BLOCK = 4096

#: Formats that store the line of each row; some also store its text.
_NOTED = (".safetensors", ".jsonl", ".parquet")

Floats = npt.NDArray[np.float32]
OnRows = Callable[[int], None]
#: Shows a step: from a total, what is done and a unit, to what is called with further numbers.
Progress = Callable[..., AbstractContextManager[OnRows]]


@contextmanager
def silent(*_: object, **__: object) -> Iterator[OnRows]:
    """Progress that nobody sees."""
    yield lambda _: None


class Rows(NamedTuple):
    """A block of rows.

    Attributes:
        units: rows scaled to length 1 [rows, size]; rows of zeros stay.
        notes: what each row is of.
    """

    units: Floats
    notes: list[Note]


@dataclass(frozen=True)
class Vectors:
    """Vectors in files.

    Attributes:
        files: they follow one another.
        whitening: applied to rows of its input size; those of its output size have it already.
    """

    files: Sequence[Path]
    whitening: Whitening | None = None

    @property
    def have_notes(self) -> bool:
        """Whether rows know their lines."""
        return any(file.suffix.lower() in _NOTED for file in self.files)

    def blocks(self) -> Iterator[Rows]:
        """All rows in order, scaled to length 1, in blocks of `BLOCK` rows or fewer.

        Raises:
            InputError: files of several sizes, NaN or infinite values, or no rows.
        """
        size = 0
        for file in self.files:
            row = 0
            for block, notes in open_vectors(file, bits=True).blocks(BLOCK):
                if size and block.shape[1] != size:
                    raise InputError(
                        f"{file} has vectors of {block.shape[1]} numbers, but {self.files[0]} "
                        f"has vectors of {size}.",
                        "Use vectors of one model, pooling and whitening.",
                    )
                size = block.shape[1]
                rows = self.whitened(block)
                # Rows of .pt files are mapped, and those of .parquet belong to pyarrow.
                is_ours = rows.flags.writeable and file.suffix.lower() != ".pt"
                yield Rows(unit_vectors(rows, str(file), row, is_ours), notes)
                row += len(block)
        if not size:
            raise InputError(f"{', '.join(map(str, self.files))}: there are no vectors.")

    def whitened(self, block: Floats) -> Floats:
        """Rows with the whitening, if there is one and they do not have it."""
        one = self.whitening
        if one is None or block.shape[1] == one.size != one.dims:
            return block
        return finish(block, one, None)

    def notes_of(self, rows: Iterable[int]) -> dict[int, Note]:
        """What some rows are of, by their numbers; read again where the files know it."""
        wanted = sorted(set(rows))
        if not self.have_notes:
            return {row: Note(row, "") for row in wanted}
        found: dict[int, Note] = {}
        start = 0
        for block in self.blocks():
            end = start + len(block.notes)
            inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)]
            found |= {row: block.notes[row - start] for row in inside}
            start = end
        return found


def unit_vectors(vectors: Floats, name: str, first: int = 0, in_place: bool = False) -> Floats:
    """Rows [n, size] scaled to length 1, maybe in their place; rows of zeros stay.

    Raises:
        InputError: a value is NaN or infinite.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if not np.isfinite(lengths).all():
        wrong = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise InputError(
            f"{name}, row {first + wrong + 1} holds NaN, infinite or enormous values.",
            "Compute the vectors again with `dtype` float32.",
        )
    factors = (1 / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    units: Floats = np.multiply(vectors, factors[:, None], out=vectors if in_place else None)
    return units


def find_files(paths: Sequence[str]) -> list[Path]:
    """The files of paths, folders of shards and globs, in order.

    Raises:
        InputError: there is no such file.
        UsageError: a file on another machine.
    """
    remote = [path for path in paths if "://" in path]
    if remote:
        raise UsageError(f"{remote[0]} is not on this machine.", "Copy the vectors here first.")
    return [Path(source.path) for source in list_sources(paths, Reading(whole=True))]


def write_vectors(job: FeatureJob, lines: Iterable[Line], path: Path, on_lines: OnRows) -> Vectors:
    """Compute the vectors of lines into a .npy file, a row for each line."""
    with open_sink(path, job.size) as sink:
        results = run_job(job, lines, window=job.settings.window)
        for window in windows_of(results, job.settings.window):
            sink.write(*rows_and_notes(window))
            on_lines(len(window))
    return Vectors([path])
