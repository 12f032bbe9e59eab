"""`uertool average`: several checkpoints of one model into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.options import opt
from uertool.errors import UsageError

if TYPE_CHECKING:
    from uertool.cli.console import Ticker
    from uertool.tasks.average.averaging import MergeReport, SoupStep

_MERGING = "Merging fine-tuned models"
_CHOICE = "Which checkpoints"


def average(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, or patterns such as 'models/*.bin-*'."),
    ] = None,
    model_list_path: Annotated[
        list[str] | None, opt("--model-list-path", help="The same; several may be named")
    ] = None,
    output_model_path: Annotated[
        str | None,
        opt(
            "--output-model-path", "--output", "-o", help="A .bin or .safetensors file, or a folder"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        opt("--weights", help="One number per checkpoint; they are divided by their sum"),
    ] = None,
    last: Annotated[
        int | None,
        opt(
            "--last",
            help="Take the last N checkpoints of a training folder, by step",
            panel=_CHOICE,
            metavar="N",
        ),
    ] = None,
    ema: Annotated[
        float | None,
        opt("--ema", help="Exponential moving average by step with this decay, such as 0.9"),
    ] = None,
    unify: Annotated[
        bool, opt("--unify", help="Mix generations of names: compare tensors by meaning")
    ] = False,
    greedy: Annotated[
        bool,
        opt("--greedy", help="Keep a checkpoint only if the score improves", panel=_CHOICE),
    ] = False,
    score_command: Annotated[
        str | None,
        opt(
            "--score-command",
            help="Prints the score of the checkpoint that is put in place of {}",
            panel=_CHOICE,
            metavar="COMMAND",
        ),
    ] = None,
    lower_is_better: Annotated[
        bool, opt("--lower-is-better", help="The score is a loss", panel=_CHOICE)
    ] = False,
    method: Annotated[
        str, opt("--method", help="mean, slerp, ties or dare", panel=_MERGING)
    ] = "mean",
    base: Annotated[
        str | None,
        opt("--base", help="The model that the others were trained from", panel=_MERGING),
    ] = None,
    fraction: Annotated[
        float,
        opt("--fraction", help="How far slerp goes to the second model", panel=_MERGING),
    ] = 0.5,
    density: Annotated[
        float | None,
        opt(
            "--density",
            help="Share of the changes to keep (ties 0.2, dare 0.5 if not given)",
            panel=_MERGING,
        ),
    ] = None,
    scale: Annotated[
        float, opt("--scale", help="Factor on the merged changes (lambda)", panel=_MERGING)
    ] = 1.0,
    seed: Annotated[int, opt("--seed", help="Decides what dare drops", panel=_MERGING)] = 7,
    overwrite: Annotated[bool, opt("--overwrite", help="Replace an existing output")] = False,
    json: Annotated[bool, opt("--json", help="The report as one line of JSON")] = False,
    save_run: Annotated[
        bool, opt("--save-run", help="Write arguments and hashes of the inputs beside the output")
    ] = False,
    quiet: Annotated[bool, opt("--quiet", "-q", help="No progress and no summary")] = False,
) -> None:
    """Average checkpoints of one model, tensor by tensor, or merge fine-tuned ones."""
    console.set_level(quiet=quiet)
    if output_model_path is None:
        raise UsageError("Nowhere to write to.", "Name a file with --output_model_path.")
    if greedy != (score_command is not None):
        raise UsageError("--greedy and --score-command go together; one of them is missing.")

    from uertool.io.atomic import refuse_existing
    from uertool.tasks.average import averaging

    refuse_existing(output_model_path, overwrite)
    paths = _choose([*(models or ()), *(model_list_path or ())], last)
    numbers = _numbers(weights)
    if ema is not None:
        numbers = _moving_average(paths, ema, numbers)
    steps: list[SoupStep] = []
    if greedy:
        if numbers is not None or method != "mean":
            raise UsageError("--greedy takes plain means: no --weights, --ema or --method.")
        assert score_command is not None
        paths, steps = _soup(
            paths, Path(output_model_path), score_command, unify, lower_is_better, as_json=json
        )
    else:
        _show_differences([*([base] if base else []), *paths], unify, as_json=json)
    with console.progress(None, "Merging", unit="tensors") as ticker:
        report = averaging.merge_checkpoints(
            paths,
            output_model_path,
            method=method,  # type: ignore[arg-type]  # checked there, with the list of methods
            weights=numbers,
            base=base,
            fraction=fraction,
            density=density,
            scale=scale,
            seed=seed,
            unify=unify,
            overwrite=overwrite,
            alone=greedy,
            progress=follow(ticker),
        )
    _report(report, steps, as_json=json)
    if save_run:
        from uertool.cli import run_record

        inputs: list[str | Path | None] = [*report.paths, base]
        run_record.write(output_model_path, inputs=inputs, settings={"weights": report.weights})


def follow(ticker: Ticker) -> Callable[[str, int, int], None]:
    """A function that tells a progress bar which tensor of how many is next."""

    def advance(name: str, number: int, count: int) -> None:
        ticker.total(count)
        ticker(1)
        ticker.say(name)

    return advance


def _choose(named: Sequence[str], last: int | None) -> list[Path]:
    """The checkpoints that were named, or the last ones of a training folder."""
    from uertool.tasks.average import averaging

    if not named:
        raise UsageError("No checkpoints were named.", "Name them with --model_list_path.")
    if last is None:
        return averaging.expand_models(named)
    if len(named) != 1:
        raise UsageError(f"--last takes one training folder, not {len(named)} checkpoints.")
    return averaging.last_checkpoints(named[0], last)


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise UsageError(f"--weights are numbers such as 0.5,0.3,0.2, not {text!r}.") from error


def _moving_average(
    paths: Sequence[Path], decay: float, weights: list[float] | None
) -> list[float]:
    from uertool.tasks.average import averaging

    if weights is not None:
        raise UsageError("--weights and --ema both set the weights; give one of them.")
    steps = [averaging.step_of(path) for path in paths]
    known = [step for step in steps if step is not None]
    numbers = averaging.moving_average_weights(
        known if len(known) == len(paths) else None, len(paths), decay
    )
    if len(known) < len(paths):
        console.note("Not every name has a step, so the checkpoints count as evenly spaced.")
    return numbers


def _soup(
    paths: Sequence[Path],
    output: Path,
    command: str,
    unify: bool,
    lower_is_better: bool,
    *,
    as_json: bool,
) -> tuple[list[Path], list[SoupStep]]:
    """Choose checkpoints by the user's score; means are tried out beside the output."""
    from uertool.checkpoints.writer import is_weight_file
    from uertool.io.atomic import scratch_folder
    from uertool.tasks.average import averaging

    suffix = output.suffix if is_weight_file(output) else ".safetensors"

    def say(step: SoupStep) -> None:
        verdict = "kept" if step.kept else "left out"
        console.note(f"{step.path}: {step.score:g}, {verdict}")

    with scratch_folder(output) as folder:
        return averaging.greedy_soup(
            paths,
            folder,
            suffix,
            averaging.score_by_command(command),
            unify=unify,
            lower_is_better=lower_is_better,
            report=None if as_json else say,
        )


def _show_differences(paths: Sequence[str | Path], unify: bool, *, as_json: bool) -> None:
    """A table of what differs, before the error that names the first few."""
    from contextlib import ExitStack

    from uertool.tasks.average import averaging

    with ExitStack() as stack:
        files = [
            stack.enter_context(averaging.open_raw_or_unified(Path(path), unify)) for path in paths
        ]
        differences = averaging.layout_differences(files)
        if not differences:
            return
        if as_json:
            console.json_line(
                {"differences": [{"name": d.name, "values": list(d.values)} for d in differences]}
            )
        else:
            columns = ("tensor", *(Path(path).name for path in paths))
            console.table(columns, [(d.name, *d.values) for d in differences])
        raise averaging.layout_error([Path(path) for path in paths], differences, unify)


def _report(report: MergeReport, steps: Sequence[SoupStep], *, as_json: bool) -> None:
    for notice in report.notices:
        console.note(notice)
    if report.not_finite:
        names = ", ".join(report.not_finite[:5])
        console.warn(f"NaN or infinite values in {len(report.not_finite)} tensors: {names}")
    if as_json:
        console.json_line(
            {
                "method": report.method,
                "models": [str(path) for path in report.paths],
                "weights": list(report.weights),
                "tensors": report.tensors,
                "bytes": report.bytes,
                "written": [str(path) for path in report.written],
                "not_finite": report.not_finite,
                "soup": [{"model": str(s.path), "score": s.score, "kept": s.kept} for s in steps],
            }
        )
        return
    if console.is_quiet():
        return
    rows = [
        (str(path), f"{weight:.4g}")
        for path, weight in zip(report.paths, report.weights, strict=True)
    ]
    console.table(("checkpoint", "weight"), rows)
    for path in report.written:
        console.out(f"wrote {path}: {report.tensors} tensors, {report.bytes / 1e6:.1f} MB")
