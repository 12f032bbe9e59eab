"""What `average` reports: differences between checkpoints, steps of a greedy choice, the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uertool.cli import console
from uertool.cli.console import counted
from uertool.errors import listed

if TYPE_CHECKING:
    from uertool.tasks.average.averaging import LayoutError, MergeReport, SoupStep


def show_differences(error: LayoutError, *, as_json: bool) -> None:
    """All differences, before the error that names the first few."""
    if as_json:
        console.json_line({"differences": [vars(item) for item in error.differences]})
        return
    columns = ("tensor", *error.names)
    console.table(columns, [(item.name, *item.values) for item in error.differences])


def show_step(step: SoupStep) -> None:
    """One step of a greedy choice."""
    console.note(f"{step.path}: {step.score:g}, {'kept' if step.kept else 'left out'}")


def show_merge(report: MergeReport, *, as_json: bool) -> None:
    """What was merged with which weights, and what was written."""
    console.note(*report.notices)
    if report.not_finite:
        console.warn(
            f"NaN or infinite values in {counted(len(report.not_finite), 'tensor')}: "
            f"{listed(report.not_finite, 5)}"
        )
    if as_json:
        console.json_line(
            {
                "method": report.method,
                "models": [str(path) for path in report.paths],
                "weights": list(report.weights),
                "tensors": report.tensors,
                "bytes": report.bytes,
                "written": [str(path) for path in report.written],
                "not_finite": report.not_finite,
                "soup": [
                    {"model": str(s.path), "score": s.score, "kept": s.kept} for s in report.steps
                ],
            }
        )
        return
    if console.is_quiet():
        return
    pairs = zip(report.paths, report.weights, strict=True)
    console.table(("checkpoint", "weight"), [(path, f"{weight:.4g}") for path, weight in pairs])
    for path in report.written:
        console.out(
            f"wrote {path}: {counted(report.tensors, 'tensor')}, {report.bytes / 1e6:.1f} MB"
        )
