"""Learning an ensemble and scoring it honestly, next to its base models and their averages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, SettingError, UsageError, counted
from uertool.io.display import Report
from uertool.settings import fields_of
from uertool.tasks.ensemble import data as inputs
from uertool.tasks.ensemble import ensemble as results
from uertool.tasks.ensemble import parameters as lgb_parameters
from uertool.tasks.ensemble import scores
from uertool.tasks.ensemble.data import LabelledData, Labels
from uertool.tasks.ensemble.ensemble import BaseModel, Ensemble
from uertool.tasks.ensemble.parameters import Parameters, Value, lightgbm
from uertool.tasks.ensemble.scores import Comparison, Probabilities
from uertool.tasks.ensemble.settings import BoostingSettings, FitSettings

_LOG_LOSS = {"multiclass": "multi_logloss", "binary": "binary_logloss"}  # LightGBM's names
_LEAST_LINES = 4
_LEAK = 0.1  # accuracy that a base model may lose between training and test lines


@dataclass(frozen=True, repr=False)
class Fitted(Report):
    """An ensemble and its scores.

    Attributes:
        ensemble: ready to predict and save.
        comparisons: by split; empty without test lines and folds.
        importance: see `Ensemble.importance`.
        notices: what the user should know, one sentence each.
        inputs: the files that it was learnt and scored from, by what they are.
    """

    ensemble: Ensemble
    comparisons: dict[str, Comparison]
    importance: list[dict[str, Any]]
    notices: tuple[str, ...]
    inputs: Mapping[str, Sequence[Path]]

    def to_json(self) -> dict[str, Any]:
        """The report, without lines and probabilities."""
        own = self.ensemble
        return {
            **{n: getattr(own, n) for n in ("labels_num", "objective", "params", "rounds", "seed")},
            "weights": {m.name: m.weight for m in own.models if m.weight is not None},
            "importance": self.importance,
            "splits": {split: part.to_json() for split, part in self.comparisons.items()},
            "notices": list(self.notices),
        }


# -- from settings --------------------------------------------------------------------------------


def fit(settings: FitSettings, progress: Callable[[str], None] | None = None) -> Fitted:
    """Learn an ensemble from files, and score it on test lines, by cross validation, or both.

    Args:
        settings: what to learn from, and how.
        progress: called with a few words when a stage begins.

    Raises:
        InputError, UsageError: the data, a file of parameters or a setting is invalid.
    """
    if (settings.test_path is None) != (not settings.test_features_path):
        raise UsageError("`test_path` and `test_features_path` go together; one is missing.")
    parameters = fit_parameters(settings)
    train = inputs.load_train(settings, parameters.labels_num)
    test = None
    if settings.test_path is not None:
        test = inputs.load_labelled(
            settings.test_path,
            settings.test_features_path,
            "test",
            models_num=settings.models_num,
            labels_num=parameters.labels_num,
            encoding=settings.encoding,
        )
    return learn(train, test, parameters, settings, progress)


def given_parameters(settings: BoostingSettings) -> Parameters:
    """The LightGBM parameters among the settings that were given, validated."""
    values = {field.name: getattr(settings, field.name) for field in fields_of(BoostingSettings)}
    for pair in values.pop("param"):
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingError("param", pair, "must be NAME=VALUE")
        values[name.strip()] = value.strip()
    given = {name: value for name, value in values.items() if value is not None}
    return lgb_parameters.check_parameters(given, "The settings")


def fit_parameters(settings: FitSettings) -> Parameters:
    """The parameters of a fit: settings override the file, or the defaults of run_lgb."""
    file = (
        lgb_parameters.load_parameters(settings.params)
        if settings.params is not None
        else Parameters()
    )
    given = given_parameters(settings)
    if file.labels_num and settings.labels_num not in (None, file.labels_num):
        raise UsageError(
            f"`labels_num` is {settings.labels_num}, but {settings.params} was found for "
            f"{file.labels_num} labels.",
            "Leave `labels_num` out, or search again.",
        )
    return Parameters(
        {**file.params, **given.params},
        settings.rounds or given.rounds or file.rounds,
        file.models,
        settings.labels_num or file.labels_num,
        settings.objective or file.objective,
    )


# -- learning -------------------------------------------------------------------------------------


def learn(
    train: LabelledData,
    test: LabelledData | None = None,
    parameters: Parameters | None = None,
    settings: FitSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Fitted:
    """Learn an ensemble, and score it on test lines, by cross validation, or both.

    The test lines are used for nothing but the scores. Early stopping holds out a stratified tenth
    of the training lines, finds the round there, and learns from all of them with it; in cross
    validation each fold does so within the lines that it learns from.

    Args:
        train: its features should be out-of-fold predictions of the base models, or the ensemble
            learns to trust what the base models know by heart.
        test: lines for the scores.
        parameters: of LightGBM; by default those of run_lgb.
        settings: `folds`, `early_stopping`, `seed` and `threads` are used. The same seed gives the
            same ensemble, whatever the number of threads.
        progress: called with a few words when a stage begins.

    Raises:
        InputError, UsageError: the data or a setting is invalid.
    """
    parameters, settings = parameters or Parameters(), settings or FitSettings()
    labels_num = count_labels(train, parameters.labels_num)
    objective = objective_for(parameters.objective or "auto", labels_num)
    run = _Run(
        full_parameters(parameters.params, objective, labels_num, settings.seed, settings.threads),
        parameters.rounds or lgb_parameters.FIT_ROUNDS,
        settings.early_stopping,
        settings.seed,
    )
    check_lines(len(train.labels), parameters.params, train)
    kept = train.keep(parameters.models)
    kinds = [scores.kind_of(model.values, labels_num) for model in train.models]
    base = scores.base_probabilities(train.models, kinds)
    say = progress or (lambda _: None)
    weights = scores.fit_weights(train.labels, base)
    models = [
        BaseModel(m.name, m.values.shape[1], kind, m.name in kept.names, weights.get(m.name))
        for m, kind in zip(train.models, kinds, strict=True)
    ]
    notices = [*train.notices]
    if test is not None:
        inputs.check_labels(test.labels, labels_num, test.path)
        notices += [*inputs.check_pairs(models, test.models), *test.notices]
    comparisons: dict[str, Comparison] = {}
    if settings.folds:
        comparisons["out_of_fold"] = run.cross_validate(kept, base, settings.folds, labels_num, say)
    say("learning from all lines")
    booster, rounds = run.train(kept.matrix(), train.labels)
    ensemble = Ensemble(
        booster.model_to_string(), tuple(models), labels_num, objective,
        dict(parameters.params), rounds, settings.seed,
    )  # fmt: skip
    importance = ensemble.importance()
    notices += _notices(ensemble, importance)
    files = inputs.inputs_of(train, "train")
    if test is not None:
        probabilities = ensemble.predict(test.models, threads=settings.threads)
        part = ensemble.compare("test", test.models, test.labels, probabilities)
        comparisons["test"] = part
        notices += _leaks(train.labels, base, part)
        files |= inputs.inputs_of(test, "test")
    if not comparisons:
        notices.append("Nothing was scored; give test lines, or `folds` 5 for cross validation.")
    return Fitted(ensemble, comparisons, importance, tuple(dict.fromkeys(notices)), files)


def count_labels(data: LabelledData, labels_num: int | None) -> int:
    """The number of labels: as given, or the highest label plus 1.

    Raises:
        InputError: there is only one label, so nothing can be learnt.
    """
    if len(np.unique(data.labels)) < 2:
        raise InputError(
            f"{data.path}: every line has the label {data.labels[0]}, but an "
            "ensemble needs two labels to tell apart.",
            "Check that the column 'label' is the right one.",
        )
    return labels_num or int(data.labels.max()) + 1


def objective_for(objective: str, labels_num: int) -> str:
    """What LightGBM learns: "multiclass", or "binary", which "auto" is for two labels.

    Raises:
        UsageError: binary for another number of labels.
    """
    if objective == "binary" and labels_num != 2:
        raise UsageError(
            f"The objective binary is for 2 labels, but there are {labels_num}.",
            "Use `objective` multiclass.",
        )
    if objective == "auto":
        return "binary" if labels_num == 2 else "multiclass"
    return objective


def check_lines(
    lines: int, params: Mapping[str, Value], data: LabelledData, part: str = ""
) -> None:
    """Raise InputError where there are too few lines for a single split."""
    min_data = int(params.get("min_data_in_leaf", 20))
    if lines < _LEAST_LINES:
        raise InputError(
            f"{data.path} has {counted(lines, 'line')} of data{part}, which is too few to "
            f"learn from.",
            "Some dozens of lines for each label are a beginning.",
        )
    if lines < 2 * min_data:
        raise InputError(
            f"{data.path} has {counted(lines, 'line')} of data{part}, but with "
            f"min_data_in_leaf {min_data} "
            f"no tree can split fewer than {2 * min_data}.",
            "Lower min_data_in_leaf, or give more lines.",
        )


def full_parameters(
    params: Mapping[str, Value], objective: str, labels_num: int, seed: int, threads: int | None
) -> dict[str, Any]:
    """`params`, and what makes LightGBM's result the same on any machine.

    `deterministic` with `force_col_wise` makes trees independent of the number of threads. Without
    `feature_pre_filter` the same bins serve every min_data_in_leaf.

    Raises:
        UsageError: LightGBM refuses this combination of parameters.
    """
    if reason := lgb_parameters.refusal(params):
        raise UsageError(f"LightGBM refuses these parameters: {reason}.", "Change one of them.")
    return {
        **params,
        "objective": objective,
        "num_class": labels_num if objective == "multiclass" else 1,
        "metric": "None",
        "seed": seed % (1 << 31),
        "num_threads": threads or available_threads(),
        "deterministic": True,
        "force_col_wise": True,
        "feature_pre_filter": False,
        "verbosity": -1,
    }


def available_threads() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Run:
    """LightGBM with one set of parameters, applied to parts of the training lines."""

    params: dict[str, Any]
    rounds: int
    early_stopping: int
    seed: int

    def train(self, matrix: npt.NDArray[Any], labels: Labels) -> tuple[Any, int]:
        """A booster that learnt from all these lines, and its number of rounds."""
        lgb = lightgbm()
        rounds = self.rounds
        if self.early_stopping:
            rounds = self._best_round(matrix, labels)
        return lgb.train(self.params, lgb.Dataset(matrix, labels), rounds), rounds

    def _best_round(self, matrix: npt.NDArray[Any], labels: Labels) -> int:
        """The round with the lowest log loss on a held-out tenth of the lines."""
        lgb = lightgbm()
        out = scores.holdout(labels, self.seed)
        data = lgb.Dataset(matrix[~out], labels[~out])
        losses: dict[str, dict[str, list[float]]] = {}
        callbacks = [lgb.record_evaluation(losses)]
        if self.params.get("boosting") != "dart":  # LightGBM does not stop dart early
            callbacks.append(lgb.early_stopping(self.early_stopping, verbose=False))
        lgb.train(
            {**self.params, "metric": _LOG_LOSS[self.params["objective"]]},
            data,
            self.rounds,
            valid_sets=[data.create_valid(matrix[out], labels[out])],
            callbacks=callbacks,
        )
        ((history,),) = (values.values() for values in losses.values())
        return int(np.argmin(history)) + 1

    def cross_validate(
        self,
        data: LabelledData,
        base: dict[str, Probabilities],
        folds: int,
        labels_num: int,
        progress: Callable[[str], None],
    ) -> Comparison:
        """Scores of lines by ensembles, and by weights, that have not seen them."""
        labels, matrix = data.labels, data.matrix()
        fold = scores.fold_of_each_line(labels, folds, self.seed)
        check_lines(int((fold != 0).sum()), self.params, data, " outside a fold")
        probabilities = np.empty((len(labels), labels_num))
        weighted = np.empty_like(probabilities)
        for number in range(folds):
            progress(f"fold {number + 1} of {folds}")
            held = fold == number
            booster, _ = self.train(matrix[~held], labels[~held])
            probabilities[held] = results.as_matrix(booster.predict(matrix[held]))
            if base:
                inside = {name: values[~held] for name, values in base.items()}
                outside = {name: values[held] for name, values in base.items()}
                weighted[held] = scores.average(outside, scores.fit_weights(labels[~held], inside))
        return scores.compare(
            "out of fold", labels, probabilities, base, weighted if base else None
        )


# -- notices and files ----------------------------------------------------------------------------


def _notices(ensemble: Ensemble, importance: Sequence[Mapping[str, Any]]) -> list[str]:
    vectors = [model.name for model in ensemble.models if model.kind == "vector"]
    found = []
    if vectors:
        found.append(
            f"{', '.join(vectors)} gives no column for each of the {ensemble.labels_num} labels, "
            "so it has no score of its own and no part in the averages."
        )
    if not any(entry["splits"] for entry in importance):
        found.append(
            "No tree found a split, so every line gets the same answer; lower min_data_in_leaf, "
            "lambda_l1 or min_gain_to_split."
        )
    return found


def _leaks(labels: Labels, base: Mapping[str, Probabilities], test: Comparison) -> list[str]:
    """Notices about training features that are not out of fold."""
    suspects = []
    for name, values in base.items():
        own, other = scores.accuracy(labels, values), test.scores[name].accuracy
        if own - other > _LEAK and len(test.labels) >= 50:
            suspects.append(f"{name} (accuracy {own:.3f} in training, {other:.3f} in test)")
    if not suspects:
        return []
    return [
        f"The training features of {', '.join(suspects)} look as if the base model had learnt from "
        "those lines; make them out of fold, or the ensemble trusts it too much."
    ]


def save_fit(fitted: Fitted, folder: Path, *, plot: bool = False) -> None:
    """Write everything that a fit gives into an existing, empty folder.

    model.txt and manifest.json (the ensemble), report.json, and for each split
    predictions_<split>.tsv (columns label, prediction and one probability per label) and
    probabilities_<split>.npy; with `plot` confusion_<split>.png and importance.png.
    """
    for split, part in fitted.comparisons.items():
        with (folder / f"predictions_{split}.tsv").open("w", encoding="utf-8", newline="\n") as out:
            results.write_predictions(out, results.Predicted(part.probabilities, part.labels))
        np.save(folder / f"probabilities_{split}.npy", part.probabilities)
    results.dump_json(fitted.to_json(), folder / "report.json")
    if plot:
        from uertool.tasks.ensemble import plots

        for split, part in fitted.comparisons.items():
            plots.confusion(
                part.scores[scores.ENSEMBLE].confusion, folder / f"confusion_{split}.png"
            )
        plots.importance(fitted.importance, folder / "importance.png")
    results.save_ensemble(fitted.ensemble, folder, fitted.inputs)
