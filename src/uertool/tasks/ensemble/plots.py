"""Charts of ensembles and searches, as image files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uertool.errors import MissingExtraError
from uertool.tasks.ensemble.data import Labels

_DARK = 0.5


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def _axes(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "Drawing charts") from None
    # A figure of its own, not pyplot's: no window, no state that others share.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def confusion(counts: Labels, path: Path) -> None:
    """A confusion matrix [true, predicted] with shares of each true label as colours."""
    size = len(counts)
    side = min(12.0, 3 + 0.6 * size)
    figure, axes = _axes(side, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= 20:
        for row in range(size):
            for column in range(size):
                colour = "white" if shares[row, column] > _DARK else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center",
                          color=colour)  # fmt: skip
    axes.set(xlabel="predicted label", ylabel="true label", xticks=range(size), yticks=range(size))
    axes.set_title("Confusion matrix")
    figure.savefig(path)


def importance(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """How much each base model contributes, as bars; entries as of `Ensemble.importance`."""
    ordered = sorted(entries, key=lambda entry: float(entry["gain"]))
    _bars(
        [str(entry["model"]) for entry in ordered],
        [float(entry["gain"]) for entry in ordered],
        "share of the gain",
        "Importance of base models",
        path,
    )


def parameter_importance(shares: Mapping[str, float], path: Path) -> None:
    """How much each hyperparameter moves the score, as bars."""
    names = sorted(shares, key=lambda name: shares[name])
    _bars(names, [shares[n] for n in names], "share of the variance",
          "Importance of hyperparameters", path)  # fmt: skip


def _bars(names: Sequence[str], values: Sequence[float], what: str, title: str, path: Path) -> None:
    figure, axes = _axes(7, min(20.0, 1.5 + 0.3 * len(names)))
    axes.barh(range(len(names)), values)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=what, title=title)
    figure.savefig(path)


def history(
    numbers: Sequence[int],
    scores: Sequence[float],
    pruned: Sequence[bool],
    best: Sequence[float],
    metric: str,
    path: Path,
) -> None:
    """Scores of all trials in order, those given up marked, and the best so far as a line.

    Args:
        numbers, scores, pruned, best: one entry a trial.
    """
    figure, axes = _axes(8, 4.5)
    for given_up, marker, label in ((False, "o", "finished"), (True, "x", "given up")):
        at = [i for i, flag in enumerate(pruned) if flag is given_up]
        if at:
            axes.scatter([numbers[i] for i in at], [scores[i] for i in at], marker=marker,
                         label=label, alpha=0.7)  # fmt: skip
    axes.step(numbers, best, where="post", color="black", label="best so far")
    axes.set(xlabel="trial", ylabel=metric, title="Search history")
    axes.legend()
    figure.savefig(path)
