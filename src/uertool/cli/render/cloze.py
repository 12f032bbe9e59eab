"""Cloze results for people: tables with bars, and the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.cli import console

if TYPE_CHECKING:
    from uertool.tasks.cloze.results import ClozeSummary

_BAR = 24


def table(record: Mapping[str, Any]) -> None:
    """A line (a record of `uertool.tasks.cloze.writing`), and for each mask guesses with bars."""
    filled = record.get("filled")
    console.heading(record["text"] if filled is None else filled)
    if "reason" in record:
        console.out(f"     nothing masked: {record['reason']}")
    slots, masks = record.get("targets", ()), record.get("masks", ())
    for slot in slots:
        console.bars([(word["word"], word["share"]) for word in slot["words"]], width=_BAR)
    for n, mask in enumerate(masks if not slots else ()):
        label = mask.get("text", mask["token"])
        if label is not None or len(masks) > 1:
            place = f"mask {n + 1}" if len(masks) > 1 else "masked"
            rank = "" if label is None else f": {label}  (rank {mask['rank']}, "
            rank += "" if label is None else f"{mask['probability']:.1%})"
            console.out(f"     {place}{rank}")
        guesses = [
            (guess.get("text", guess["token"]), guess["probability"])
            for guess in mask["predictions"]
        ]
        console.bars(guesses, width=_BAR)
    if filled is None:
        console.out()


def summary_line(summary: ClozeSummary, rate: float, topn: int) -> str:
    """The figures of a run in one line."""
    counts = [(summary.masks, "mask"), (summary.variants, "variant")]
    said = [console.counted(count, name) for count, name in counts if count]
    parts = [", ".join([console.counted(summary.lines, "line"), *said])]
    if summary.known:
        right, best = summary.right / summary.known, summary.among_best / summary.known
        parts.append(f"top-1 {right:.1%}" + (f", top-{topn} {best:.1%}" if topn > 1 else ""))
    if rate > 0:
        parts.append(f"{rate:,.1f} lines/s")
    return "; ".join(parts)
