"""`uertool extract-features`: vectors of lines or of their tokens, whitened if wanted."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from uertool.cli import console, run_record
from uertool.cli.engine_options import is_ray, refuse_on_ray
from uertool.cli.options import OutputSettings, lines_of, load, opt, option_groups, source_of
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    import torch

    from uertool.tasks.features.files import FeatureReport
    from uertool.tasks.features.job import FeatureJob, FeatureSettings
    from uertool.text.readers import BadLine

_VECTOR = "What a vector is of"
_WHITENING = "Whitening"
_FORM = "What is written"


@option_groups
def extract_features(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, each a line.")] = None,
    *,
    pooling: Annotated[
        str,
        opt(
            "--pooling",
            help="first: the vector of [CLS]; mean, max: over all tokens, [CLS] counts and so does "
            "[SEP] where there is one, padding never; last: the last token, never padding; "
            "cls-pooler: [CLS] through the checkpoint's tanh pooler; last4-mean, first-last-mean: "
            "mean over these layers and all tokens",
            panel=_VECTOR,
        ),
    ] = "first",
    layers: Annotated[
        str | None,
        opt(
            "--layers",
            help="Average these layers before pooling, as 1,12 or -4,-3,-2,-1; 0 is what enters "
            "the first layer",
            panel=_VECTOR,
            metavar="A,B,..",
        ),
    ] = None,
    tokens: Annotated[
        bool, opt("--tokens", help="A row for every token in place of every line", panel=_VECTOR)
    ] = False,
    add_sep: Annotated[
        bool | None,
        opt(
            "--add-sep/--no-add-sep",
            help="Whether [SEP] follows the tokens [default: not for UER-py's checkpoints, as "
            "there; as their tokenizer says for Hugging Face folders; yes for Google's]",
            panel=_VECTOR,
        ),
    ] = None,
    seq_length: Annotated[
        int | None,
        opt(
            "--seq-length",
            help="Tokens of a line that are read [default: 128, or the model's positions]",
            panel=_VECTOR,
            min=1,
        ),
    ] = None,
    blank: Annotated[
        Literal["zero", "skip", "error"],
        opt("--blank", help="Lines without tokens: a row of zeros, no row, or stop", panel=_VECTOR),
    ] = "zero",
    whitening_size: Annotated[
        int | None,
        opt("--whitening-size", help="Whiten, and keep N dimensions", panel=_WHITENING, min=1),
    ] = None,
    whiten: Annotated[
        bool, opt("--whiten", help="Whiten, and keep all dimensions", panel=_WHITENING)
    ] = False,
    save_whitening: Annotated[
        Path | None,
        opt(
            "--save-whitening",
            help="Write the whitening to a .safetensors file, for vectors to come",
            panel=_WHITENING,
        ),
    ] = None,
    load_whitening: Annotated[
        Path | None,
        opt("--load-whitening", help="Use a saved whitening, fit none", panel=_WHITENING),
    ] = None,
    normalize: Annotated[
        bool | None,
        opt(
            "--normalize/--no-normalize",
            help="Scale vectors to length 1 [default: where they are whitened]",
            panel=_FORM,
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8", "binary"],
        opt("--precision", help="How numbers are stored", panel=_FORM),
    ] = "float32",
    row_map: Annotated[
        Path | None,
        opt("--row-map", help="Write which line (and token) each row is of, as TSV", panel=_FORM),
    ] = None,
    resume: Annotated[
        bool, opt("--resume", help="Go on with a run that was interrupted", panel=_FORM)
    ] = False,
    plot: Annotated[
        Path | None,
        opt(
            "--plot",
            help="Draw the vectors in two dimensions and their similarities, as .png, .svg or .pdf",
            panel=_FORM,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        opt(
            "--batch-size",
            help="Most lines of a batch [default: as many as fit the device]",
            panel="Device and speed",
            min=1,
        ),
    ] = None,
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    output: OutputSettings,
    engine: EngineSettings,
) -> None:
    """Sentence or token vectors of every line, one row for each line in order.

    The name of the output says its format: .pt (one tensor), .npy, .safetensors, .parquet or
    .jsonl (text beside vector); without one, JSON lines go to standard output.

        uertool extract-features --test-path lines.txt --prediction-path features.pt

        uertool extract-features --test-path lines.txt -o features.npy --pooling first-last-mean
        --whitening-size 64 --save-whitening whitening.safetensors

        uertool extract-features "今天天气很好" --load-whitening whitening.safetensors
    """
    from uertool.tasks.features.files import OutputPlan, extract_to_file
    from uertool.tasks.features.job import FeatureSettings

    target = output.prediction_path or "-"
    console.set_level(quiet=output.quiet, verbose=output.verbose)
    settings = FeatureSettings(
        pooling=pooling,
        layers=_numbers(layers),
        tokens=tokens,
        seq_length=seq_length,
        batch_size=batch_size,
        add_sep=add_sep,
        blank=blank,
    )
    plan = OutputPlan(
        target,
        precision,
        normalize,
        whiten,
        whitening_size,
        load_whitening,
        save_whitening,
        row_map,
        output.overwrite,
        resume,
    )
    heads = ("pooler",) if pooling.replace("_", "-") == "cls-pooler" else ()
    if is_ray(engine):
        from uertool.cli import engine_commands

        refuse_on_ray(plot=plot)
        call = engine_commands.Call(engine, model, text, device, output, texts)
        engine_commands.features(call, settings, plan, heads)
        return
    plan.check()
    output.apply()
    source = source_of(text, texts, "text")
    draw = None
    if plot is not None:
        from uertool.tasks.features.plots import draw_vectors, require_drawing

        require_drawing(plot, overwrite=output.overwrite)
        draw = functools.partial(draw_vectors, plot)

    from uertool.loading.device import resolve_devices

    devices = resolve_devices(device.device)
    if len(devices) == 1:
        loaded = load(model, device, heads=heads)
        make_job: Any = functools.partial(_job_of, loaded, settings)
    else:
        make_job = functools.partial(_job, model, device, settings, heads)
    identity = _identity(model, text, device, source, texts, devices)
    bad: list[BadLine] = []
    started = time.perf_counter()
    try:
        with console.progress(None, "Features", unit="lines") as advance:
            report = extract_to_file(
                lines_of(text, texts, "text", bad),
                make_job,
                devices,
                settings,
                plan,
                about=_about(model, settings),
                identity=identity,
                threads=device.threads,
                draw=draw,
                on_line=advance,
                on_notice=console.warn,
            )
    except KeyboardInterrupt:
        _say_what_is_left(target)
        raise
    seconds = time.perf_counter() - started
    _report(report, target, seconds, bad)
    if output.save_run and output.prediction_path is not None:
        run_record.write(
            output.prediction_path,
            inputs=[*model.files(), source, load_whitening],
            settings={**dataclasses.asdict(settings), **dataclasses.asdict(plan)},
            results={**report.to_json(), "seconds": round(seconds, 3)},
        )


def _job_of(loaded: Any, settings: FeatureSettings, device: torch.device) -> FeatureJob:
    from uertool.tasks.features.job import FeatureJob

    return FeatureJob(loaded, settings)


def _job(
    model: ModelSettings,
    options: DeviceSettings,
    settings: FeatureSettings,
    heads: tuple[str, ...],
    device: torch.device,
) -> FeatureJob:
    """Load the model in a worker of its own."""
    from uertool.tasks.features.job import FeatureJob

    here = dataclasses.replace(options, device=str(device), threads=None)
    from uertool.loading.registry import load_from_settings

    loaded = load_from_settings(model, here, heads=heads)
    return FeatureJob(loaded, settings, notices=loaded.notes)


def _numbers(layers: str | None) -> tuple[int, ...]:
    if layers is None:
        return ()
    try:
        return tuple(int(part) for part in layers.replace(" ", ",").split(",") if part)
    except ValueError:
        raise UsageError(
            f"--layers takes numbers such as 1,12, not {layers!r}.", "-1 is the last layer."
        ) from None


def _about(model: ModelSettings, settings: FeatureSettings) -> dict[str, str]:
    """What decides the space that vectors lie in, for the whitening to remember."""
    about = {"model": Path(model.reference).name, "pooling": settings.pooling}
    if settings.layers:
        about["layers"] = ",".join(map(str, settings.layers))
    return about


def _identity(
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    source: str | None,
    texts: list[str] | None,
    devices: list[torch.device],
) -> dict[str, Any]:
    """What decides the numbers of a run besides its settings, so that no other run goes on."""
    return {
        "model": [_file(path) for path in model.files() if path is not None],
        "model settings": dataclasses.asdict(model),
        "input": list(texts or ()) if source is None else _file(source),
        "part": [text.column, text.field, text.shard, text.skip_bad],
        "dtype": device.dtype,
        "device": sorted({one.type for one in devices}),
    }


def _file(path: str | Path) -> list[object]:
    """A file by name, size and time; a folder by those of its files."""
    found = Path(path)
    if found.is_dir():
        return [str(found), *(_file(item) for item in sorted(found.iterdir()) if item.is_file())]
    if str(path) == "-" or not found.exists():
        return [str(path)]
    state = os.stat(found)
    return [str(found), state.st_size, state.st_mtime_ns]


def _say_what_is_left(target: str) -> None:
    from uertool.tasks.features.files import leftover

    lines = leftover(target) if target != "-" else None
    if lines:
        console.err(f"The vectors of {lines:,} lines are kept; go on with --resume.")


def _report(report: FeatureReport, target: str, seconds: float, bad: list[BadLine]) -> None:
    new = report.lines - report.resumed_lines
    rate = f", {new / seconds:,.1f} lines/s" if seconds > 0 else ""
    where = "" if target == "-" else f" in {target}"
    console.note(f"{report.lines:,} lines, {report.rows:,} rows of {report.size}{where}{rate}")
    if report.resumed_lines:
        console.note(f"{report.resumed_lines:,} of the lines were there from an interrupted run")
    if report.explained is not None:
        console.note(
            f"whitened: {report.size} dimensions keep {report.explained:.1%} of the variance; "
            f"mean cosine of all pairs {report.cosine_before:.4f} before, "
            f"{report.cosine_after:.4f} after"
        )
    for remark in report.remarks:
        console.warn(remark)
    if report.blank:
        console.note(f"{report.blank:,} lines are blank, see --blank")
    if report.cut:
        console.warn(
            f"{report.cut:,} lines are longer than what is read, and cut; see --seq-length"
        )
    if bad:
        console.warn(
            f"{len(bad):,} lines were left out; the first is line {bad[0].number + 1}: "
            f"{bad[0].reason}"
        )
