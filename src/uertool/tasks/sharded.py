"""Commands as distributed work: features, moments of vectors, and counts of a corpus' tokens.

`uertool.engine.run` does such work on a Ray cluster; what is written here is what
becomes of a block of lines, and how the shards of sums are put together.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uertool.engine.inputs import Reading
from uertool.engine.manifest import ERRORS
from uertool.engine.run import Order, Watch, run
from uertool.engine.store import Store, file_system
from uertool.engine.work import Counts, JobWork, OnFailure, Write, clause
from uertool.errors import InputError, UertoolError
from uertool.io.vector_reader import open_vectors
from uertool.io.vector_writer import open_sink
from uertool.tasks.features.files import rows_and_notes
from uertool.tasks.features.job import FeatureJob, FeatureSettings, finish, real_rows
from uertool.tasks.features.whitening import BLOCK, MeanCosine, Moments, Whitening
from uertool.tasks.features.whitening_files import WhiteningReport
from uertool.tasks.vocab.counting import Counting, Tally, count_text
from uertool.text.readers import Line

#: Lines of a block of a corpus that is counted: the count of one is small, whatever its size.
_CORPUS_LINES = 1 << 19
#: Characters that are counted together.
_TEXT = 4 << 20


# -- features -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureWriter:
    """Opens shards of vectors, in the format that the suffix names.

    Attributes:
        settings: what the rows are.
        precision: see `uertool.io.vector_writer.quantize`.
        normalize: scale to length 1; None does so where they are whitened.
        whitening: applied to the vectors, or None.
    """

    settings: FeatureSettings
    precision: str = "float32"
    normalize: bool | None = None
    whitening: Whitening | None = None

    @contextmanager
    def __call__(self, path: Path, block: int, job: FeatureJob) -> Iterator[Write]:
        size = job.size if self.whitening is None else self.whitening.size
        with open_sink(path, size, precision=self.precision, tokens=self.settings.tokens) as sink:

            def write(window: list[Any]) -> Mapping[str, int]:
                if not window:
                    return {}
                vectors, notes = rows_and_notes(window)
                sink.write(finish(vectors, self.whitening, self.normalize), notes)
                return {
                    "rows": len(vectors),
                    "lines": len(window),
                    "blank": sum(found.is_blank for found in window),
                    "cut": sum(found.was_cut for found in window),
                }

            yield write


def feature_work(
    make_job: Callable[[torch.device], FeatureJob], writer: FeatureWriter, suffix: str
) -> JobWork[Any]:
    """Vectors of lines as shards; `suffix` is their format."""
    return JobWork("extract-features", suffix, make_job, writer, window=writer.settings.window)


# -- sums -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Summing:
    """Work whose shards are small sums: `add` makes that of some lines."""

    name: str
    suffix: str
    block_lines: int | None = None

    def open(self, device: torch.device) -> _Summing:
        """There is no model."""
        del device
        return self

    def run(
        self, lines: Iterator[Line], path: Path, block: int, on_failure: OnFailure
    ) -> Generator[int, None, Counts]:
        raise NotImplementedError


def _summed(order: Order, watch: Watch | None) -> tuple[Store, dict[str, Any]]:
    """Run an order whose shards are only a step on the way."""
    manifest = run(order, watch)
    return Store(order.output), manifest


def shards_folder(output: str | Path) -> str:
    """Where the sums of an output lie while they are made."""
    return f"{output}.shards"


def _shards(store: Store, manifest: Mapping[str, Any]) -> Iterator[bytes]:
    names = [shard["files"][0]["name"] for shard in manifest["shards"]]
    for name, data in zip(names, store.read_all(names), strict=True):
        if data is None:
            raise InputError(f"{store.path}/{name} went missing.", "Run the command again.")
        yield data


def _leave(store: Store, output: str | Path) -> Path | None:
    """Take the sums away; errors.jsonl is kept beside the output."""
    data = store.read(ERRORS)
    kept = None
    if data is not None:
        kept = Path(f"{output}.{ERRORS}")
        kept.write_bytes(data)
    store.remove_folder()
    return kept


# -- counts of a corpus ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TallyWork(_Summing):
    """Counts the tokens of lines."""

    name: str = "vocab build"
    suffix: str = ".json"
    block_lines: int | None = _CORPUS_LINES
    counting: Counting = Counting("char")

    def run(
        self, lines: Iterator[Line], path: Path, block: int, on_failure: OnFailure
    ) -> Generator[int, None, Counts]:
        tally = Tally()
        for texts in _chunks(lines):
            tally.add(count_text("\n".join(texts), self.counting))
            yield len(texts)
        rows = list(tally.counts.items())
        path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8", "surrogatepass")
        return {"rows": len(rows), "tokens": tally.total}


def _chunks(lines: Iterator[Line]) -> Iterator[list[str]]:
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line.text)
        size += len(line.text) + 1
        if size >= _TEXT:
            yield held
            held, size = [], 0
    if held:
        yield held


def count_distributed(
    order: Order, output: str | Path, watch: Watch | None = None
) -> tuple[Tally, Path | None]:
    """The tally of a corpus, counted block by block on a cluster and added up in order.

    Args:
        order: its work is a `TallyWork`, its output a folder for the sums.
        output: what the tally is for; lines that cannot be read are written beside it.
        watch: who is told how far it is.

    Returns:
        The tally, and where the lines are told that could not be read, if there are any.
    """
    store, manifest = _summed(order, watch)
    tally = Tally()
    for data in _shards(store, manifest):
        tally.add(Tally(dict(json.loads(data))))
    return tally, _leave(store, output)


# -- moments of vectors ---------------------------------------------------------------------------


@dataclass(frozen=True)
class MomentsWork(_Summing):
    """Mean and scatter of the vectors of a file, and the sum of their unit vectors.

    Attributes:
        whitening: sum the unit vectors after this whitening in place of all that.
    """

    name: str = "whiten fit"
    suffix: str = ".npz"
    block_lines: int | None = 1
    whitening: Whitening | None = None

    def run(
        self, lines: Iterator[Line], path: Path, block: int, on_failure: OnFailure
    ) -> Generator[int, None, Counts]:
        moments: Moments | None = None
        cosine = MeanCosine()
        rows = 0
        for line in lines:
            try:
                with _here(line.text, path.parent) as file:
                    for vectors, _ in open_vectors(file).blocks(BLOCK):
                        moments = moments or Moments(vectors.shape[1])
                        if self.whitening is None:
                            moments.add(vectors[real_rows(vectors)])
                            cosine.add(vectors)
                        else:
                            cosine.add(finish(vectors, self.whitening, None))
                        rows += len(vectors)
            except UertoolError as error:
                # Half of a file would be a sum of nobody knows what.
                moments, cosine, rows = None, MeanCosine(), 0
                on_failure(line.number, clause(error))
            yield 1
        found = moments or Moments(0)
        np.savez(
            path,
            count=found.count,
            mean=found.mean,
            scatter=found.scatter,
            units=cosine.count,
            total=cosine.total,
        )
        return {"rows": rows}


@contextmanager
def _here(path: str, folder: Path) -> Iterator[Path]:
    """A file as one of this machine, copied where it is elsewhere."""
    if "://" not in path:
        yield Path(path)
        return
    system, inner = file_system(path)
    copy = folder.parent / f".{folder.name}-{Path(inner).name}"
    try:
        with system.open_input_stream(inner) as source, open(copy, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def fit_distributed(
    order: Order,
    output: str | Path,
    size: int | None,
    *,
    about: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> tuple[Whitening, WhiteningReport, Path | None]:
    """A whitening of all vectors of some files, whose moments are gathered file by file.

    The moments are merged in the order of the files, as `whitening_files.fit_files` does it here,
    so the numbers are the same.

    Args:
        order: its work is a `MomentsWork`, its output a folder for the sums.
        output: what the whitening is saved as; files that cannot be read are told beside it.
        size: directions to keep; None keeps all.
        about: what is remembered of where the vectors come from.
        watch: who is told how far it is.

    Returns:
        The whitening, what it does, and where files are told that could not be read.

    Raises:
        InputError: vectors have different sizes, or there is nothing to fit on.
    """
    order = replace(order, reading=Reading(whole=True))
    store, manifest = _summed(order, watch)
    moments: Moments | None = None
    before = MeanCosine()
    for data, entry in zip(_shards(store, manifest), manifest["input"], strict=True):
        part = _moments(data, before)
        if part.count == 0:
            continue
        if moments is not None and len(part.mean) != len(moments.mean):
            raise InputError(
                f"{entry['path']} has vectors of {len(part.mean)} numbers, "
                f"and those before it of {len(moments.mean)}.",
                "Fit on vectors of one model.",
            )
        if moments is None:
            moments = part
        else:
            moments.merge(part)
    whitening = Whitening.from_moments(moments or Moments(0), size, about=about)
    second = replace(
        order,
        work=replace(MomentsWork(), whitening=whitening),
        output=f"{order.output}.2",
        identity={**order.identity, "pass": 2},
    )
    after = MeanCosine()
    store_2, manifest_2 = _summed(second, Watch())
    for data in _shards(store_2, manifest_2):
        _moments(data, after)
    store_2.remove_folder()
    report = WhiteningReport(
        rows=manifest["rows"],
        dims=whitening.dims,
        size=whitening.size,
        fitted_on=whitening.count,
        rank=whitening.rank,
        explained=whitening.explained,
        cosine_before=before.value,
        cosine_after=after.value,
        remarks=whitening.remarks(),
    )
    return whitening, report, _leave(store, output)


def _moments(data: bytes, cosine: MeanCosine) -> Moments:
    """The moments of a shard; its unit vectors are added to `cosine`."""
    import io

    with np.load(io.BytesIO(data)) as found:
        moments = Moments(0)
        moments.count = int(found["count"])
        moments.mean, moments.scatter = found["mean"], found["scatter"]
        if int(found["units"]):
            cosine.count += int(found["units"])
            cosine.total = cosine.total + found["total"]
    return moments
