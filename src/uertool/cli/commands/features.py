"""`uertool extract-features`: vectors of lines or of their tokens, whitened if wanted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import OutputSettings, lines_of, with_settings
from uertool.cli.pipeline import Call, JsonLines, show_plan
from uertool.cli.render.features import cosines, show_vector
from uertool.engine.settings import EngineSettings
from uertool.errors import InputError, UsageError, listed
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.features.settings import FeatureSettings, VectorSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.features.work import FeatureReport


@with_settings
def extract_features(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, each a line.")] = None,
    *,
    settings: FeatureSettings,
    vectors: VectorSettings,
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    output: OutputSettings,
    engine: EngineSettings,
) -> None:
    r"""Sentence or token vectors of every line, one row for each line in order.

    The suffix of the output is its format: .pt (one tensor), .npy, .safetensors, .parquet or
    .jsonl (text and vector). Without an output, JSON lines go to standard output, or a summary of
    every vector to a terminal.

        uertool extract-features --test-path lines.txt --prediction-path features.pt

        uertool extract-features --test-path lines.txt -o features.npy \
            --pooling mean --whitening-size 64 --save-whitening whitening.safetensors

        uertool extract-features "今天天气很好" --load-whitening whitening.safetensors
    """
    call = Call(engine, model, text, device, output, texts, inputs=[vectors.load_whitening])
    vectors.check(call.target, in_shards=call.is_ray)

    from uertool.tasks.features.work import Extraction, extract

    classes_of = None if vectors.plot is None else _classes(call, vectors.plot_column)
    extraction = Extraction.of(
        model, device, settings, vectors, engine, call.target, classes_of=classes_of
    )
    emit = None
    if call.target == "-" and console.out_is_terminal() and not output.json:
        emit = JsonLines(show_vector)
    order = extraction.order(functools.partial(call.new_order, emit=emit))
    if engine.dry_run:
        show_plan(order, as_json=output.json)
    with call.watching("Features") as (meter, watch):
        report, found = extract(extraction, order, watch)
    _report(report, call, meter.rate)
    call.report(found, meter.rate)
    call.record(
        {**dataclasses.asdict(settings), **dataclasses.asdict(vectors), "path": call.target},
        {**report.to_json(), "seconds": round(meter.seconds, 3)},
    )


def _classes(call: Call, column: str | None) -> Callable[[Sequence[int]], Mapping[int, str]] | None:
    """What gives lines by their numbers the value of a column, or None without a column."""
    if column is None:
        return None
    if call.source in (None, "-") or not (call.text.column or call.text.field):
        raise UsageError(
            "`plot_column` needs a table or JSON lines that can be read again.",
            "Name a file with `test_path`, and its texts with `column` or `field`.",
        )

    def classes_of(numbers: Sequence[int]) -> Mapping[int, str]:
        wanted = set(numbers)
        lines = lines_of(call.text, None, bad=[])
        rows = {line.number: line.fields for line in lines if line.number in wanted}
        names = {name for fields in rows.values() for name in fields}
        if column not in names:
            known = listed(sorted(names))
            raise InputError(f"{call.source} has no column {column!r}; its columns are {known}.")
        return {number: fields.get(column, "") for number, fields in rows.items()}

    return classes_of


def _report(report: FeatureReport, call: Call, rate: float) -> None:
    if not call.is_ray:
        where = "" if call.target == "-" else f" in {call.target}"
        console.note(
            f"{counted(report.lines, 'line')}, {counted(report.rows, 'row')} of "
            f"{report.size}{where}"
            f", {rate:,.1f} lines/s"
        )
    if report.resumed_lines and not call.is_ray:
        console.note(f"{counted(report.resumed_lines, 'line')} reused from the interrupted run")
    if report.explained is not None:
        console.note(
            f"whitened: {report.size} dimensions keep {report.explained:.1%} of the variance"
            + cosines(report.cosine_before, report.cosine_after)
        )
    console.warn(*report.remarks)
    if report.blank:
        console.note(f"{counted(report.blank, 'blank line')} (see `blank`)")
    if report.cut:
        console.warn(f"{counted(report.cut, 'line')} truncated (see `seq_length`)")
