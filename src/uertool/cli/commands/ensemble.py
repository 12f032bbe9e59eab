"""`uertool ensemble`: stack base models with LightGBM, apply the result, search its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uertool.cli import console, run_record
from uertool.cli.options import OptionGroup, OutputSettings, opt, option_groups
from uertool.errors import UsageError

if TYPE_CHECKING:
    from uertool.tasks.ensemble.data import LabelledData
    from uertool.tasks.ensemble.fit import Comparison, Fitted
    from uertool.tasks.ensemble.search import Found, Trial
    from uertool.tasks.ensemble.settings import Settings, Value

app = typer.Typer(
    no_args_is_help=True, help="Stack base models with LightGBM, and search its settings."
)

_DATA = "Data"
_BOOSTING = "LightGBM parameters (in brackets what fit takes without --params)"
_SCORING = "Scoring"
_SEARCHING = "Search"
_OUTPUT = "Output"

_SOURCES = (
    "Outputs of the base models, lines x labels: a folder or prefix of {}_features_0.npy, "
    "{}_features_1.npy, ..., files, or a glob of .npy, .pt, .safetensors or .parquet"
)


@dataclass(frozen=True)
class TrainOptions(OptionGroup):
    """What is learnt from."""

    train_path: Annotated[
        str | None,
        opt("--train-path", help="TSV with a header and a column label", panel=_DATA),
    ] = None
    train_features_path: Annotated[
        list[str] | None,
        opt(
            "--train-features-path",
            help=_SOURCES.replace("{}", "train") + "; they should be out-of-fold predictions",
            panel=_DATA,
        ),
    ] = None
    models_num: Annotated[
        int | None,
        opt("--models-num", help="Number of base models (all that are there)", panel=_DATA, min=1),
    ] = None
    labels_num: Annotated[
        int | None,
        opt("--labels-num", help="Number of labels (the highest plus 1)", panel=_DATA, min=2),
    ] = None

    def load(self, labels_num: int | None = None) -> LabelledData:
        """Labels and features of the training lines."""
        if self.train_path is None or not self.train_features_path:
            missing = "--train-path" if self.train_path is None else "--train-features-path"
            raise UsageError(
                f"{missing} is missing.",
                "Learning needs --train-path (labels) and --train-features-path (base models).",
            )
        from uertool.tasks.ensemble.data import load_labelled

        return load_labelled(
            self.train_path,
            self.train_features_path,
            "train",
            models_num=self.models_num,
            labels_num=labels_num or self.labels_num,
        )


@dataclass(frozen=True)
class BoostingOptions(OptionGroup):
    """LightGBM parameters by flag; None means not given."""

    learning_rate: Annotated[
        float | None, opt("--learning-rate", help="Step of each tree (0.02)", panel=_BOOSTING)
    ] = None
    num_leaves: Annotated[
        int | None, opt("--num-leaves", help="Leaves of a tree (10)", panel=_BOOSTING)
    ] = None
    max_depth: Annotated[
        int | None, opt("--max-depth", help="Depth of a tree (100)", panel=_BOOSTING)
    ] = None
    min_data_in_leaf: Annotated[
        int | None, opt("--min-data-in-leaf", help="Lines in a leaf (50)", panel=_BOOSTING)
    ] = None
    min_sum_hessian_in_leaf: Annotated[
        float | None,
        opt("--min-sum-hessian-in-leaf", help="Weight in a leaf", panel=_BOOSTING),
    ] = None
    min_gain_to_split: Annotated[
        float | None, opt("--min-gain-to-split", help="Gain of a split", panel=_BOOSTING)
    ] = None
    feature_fraction: Annotated[
        float | None,
        opt("--feature-fraction", help="Share of the columns a tree sees (0.25)", panel=_BOOSTING),
    ] = None
    bagging_fraction: Annotated[
        float | None,
        opt("--bagging-fraction", help="Share of the lines a tree sees", panel=_BOOSTING),
    ] = None
    bagging_freq: Annotated[
        int | None,
        opt("--bagging-freq", help="Rounds before other lines are drawn", panel=_BOOSTING),
    ] = None
    lambda_l1: Annotated[
        float | None, opt("--lambda-l1", help="L1 regularisation (5)", panel=_BOOSTING)
    ] = None
    lambda_l2: Annotated[
        float | None, opt("--lambda-l2", help="L2 regularisation (5)", panel=_BOOSTING)
    ] = None
    max_bin: Annotated[int | None, opt("--max-bin", help="Bins of a column", panel=_BOOSTING)] = (
        None
    )
    boosting: Annotated[str | None, opt("--boosting", help="gbdt, dart or rf", panel=_BOOSTING)] = (
        None
    )
    param: Annotated[
        list[str] | None,
        opt(
            "--param",
            help="Any other parameter; may be repeated",
            panel=_BOOSTING,
            metavar="NAME=VALUE",
        ),
    ] = None

    def given(self) -> Settings:
        """The parameters that were given, checked."""
        from uertool.tasks.ensemble.settings import check_parameters

        values: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "param" and getattr(self, field.name) is not None
        }
        for pair in self.param or ():
            name, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"--param is {pair!r}, but NAME=VALUE was expected.")
            values[name.strip()] = value.strip()
        return check_parameters(values, "The flags")


@dataclass(frozen=True)
class RunOptions(OptionGroup):
    """Where results go, and how the work is done."""

    output_path: Annotated[
        str | None,
        opt("--output-path", "--output", "-o", help="A folder for all results", panel=_OUTPUT),
    ] = None
    overwrite: Annotated[
        bool, opt("--overwrite", help="Replace an existing output", panel=_OUTPUT)
    ] = False
    plot: Annotated[
        bool | None,
        opt("--plot/--no-plot", help="Draw charts into the folder", panel=_OUTPUT),
    ] = None
    json: Annotated[bool, opt("--json", help="The report as one line of JSON", panel=_OUTPUT)] = (
        False
    )
    seed: Annotated[int, opt("--seed", help="Seed of everything random", panel=_OUTPUT)] = 7
    threads: Annotated[
        int | None, opt("--threads", help="Processor threads (all)", panel=_OUTPUT, min=1)
    ] = None
    save_run: Annotated[
        bool,
        opt("--save-run", help="Write arguments and hashes beside the output", panel=_OUTPUT),
    ] = False
    quiet: Annotated[
        bool, opt("--quiet", "-q", help="No progress and no summary", panel=_OUTPUT)
    ] = False

    def apply(self) -> None:
        """See that the output may be written, before any work."""
        console.set_level(quiet=self.quiet)
        if self.output_path is None:
            for name, wanted in (("--save-run", self.save_run), ("--plot", self.plot)):
                if wanted:
                    raise UsageError(
                        f"{name} writes files, but there is no output folder.",
                        "Name one with --output-path.",
                    )
            return
        from uertool.io.atomic import refuse_existing

        refuse_existing(self.output_path, self.overwrite)

    def write(
        self, save: Callable[[Path], None], inputs: Sequence[str | Path], results: dict[str, Any]
    ) -> None:
        """Fill the output folder, if there is one."""
        if self.output_path is None:
            return
        from uertool.io.atomic import atomic_folder

        with atomic_folder(self.output_path, overwrite=self.overwrite) as folder:
            save(folder)
        if self.save_run:
            run_record.write(self.output_path, inputs=inputs, results=results)
        console.note(f"wrote {self.output_path}")


# -- fit ------------------------------------------------------------------------------------------


@app.command("fit")
@option_groups
def fit(
    train: TrainOptions,
    test_path: Annotated[
        str | None, opt("--test-path", help="TSV of labelled lines to score on", panel=_DATA)
    ] = None,
    test_features_path: Annotated[
        list[str] | None,
        opt("--test-features-path", help=_SOURCES.replace("{}", "test"), panel=_DATA),
    ] = None,
    params: Annotated[
        str | None,
        opt(
            "--params",
            help="Settings from `ensemble search` (best.json), or any JSON or TOML of parameters",
            panel=_BOOSTING,
            metavar="FILE",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        opt("--rounds", "--num-boost-round", help="Rounds (100)", panel=_BOOSTING, min=1),
    ] = None,
    objective: Annotated[
        str | None,
        opt("--objective", help="auto, multiclass or binary", panel=_BOOSTING),
    ] = None,
    boosting: BoostingOptions = BoostingOptions(),
    folds: Annotated[
        int,
        opt("--folds", "--folds-num", help="Score by cross validation", panel=_SCORING, min=0),
    ] = 0,
    early_stopping: Annotated[
        int,
        opt(
            "--early-stopping",
            help="Stop after so many rounds without a better log loss on a held-out tenth of the "
            "training lines",
            panel=_SCORING,
            min=0,
        ),
    ] = 0,
    run: RunOptions = RunOptions(),
) -> None:
    """Learn an ensemble of base models, and score it beside each of them and their averages.

    The test lines take part in nothing but the scores.
    """
    run.apply()
    if (test_path is None) != (not test_features_path):
        raise UsageError("--test-path and --test-features-path go together; one is missing.")

    from uertool.tasks.ensemble.data import load_labelled
    from uertool.tasks.ensemble.fit import fit as learn
    from uertool.tasks.ensemble.fit import save_fit
    from uertool.tasks.ensemble.settings import Settings, load_settings

    read = load_settings(params) if params is not None else Settings()
    _same_labels(train.labels_num, read.labels_num, params)
    given = boosting.given()
    labels_num = train.labels_num or read.labels_num
    lines = train.load(labels_num)
    test = (
        load_labelled(
            test_path, test_features_path, "test",
            models_num=train.models_num, labels_num=labels_num,
        )
        if test_path is not None and test_features_path
        else None
    )  # fmt: skip
    with console.progress(None, "Learning", unit="stages") as ticker:

        def stage(words: str) -> None:
            ticker(1)
            ticker.say(words)

        fitted = learn(
            lines,
            test,
            params=_merged(read.params if params is not None else None, given.params),
            rounds=rounds or given.rounds or read.rounds,
            labels_num=labels_num,
            objective=objective or read.objective or "auto",
            models=read.models,
            folds=folds,
            early_stopping=early_stopping,
            seed=run.seed,
            threads=run.threads,
            progress=stage,
        )
    for notice in fitted.notices:
        console.warn(notice)
    report = fitted.to_json()
    inputs = [path for paths in fitted.inputs.values() for path in paths]
    run.write(lambda folder: save_fit(fitted, folder, plot=bool(run.plot)), inputs, report)
    if run.json:
        console.json_line(report)
    else:
        _show_fit(fitted)
    if run.output_path is None:
        console.note("Nothing was written; --output-path keeps the ensemble and its predictions.")


def _same_labels(flag: int | None, file: int | None, path: str | None) -> None:
    if flag is not None and file is not None and flag != file:
        raise UsageError(
            f"--labels-num is {flag}, but {path} was found for {file} labels.",
            "Leave --labels-num away, or search again.",
        )


def _merged(file: dict[str, Value] | None, flags: dict[str, Value]) -> dict[str, Value]:
    """Flags over the file, or over the settings of run_lgb where there is none."""
    from uertool.tasks.ensemble.settings import FIT_PARAMETERS

    return {**(FIT_PARAMETERS if file is None else file), **flags}


def _show_fit(fitted: Fitted) -> None:
    for part in fitted.comparisons.values():
        _show_comparison(part)
        console.out()
    top = max((float(entry["gain"]) for entry in fitted.importance), default=1.0) or 1.0
    console.out(f"What the ensemble looks at, {fitted.ensemble.rounds} rounds")
    console.table(
        ("base model", "share of gain", "splits", ""),
        [
            (entry["model"], entry["gain"], entry["splits"], console.bar(entry["gain"] / top))
            for entry in fitted.importance
        ],
        right=("share of gain", "splits"),
    )


def _show_comparison(part: Comparison, *, to_stderr: bool = False) -> None:
    """Tables of scores; beside the results where these are on standard output."""
    say = console.err if to_stderr else console.out
    say(f"Scores, {part.split}, {len(part.labels)} lines")
    console.table(
        ("", "macro F1", "accuracy", "log loss"),
        [(name, s.macro_f1, s.accuracy, s.log_loss) for name, s in part.scores.items()],
        right=("macro F1", "accuracy", "log loss"),
        to_stderr=to_stderr,
    )
    own = part.scores["ensemble"]
    labels = [str(label) for label in range(len(own.f1))]
    say("\nThe ensemble, label by label")
    columns = [*map(list, (own.precision, own.recall, own.f1)), own.support.tolist()]
    console.table(
        ("label", "precision", "recall", "F1", "lines"),
        list(zip(labels, *columns, strict=True)),
        right=("label", "precision", "recall", "F1", "lines"),
        to_stderr=to_stderr,
    )
    say("\nConfusion matrix: rows are true labels, columns predicted ones")
    console.table(
        ("", *labels),
        [(label, *row) for label, row in zip(labels, own.confusion.tolist(), strict=True)],
        right=("", *labels),
        to_stderr=to_stderr,
    )


# -- predict --------------------------------------------------------------------------------------


@app.command("predict")
@option_groups
def predict(
    output: OutputSettings,
    model_path: Annotated[
        str | None,
        opt("--model-path", "--model", "-m", help="The folder that `ensemble fit` wrote"),
    ] = None,
    test_features_path: Annotated[
        list[str] | None,
        opt("--test-features-path", "--features-path", help=_SOURCES.replace("{}", "test")),
    ] = None,
    test_path: Annotated[
        str | None, opt("--test-path", help="TSV with labels, to score the predictions")
    ] = None,
    probabilities_path: Annotated[
        str | None, opt("--probabilities-path", help="Write lines x labels as .npy here")
    ] = None,
    threads: Annotated[int | None, opt("--threads", help="Processor threads", min=1)] = None,
) -> None:
    """Apply an ensemble to the outputs of its base models on new lines.

    Writes one line for each line: the predicted label and a probability for each label.
    """
    output.apply()
    if model_path is None or not test_features_path:
        missing = "--model-path" if model_path is None else "--test-features-path"
        raise UsageError(
            f"{missing} is missing.", "Predicting needs an ensemble and features of its models."
        )
    from uertool.io.atomic import atomic_path, atomic_text, refuse_existing
    from uertool.tasks.ensemble.data import check_labels, find_features, load_features, read_labels
    from uertool.tasks.ensemble.ensemble import load_ensemble
    from uertool.tasks.ensemble.fit import score_predictions, write_predictions

    if probabilities_path is not None:
        refuse_existing(probabilities_path, output.overwrite)
    ensemble = load_ensemble(model_path)
    labels = read_labels(test_path) if test_path is not None else None
    if labels is not None:
        check_labels(labels, ensemble.labels_num, test_path or "")
    paths = find_features(test_features_path, "test")
    features = load_features(paths, None if labels is None else len(labels), test_path)
    _, notices = ensemble.choose(features)
    for notice in notices:
        console.warn(notice)
    probabilities = ensemble.predict(features, threads=threads)
    target = output.prediction_path or "-"
    with atomic_text(target, overwrite=output.overwrite) as out:
        write_predictions(out, probabilities, labels, as_json=output.json)
    if probabilities_path is not None:
        import numpy as np

        with (
            atomic_path(probabilities_path, overwrite=output.overwrite) as path,
            path.open("wb") as stream,
        ):
            np.save(stream, probabilities)
    if labels is not None and not console.is_quiet():
        part = score_predictions(ensemble, features, labels, probabilities)
        _show_comparison(part, to_stderr=True)
    if output.save_run:
        run_record.write(target, inputs=[model_path, *paths, test_path])


# -- search ---------------------------------------------------------------------------------------


@app.command("search")
@option_groups
def search(
    train: TrainOptions,
    folds_num: Annotated[
        int,
        opt("--folds-num", "--folds", help="Stratified folds", panel=_SEARCHING, min=2),
    ] = 5,
    epochs_num: Annotated[
        int,
        opt(
            "--epochs-num",
            "--trials",
            help="Number of trials, with those that --storage holds",
            panel=_SEARCHING,
            min=1,
        ),
    ] = 300,
    ranges: Annotated[
        str | None,
        opt(
            "--ranges",
            help="JSON or TOML of ranges, or run_bayesopt or run_lgb_cv_bayesopt for those of the "
            "old scripts",
            panel=_SEARCHING,
        ),
    ] = None,
    metric: Annotated[
        str, opt("--metric", help="macro_f1, accuracy or log_loss", panel=_SEARCHING)
    ] = "macro_f1",
    sampler: Annotated[
        str, opt("--sampler", help="tpe, gp (Gaussian process) or random", panel=_SEARCHING)
    ] = "tpe",
    pruner: Annotated[
        str, opt("--pruner", help="median, hyperband or none", panel=_SEARCHING)
    ] = "median",
    rounds: Annotated[
        int,
        opt("--rounds", "--num-boost-round", help="Most rounds", panel=_SEARCHING, min=1),
    ] = 150,
    early_stopping: Annotated[
        int,
        opt(
            "--early-stopping",
            help="End a trial after so many rounds without improvement; 0 for never",
            panel=_SEARCHING,
            min=0,
        ),
    ] = 20,
    select_models: Annotated[
        bool,
        opt("--select-models", help="Choose which base models to keep, too", panel=_SEARCHING),
    ] = False,
    timeout: Annotated[
        float | None,
        opt("--timeout", help="Begin no trial after so many seconds", panel=_SEARCHING),
    ] = None,
    storage: Annotated[
        str | None,
        opt(
            "--storage",
            help="Keep trials here, to stop and resume, or for several workers at once",
            panel=_SEARCHING,
            metavar="sqlite:///FILE",
        ),
    ] = None,
    study_name: Annotated[
        str, opt("--study-name", help="The name of the search in --storage", panel=_SEARCHING)
    ] = "uertool-ensemble",
    objective: Annotated[
        str, opt("--objective", help="auto, multiclass or binary", panel=_SEARCHING)
    ] = "auto",
    boosting: BoostingOptions = BoostingOptions(),
    run: RunOptions = RunOptions(),
) -> None:
    """Search LightGBM settings by cross validation of the training lines.

    A LightGBM parameter given by flag is fixed; all others of --ranges are searched. Ctrl-C ends
    the search and keeps the best so far.
    """
    run.apply()

    from uertool.tasks.ensemble.plots import can_draw
    from uertool.tasks.ensemble.search import save_search
    from uertool.tasks.ensemble.search import search as look_for
    from uertool.tasks.ensemble.settings import load_ranges

    searched, fixed = load_ranges(ranges)
    given = boosting.given().params
    searched = {name: entry for name, entry in searched.items() if name not in given}
    if not searched:
        raise UsageError("Every parameter is fixed by a flag, so there is nothing to search.")
    lines = train.load()
    for notice in lines.notices:
        console.warn(notice)
    with console.progress(epochs_num, "Searching", unit="trials") as ticker:
        seen = 0

        def on_trial(trial: Trial, best: Trial | None, done: int, total: int) -> None:
            nonlocal seen
            ticker(done - seen)
            seen = done
            if best is not None:
                ticker.say(f"best {metric} {best.score:.4f} (trial {best.number})")

        found = look_for(
            lines,
            ranges=searched,
            fixed={**fixed, **given},
            trials=epochs_num,
            folds=folds_num,
            rounds=rounds,
            early_stopping=early_stopping,
            labels_num=train.labels_num,
            objective=objective,
            metric=metric,
            sampler=sampler,
            pruner=pruner,
            select_models=select_models,
            seed=run.seed,
            threads=run.threads,
            timeout=timeout,
            storage=storage,
            study_name=study_name,
            on_trial=on_trial,
        )
    report = found.to_json()
    inputs = [lines.path, *(model.path for model in lines.models)]
    plot = can_draw() if run.plot is None else run.plot
    if run.output_path is not None and run.plot is None and not plot:
        console.note("No charts: pip install 'uertool[plot]' brings them.")
    run.write(lambda folder: save_search(found, folder, plot=plot), inputs, report)
    if run.json:
        console.json_line(report)
    else:
        _show_search(found)
    if run.output_path is None:
        console.note("Nothing was written; --output-path keeps best.json for `fit --params`.")
    if found.stopped == "interrupted":
        raise KeyboardInterrupt


def _show_search(found: Found) -> None:
    given_up = sum(trial.state == "pruned" for trial in found.trials)
    console.out(
        f"best {found.metric} {found.best.score:.4f} in trial {found.best.number} of "
        f"{len(found.trials)} ({given_up} given up early), {found.best.rounds} rounds"
    )
    if len(found.best.models) < len(found.data.models):
        console.out(f"base models: {', '.join(found.best.models)}")
    top = max(found.importance.values(), default=1.0) or 1.0
    rows = []
    for name, entry in found.ranges.items():
        share = found.importance.get(name)
        where = (
            ", ".join(map(str, entry.choices))
            if entry.choices
            else f"{entry.low:g} to {entry.high:g}"
        )
        value = found.best.params[name]
        rows.append(
            (
                name,
                f"{value:.6g}" if isinstance(value, float) else value,
                where,
                share,
                console.bar(share / top) if share is not None else "",
            )
        )
    console.table(
        ("hyperparameter", "best", "range", "importance", ""), rows, right=("best", "importance")
    )
