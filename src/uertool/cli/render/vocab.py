"""What the commands of `vocab` report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uertool.cli import console
from uertool.cli.console import counted
from uertool.errors import listed

if TYPE_CHECKING:
    from uertool.tasks.vocab.adaptation import AdaptReport
    from uertool.tasks.vocab.building import BuiltVocab
    from uertool.tasks.vocab.change import SideReport
    from uertool.tasks.vocab.diff import Coverage, VocabDiff
    from uertool.tasks.vocab.settings import DiffSettings


def build_record(built: BuiltVocab, written: Sequence[Path]) -> dict[str, Any]:
    """The figures of a built vocabulary as JSON types."""
    figures: dict[str, Any] = {
        "size": len(built.tokens),
        "reserved": built.reserved,
        "files": [str(path) for path in written],
    }
    if built.counts:
        figures.update(
            tokens=built.total,
            distinct=built.distinct,
            covered=built.covered,
            coverage=built.coverage,
            cut=list(built.cut),
        )
    return figures


def show_built(built: BuiltVocab, written: Sequence[Path]) -> None:
    """The figures on standard error, since the vocabulary may go to standard output."""
    if built.cut:
        console.warn(
            f"{len(built.cut)} words contain white space other than a space; programs that split "
            f"the lines of a vocabulary will cut them: {listed(map(repr, built.cut))}"
        )
    console.note(f"Vocabulary size: {len(built.tokens)} ({built.reserved} reserved)")
    if built.counts:
        console.note(
            f"Corpus: {counted(built.total, 'token')}, {built.distinct} different; "
            f"{100 * built.coverage:.4f}% are in the vocabulary"
        )
    for path in written:
        console.note(f"wrote {path}")


def show_diff(found: VocabDiff, settings: DiffSettings, *, as_json: bool) -> None:
    """The figures, then the requested lists."""
    lists = {name: found.words(name) for name in settings.lists}
    if as_json:
        record: dict[str, Any] = {
            "vocab_1": str(settings.vocab_1),
            "vocab_2": str(settings.vocab_2),
            **found.as_record(),
        }
        console.json_line({**record, "lists": lists} if lists else record)
        return
    for line in _diff_lines(settings.vocab_1, settings.vocab_2, found):
        console.out(line)
    for name, entries in lists.items():
        console.out(f"\n{name}:")
        for entry in entries:
            console.out("\t".join(map(str, entry)))


def _diff_lines(vocab_1: object, vocab_2: object, found: VocabDiff) -> Iterator[str]:
    """The lines of UER-py's script first, as it writes them, then further figures."""
    yield f"vocab_1: {vocab_1}, size: {found.size_1}"
    yield f"vocab_2: {vocab_2}, size: {found.size_2}"
    yield f"vocab_1 - vocab_2 = {len(found.only_1)}"
    yield f"vocab_2 - vocab_1 = {len(found.only_2)}"
    yield f"vocab_1 & vocab_2 = {len(found.common)}"
    yield f"Jaccard: {found.jaccard:.4f}"
    yield f"common tokens with another id: {len(found.moved)}"
    yield f"duplicates: {len(found.duplicates_1)} in vocab_1, {len(found.duplicates_2)} in vocab_2"
    yield f"blank entries: {found.blanks_1} in vocab_1, {found.blanks_2} in vocab_2"
    for name, coverage in (("vocab_1", found.coverage_1), ("vocab_2", found.coverage_2)):
        if coverage is not None:
            yield f"corpus with {name}: {_coverage(coverage)}"


def _coverage(coverage: Coverage) -> str:
    return (
        f"covers {100 * coverage.share:.4f}% of {coverage.units} "
        f"({coverage.covered_kinds} of {coverage.kinds} different), "
        f"[UNK] rate {100 * coverage.unknown_rate:.4f}% of {counted(coverage.tokens, 'token')}"
    )


def adapt_record(report: AdaptReport, lists: Sequence[str]) -> dict[str, Any]:
    """The report as JSON types."""

    def side(found: SideReport) -> dict[str, Any]:
        sizes = {"old_size": found.old_size, "new_size": found.new_size}
        record: dict[str, Any] = {"side": found.side, **sizes, **found.numbers}
        if lists:
            record["lists"] = {name: list(found.words[name]) for name in lists}
        return record

    return {
        "init": report.init,
        "vocabularies": [side(found) for found in report.sides],
        "tensors": [vars(tensor) for tensor in report.tensors],
        "kept": report.kept,
        "written": [str(path) for path in report.written],
        "notes": report.notes,
    }


def show_adapted(report: AdaptReport, lists: Sequence[str]) -> None:
    """What changed, the requested words, and what was written."""
    console.note(*report.notes)
    if not console.is_quiet():
        columns = ("vocabulary", "old", "new", *report.sides[0].numbers)
        console.table(
            columns,
            [(s.side, s.old_size, s.new_size, *s.numbers.values()) for s in report.sides],
            right=columns[1:],
        )
        console.table(
            ("tensor", "was", "becomes"),
            [
                (t.name, "x".join(map(str, t.old_shape)), "x".join(map(str, t.new_shape)))
                for t in report.tensors
            ],
        )
        console.out(f"{counted(report.kept, 'tensor')} unchanged")
    for found in report.sides:
        for name in lists:
            console.out(f"\n{name} ({found.side}):")
            for word in found.words[name]:
                console.out(word)
    if not console.is_quiet():
        for path in report.written:
            console.out(f"wrote {path}")
        if not report.written:
            console.note("Nothing was written (--dry-run).")
