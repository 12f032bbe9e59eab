"""Learning an ensemble and scoring it honestly, beside its base models and their averages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from uertool.errors import InputError, UsageError
from uertool.tasks.ensemble import baselines, boosting, metrics
from uertool.tasks.ensemble.data import (
    Features,
    LabelledData,
    Labels,
    check_labels,
    check_pairs,
)
from uertool.tasks.ensemble.ensemble import BaseModel, Ensemble, dump_json, save_ensemble
from uertool.tasks.ensemble.folds import fold_of_each_line, holdout
from uertool.tasks.ensemble.metrics import Probabilities, Scores
from uertool.tasks.ensemble.settings import FIT_PARAMETERS, FIT_ROUNDS, Value

ENSEMBLE = "ensemble"
AVERAGE = "average"
WEIGHTED = "weighted average"

HOLDOUT_SHARE = 0.1
_LEAST_LINES = 4
_LEAK = 0.1


@dataclass(frozen=True)
class Comparison:
    """Scores of the ensemble and of all that it must beat, on the same lines.

    Attributes:
        split: "test", or "out of fold" for cross validation on the training lines.
        scores: by name: the ensemble, the averages, then each base model.
        labels: the true ones, [lines].
        probabilities: of the ensemble, [lines, labels].
    """

    split: str
    scores: dict[str, Scores]
    labels: Labels
    probabilities: Probabilities

    def best_base(self) -> tuple[str, Scores] | None:
        """The base model with the best macro F1, or None where all are vectors."""
        own = {n: s for n, s in self.scores.items() if n not in (ENSEMBLE, AVERAGE, WEIGHTED)}
        name = max(own, key=lambda name: own[name].macro_f1, default=None)
        return None if name is None else (name, own[name])

    def to_json(self) -> dict[str, Any]:
        return {
            "lines": len(self.labels),
            "scores": {
                name: {
                    "macro_f1": score.macro_f1,
                    "accuracy": score.accuracy,
                    "log_loss": score.log_loss,
                }
                for name, score in self.scores.items()
            },
            ENSEMBLE: self.scores[ENSEMBLE].to_json(),
        }


@dataclass(frozen=True)
class Fitted:
    """An ensemble, its scores, and what to tell the user.

    Attributes:
        ensemble: ready to predict and save.
        comparisons: by split; empty where there were neither test lines nor folds.
        importance: see `Ensemble.importance`.
        notices: one sentence each.
        inputs: the files it was learnt and scored from, by what they are.
    """

    ensemble: Ensemble
    comparisons: dict[str, Comparison]
    importance: list[dict[str, Any]]
    notices: tuple[str, ...]
    inputs: Mapping[str, Sequence[Path]]

    def to_json(self) -> dict[str, Any]:
        """The report, without lines and probabilities."""
        return {
            "labels_num": self.ensemble.labels_num,
            "objective": self.ensemble.objective,
            "params": self.ensemble.params,
            "rounds": self.ensemble.rounds,
            "seed": self.ensemble.seed,
            "weights": {m.name: m.weight for m in self.ensemble.models if m.weight is not None},
            "importance": self.importance,
            "splits": {split: part.to_json() for split, part in self.comparisons.items()},
            "notices": list(self.notices),
        }


def objective_for(objective: str, labels_num: int) -> str:
    """What LightGBM shall learn: "multiclass", or "binary", which "auto" is for two labels.

    Raises:
        UsageError: binary for another number of labels, or an unknown word.
    """
    if objective not in ("auto", "multiclass", "binary"):
        raise UsageError(
            f"The objective {objective!r} is unknown.", "Give auto, multiclass or binary."
        )
    if objective == "binary" and labels_num != 2:
        raise UsageError(
            f"The objective binary is for 2 labels, but there are {labels_num}.",
            "Give `objective` multiclass.",
        )
    if objective == "auto":
        return "binary" if labels_num == 2 else "multiclass"
    return objective


def count_labels(labels: Labels, labels_num: int | None, path: str | Path) -> int:
    """The number of labels: as given, or the highest label plus 1.

    Raises:
        InputError: there is one label only, so nothing can be learnt.
    """
    if labels_num is None:
        labels_num = int(labels.max()) + 1
    if labels_num < 2 or len(np.unique(labels)) < 2:
        raise InputError(
            f"{path}: all {len(labels)} lines have the label {int(labels[0])}, but an ensemble "
            "needs two labels to tell apart.",
            "Check that the column 'label' is the right one.",
        )
    return labels_num


def check_lines(lines: int, min_data_in_leaf: int, path: str | Path, part: str = "") -> None:
    """Raise InputError where there are too few lines for a single split."""
    if lines < _LEAST_LINES:
        raise InputError(
            f"{path} has {lines} lines of data{part}, which is too few to learn an ensemble from.",
            "Some dozens of lines for each label are a beginning.",
        )
    if lines < 2 * min_data_in_leaf:
        raise InputError(
            f"{path} has {lines} lines of data{part}, but with min_data_in_leaf "
            f"{min_data_in_leaf} no tree can split fewer than {2 * min_data_in_leaf}.",
            "Lower min_data_in_leaf, or give more lines.",
        )


def choose_models(train: LabelledData, names: Sequence[str] | None) -> tuple[str, ...]:
    """The base models to learn from, in the order of the data.

    Raises:
        InputError: a name is not among the base models.
    """
    if names is None:
        return train.names
    unknown = [name for name in names if name not in train.names]
    if unknown:
        raise InputError(
            f"The settings use the base models {', '.join(unknown)}, but the features are of "
            f"{', '.join(train.names)}.",
            "Give the same feature files, under the same names, as the search had.",
        )
    return tuple(name for name in train.names if name in names)


def fit(
    train: LabelledData,
    test: LabelledData | None = None,
    *,
    params: Mapping[str, Value] | None = None,
    rounds: int | None = None,
    labels_num: int | None = None,
    objective: str = "auto",
    models: Sequence[str] | None = None,
    folds: int = 0,
    early_stopping: int = 0,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Fitted:
    """Learn an ensemble, and score it on test lines, by cross validation, or both.

    The test lines take part in nothing but the scores. Early stopping holds a tenth of the
    training lines out, stratified, finds the round there, and learns from all of them with it; in
    cross validation each fold does so within the lines that it learns from.

    Args:
        train: its features should be out-of-fold predictions of the base models, or the ensemble
            learns to trust what the base models know by heart.
        test: lines to score on.
        params: LightGBM parameters, or None for those of the old run_lgb.
        rounds: boosting rounds, at most so many with early stopping; default 100.
        labels_num: number of labels, or None for the highest label plus 1.
        objective: "auto", "multiclass" or "binary".
        models: names of the base models to use, or None for all.
        folds: folds of the cross validation, 0 for none.
        early_stopping: rounds without a lower log loss after which to stop, 0 for never.
        seed: same seed, same ensemble, whatever the number of threads.
        threads: cores to use, or None for all.
        progress: called with a few words when a stage begins.

    Raises:
        InputError, UsageError: the data or an option cannot be meant; see the helpers above.
    """
    params = dict(FIT_PARAMETERS if params is None else params)
    rounds = rounds or FIT_ROUNDS
    labels_num = count_labels(train.labels, labels_num, train.path)
    objective = objective_for(objective, labels_num)
    min_data = int(params.get("min_data_in_leaf", 20))
    check_lines(len(train.labels), min_data, train.path)
    notices = [*train.notices]
    kinds = [baselines.kind_of(model.values, labels_num) for model in train.models]
    names = choose_models(train, models)
    kept = train.keep(names)
    if test is not None:
        check_labels(test.labels, labels_num, test.path)
        notices += check_pairs(list(zip(train.names, train.widths, strict=True)), test.models)
        # From here on a base model has the name that it had in training.
        test = replace(test, models=_renamed(test.models, train.names))
    vectors = [name for name, kind in zip(train.names, kinds, strict=True) if kind == "vector"]
    if vectors:
        notices.append(
            f"{', '.join(vectors)} gives no column for each of the {labels_num} labels, so it has "
            "no score of its own and no part in the averages."
        )
    run = _Run(
        boosting.full_parameters(
            params, objective, labels_num, seed, threads or boosting.available_threads()
        ),
        labels_num, rounds, early_stopping, seed, progress or (lambda _: None),
    )  # fmt: skip

    comparisons: dict[str, Comparison] = {}
    train_base = baselines.base_probabilities(train.models, kinds)
    if folds:
        comparisons["out_of_fold"] = run.cross_validate(train, kept, train_base, folds)
    run.progress("learning from all lines")
    matrix = kept.matrix()
    final_rounds = run.find_rounds(matrix, train.labels)
    booster = boosting.train(matrix, train.labels, run.params, final_rounds)
    weights = baselines.fit_weights(train.labels, train_base) if train_base else {}
    ensemble = Ensemble(
        booster_text=booster.model_to_string(),
        models=tuple(
            BaseModel(name, width, kind, name in names, weights.get(name))
            for name, width, kind in zip(train.names, train.widths, kinds, strict=True)
        ),
        labels_num=labels_num,
        objective=objective,
        params=dict(params),
        rounds=final_rounds,
        seed=seed,
    )
    importance = ensemble.importance()
    if not any(entry["splits"] for entry in importance):
        notices.append(
            "No tree found a split, so every line gets the same answer; lower min_data_in_leaf, "
            "lambda_l1 or min_gain_to_split."
        )
    if test is not None:
        test_base = baselines.base_probabilities(test.models, kinds)
        notices += [n for n in test.notices if n not in notices]
        notices += _leaks(train.labels, train_base, test.labels, test_base)
        comparisons["test"] = compare(
            "test",
            test.labels,
            ensemble.predict(test.models, threads=threads),
            test_base,
            weights,
        )
    if not comparisons:
        notices.append("Nothing was scored; give test lines, or `folds` 5 for cross validation.")
    return Fitted(ensemble, comparisons, importance, tuple(notices), _inputs(train, test))


def _renamed(models: tuple[Features, ...], names: Sequence[str]) -> tuple[Features, ...]:
    return tuple(replace(model, name=name) for model, name in zip(models, names, strict=True))


def _inputs(train: LabelledData, test: LabelledData | None) -> dict[str, list[Path]]:
    inputs = {
        "train_labels": [train.path],
        "train_features": [model.path for model in train.models],
    }
    if test is not None:
        inputs["test_labels"] = [test.path]
        inputs["test_features"] = [model.path for model in test.models]
    return inputs


@dataclass(frozen=True)
class _Run:
    """One setting, applied to parts of the training lines."""

    params: dict[str, Any]
    labels_num: int
    rounds: int
    early_stopping: int
    seed: int
    progress: Callable[[str], None]

    def find_rounds(self, matrix: Any, labels: Labels) -> int:
        """How many rounds to learn for, by a held-out tenth of these lines if asked for."""
        if not self.early_stopping:
            return self.rounds
        kept, out = holdout(labels, HOLDOUT_SHARE, self.seed)
        whole = boosting.binned(matrix, labels, self.params, self.params["num_threads"])
        return boosting.stopped_round(
            whole.subset(kept.tolist()).construct(),
            whole.subset(out.tolist()).construct(),
            labels[out],
            self.params,
            self.rounds,
            self.early_stopping,
        )

    def cross_validate(
        self,
        train: LabelledData,
        kept: LabelledData,
        base: dict[str, Probabilities],
        folds: int,
    ) -> Comparison:
        """Scores of lines by ensembles, and by weights, that have not seen them."""
        labels = train.labels
        fold = fold_of_each_line(labels, folds, self.seed)
        min_data = int(self.params.get("min_data_in_leaf", 20))
        check_lines(int((fold != 0).sum()), min_data, train.path, " outside a fold")
        matrix = kept.matrix()
        together = np.empty((len(labels), self.labels_num))
        weighted = np.empty_like(together)
        for i in range(folds):
            self.progress(f"fold {i + 1} of {folds}")
            inside, held = fold != i, fold == i
            rounds = self.find_rounds(matrix[inside], labels[inside])
            booster = boosting.train(matrix[inside], labels[inside], self.params, rounds)
            together[held] = boosting.as_matrix(
                booster.predict(matrix[held], num_threads=self.params["num_threads"])
            )
            if base:
                parts = {name: values[inside] for name, values in base.items()}
                weights = baselines.fit_weights(labels[inside], parts)
                weighted[held] = baselines.average(
                    {name: values[held] for name, values in base.items()}, weights
                )
        return compare("out of fold", labels, together, base, weighted=weighted if base else None)


def compare(
    split: str,
    labels: Labels,
    probabilities: Probabilities,
    base: dict[str, Probabilities],
    weights: dict[str, float] | None = None,
    *,
    weighted: Probabilities | None = None,
) -> Comparison:
    """Score the ensemble's probabilities [lines, labels] beside the averages and base models.

    Args:
        base: class probabilities of the base models by name.
        weights: of the weighted average; or
        weighted: the weighted average itself, [lines, labels].
    """
    scores = {ENSEMBLE: metrics.score(labels, probabilities)}
    if base:
        if weighted is None:
            weighted = baselines.average(base, weights)
        scores[WEIGHTED] = metrics.score(labels, weighted)
        scores[AVERAGE] = metrics.score(labels, baselines.average(base))
    for name, values in base.items():
        scores[name] = metrics.score(labels, values)
    return Comparison(split, scores, labels, probabilities)


def _leaks(
    train_labels: Labels,
    train_base: dict[str, Probabilities],
    test_labels: Labels,
    test_base: dict[str, Probabilities],
) -> list[str]:
    """Notices about training features that were not made out of fold."""
    suspects = []
    for name, values in train_base.items():
        at_home = metrics.accuracy(train_labels, values)
        away = metrics.accuracy(test_labels, test_base[name])
        if at_home - away > _LEAK and len(test_labels) >= 50:
            suspects.append(f"{name} (accuracy {at_home:.3f} in training, {away:.3f} in test)")
    if not suspects:
        return []
    return [
        f"The training features of {', '.join(suspects)} look as if the base model had seen those "
        "very lines; make them out of fold, or the ensemble trusts it too much."
    ]


def save_fit(fitted: Fitted, folder: Path, *, plot: bool = False) -> None:
    """Write everything that a fit gives into an existing, empty folder.

    model.txt and manifest.json (the ensemble), report.json, and for each split
    predictions_<split>.tsv (columns label, prediction and one probability a label) and
    probabilities_<split>.npy; with `plot` confusion_<split>.png and importance.png.
    """
    for split, part in fitted.comparisons.items():
        with (folder / f"predictions_{split}.tsv").open("w", encoding="utf-8", newline="\n") as out:
            write_predictions(out, part.probabilities, part.labels)
        np.save(folder / f"probabilities_{split}.npy", part.probabilities)
    dump_json(fitted.to_json(), folder / "report.json")
    if plot:
        from uertool.tasks.ensemble import plots

        for split, part in fitted.comparisons.items():
            plots.confusion(part.scores[ENSEMBLE].confusion, folder / f"confusion_{split}.png")
        plots.importance(fitted.importance, folder / "importance.png")
    save_ensemble(fitted.ensemble, folder, fitted.inputs)


def score_predictions(
    ensemble: Ensemble,
    features: Sequence[Features],
    labels: Labels,
    probabilities: Probabilities,
) -> Comparison:
    """Score predictions on new lines beside the base models and their averages.

    Args:
        features: of all base models, or of those in use only.
        labels: [lines].
        probabilities: of the ensemble, [lines, labels].
    """
    known = ensemble.used if len(features) == len(ensemble.used) else ensemble.models
    named = _renamed(tuple(features), [model.name for model in known])
    base = baselines.base_probabilities(named, [model.kind for model in known])
    weights = {model.name: model.weight or 0.0 for model in known if model.name in base}
    total = sum(weights.values())
    shares = {name: weight / total for name, weight in weights.items()} if total else None
    return compare("new lines", labels, probabilities, base, shares)


def write_predictions(
    out: TextIO,
    probabilities: Probabilities,
    labels: Labels | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Write a line for each line: the true label where known, the predicted one, probabilities.

    TSV with a header (label, prediction, probability_0, ...), or JSON objects with the keys line
    (counted from 0), label, prediction and probabilities.
    """
    predicted = probabilities.argmax(axis=1)
    if not as_json:
        columns = [f"probability_{label}" for label in range(probabilities.shape[1])]
        known = ["label"] if labels is not None else []
        out.write("\t".join([*known, "prediction", *columns]) + "\n")
    for i, row in enumerate(probabilities):
        truth = None if labels is None else int(labels[i])
        if as_json:
            record: dict[str, Any] = {"line": i}
            if truth is not None:
                record["label"] = truth
            record["prediction"] = int(predicted[i])
            record["probabilities"] = [round(float(value), 6) for value in row]
            out.write(json.dumps(record) + "\n")
            continue
        cells = [] if truth is None else [str(truth)]
        cells += [str(int(predicted[i])), *(f"{value:.6g}" for value in row)]
        out.write("\t".join(cells) + "\n")
