"""Honest splits, scores, and what an ensemble must beat: each base model and their averages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, UsageError, counted, import_extra, listed
from uertool.tasks.ensemble.data import Features, Labels

Probabilities = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ENSEMBLE = "ensemble"
AVERAGE = "average"
WEIGHTED = "weighted average"

_EM_STEPS = 500
_EM_TOLERANCE = 1e-7


def _sklearn() -> Any:
    """The scikit-learn package with what is used of it, or MissingExtraError."""
    import_extra("sklearn", "ensemble", "Scoring an ensemble", "scikit-learn")
    import sklearn.metrics
    import sklearn.model_selection

    return sklearn


# -- splits ---------------------------------------------------------------------------------------


def fold_of_each_line(labels: Labels, folds: int, seed: int) -> Labels:
    """The fold, 0..folds-1, that each line is held out in, [lines] int64; stratified.

    Raises:
        UsageError: there are fewer than 2 folds.
        InputError: a label has fewer lines than there are folds, so that some fold would lack it.
    """
    if folds < 2:
        raise UsageError(
            f"{folds} folds cannot validate each other.", "Give `folds` 2 or more, usually 5."
        )
    if len(labels) < folds:
        raise InputError(
            f"{counted(len(labels), 'line')} of data cannot be split into {folds} folds.",
            "Give more lines, or lower `folds`.",
        )
    rare = {label: int(n) for label, n in enumerate(np.bincount(labels)) if 0 < n < folds}
    if rare:
        words = listed(f"label {label} has {n}" for label, n in rare.items())
        least = min(rare.values())
        fewer = f"Give `folds` {least}, or g" if least > 1 else "G"
        raise InputError(
            f"A label must have at least as many lines as there are folds ({folds}), or it is "
            f"absent from a fold: {words}.",
            f"{fewer}ive more lines of that label.",
        )
    return _split(labels, folds, seed)


def _split(labels: Labels, folds: int, seed: int) -> Labels:
    fold = np.empty(len(labels), dtype=np.int64)
    kind = _sklearn().model_selection.StratifiedKFold
    splitter = kind(folds, shuffle=True, random_state=seed % (1 << 32))
    with warnings.catch_warnings():  # about labels with fewer lines than folds
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, held) in enumerate(splitter.split(labels, labels)):
            fold[held] = number
    return fold


def holdout(labels: Labels, seed: int) -> Mask:
    """Which lines to stop by, [lines]: about a tenth of those of every label.

    Raises:
        InputError: no label has two lines.
    """
    most = int(np.bincount(labels).max())
    if most < 2:
        raise InputError(
            f"Early stopping needs a label with two lines, but all "
            f"{counted(len(labels), 'line')} differ.",
            "Give more lines, or leave `early_stopping` out.",
        )
    held: Mask = _split(labels, min(10, most), seed) == 0
    return held


# -- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """How well predictions match the labels, by scikit-learn's metrics.

    Attributes:
        confusion: [labels, labels]; rows are the true labels, columns the predicted ones.
        precision, recall, f1: [labels]; 0 where a label is never predicted or never true.
        support: lines of each true label, [labels].
        macro_f1: mean of f1 over all labels.
        accuracy: share of lines that are predicted correctly.
        log_loss: mean of -ln p(true label).
    """

    confusion: Labels
    precision: Probabilities
    recall: Probabilities
    f1: Probabilities
    support: Labels
    macro_f1: float
    accuracy: float
    log_loss: float

    def summary(self) -> dict[str, float]:
        """The three figures that stand for all of it."""
        return {name: getattr(self, name) for name in METRICS}

    def to_json(self) -> dict[str, Any]:
        columns = ("precision", "recall", "f1", "support")
        rows = zip(*(getattr(self, name).tolist() for name in columns), strict=True)
        labels = [
            {"label": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows)
        ]
        return {**self.summary(), "labels": labels, "confusion": self.confusion.tolist()}


def score(labels: Labels, probabilities: Probabilities) -> Scores:
    """All scores of class probabilities [lines, labels] against labels [lines]."""
    known = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = _sklearn().metrics.precision_recall_fscore_support(
        labels, predicted, labels=known, zero_division=0
    )
    confusion = _sklearn().metrics.confusion_matrix(labels, predicted, labels=known)
    figures = [metric(labels, probabilities) for metric, _ in METRICS.values()]
    return Scores(confusion, precision, recall, f1, support, *figures)


def macro_f1(labels: Labels, probabilities: Probabilities) -> float:
    """Macro F1 of the most probable labels; probabilities are [lines, labels]."""
    known = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    found = _sklearn().metrics.f1_score(
        labels, predicted, labels=known, average="macro", zero_division=0
    )
    return float(found)


def accuracy(labels: Labels, probabilities: Probabilities) -> float:
    """Share of lines with the true label as the most probable one."""
    return float(_sklearn().metrics.accuracy_score(labels, probabilities.argmax(axis=1)))


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean of -ln p(true label) over the lines."""
    return float(
        _sklearn().metrics.log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1]))
    )


METRICS: dict[str, tuple[Callable[[Labels, Probabilities], float], int]] = {
    "macro_f1": (macro_f1, 1),
    "accuracy": (accuracy, 1),
    "log_loss": (log_loss, -1),
}
"""The metrics of a search, each with the sign that makes more better."""


# -- base models ----------------------------------------------------------------------------------


def kind_of(values: npt.NDArray[Any], labels_num: int) -> str:
    """What the columns of a base model are: "probabilities", "logits" or "vector".

    A matrix with one column per label (or a single column for two labels) holds probabilities if
    all are within 0..1 and every row sums to 1, and logits otherwise. Anything else is a vector,
    which only the ensemble can use.
    """
    width = values.shape[1]
    if width == 1 and labels_num == 2:
        within = values.min() >= 0 and values.max() <= 1
    elif width == labels_num:
        sums = values.sum(axis=1, dtype=np.float64)
        within = values.min() >= -1e-6 and bool(np.all(np.abs(sums - 1) < 1e-2))
    else:
        return "vector"
    return "probabilities" if within else "logits"


def as_probabilities(values: npt.NDArray[Any], kind: str) -> Probabilities:
    """Class probabilities [lines, labels] of a base model's output.

    Args:
        values: [lines, labels], or [lines, 1] for the second of two labels.
        kind: "probabilities" or "logits", judged on the training features.
    """
    from scipy.special import expit, softmax

    values = values.astype(np.float64)
    if values.shape[1] == 1:
        second = values if kind == "probabilities" else expit(values)
        return np.concatenate([1 - second, second], axis=1)
    if kind == "logits":
        return np.asarray(softmax(values, axis=1))
    values = np.clip(values, 0, None)
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def base_probabilities(
    models: Sequence[Features], kinds: Sequence[str]
) -> dict[str, Probabilities]:
    """Class probabilities of every base model that gives any, by name."""
    return {
        model.name: as_probabilities(model.values, kind)
        for model, kind in zip(models, kinds, strict=True)
        if kind != "vector"
    }


def fit_weights(labels: Labels, base: dict[str, Probabilities]) -> dict[str, float]:
    """Weights (at least 0, sum 1) of the mixture of base models that explains the labels best.

    The likelihood of a mixture is concave in its weights, and expectation maximisation climbs it
    without a step size: each weight becomes the mean share that its model has in the probability
    of the true labels (Dempster, Laird and Rubin 1977, section 4.3).
    """
    if not base:
        return {}
    rows = np.arange(len(labels))
    of_label = np.stack([values[rows, labels] for values in base.values()], axis=1).clip(1e-12)
    weights = np.full(len(base), 1 / len(base))
    for _ in range(_EM_STEPS):
        shares = of_label * weights
        before, weights = weights, (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(weights - before).max() < _EM_TOLERANCE:
            break
    return dict(zip(base, weights.tolist(), strict=True))


def average(base: dict[str, Probabilities], weights: dict[str, float]) -> Probabilities:
    """Weighted mean of class probabilities [lines, labels]."""
    return np.asarray(sum(values * weights[name] for name, values in base.items()))


# -- comparison -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Scores of the ensemble and of what it must beat, on the same lines.

    Attributes:
        split: "test", "out of fold" for cross validation of the training lines, or "new lines".
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
        return max(own.items(), key=lambda item: item[1].macro_f1, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "lines": len(self.labels),
            "scores": {name: score.summary() for name, score in self.scores.items()},
            ENSEMBLE: self.scores[ENSEMBLE].to_json(),
        }


def compare(
    split: str,
    labels: Labels,
    probabilities: Probabilities,
    base: dict[str, Probabilities],
    weighted: Probabilities | None,
) -> Comparison:
    """Score the ensemble's probabilities [lines, labels], the averages, and the base models.

    Args:
        base: class probabilities of the base models by name.
        weighted: their weighted average, or None without base models.
    """
    predictions = {ENSEMBLE: probabilities}
    if base and weighted is not None:
        predictions[WEIGHTED] = weighted
        predictions[AVERAGE] = average(base, dict.fromkeys(base, 1 / len(base)))
    predictions |= base
    scores = {name: score(labels, values) for name, values in predictions.items()}
    return Comparison(split, scores, labels, probabilities)
