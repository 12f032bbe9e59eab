"""What an ensemble must beat: each base model alone, their plain and their weighted average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.tasks.ensemble.data import Features, Labels
from uertool.tasks.ensemble.metrics import Probabilities

_EM_STEPS = 500
_EM_TOLERANCE = 1e-7


def kind_of(values: npt.NDArray[Any], labels_num: int) -> str:
    """What the columns of a base model are: "probabilities", "logits" or "vector".

    A matrix with one column a label (or one column alone where there are two labels) holds
    probabilities if all lie in 0..1 and every row sums to 1, logits otherwise. Anything else is a
    vector, which only the ensemble can use.
    """
    width = values.shape[1]
    if width == 1 and labels_num == 2:
        inside = values.min() >= 0 and values.max() <= 1
        return "probabilities" if inside else "logits"
    if width != labels_num:
        return "vector"
    sums = values.sum(axis=1, dtype=np.float64)
    inside = values.min() >= -1e-6 and bool(np.all(np.abs(sums - 1) < 1e-2))
    return "probabilities" if inside else "logits"


def as_probabilities(values: npt.NDArray[Any], kind: str) -> Probabilities | None:
    """Class probabilities [lines, labels] of a base model's output, or None for a vector.

    Args:
        values: [lines, labels], or [lines, 1] for the second of two labels.
        kind: see `kind_of`; judged on the training features and used for the test ones too.
    """
    if kind == "vector":
        return None
    values = values.astype(np.float64)
    if values.shape[1] == 1:
        positive = values[:, 0] if kind == "probabilities" else _sigmoid(values[:, 0])
        return np.stack([1 - positive, positive], axis=1)
    if kind == "logits":
        values = np.exp(values - values.max(axis=1, keepdims=True))
    values = np.clip(values, 0, None)
    probabilities: Probabilities = values / values.sum(axis=1, keepdims=True)
    return probabilities


def _sigmoid(values: Probabilities) -> Probabilities:
    result: Probabilities = 0.5 * (1 + np.tanh(0.5 * values))
    return result


def base_probabilities(
    models: Sequence[Features], kinds: Sequence[str]
) -> dict[str, Probabilities]:
    """Class probabilities of every base model that gives any, by name."""
    pairs = {
        model.name: as_probabilities(model.values, kind)
        for model, kind in zip(models, kinds, strict=True)
    }
    return {name: values for name, values in pairs.items() if values is not None}


def average(
    probabilities: dict[str, Probabilities], weights: dict[str, float] | None = None
) -> Probabilities:
    """Weighted mean of class probabilities [lines, labels]; without weights all count the same."""
    share = 1 / len(probabilities)
    parts = [
        values * (share if weights is None else weights[name])
        for name, values in probabilities.items()
    ]
    result: Probabilities = np.sum(parts, axis=0)
    return result


def fit_weights(labels: Labels, probabilities: dict[str, Probabilities]) -> dict[str, float]:
    """Weights (at least 0, sum 1) of the mixture of base models that explains the labels best.

    The likelihood of a mixture is concave in its weights, and expectation maximisation climbs it
    without a step size: each weight becomes the mean share that its model has in the probability
    of the true labels (Dempster, Laird and Rubin 1977, section 4.3).
    """
    rows = np.arange(len(labels))
    of_label = np.stack([values[rows, labels] for values in probabilities.values()], axis=1)
    of_label = np.clip(of_label, 1e-12, None)
    weights = np.full(of_label.shape[1], 1 / of_label.shape[1])
    for _ in range(_EM_STEPS):
        shares = of_label * weights
        new = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(new - weights).max())
        weights = new
        if moved < _EM_TOLERANCE:
            break
    return dict(zip(probabilities, weights.tolist(), strict=True))
