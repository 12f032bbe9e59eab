"""Functions that stack base models with LightGBM: those of `ensemble`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from uertool.io.atomic import atomic_folder, atomic_path, refuse_existing
from uertool.settings import as_keywords
from uertool.tasks.ensemble import ensemble, fit, search
from uertool.tasks.ensemble.data import load_train
from uertool.tasks.ensemble.ensemble import Predicted
from uertool.tasks.ensemble.fit import Fitted
from uertool.tasks.ensemble.search import Found
from uertool.tasks.ensemble.settings import (
    FitSettings,
    FolderSettings,
    PredictSettings,
    SearchSettings,
)

T = TypeVar("T")


def _saved(settings: FolderSettings, work: Callable[[], T], save: Callable[[T, Path], None]) -> T:
    """The result of work, in the output folder too if there is one."""
    if settings.output_path is None:
        return work()
    refuse_existing(settings.output_path, settings.overwrite)
    result = work()
    with atomic_folder(settings.output_path, overwrite=settings.overwrite) as folder:
        save(result, folder)
    return result


@as_keywords("json")
def ensemble_fit(*, settings: FitSettings) -> Fitted:
    """Learn an ensemble of base models, and score it next to each of them and their averages.

    Raises:
        UertoolError: files are missing or do not fit, or a parameter is invalid.
    """
    plot = bool(settings.plot)
    return _saved(
        settings,
        lambda: fit.fit(settings),
        lambda result, folder: fit.save_fit(result, folder, plot=plot),
    )


@as_keywords("json")
def ensemble_search(*, settings: SearchSettings) -> Found:
    """Search LightGBM parameters by cross validation of the training lines.

    Raises:
        UertoolError: files are missing or do not fit, or a parameter is invalid.
    """
    plot = bool(settings.plot)
    return _saved(
        settings,
        lambda: search.search(load_train(settings), settings),
        lambda result, folder: search.save_search(result, folder, plot=plot),
    )


@as_keywords()
def ensemble_predict(*, overwrite: bool = False, settings: PredictSettings) -> Predicted:
    """Apply an ensemble to the outputs of its base models on new lines.

    Args:
        overwrite: whether an existing `probabilities_path` may be replaced.

    Raises:
        UertoolError: files are missing or do not fit.
    """
    predicted = ensemble.predict(settings)
    if settings.probabilities_path is not None:
        with atomic_path(settings.probabilities_path, overwrite=overwrite) as path:
            predicted.save_probabilities(path)
    return predicted
