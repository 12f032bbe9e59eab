"""What `check` reports: an inspection as tables, a comparison, copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from uertool.cli import console
from uertool.cli.console import counted

if TYPE_CHECKING:
    from uertool.tasks.check.repair import CleanReport
    from uertool.tasks.check.report import Finding, Inspection
    from uertool.tasks.check.tensor_health import TensorDifference

_NAMINGS = {"uer": "UER-py", "hf": "Hugging Face", "tf": "Google (TensorFlow)"}


def show(result: Inspection, *, as_json: bool) -> None:
    """The inspection; problems come last, where they are seen."""
    if as_json:
        from uertool.tasks.check.report import as_json as record

        console.json_line(record(result))
        return
    if not console.is_quiet():
        _tables(result)
        for finding in result.findings:
            if finding.kind == "note":
                _finding("note", finding)
    for finding in result.warnings:
        _finding("warning", finding)
    for finding in result.problems:
        _finding("PROBLEM", finding)
    if console.is_quiet() or not result.good:
        return
    count = len(result.warnings)
    plural = "s" if count > 1 else ""
    console.out(f"No problems, but {count} warning{plural}." if count else "No problems found.")


def _finding(kind: str, finding: Finding) -> None:
    console.out(console.spell(f"{kind}: {finding.what}"))
    if finding.hint:
        console.out(" " * (len(kind) + 2) + console.spell(finding.hint))


def _tables(result: Inspection) -> None:
    if result.format:
        console.table(("", str(result.path)), [row for row in _facts(result) if row[1]])
    if result.parts:
        console.table(
            ("part", "tensors", "parameters", "MB"),
            [
                (p.name, p.tensors, f"{p.parameters:,}", f"{p.bytes / 1e6:.1f}")
                for p in result.parts
            ],
        )
    if result.settings:
        _configuration(result)
    if result.run is not None and result.run.perplexities:
        _perplexities(result.run.perplexities, result.run.heads)
    if result.services:
        console.table(
            ("command", "possible", "lacks"),
            [(s.command, "yes" if s.possible else "no", s.lacks) for s in result.services],
        )
    pickled = [
        (report.path.name, use.name, use.verdict.value, "called" if use.called else "named")
        for report in result.security
        for use in report.globals
    ]
    if pickled:
        console.table(("pickle in", "would import", "which", ""), pickled)


def _facts(result: Inspection) -> Iterator[tuple[str, str]]:
    yield "format", result.format
    yield "names", " ".join(filter(None, (_NAMINGS.get(result.layout), result.generation)))
    yield "architecture", result.architecture or ", ".join(result.candidates)
    yield "output heads", ", ".join(result.heads)
    yield "multi-GPU names", "yes" if result.multi_gpu else "no"
    yield "tensors", str(result.tensors)
    yield "parameters", f"{result.parameters:,}"
    yield "size", f"{result.bytes / 1e6:.1f} MB"
    yield "number types", ", ".join(f"{name} ({n})" for name, n in result.dtypes.items())
    run = result.run
    if run is not None and run.outputs:
        yield "forward pass", f"{run.device}, {run.dtype}, {run.run_seconds:.2f} s"
        shapes = [f"{name} {'x'.join(map(str, shape))}" for name, shape in run.outputs.items()]
        yield "outputs", ", ".join(shapes)


def _configuration(result: Inspection) -> None:
    known = [value for value in result.settings if value.source != "default"]
    console.table(
        ("setting", "value", "from"),
        [
            (
                item.name,
                " ".join(item.value) if isinstance(item.value, tuple) else str(item.value),
                f"{item.source}: {item.how}" if item.how else item.source,
            )
            for item in known
        ],
    )
    if len(known) < len(result.settings):
        console.out(f"{len(result.settings) - len(known)} more settings have their defaults.")


def _perplexities(found: Mapping[int, float], configured: int) -> None:
    console.table(
        ("attention heads", "perplexity", ""),
        [
            (heads, f"{value:,.1f}", "configured" if heads == configured else "")
            for heads, value in found.items()
        ],
        right=("attention heads", "perplexity"),
    )


def show_copy(report: CleanReport, *, as_json: bool) -> None:
    """A copy that was written."""
    for path in report.written:
        if as_json:
            console.json_line({"written": str(path), "tensors": report.tensors})
        elif not console.is_quiet():
            console.out(
                f"wrote {path}: {counted(report.tensors, 'tensor')}, {report.renamed:,} renamed"
            )


def show_comparison(found: Sequence[TensorDifference], *, by_meaning: bool, as_json: bool) -> int:
    """How two checkpoints differ; returns the exit code, 0 if they do not."""
    differing = [item for item in found if item.status != "equal"]
    counts = Counter(item.status for item in found)
    if as_json:
        console.json_line(
            {
                "equal": not differing,
                "counts": counts,
                "by_meaning": by_meaning,
                "tensors": [vars(item) for item in differing],
            }
        )
        return 1 if differing else 0
    if by_meaning:
        console.note("The names differ in generation, so tensors are compared by meaning.")
    if differing:
        console.table(
            ("tensor", "status", "largest", "mean", "cosine", "first", "second"),
            [_difference(item) for item in differing],
        )
    console.out(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if differing else 0


def _difference(item: TensorDifference) -> tuple[object, ...]:
    figures: tuple[str, ...] = ("", "", "")
    if item.status in ("differs", "type"):
        figures = (f"{item.largest:.3g}", f"{item.mean:.3g}", f"{item.cosine:.6f}")
    return (item.name, item.status, *figures, item.first, item.second)
