"""Features of any number of lines as `uertool.engine.work.Work`, and the files made of them.

Shards have the final format where every row can be finished by itself. Where all vectors are needed
first, to fit a whitening or to draw them, shards hold raw vectors, and a second pass over them
writes the output.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from uertool.engine.jobs import JobWork, load_job
from uertool.engine.order import Order, Watch
from uertool.engine.ordering import absolute_model
from uertool.engine.run import Gathered, gather, put_together
from uertool.engine.settings import EngineSettings
from uertool.engine.storage.shards import Shards
from uertool.engine.work import Work, Write
from uertool.errors import InputError
from uertool.io.atomic import atomic_text
from uertool.io.display import Report
from uertool.io.vector_reader import open_vectors, sampled
from uertool.io.vector_writer import Note, open_sink
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.features.job import FeatureJob, Features
from uertool.tasks.features.settings import FeatureSettings, VectorSettings
from uertool.tasks.features.whitening import (
    BLOCK,
    MeanCosine,
    Whitening,
    check_size,
    finish,
    real_rows,
)
from uertool.tasks.features.whitening_work import read_sums, save_sums

#: Vectors that a picture is drawn of.
SAMPLE = 2000

Block = npt.NDArray[np.float32]
MakeJob = Callable[[torch.device], FeatureJob]
#: Draws vectors before and after whitening: (before, after, their notes) to remarks.
Draw = Callable[[Block, Block, list[Note]], list[str]]
#: Gives lines by their numbers the names of their classes.
ClassesOf = Callable[[Sequence[int]], Mapping[int, str]]

_NOTES = ".notes.jsonl"


def job_loader(model: ModelSettings, device: DeviceSettings, settings: FeatureSettings) -> MakeJob:
    """What loads a job's model on a device; picklable."""
    make = functools.partial(FeatureJob, settings=settings)
    return functools.partial(load_job, model, device, settings.heads, make)


def space_of(model: ModelSettings, settings: FeatureSettings) -> dict[str, str]:
    """The space that vectors are in, for the whitening to remember."""
    about = {"model": Path(model.reference).name, "pooling": settings.pooling}
    if settings.layers:
        about["layers"] = ",".join(map(str, settings.layers))
    return about


def differences(path: object, fitted: Whitening, about: Mapping[str, str]) -> list[str]:
    """A sentence if the whitening of a file was fitted on other vectors than those of a space."""
    apart = [
        f"{name} {fitted.about[name]} and not {value}"
        for name, value in about.items()
        if fitted.about.get(name, value) != value
    ]
    return [f"{path} was fitted on other vectors: {', '.join(apart)}."] if apart else []


# -- shards ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureWriter:
    """Opens shards of vectors, in the format that their suffix names.

    Attributes:
        settings: what the rows are.
        precision: see `uertool.io.vector_writer.quantize`.
        normalize: scale to length 1; None does so if they are whitened.
        whitening: applied to the vectors, or None.
        notes: also write what every row belongs to, line by line in JSON.
        sums: also write the sums of unit vectors before and after whitening.
        whitening_size: directions that a whitening of these vectors is to keep, for an early error.
    """

    settings: FeatureSettings
    precision: str = "float32"
    normalize: bool | None = None
    whitening: Whitening | None = None
    notes: bool = False
    sums: bool = False
    whitening_size: int | None = None

    @contextmanager
    def __call__(self, path: Path, block: int, job: FeatureJob) -> Iterator[Write]:
        check_size(self.whitening_size, job.size)
        if self.whitening is not None:
            self.whitening.require_dims(job.size)
        size = job.size if self.whitening is None else self.whitening.size
        before, after = MeanCosine(), MeanCosine()
        with ExitStack() as stack:
            sink = stack.enter_context(
                open_sink(path, size, precision=self.precision, tokens=self.settings.tokens)
            )
            noted = None
            if self.notes:
                noted = stack.enter_context(path.with_name(path.stem + _NOTES).open("w"))

            def write(window: list[Any]) -> Mapping[str, int]:
                if not window:
                    return {}
                vectors, notes = rows_and_notes(window)
                done = finish(vectors, self.whitening, self.normalize)
                sink.write(done, notes)
                if noted is not None:
                    noted.writelines(json.dumps(note) + "\n" for note in notes)
                if self.sums:
                    before.add(vectors)
                    after.add(done)
                return {
                    "rows": len(done),
                    "values": done.size,
                    "lines": len(window),
                    "blank": sum(found.is_blank for found in window),
                    "cut": sum(found.was_cut for found in window),
                }

            yield write
        if self.sums:
            save_sums(path, before, after)


def feature_work(make_job: MakeJob, writer: FeatureWriter, suffix: str) -> JobWork[Any]:
    """Vectors of lines as shards; `suffix` is their format."""
    return JobWork("extract-features", suffix, make_job, writer, window=writer.settings.window)


def rows_and_notes(window: Sequence[Features]) -> tuple[Block, list[Note]]:
    """The rows of a window as one block, and what each belongs to."""
    notes: list[Note] = []
    for found in window:
        if found.tokens:
            notes.extend(Note(found.line, token, place) for place, token in enumerate(found.tokens))
        else:
            notes.extend([Note(found.line, found.text)] * len(found.vectors))
    return np.concatenate([found.vectors for found in window]), notes


# -- a run ----------------------------------------------------------------------------------------


@dataclass(repr=False)
class FeatureReport(Report):
    """Figures of a run.

    Attributes:
        lines: input lines.
        rows: rows that were written.
        blank, cut: lines without tokens, and lines that were truncated.
        resumed_lines: of the lines, those that an earlier run had done.
        size: numbers in a row, before they are packed to bits.
        explained: share of the variance that the whitening keeps, or None.
        fitted_on: vectors that it was fitted on.
        cosine_before, cosine_after: mean cosine of all pairs of rows around the whitening.
        remarks: what a user should know, in sentences.
    """

    lines: int = 0
    rows: int = 0
    blank: int = 0
    cut: int = 0
    resumed_lines: int = 0
    size: int = 0
    explained: float | None = None
    fitted_on: int | None = None
    cosine_before: float | None = None
    cosine_after: float | None = None
    remarks: list[str] = field(default_factory=list)

    def add_whitening(self, whitening: Whitening, before: MeanCosine, after: MeanCosine) -> None:
        """The figures of a whitening."""
        self.explained, self.fitted_on = whitening.explained, whitening.count
        self.cosine_before, self.cosine_after = before.value, after.value
        self.remarks.extend(whitening.remarks())


@dataclass(frozen=True)
class Extraction:
    """One run of `extract-features`.

    Attributes:
        make_job: loads the model for a device; picklable if there are several workers.
        settings: which vectors; the same that `make_job` uses.
        vectors: what becomes of them.
        output: a file, "-", or with `in_shards` a folder.
        in_shards: whether the output is a folder of shards.
        about: what a whitening remembers of where it comes from.
        draw: gets a sample of vectors before and after whitening.
    """

    make_job: MakeJob
    settings: FeatureSettings
    vectors: VectorSettings
    output: str
    in_shards: bool = False
    about: Mapping[str, str] = field(default_factory=dict)
    draw: Draw | None = None

    @classmethod
    def of(
        cls,
        model: ModelSettings,
        device: DeviceSettings,
        settings: FeatureSettings,
        vectors: VectorSettings,
        engine: EngineSettings,
        output: str,
        *,
        classes_of: ClassesOf | None = None,
    ) -> Extraction:
        """What settings ask for; `classes_of`: see `uertool.tasks.features.plots.draw_vectors`."""
        draw = None
        if vectors.plot is not None:
            from uertool.tasks.features.plots import draw_vectors

            draw = functools.partial(draw_vectors, vectors.plot, classes_of=classes_of)
        on_ray = engine.engine == "ray"
        return cls(
            job_loader(absolute_model(model) if on_ray else model, device, settings),
            settings,
            vectors,
            output,
            in_shards=on_ray,
            about=space_of(model, settings),
            draw=draw,
        )

    @property
    def in_two_passes(self) -> bool:
        """Whether all vectors are needed before the first can be written."""
        return self.vectors.fits or self.draw is not None

    @functools.cached_property
    def whitening(self) -> Whitening | None:
        """The whitening that is loaded, if there is one."""
        path = self.vectors.load_whitening
        return None if path is None else Whitening.load(path).cut(self.vectors.whitening_size)

    def work(self) -> Work:
        """What workers do."""
        if self.in_two_passes:
            size = self.vectors.whitening_size if self.vectors.fits else None
            raw = FeatureWriter(self.settings, notes=True, whitening_size=size)
            return feature_work(self.make_job, raw, ".npy")
        suffix = ".jsonl" if self.output == "-" else Path(self.output.rstrip("/")).suffix.lower()
        writer = FeatureWriter(
            self.settings,
            self.vectors.precision,
            self.vectors.normalize,
            self.whitening,
            notes=self.vectors.row_map is not None,
            sums=self.whitening is not None and not self.in_shards,
        )
        return feature_work(self.make_job, writer, suffix)

    def identity(self) -> dict[str, Any]:
        """What decides the shards, apart from model and input."""
        plain: dict[str, Any] = asdict(self.settings)
        if self.in_two_passes:
            return {**plain, "raw": True}
        vectors = self.vectors
        plain |= {"precision": vectors.precision, "normalize": vectors.normalize}
        if vectors.row_map is not None:
            plain["row_map"] = True
        if vectors.load_whitening is not None:
            from uertool.io.atomic import sha256_of

            plain |= {"whitening": sha256_of(vectors.load_whitening)}
            plain |= {"size": vectors.whitening_size}
        return plain

    def order(self, new_order: Callable[..., Order]) -> Order:
        """The order to make shards; `new_order` gets what this run knows, as keywords."""
        return new_order(
            work=self.work(),
            output=self.output,
            sides=self.sides(),
            identity=self.identity(),
            joins=not self.in_two_passes,
        )

    def sides(self) -> list[Path]:
        """Further files that are written."""
        found = (self.vectors.row_map, self.vectors.save_whitening, self.vectors.plot)
        return [path for path in found if path is not None]


def extract(
    extraction: Extraction, order: Order, watch: Watch | None = None
) -> tuple[FeatureReport, Gathered]:
    """Write the vectors of all lines.

    Args:
        extraction: what to do.
        order: what `Extraction.order` gave.
        watch: called during the work.

    Raises:
        UertoolError: the output exists, or what the engine raises.
        InputError: there are no lines.
    """
    watch = watch or Watch()
    if extraction.whitening is not None:
        path = extraction.vectors.load_whitening
        for remark in differences(path, extraction.whitening, extraction.about):
            watch.notice(remark)
    with gather(order, watch) as found:
        report = _report(found)
        if report.lines == 0 and not found.manifest["errors"]:
            raise InputError("The input holds no lines, so there are no vectors.")
        if extraction.in_shards or found.is_complete:
            pass
        elif extraction.in_two_passes:
            _second_pass(extraction, found, report)
        else:
            _sides(extraction, found, report)
            put_together(order, found)
    return report, found


def _report(found: Gathered) -> FeatureReport:
    counts = found.manifest["counts"]
    rows = counts.get("rows", 0)
    return FeatureReport(
        lines=counts.get("lines", 0),
        rows=rows,
        blank=counts.get("blank", 0),
        cut=counts.get("cut", 0),
        resumed_lines=found.earlier_lines,
        size=counts.get("values", 0) // rows if rows else 0,
    )


def _sides(extraction: Extraction, found: Gathered, report: FeatureReport) -> None:
    """What is written next to shards that have the format of the output already."""
    with _row_map(extraction, found.overwrite) as write_rows:
        write_rows(_notes(found.shards))
    whitening = extraction.whitening
    if whitening is not None:
        report.add_whitening(whitening, *read_sums(found.shards))
        if extraction.vectors.save_whitening is not None:
            whitening.save(extraction.vectors.save_whitening, overwrite=found.overwrite)


def _notes(shards: Shards) -> Iterator[Note]:
    """What the rows of shards belong to, if it was written next to them."""
    rest = b""
    for chunk in shards.chunks(_NOTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (Note(*json.loads(line)) for line in lines)


@contextmanager
def _row_map(extraction: Extraction, overwrite: bool) -> Iterator[Callable[[Iterable[Note]], None]]:
    """A writer of the line (and token) of every row, as tab-separated values with a header."""
    path = extraction.vectors.row_map
    if path is None:
        yield lambda notes: None
        return
    names = ["row", "line", "position", "token"] if extraction.settings.tokens else ["row", "line"]
    rows = itertools.count()
    with atomic_text(path, overwrite=overwrite) as stream:
        stream.write("\t".join(names) + "\n")

        def write(notes: Iterable[Note]) -> None:
            for note, row in zip(notes, rows, strict=False):
                place = [] if note.position is None else [note.position, note.text]
                stream.write("\t".join(map(str, [row, note.line, *place])) + "\n")

        yield write


# -- the second pass ------------------------------------------------------------------------------


def _second_pass(extraction: Extraction, found: Gathered, report: FeatureReport) -> None:
    """The output of shards of raw vectors."""
    vectors, overwrite, shards = extraction.vectors, found.overwrite, found.shards
    whitening = extraction.whitening
    if vectors.fits:
        whitening = Whitening.fit(
            (block[real_rows(block)] for block, _ in _raw_blocks(shards)),
            vectors.whitening_size,
            beta=vectors.beta,
            gamma=vectors.gamma,
            about=extraction.about,
        )
    if extraction.draw is not None:
        sample, notes = sampled(_raw_blocks(shards), report.rows, SAMPLE)
        kept = real_rows(sample)
        kept_notes = [note for note, is_kept in zip(notes, kept, strict=True) if is_kept]
        drawn = finish(sample[kept], whitening, vectors.normalize)
        report.remarks.extend(extraction.draw(sample[kept], drawn, kept_notes))
    if whitening is not None:
        report.size = whitening.size
        if vectors.save_whitening is not None:
            whitening.save(vectors.save_whitening, overwrite=overwrite)
    before, after = MeanCosine(), MeanCosine()
    with ExitStack() as stack:
        write_rows = stack.enter_context(_row_map(extraction, overwrite))
        sink = stack.enter_context(
            open_sink(
                extraction.output,
                report.size,
                precision=vectors.precision,
                tokens=extraction.settings.tokens,
                overwrite=overwrite,
            )
        )
        for block, notes in _raw_blocks(shards):
            done = finish(block, whitening, vectors.normalize)
            if whitening is not None:
                before.add(block)
                after.add(done)
            sink.write(done, notes)
            write_rows(notes)
    if whitening is not None:
        report.add_whitening(whitening, before, after)


def _raw_blocks(shards: Shards) -> Iterator[tuple[Block, list[Note]]]:
    """All raw vectors in blocks of `BLOCK` rows, independently of shards, with their notes."""
    held: list[Block] = []
    held_notes: list[Note] = []
    rows = 0
    for block, notes in _shard_blocks(shards):
        held.append(block)
        held_notes.extend(notes)
        rows += len(block)
        while rows >= BLOCK:
            every = np.concatenate(held)
            yield every[:BLOCK], held_notes[:BLOCK]
            held, held_notes, rows = [every[BLOCK:]], held_notes[BLOCK:], rows - BLOCK
    if rows:
        yield np.concatenate(held), held_notes


def _shard_blocks(shards: Shards) -> Iterator[tuple[Block, list[Note]]]:
    notes = _notes(shards)
    for entry in shards.files():
        with shards.file(entry) as path:
            for block, _ in open_vectors(path).blocks(BLOCK):
                yield block, list(itertools.islice(notes, len(block)))
