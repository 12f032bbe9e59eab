"""Cloze results as text, JSON lines or tables: `writer_for` gives what writes one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from uertool.cli import console

if TYPE_CHECKING:
    from uertool.tasks.cloze.job import ClozeResult, ClozeSummary, MaskResult

Write = Callable[["ClozeResult"], None]

#: How results may be written.
FORMATS = ("table", "text", "jsonl")

_BAR = 24


def writer_for(
    form: str, stream: TextIO, *, column: str | None = None, header: bool = True
) -> Write:
    """What writes a result to `stream` in one of `FORMATS`.

    Args:
        form: "table" goes to the terminal, whatever the stream.
        stream: an open output.
        column: the column that a table was read by; variants of lines are then written as tables
            too, with the other columns kept.
        header: whether such tables begin with the names of their columns.
    """
    if form == "table":
        return _table
    if form == "jsonl":
        return lambda result: _write(stream, console.json_text(record(result)) + "\n")
    return _Text(stream, column, header)


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)


# -- JSON -----------------------------------------------------------------------------------------


def record(result: ClozeResult) -> dict[str, Any]:
    """A result as JSON."""
    known: dict[str, Any] = {"line": result.line, "text": result.text}
    if result.fields:
        known["fields"] = dict(result.fields)
    if result.filled is not None:
        return {**known, "variant": result.variant, "filled": result.filled}
    known |= {"tokens": list(result.tokens), "ids": list(result.ids)}
    known["masks"] = [_mask(mask) for mask in result.masks]
    if result.slots:
        known["targets"] = [
            {
                "start": slot.start,
                "stop": slot.stop,
                "words": [
                    {
                        "word": word.text,
                        "log_probability": _short(word.log_probability),
                        "share": _short(word.share),
                    }
                    for word in slot.words
                ],
            }
            for slot in result.slots
        ]
    if result.was_cut:
        known["cut"] = True
    if result.reason is not None:
        known["reason"] = result.reason
    return known


def _mask(mask: MaskResult) -> dict[str, Any]:
    return {
        "position": mask.position,
        "token": mask.label,
        "id": mask.label_id,
        "rank": mask.rank,
        "probability": None if mask.probability is None else _short(mask.probability),
        "predictions": [
            {"token": guess.token, "id": guess.id, "probability": _short(guess.probability)}
            for guess in mask.guesses
        ],
    }


def _short(number: float) -> float:
    """Six significant digits: what is beyond depends on which lines stood in a batch."""
    return float(f"{number:.6g}")


# -- the old layout -------------------------------------------------------------------------------


class _Text:
    """UER-py's layout: the sentence, the guesses, what stood there, a blank line; for each mask.

    Given words are written as `word<TAB>log-probability`, variants as one line each.
    """

    def __init__(self, stream: TextIO, column: str | None, header: bool) -> None:
        self._stream = stream
        self._wants_header = header
        self._column = column
        self._header: tuple[str, ...] | None = None

    def __call__(self, result: ClozeResult) -> None:
        if result.filled is not None:
            self._stream.write(self._variant(result, result.filled) + "\n")
        elif result.slots:
            for slot in result.slots:
                lines = [f"{word.text}\t{word.log_probability:.6f}" for word in slot.words]
                self._stream.write("\n".join(["".join(result.tokens), *lines, "", ""]))
        else:
            for mask in result.masks:
                guesses = " ".join(guess.token for guess in mask.guesses)
                self._stream.write(
                    f"{''.join(result.tokens)}\n"
                    f"Predicted answer: {guesses}\n"
                    f"Correct answer: {mask.label or ''}\n\n"
                )

    def _variant(self, result: ClozeResult, filled: str) -> str:
        if self._column is None or not result.fields:
            return filled
        cells: Mapping[str, str] = {**result.fields, self._column: filled}
        if self._header is None:
            self._header = tuple(cells)
            # A file without header was read by number.
            if self._wants_header and not self._column.isdecimal():
                self._stream.write("\t".join(self._header) + "\n")
        return "\t".join(cells.get(name, "") for name in self._header)


# -- for people -----------------------------------------------------------------------------------


def _table(result: ClozeResult) -> None:
    """A line, and for each mask the guesses with bars."""
    console.heading(result.filled if result.filled is not None else result.text)
    if result.reason is not None:
        console.out(f"     nothing masked: {result.reason}")
    for slot in result.slots:
        console.bars([(word.text, word.share) for word in slot.words], width=_BAR)
    for n, mask in enumerate(result.masks if not result.slots else ()):
        if mask.label is not None or len(result.masks) > 1:
            place = f"mask {n + 1}" if len(result.masks) > 1 else "masked"
            true = (
                ""
                if mask.label is None
                else f": {mask.label}  (rank {mask.rank}, {mask.probability:.1%})"
            )
            console.out(f"     {place}{true}")
        console.bars([(guess.token, guess.probability) for guess in mask.guesses], width=_BAR)
    if result.filled is None:
        console.out()


def summary_line(summary: ClozeSummary, seconds: float, topn: int) -> str:
    """The figures of a run in one line."""
    counts = [(summary.lines, "line"), (summary.masks, "mask"), (summary.variants, "variant")]
    said = [f"{count:,} {name}{'s' * (count != 1)}" for count, name in counts[:1]]
    said += [f"{count:,} {name}{'s' * (count != 1)}" for count, name in counts[1:] if count]
    parts = [", ".join(said)]
    if summary.known:
        right, best = summary.right / summary.known, summary.among_best / summary.known
        parts.append(f"top-1 {right:.1%}" + (f", top-{topn} {best:.1%}" if topn > 1 else ""))
    if seconds > 0:
        parts.append(f"{summary.lines / seconds:,.1f} sentences/s")
    return "; ".join(parts)
