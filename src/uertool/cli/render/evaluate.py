"""Tables of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from uertool.cli import console

if TYPE_CHECKING:
    from uertool.tasks.evaluate.cloze import ClozeFigures
    from uertool.tasks.evaluate.sts import StsResult
    from uertool.tasks.evaluate.tuning import Tuned


def show_sts(results: Sequence[StsResult]) -> None:
    """Correlations of models and poolings."""
    numbers = ["Spearman", "95% interval", "Pearson"]
    has_labels = any(result.auc is not None for result in results)
    rows = []
    for result in results:
        row: list[object] = [result.model, result.pooling, *_whitening(result)]
        row.append(_hundred(result.spearman))
        between = "" if result.low is None else f"{_hundred(result.low)} to {_hundred(result.high)}"
        row.extend([between, _hundred(result.pearson)])
        if has_labels:
            row.append(_hundred(result.auc))
        rows.append(row)
    if has_labels:
        numbers.append("AUC")
    console.table(("model", "pooling", "beta, gamma", "size", *numbers), rows, right=numbers)
    console.note(f"{console.counted(results[0].pairs, 'pair')}; numbers are multiplied by 100")


def _whitening(result: StsResult) -> tuple[str, int]:
    if result.whitening is None:
        return "", result.size
    return f"{result.beta:g}, {result.gamma:g}", result.size


def _hundred(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


#: Whitenings in the table of a tuning.
_MOST_SHOWN = 10


def show_tuned(tuned: Tuned) -> None:
    """The best whitenings that were tried, and vectors without one."""
    numbers = ["beta", "gamma", "size", tuned.measure, "of parts"]
    best = sorted(tuned.trials, key=lambda trial: -trial.mean)[:_MOST_SHOWN]
    rows = []
    for trial in [*best, *tuned.plain]:
        powers = ["", ""] if trial.beta is None else [f"{trial.beta:g}", f"{trial.gamma:g}"]
        worst, highest = _hundred(min(trial.scores)), _hundred(max(trial.scores))
        row = [trial.pooling, *powers, trial.size, _hundred(trial.mean), f"{worst} to {highest}"]
        rows.append(row if trial.accuracy is None else [*row, f"{trial.accuracy:.1%}"])
    if tuned.best.accuracies:
        numbers.append("accuracy")
    console.table(("pooling", *numbers), rows, right=numbers)
    console.note(
        f"{console.counted(tuned.pairs, 'pair')} in {tuned.folds} parts, each judged by "
        f"whitenings of the others; {console.counted(len(tuned.trials), 'whitening')} tried; "
        f"numbers are multiplied by 100"
    )
    console.note(
        f"{_hundred(tuned.expected)} is expected of the best one on new pairs (its "
        f"{_hundred(tuned.best.mean)} is the highest of many, which is partly luck)"
    )


def show_cloze(results: Sequence[ClozeFigures], *, whole_words: bool) -> None:
    """Accuracies and pseudo-perplexities of models."""
    numbers = ["tokens", "accuracy", "pseudo-perplexity"]
    if whole_words:
        numbers[1:2] = ["words", "words right", "tokens right"]
    rows = []
    for result in results:
        accuracy: list[object] = [f"{result.token_accuracy:.1%}"]
        if whole_words:
            accuracy = [f"{result.words:,}", f"{result.word_accuracy:.1%}", *accuracy]
        rows.append([result.model, f"{result.tokens:,}", *accuracy, f"{result.perplexity:.2f}"])
    console.table(("model", *numbers), rows, right=numbers)
