"""What `uertool convert` prints: the mapping of a dry run, and reports of one or many."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from uertool.cli import console
from uertool.cli.console import counted

if TYPE_CHECKING:
    from uertool.tasks.convert.results import ConversionReport

_COLUMNS = ("checkpoint", "output", "kind", "off source", "off transformers", "result")


def show_report(report: ConversionReport, *, dry_run: bool) -> None:
    """Print what one conversion did or would do."""
    heads = f", heads {', '.join(report.heads)}" if report.heads else ""
    kind = _kind(report, "a model of UER-py's own")
    console.out(f"{report.direction}: {kind}{heads}, {counted(len(report.rows), 'tensor')}")
    if dry_run:
        _show_mapping(report)
    console.out(console.spell(f"layer norms: {report.norm}"))
    console.note(*report.notes)
    if dry_run:
        return
    proof = report.verification
    if proof is None:
        console.out("not verified")
    else:
        console.out(f"{counted(proof.tensors, 'tensor')} read back, equal bit for bit")
        for what, values in proof.differences.items():
            shown = ", ".join(f"{value:.2g} ({name})" for name, value in values.items())
            console.out(f"largest difference, {what}: {shown}")
        if proof.cosine is not None:
            console.out(f"smallest cosine of sentence vectors: {proof.cosine:.7f}")
        console.note(*proof.notes)
    for file in report.files:
        console.out(f"wrote {file}")


def show_table(
    outcomes: Iterable[tuple[Path, ConversionReport | None]], target: Path, *, dry_run: bool
) -> None:
    """Print a table of many conversions; None marks one that failed."""
    rows = []
    for item, report in outcomes:
        if report is None:
            rows.append((item.name, "", "", "", "", "failed"))
            continue
        verdict = "" if dry_run else (", equal" if report.verification else ", not verified")
        place = str(report.target.relative_to(target))
        result = f"{counted(len(report.rows), 'tensor')}{verdict}"
        rows.append((item.name, place, _kind(report, "UER-py's own"), *_largest(report), result))
    console.table(_COLUMNS, rows, right=_COLUMNS[3:5])


def _kind(report: ConversionReport, own: str) -> str:
    return report.hf_class or report.architecture or own


def _largest(report: ConversionReport) -> tuple[str, str]:
    """The largest difference of any output from the source's, and from that of transformers."""
    found = report.verification.differences if report.verification else {}
    values = [f"{max(values.values()):.1e}" for values in found.values()]
    return (values[0] if values else "", values[1] if len(values) > 1 else "")


def _show_mapping(report: ConversionReport) -> None:
    """The mapping in columns, a tensor a line however long its names are."""
    rows = [("output", "shape", "type", "from", "change")]
    rows.extend(
        (row.name, "x".join(map(str, row.shape)), row.dtype, " ".join(row.sources), row.change)
        for row in report.rows
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        console.out("  ".join([*cells, row[4]]).rstrip())
    for title, names in (("left over", report.left_over), ("dropped", report.dropped)):
        if names:
            console.out(f"{title}: {', '.join(names)}")
