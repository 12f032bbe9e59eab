"""Features into files: any number of lines in bounded memory, whitened on the way, resumable."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import torch

from uertool.engine.spool import SUFFIX, Note, Spool
from uertool.errors import InputError, UsageError
from uertool.io.atomic import atomic_path, atomic_text, refuse_existing
from uertool.io.vector_writer import check_output, open_sink, remove_scales
from uertool.tasks.features.job import (
    FeatureJob,
    Features,
    FeatureSettings,
    feature_lines,
    finish,
    real_rows,
)
from uertool.tasks.features.whitening import BLOCK, MeanCosine, Moments, Whitening, check_path
from uertool.text.readers import Line

#: Vectors that a picture is drawn from.
SAMPLE = 2000

Block = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OutputPlan:
    """What becomes of vectors once they are there.

    Attributes:
        path: the file, whose suffix is the format; "-" writes JSON lines to standard output.
        precision: see `uertool.io.vector_writer.quantize`.
        normalize: scale to length 1; None does so where vectors are whitened.
        whiten: fit a whitening on all vectors.
        whitening_size: directions to keep; None keeps all.
        load_whitening: use this one in place of fitting one.
        save_whitening: write the one that was used here.
        row_map: write here which line every row is of.
        overwrite: whether existing files may be replaced.
        resume: go on with an interrupted run.
    """

    path: str
    precision: str = "float32"
    normalize: bool | None = None
    whiten: bool = False
    whitening_size: int | None = None
    load_whitening: Path | None = None
    save_whitening: Path | None = None
    row_map: Path | None = None
    overwrite: bool = False
    resume: bool = False

    def check(self) -> None:
        """See early that all of it can be done.

        Raises:
            UertoolError: an output exists, has a name that means nothing, or options clash.
        """
        check_output(self.path, self.precision)
        refuse_existing(self.path, self.overwrite)
        if self.resume and self.path == "-":
            raise UsageError(
                "`resume` needs an output file to go on with.", "Name one with `prediction_path`."
            )
        if self.whitening_size is not None and self.whitening_size < 1:
            raise UsageError(
                f"`whitening_size` {self.whitening_size} is too small.", "Give 1 or more."
            )
        if self.save_whitening is not None:
            check_path(self.save_whitening)
            refuse_existing(self.save_whitening, self.overwrite)
            if not self.fits and self.load_whitening is None:
                raise UsageError(
                    "`save_whitening` was given, but nothing is whitened.",
                    "Give `whitening_size` too, or `whiten` to keep all directions.",
                )
        if self.row_map is not None:
            refuse_existing(self.row_map, self.overwrite)

    @property
    def fits(self) -> bool:
        """Whether a whitening is fitted on these vectors."""
        asked = self.whiten or self.whitening_size is not None
        return asked and self.load_whitening is None


@dataclass
class FeatureReport:
    """Figures of a run.

    Attributes:
        lines: input lines.
        rows: rows that were written.
        blank, cut: lines without tokens, and lines longer than what is read.
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

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return asdict(self)


#: Draws vectors before and after: (before, after, their notes).
Draw = Callable[[Block, Block, list[Note]], None]


def extract_to_file(
    lines: Iterable[Line],
    make_job: Callable[[torch.device], FeatureJob],
    devices: Sequence[torch.device],
    settings: FeatureSettings,
    plan: OutputPlan,
    *,
    about: Mapping[str, str] | None = None,
    identity: Mapping[str, Any] | None = None,
    threads: int | None = None,
    draw: Draw | None = None,
    on_line: Callable[[int], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> FeatureReport:
    """Write the vectors of all lines.

    Vectors are gathered on the disk beside the output, window by window, and put into their final
    form at the end; an interrupted run leaves them there, and goes on at the window in which it
    was, so that its result is the same to the last bit.

    Args:
        lines: see `uertool.text.readers.read_lines`.
        make_job, devices, threads: see `uertool.tasks.features.job.feature_lines`.
        settings: what vectors; the same that `make_job` uses.
        plan: what becomes of them.
        about: what is written into a whitening about where it comes from.
        identity: what else decides what the vectors are (the model, the input), so that a run is
            not continued with another.
        draw: is given a sample of vectors before and after whitening.
        on_line: told how many more lines are done.
        on_notice: told what is worth knowing, in sentences.

    Raises:
        UertoolError: whatever does not fit, see `OutputPlan.check`.
    """
    plan.check()
    whitening = _loaded(plan, about or {}, on_notice)
    report = FeatureReport()

    def results(done: int = -1) -> Iterator[list[Features]]:
        left = (line for line in lines if line.number > done)
        found = feature_lines(
            left, make_job, devices, window=settings.window, threads=threads, on_notice=on_notice
        )
        while window := list(itertools.islice(found, settings.window)):
            yield window
            if on_line is not None:
                on_line(len(window))

    with ExitStack() as stack:
        if plan.path == "-" and not plan.fits and draw is None:
            _stream(results(), whitening, settings, plan, report)
            return report
        spool = stack.enter_context(_spool(plan, settings, identity or {}))
        if spool.resumed:
            report.resumed_lines = spool.counts.get("lines", 0)
            if on_line is not None:
                on_line(report.resumed_lines)
        for window in results(spool.line):
            for found in window:
                _count(spool.counts, found)
            spool.append(*rows_and_notes(window))
            spool.commit(window[-1].line)
        for name in ("lines", "blank", "cut"):
            setattr(report, name, spool.counts.get(name, 0))
        if report.lines == 0:
            raise InputError("The input holds no lines, so there are no vectors.")
        if plan.fits:
            whitening = _fit(spool, plan, about or {})
        _write(spool, whitening, settings, plan, report, draw)
    return report


def _loaded(
    plan: OutputPlan, about: Mapping[str, str], on_notice: Callable[[str], None] | None
) -> Whitening | None:
    if plan.load_whitening is None:
        return None
    found = Whitening.load(plan.load_whitening).cut(plan.whitening_size)
    apart = [
        f"{name} {found.about[name]} and not {value}"
        for name, value in about.items()
        if name in found.about and found.about[name] != value
    ]
    if apart and on_notice is not None:
        on_notice(f"{plan.load_whitening} was fitted on other vectors: {', '.join(apart)}.")
    return found


@contextmanager
def _spool(
    plan: OutputPlan, settings: FeatureSettings, identity: Mapping[str, Any]
) -> Iterator[Spool]:
    if plan.path == "-":
        with tempfile.TemporaryDirectory() as folder:
            spool = Spool(Path(folder) / "vectors", {})
            yield spool
            spool.remove()
        return
    fingerprint = {**identity, **asdict(settings)}
    spool = Spool(plan.path, fingerprint, resume=plan.resume, discard=plan.overwrite)
    try:
        yield spool
    except BaseException:
        spool.close()
        raise
    spool.remove()


def _count(counts: dict[str, int], found: Features) -> None:
    for name, more in (("lines", 1), ("blank", found.is_blank), ("cut", found.was_cut)):
        counts[name] = counts.get(name, 0) + more


def rows_and_notes(window: Sequence[Features]) -> tuple[Block, list[Note]]:
    """The rows of a window as one block, and what each is of."""
    notes: list[Note] = []
    for found in window:
        if found.tokens:
            notes.extend(Note(found.line, token, place) for place, token in enumerate(found.tokens))
        else:
            notes.extend([Note(found.line, found.text)] * len(found.vectors))
    return np.concatenate([found.vectors for found in window]), notes


def _stream(
    windows: Iterator[list[Features]],
    whitening: Whitening | None,
    settings: FeatureSettings,
    plan: OutputPlan,
    report: FeatureReport,
) -> None:
    """Windows straight to standard output."""
    counts: dict[str, int] = {}
    before, after = MeanCosine(), MeanCosine()
    with ExitStack() as stack:
        sink = stack.enter_context(
            open_sink("-", 0, precision=plan.precision, tokens=settings.tokens)
        )
        rows_of = stack.enter_context(_row_map(plan, settings))
        for window in windows:
            for found in window:
                _count(counts, found)
            block, notes = rows_and_notes(window)
            done = finish(block, whitening, plan.normalize)
            sink.write(done, notes)
            rows_of(notes)
            report.rows += len(done)
            report.size = done.shape[1]
            before.add(block)
            after.add(done)
    report.lines, report.blank, report.cut = (
        counts.get(name, 0) for name in ("lines", "blank", "cut")
    )
    if whitening is not None:
        _report_whitening(report, whitening, before, after)


def _report_whitening(
    report: FeatureReport, whitening: Whitening, before: MeanCosine, after: MeanCosine
) -> None:
    report.explained, report.fitted_on = whitening.explained, whitening.count
    report.cosine_before, report.cosine_after = before.value, after.value
    report.remarks = whitening.remarks()


def _fit(spool: Spool, plan: OutputPlan, about: Mapping[str, str]) -> Whitening:
    moments = Moments(spool.size)
    for block in spool.vectors(BLOCK):
        moments.add(block[real_rows(block)])
    return Whitening.from_moments(moments, plan.whitening_size, about=about)


def _write(
    spool: Spool,
    whitening: Whitening | None,
    settings: FeatureSettings,
    plan: OutputPlan,
    report: FeatureReport,
    draw: Draw | None,
) -> None:
    """The gathered vectors in their final form."""
    report.rows = spool.rows
    report.size = spool.size if whitening is None else whitening.size
    before, after = MeanCosine(), MeanCosine()
    if draw is not None:
        sample, notes = spool.sample(SAMPLE)
        kept = real_rows(sample)
        kept_notes = [note for note, is_kept in zip(notes, kept, strict=True) if is_kept]
        draw(sample[kept], finish(sample[kept], whitening, plan.normalize), kept_notes)
    plain = whitening is None and not plan.normalize and plan.precision == "float32"
    if plain and Path(plan.path).suffix.lower() == ".npy":
        with _row_map(plan, settings) as rows_of:
            if plan.row_map is not None:
                for note in spool.notes():
                    rows_of([note])
        with atomic_path(plan.path, overwrite=plan.overwrite) as partial:
            os.replace(spool.become_npy(), partial)
        remove_scales(plan.path)
        return
    with (
        open_sink(
            plan.path,
            report.size,
            precision=plan.precision,
            tokens=settings.tokens,
            overwrite=plan.overwrite,
        ) as sink,
        _row_map(plan, settings) as rows_of,
    ):
        for block, notes in spool.blocks(BLOCK):
            done = finish(block, whitening, plan.normalize)
            if whitening is not None:
                before.add(block)
                after.add(done)
            sink.write(done, notes)
            rows_of(notes)
    if whitening is not None:
        _report_whitening(report, whitening, before, after)
        if plan.save_whitening is not None:
            whitening.save(plan.save_whitening, overwrite=plan.overwrite)


@contextmanager
def _row_map(plan: OutputPlan, settings: FeatureSettings) -> Iterator[Callable[[list[Note]], None]]:
    """What writes the line (and token) of every row, as tab-separated values with a header."""
    if plan.row_map is None:
        yield lambda notes: None
        return
    names = ["row", "line", "position", "token"] if settings.tokens else ["row", "line"]
    with atomic_text(plan.row_map, overwrite=plan.overwrite) as stream:
        stream.write("\t".join(names) + "\n")
        rows = itertools.count()
        yield lambda notes: _write_map(stream, rows, notes)


def _write_map(stream: TextIO, rows: Iterator[int], notes: list[Note]) -> None:
    for note in notes:
        cells: list[object] = [next(rows), note.line]
        if note.position is not None:
            cells += [note.position, note.text]
        stream.write("\t".join(map(str, cells)) + "\n")


def leftover(path: str) -> int | None:
    """Lines that an interrupted run of this output has done, or None where there is none."""
    state = Path(f"{os.path.realpath(path)}{SUFFIX}") / "state.json"
    try:
        return int(json.loads(state.read_text(encoding="utf-8"))["counts"].get("lines", 0))
    except (OSError, ValueError, KeyError, TypeError):
        return None
