"""Functions that measure models: those of `evaluate`, and `whiten_tune`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from uertool.api.models import loading
from uertool.io.display import Results
from uertool.loading.registry import LoadedModel
from uertool.loading.settings import ModelSettings
from uertool.settings import as_keywords
from uertool.tasks.cloze.masking import words_of
from uertool.tasks.evaluate.cloze import ClozeFigures
from uertool.tasks.evaluate.cloze import evaluate_cloze as cloze_figures
from uertool.tasks.evaluate.pairs import read_pairs
from uertool.tasks.evaluate.settings import (
    EveryWordSettings,
    PairSettings,
    StsSettings,
    TuneSettings,
)
from uertool.tasks.evaluate.sts import StsResult
from uertool.tasks.evaluate.sts import evaluate_sts as sts_results
from uertool.tasks.evaluate.tuning import Tuned, tune, write_tuned
from uertool.tasks.features.settings import FittedSettings
from uertool.text.readers import Line, as_texts


@as_keywords("test_path")
def _sts(
    loaded: LoadedModel,
    pairs: str | Path,
    *,
    settings: PairSettings,
    sts: StsSettings,
    vectors: FittedSettings,
) -> Results[StsResult]:
    """Measure how well cosines of sentence vectors agree with scores of pairs.

    Args:
        pairs: a table with text_a, text_b and score (or label), or JSON lines.

    Raises:
        UertoolError: a column is missing, a setting is invalid or does not fit the model.
    """
    found = read_pairs(pairs, settings)
    more = [read_pairs(path, settings) for path in sts.fit_path]
    results = sts_results(loaded, found, settings, vectors, more=more, resamples=sts.resamples)
    return Results(results)


@as_keywords("test_path")
def _tune(
    loaded: LoadedModel,
    pairs: str | Path,
    *,
    overwrite: bool = False,
    settings: PairSettings,
    grid: TuneSettings,
) -> Tuned:
    """Find the whitening that suits a model and a task, by cross-validation on scored pairs.

    Args:
        pairs: a table with text_a, text_b and score (or label), or JSON lines.
        overwrite: whether existing outputs may be replaced.

    Raises:
        UertoolError: a column is missing, a setting is invalid, or an output cannot be written.
    """
    grid.check(overwrite=overwrite)
    about = {"model": Path(loaded.reference).name}
    tuned = tune(loaded, read_pairs(pairs, settings), settings, grid, about=about)
    write_tuned(tuned, grid, overwrite=overwrite)
    return tuned


@as_keywords("word_list")
def _cloze(
    loaded: LoadedModel,
    texts: str | Path | Iterable[str],
    *,
    settings: EveryWordSettings,
    word_list: str | Path | Iterable[str] = (),
) -> ClozeFigures:
    """Measure how well a model predicts text: each token, or each word, is masked in turn.

    Args:
        texts: a text or several, or the `Path` of a file with one a line.
        word_list: for `whole_word`: words, or a file with one a line.

    Raises:
        UertoolError: the model has no masked-language head, or a setting is invalid.
    """
    asked = settings.with_words(words_of(word_list))
    lines = (Line(number, text) for number, text in enumerate(as_texts(texts)))
    return cloze_figures(loaded, lines, asked)


whiten_tune = loading(_tune, ModelSettings)
evaluate_sts = loading(_sts, ModelSettings)
evaluate_cloze = loading(_cloze, ModelSettings, "mlm")
