"""`uertool ensemble`: stack base models with LightGBM, apply the result, search its parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from uertool.cli import console
from uertool.cli.options import OutputSettings, ReportSettings, with_settings
from uertool.cli.parser import Command, Group
from uertool.errors import UsageError
from uertool.tasks.ensemble.settings import (
    FitSettings,
    FolderSettings,
    PredictSettings,
    SearchSettings,
)

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Stack base models with LightGBM, and search its parameters.",
)


@app.command("fit", cls=Command)
@with_settings
def fit(*, settings: FitSettings, report: ReportSettings) -> None:
    r"""Learn an ensemble of base models, and score it next to each of them and their averages.

        uertool ensemble fit --train-path train.tsv --train-features-path features/ \
            --test-path test.tsv --test-features-path features/ -o fitted/

    The test lines are used for nothing but the scores.
    """
    _prepare(settings, report)
    from uertool.cli.render.ensemble import show_fit
    from uertool.tasks.ensemble import fit as job

    with console.progress(None, "Learning", unit="stages") as ticker:

        def stage(words: str) -> None:
            ticker(1)
            ticker.say(words)

        fitted = job.fit(settings, stage)
    console.warn(*fitted.notices)
    plot = bool(settings.plot)
    _finish(settings, report, fitted, lambda folder: job.save_fit(fitted, folder, plot=plot))
    if not settings.json:
        show_fit(fitted)


@app.command("predict", cls=Command)
@with_settings
def predict(*, settings: PredictSettings, output: OutputSettings) -> None:
    r"""Apply an ensemble to the outputs of its base models on new lines.

        uertool ensemble predict --model-path fitted/ --test-features-path new/ \
            -o predictions.tsv

    Writes one line for each line: the predicted label and a probability for each label.
    """
    output.apply()
    from uertool.cli.render.ensemble import show_comparison
    from uertool.io.atomic import atomic_path, refuse_existing
    from uertool.tasks.ensemble import ensemble as job

    target = settings.probabilities_path
    if target is not None:
        refuse_existing(target, output.overwrite)
    predicted = job.predict(settings)
    console.warn(*predicted.notices)
    with output.opened() as out:
        job.write_predictions(out, predicted, as_json=output.json)
    if target is not None:
        with atomic_path(target, overwrite=output.overwrite) as path:
            predicted.save_probabilities(path)
    if predicted.comparison is not None and not console.is_quiet():
        show_comparison(predicted.comparison, to_stderr=True)
    output.record(output.prediction_path, predicted.inputs)


@app.command("search", cls=Command)
@with_settings
def search(*, settings: SearchSettings, report: ReportSettings) -> None:
    r"""Search LightGBM parameters by cross-validation on the training lines.

        uertool ensemble search --train-path train.tsv \
            --train-features-path features/ --epochs-num 100 -o found/

    A LightGBM parameter that is given as an option is fixed; all others of --ranges are searched.
    Ctrl-C ends the search and keeps the best so far.
    """
    _prepare(settings, report)
    from uertool.cli.render.ensemble import show_search
    from uertool.tasks.ensemble import search as job
    from uertool.tasks.ensemble.data import load_train
    from uertool.tasks.ensemble.plots import can_draw

    data = load_train(settings)
    console.warn(*data.notices)
    with console.progress(settings.epochs_num, "Searching", unit="trials") as ticker:
        seen = 0

        def on_trial(done: int, best: float | None) -> None:
            nonlocal seen
            ticker(done - seen)
            seen = done
            if best is not None:
                ticker.say(f"best {settings.metric} {best:.4f}")

        found = job.search(data, settings, on_trial)
    plot = can_draw() if settings.plot is None else settings.plot
    if settings.output_path is not None and settings.plot is None and not plot:
        console.note("No charts: pip install 'uertool[plot]' brings them.")
    _finish(settings, report, found, lambda folder: job.save_search(found, folder, plot=plot))
    if not settings.json:
        show_search(found)
    if found.stopped == "interrupted":
        raise KeyboardInterrupt


def _prepare(settings: FolderSettings, report: ReportSettings) -> None:
    """Check that the output may be written, before any work."""
    report.apply()
    if settings.output_path is None:
        for name, wanted in (("--save-run", report.save_run), ("--plot", settings.plot)):
            if wanted:
                raise UsageError(
                    f"{name} writes files, but there is no output folder.",
                    "Name one with --output-path.",
                )
        return
    from uertool.io.atomic import refuse_existing

    refuse_existing(settings.output_path, settings.overwrite)


def _finish(
    settings: FolderSettings, report: ReportSettings, result: Any, save: Callable[[Path], None]
) -> None:
    """Fill the output folder, if there is one, and print the report with `json`."""
    figures = result.to_json()
    if settings.output_path is None:
        console.note("Nothing was written; --output-path keeps the results.")
    else:
        from uertool.io.atomic import atomic_folder

        with atomic_folder(settings.output_path, overwrite=settings.overwrite) as folder:
            save(folder)
        inputs = [path for paths in result.inputs.values() for path in paths]
        report.record(settings.output_path, inputs, results=figures)
        console.note(f"wrote {settings.output_path}")
    if settings.json:
        console.json_line(figures)
