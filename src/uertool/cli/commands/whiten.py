"""`uertool whiten`: fit a whitening on vectors that exist already, and apply one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import WriteSettings, report_model, with_settings
from uertool.cli.parser import Command, Group
from uertool.cli.pipeline import report_errors, show_plan, watching
from uertool.cli.render.features import cosines
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.evaluate.settings import PairSettings, TuneSettings
from uertool.tasks.features.settings import ApplySettings, FitSettings
from uertool.tasks.pictures import require_drawing

if TYPE_CHECKING:
    from uertool.engine.order import Order, Watch
    from uertool.engine.run import Gathered
    from uertool.tasks.features.whitening_work import WhiteningReport

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Fit, apply or tune a whitening, which makes cosines of vectors more meaningful.",
)

_Vectors = Annotated[
    list[str],
    typer.Argument(
        help="Files of vectors (.npy, .pt, .safetensors, .parquet or .jsonl), folders of shards."
    ),
]


@app.command("fit", cls=Command)
@with_settings
def fit(
    vectors: _Vectors,
    *,
    settings: FitSettings,
    output: WriteSettings,
    engine: EngineSettings,
) -> None:
    """Fit a whitening on vectors, so that others can be brought into the same space.

        uertool whiten fit features.npy --whitening-size 64 -o whitening.safetensors

    Rows of zeros (blank lines) are ignored.
    """
    output.apply()
    from uertool.tasks.features.whitening_orders import fit_order
    from uertool.tasks.features.whitening_work import fit as run

    require_drawing(settings.plot, overwrite=output.overwrite)
    order = fit_order(vectors, settings, engine, overwrite=output.overwrite)
    report = _run("Fitting", order, engine, output, functools.partial(run, order, settings))
    if settings.plot is not None:
        from uertool.tasks.features import plots
        from uertool.tasks.features.whitening import Whitening

        sample = plots.read_sample(vectors, report.rows)
        fitted = Whitening.load(order.output)
        plots.draw_whitening(settings.plot, fitted, sample, overwrite=output.overwrite)
    output.record(order.output, vectors, results=report.to_json())


@app.command("apply", cls=Command)
@with_settings
def apply(
    vectors: _Vectors,
    *,
    settings: ApplySettings,
    output: WriteSettings,
    engine: EngineSettings,
) -> None:
    """Whiten the vectors of files.

    uertool whiten apply features.npy -w whitening.safetensors -o whitened.npy
    """
    output.apply()
    target = settings.prediction_path
    if output.json and target == "-":
        raise UsageError("`json` and the vectors cannot both go to standard output.")

    from uertool.tasks.features.whitening_orders import apply_order
    from uertool.tasks.features.whitening_work import apply as run

    order, whitening = apply_order(vectors, settings, engine, overwrite=output.overwrite)
    report = _run("Whitening", order, engine, output, functools.partial(run, order, whitening))
    inputs = [*vectors, settings.load_whitening]
    output.record(order.output, inputs, results=report.to_json())


@app.command("tune", cls=Command)
@with_settings
def tune(
    *,
    pairs: PairSettings,
    settings: TuneSettings,
    model: ModelSettings,
    device: DeviceSettings,
    output: WriteSettings,
) -> None:
    r"""Find the whitening that suits a model and a task, by cross-validation on scored pairs.

    The input has a header line with text_a, text_b and score (or label). Every combination of
    poolings, sizes, betas and gammas is tried; no pair judges what was chosen by it.

        uertool whiten tune --test-path pairs.tsv -o whitening.safetensors

        uertool whiten tune --model bert.bin --test-path pairs.tsv \
            -o whitening.safetensors --sizes 128,256 --plot tuning.png
    """
    output.apply()
    if settings.save_whitening is None:
        raise UsageError("There is no output.", "Name a file with `save_whitening`.")

    settings.check(overwrite=output.overwrite)

    from uertool.cli.render.evaluate import show_tuned
    from uertool.loading.registry import load_from_settings
    from uertool.tasks.evaluate.pairs import read_pairs
    from uertool.tasks.evaluate.tuning import tune, write_tuned

    found = read_pairs(pairs.test_path, pairs)
    loaded = load_from_settings(model, device, heads=pairs.heads)
    report_model(loaded)
    texts = len(found.texts) * len(pairs.features())
    with console.progress(texts, "Tuning", unit="texts") as advance:
        about = {"model": Path(model.reference).name}
        tuned = tune(loaded, found, pairs, settings, about=about, advance=advance)
    write_tuned(tuned, settings, overwrite=output.overwrite)
    if output.json:
        console.json_line(tuned.to_json())
    else:
        show_tuned(tuned)
    console.warn(*tuned.remarks())
    inputs = [*model.files(), pairs.test_path]
    output.record(settings.save_whitening, inputs, results=tuned.to_json())


def _run(
    what: str,
    order: Order,
    engine: EngineSettings,
    output: WriteSettings,
    work: Callable[[Watch], tuple[WhiteningReport, Gathered]],
) -> WhiteningReport:
    """Work on files, and report on it."""
    if engine.dry_run:
        show_plan(order, as_json=output.json)
    with watching(what, "files", engine) as (_, watch):
        report, found = work(watch)
    report_errors(found, order.output)
    if output.json:
        console.json_line(report.to_json())
    else:
        console.note(
            f"{counted(report.rows, 'vector')} of {report.dims}; {report.size} dimensions keep "
            f"{report.explained:.1%} of the variance of the {report.fitted_on:,} that were "
            f"fitted on{cosines(report.cosine_before, report.cosine_after)}"
        )
    console.warn(*report.remarks)
    return report
