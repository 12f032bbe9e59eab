"""Tables of ensembles: scores, importance, and what a search found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uertool.cli import console
from uertool.cli.console import counted

if TYPE_CHECKING:
    from uertool.tasks.ensemble.fit import Fitted
    from uertool.tasks.ensemble.scores import Comparison
    from uertool.tasks.ensemble.search import Found


def show_fit(fitted: Fitted) -> None:
    """The scores of every split, and how much each base model contributes."""
    for part in fitted.comparisons.values():
        show_comparison(part)
        console.out()
    top = max((entry["gain"] for entry in fitted.importance), default=1.0) or 1.0
    console.out(f"What the ensemble looks at, {fitted.ensemble.rounds} rounds")
    rows = [(*entry.values(), console.bar(entry["gain"] / top)) for entry in fitted.importance]
    numbers = ("share of gain", "splits")
    console.table(("base model", *numbers, ""), rows, right=numbers)


def show_comparison(part: Comparison, *, to_stderr: bool = False) -> None:
    """Tables of scores; on standard error where predictions go to standard output."""
    say = console.err if to_stderr else console.out
    say(f"Scores, {part.split}, {counted(len(part.labels), 'line')}")
    numbers: tuple[str, ...] = ("macro F1", "accuracy", "log loss")
    rows = [(name, *score.summary().values()) for name, score in part.scores.items()]
    console.table(("", *numbers), rows, right=numbers, to_stderr=to_stderr)
    own = part.scores["ensemble"].to_json()
    say("\nThe ensemble, label by label")
    numbers = ("label", "precision", "recall", "F1", "lines")
    rows = [tuple(label.values()) for label in own["labels"]]
    console.table(numbers, rows, right=numbers, to_stderr=to_stderr)
    say("\nConfusion matrix: rows are true labels, columns predicted ones")
    rows = [(label, *row) for label, row in enumerate(own["confusion"])]
    numbers = ("", *(str(label) for label in range(len(rows))))
    console.table(numbers, rows, right=numbers, to_stderr=to_stderr)


def show_search(found: Found) -> None:
    """The best trial, with the range and the importance of each hyperparameter."""
    from uertool.tasks.ensemble.search import cell, range_json

    best = found.parameters()
    console.out(
        f"best {found.settings.metric} {found.best.value:.4f} in trial {found.best.number} of "
        f"{len(found.trials)} ({found.pruned} pruned), {best['rounds']} rounds"
    )
    if len(best["models"]) < len(found.data.models):
        console.out(f"base models: {', '.join(best['models'])}")
    top = max(found.importance.values(), default=1.0) or 1.0
    rows = []
    for name, entry in found.ranges.items():
        place = range_json(entry)
        where = ", ".join(map(str, place.get("choices", ()))) or f"{entry.low:g} to {entry.high:g}"
        share = found.importance.get(name)
        bar = "" if share is None else console.bar(share / top)
        rows.append((name, cell(best["params"][name]), where, share, bar))
    columns = ("hyperparameter", "best", "range", "importance", "")
    console.table(columns, rows, right=("best", "importance"))
