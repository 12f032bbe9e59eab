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
    """Correlations of models and poolings; columns without content are left out."""
    columns = {
        "beta/gamma": [_powers(result) for result in results],
        "size": [str(result.size) for result in results],
        "Spearman": [_hundred(result.spearman) for result in results],
        "low": [_hundred(result.low) for result in results],
        "high": [_hundred(result.high) for result in results],
        "Pearson": [_hundred(result.pearson) for result in results],
        "AUC": [_hundred(result.auc) for result in results],
    }
    names = {"model": [result.model for result in results]}
    names = names if len(set(names["model"])) > 1 else {}
    names["pooling"] = [result.pooling for result in results]
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    rows = zip(*names.values(), *columns.values(), strict=True)
    console.table((*names, *columns), rows, right=columns)
    interval = "; low and high: 95% interval of Spearman" if "low" in columns else ""
    where = "" if "model" in names else f"{results[0].model}, "
    pairs = console.counted(results[0].pairs, "pair")
    console.note(f"{where}{pairs}; numbers are multiplied by 100{interval}")


def _powers(result: StsResult) -> str:
    return "" if result.whitening is None else f"{result.beta:g}/{result.gamma:g}"


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
    if len(tuned.trials) > 1:
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
