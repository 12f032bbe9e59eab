"""Charts of ensembles and searches, as image files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uertool.errors import import_extra
from uertool.tasks.ensemble.data import Labels
from uertool.tasks.pictures import drawing

_MOST_NUMBERS = 20  # labels of a confusion matrix in which numbers can still be read


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def confusion(counts: Labels, path: Path) -> None:
    """A confusion matrix [true, predicted]."""
    side = min(12.0, 3 + 0.6 * len(counts))
    from sklearn.metrics import ConfusionMatrixDisplay

    with drawing(path, side, side) as axes:
        ConfusionMatrixDisplay(counts).plot(
            ax=axes, cmap="Blues", colorbar=False, include_values=len(counts) <= _MOST_NUMBERS
        )
        axes.set_title("Confusion matrix")


def importance(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """How much each base model contributes, as bars; entries as of `Ensemble.importance`."""
    shares = {entry["model"]: entry["gain"] for entry in entries}
    _bars(shares, "share of the gain", "Importance of base models", path)


def parameter_importance(shares: Mapping[str, float], path: Path) -> None:
    """How much each hyperparameter changes the score, as bars."""
    _bars(shares, "share of the variance", "Importance of hyperparameters", path)


def _bars(shares: Mapping[str, float], what: str, title: str, path: Path) -> None:
    names = sorted(shares, key=lambda name: shares[name])
    with drawing(path, 7, min(20.0, 1.5 + 0.3 * len(names))) as axes:
        axes.barh(range(len(names)), [shares[name] for name in names])
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=what, title=title)


def history(study: Any, metric: str, path: Path) -> None:
    """The scores of all trials of an optuna study in order, with the best so far as a line."""
    import_extra("matplotlib", "plot", "Drawing charts")
    from matplotlib import pyplot
    from optuna.visualization.matplotlib import plot_optimization_history

    with pyplot.rc_context():  # optuna sets a style
        figure = plot_optimization_history(study, target_name=metric).figure
        figure.axes[0].xaxis.get_major_locator().set_params(integer=True)  # trials are counted
        figure.savefig(path, bbox_inches="tight")
        pyplot.close(figure)
