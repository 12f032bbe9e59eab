"""Scores of predicted classes: confusion matrix, precision, recall, F1, accuracy, log loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.tasks.ensemble.data import Labels

Probabilities = npt.NDArray[np.float64]

_SMALLEST = 1e-15  # keeps the logarithm of a probability of 0 finite, as scikit-learn does


@dataclass(frozen=True)
class Scores:
    """How well predictions meet the labels.

    Attributes:
        confusion: [labels, labels] int64; rows are the true labels, columns the predicted ones.
        precision, recall, f1: [labels]; 0 where a label is never predicted or never true.
        macro_f1: mean of f1 over all labels.
        accuracy: share of lines predicted right.
        log_loss: mean of -ln p(true label), or None where there are no probabilities.
    """

    confusion: Labels
    precision: Probabilities
    recall: Probabilities
    f1: Probabilities
    macro_f1: float
    accuracy: float
    log_loss: float | None

    @property
    def support(self) -> Labels:
        """Lines of each true label, [labels]."""
        support: Labels = self.confusion.sum(axis=1)
        return support

    def to_json(self) -> dict[str, Any]:
        return {
            "macro_f1": self.macro_f1,
            "accuracy": self.accuracy,
            "log_loss": self.log_loss,
            "labels": [
                {
                    "label": label,
                    "precision": float(self.precision[label]),
                    "recall": float(self.recall[label]),
                    "f1": float(self.f1[label]),
                    "support": int(self.support[label]),
                }
                for label in range(len(self.f1))
            ],
            "confusion": self.confusion.tolist(),
        }


def confusion_matrix(labels: Labels, predicted: Labels, labels_num: int) -> Labels:
    """Counts of (true, predicted) pairs, [labels_num, labels_num] int64."""
    pairs = labels * labels_num + predicted
    counts = np.bincount(pairs, minlength=labels_num * labels_num)
    return counts.reshape(labels_num, labels_num).astype(np.int64)


def f1_of(confusion: Labels) -> tuple[Probabilities, Probabilities, Probabilities]:
    """Precision, recall and F1 of every label, each [labels], from a confusion matrix."""
    right = np.diag(confusion).astype(np.float64)
    precision = _ratio(right, confusion.sum(axis=0))
    recall = _ratio(right, confusion.sum(axis=1))
    return precision, recall, _ratio(2 * right, confusion.sum(axis=0) + confusion.sum(axis=1))


def _ratio(above: Probabilities, below: npt.NDArray[Any]) -> Probabilities:
    below = below.astype(np.float64)
    result: Probabilities = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result


def macro_f1(labels: Labels, probabilities: npt.NDArray[Any]) -> float:
    """Macro F1 of the most probable labels; probabilities are [lines, labels]."""
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, probabilities.shape[1])
    return float(f1_of(confusion)[2].mean())


def accuracy(labels: Labels, probabilities: npt.NDArray[Any]) -> float:
    """Share of lines whose most probable label is the true one."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def log_loss(labels: Labels, probabilities: npt.NDArray[Any]) -> float:
    """Mean of -ln p(true label) over the lines."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(chosen, _SMALLEST, 1.0)).mean())


def score(labels: Labels, probabilities: npt.NDArray[Any]) -> Scores:
    """All scores of class probabilities [lines, labels] against labels [lines]."""
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    confusion = confusion_matrix(labels, predicted, probabilities.shape[1])
    precision, recall, f1 = f1_of(confusion)
    return Scores(
        confusion=confusion,
        precision=precision,
        recall=recall,
        f1=f1,
        macro_f1=float(f1.mean()),
        accuracy=float((predicted == labels).mean()),
        log_loss=log_loss(labels, probabilities),
    )
