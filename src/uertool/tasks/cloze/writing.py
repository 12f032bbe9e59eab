"""Cloze results as text or JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TextIO

from uertool.io.json_text import json_text
from uertool.tasks.cloze.results import ClozeResult, MaskResult
from uertool.text.tables import row_of


def writer_for(
    form: str,
    stream: TextIO,
    *,
    column: str | None = None,
    header: bool = True,
    commas: bool = False,
) -> Callable[[ClozeResult], object]:
    """A function that writes a result to a stream.

    Args:
        form: "text", UER-py's layout, or "jsonl".
        stream: an open output.
        column: the column that a table was read by; variants of lines are then written as tables
            too, with the other columns kept.
        header: whether such tables begin with the names of their columns.
        commas: whether such tables have commas between cells, not tabs.
    """
    if form == "jsonl":
        return lambda result: stream.write(json_text(record(result)) + "\n")
    return _Text(stream, column, header, commas)


# -- JSON -----------------------------------------------------------------------------------------


def record(result: ClozeResult) -> dict[str, Any]:
    """A result as JSON types."""
    known: dict[str, Any] = {"line": result.line + 1, "text": result.text}
    if result.fields:
        known["fields"] = dict(result.fields)
    if result.filled is not None:
        return {**known, "variant": result.variant, "filled": result.filled}
    known |= {"tokens": list(result.tokens), "ids": list(result.ids)}
    known["masks"] = [_mask(mask, result) for mask in result.masks]
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


def _mask(mask: MaskResult, result: ClozeResult) -> dict[str, Any]:
    return {
        "position": mask.position,
        **_token(mask.label, result),
        "id": mask.label_id,
        "rank": mask.rank,
        "probability": None if mask.probability is None else _short(mask.probability),
        "predictions": [
            {
                **_token(guess.token, result),
                "id": guess.id,
                "probability": _short(guess.probability),
            }
            for guess in mask.guesses
        ],
    }


def _token(token: str | None, result: ClozeResult) -> dict[str, Any]:
    """A token, and its text if it is made of bytes."""
    if token is None or result.joining != "bytes":
        return {"token": token}
    return {"token": token, "text": result.shown(token)}


def _short(number: float) -> float:
    """Six significant digits: further ones depend on the other lines of a batch."""
    return float(f"{number:.6g}")


# -- UER-py's layout ------------------------------------------------------------------------------


class _Text:
    """The sentence, the guesses, the true token, a blank line; for each mask.

    Given words are written as `word<TAB>log-probability`, variants as one line each.
    """

    def __init__(self, stream: TextIO, column: str | None, header: bool, commas: bool) -> None:
        self._stream = stream
        self._wants_header = header
        self._column = column
        self._commas = commas
        self._header: tuple[str, ...] | None = None

    def __call__(self, result: ClozeResult) -> None:
        if result.filled is not None:
            self._stream.write(self._variant(result, result.filled) + "\n")
        elif result.slots:
            for slot in result.slots:
                lines = [f"{word.text}\t{word.log_probability:.6f}" for word in slot.words]
                self._stream.write("\n".join([result.sentence(), *lines, "", ""]))
        else:
            for mask in result.masks:
                guesses = " ".join(result.shown(guess.token) for guess in mask.guesses)
                label = result.shown(mask.label) if mask.label is not None else ""
                self._stream.write(
                    f"{result.sentence()}\nPredicted answer: {guesses}\nCorrect answer: {label}\n\n"
                )

    def _variant(self, result: ClozeResult, filled: str) -> str:
        if self._column is None or not result.fields:
            return filled
        cells: Mapping[str, str] = {**result.fields, self._column: filled}
        if self._header is None:
            self._header = tuple(cells)
            # A file without header was read by number.
            if self._wants_header and not self._column.isdecimal():
                self._stream.write(row_of(self._header, commas=self._commas) + "\n")
        return row_of([cells.get(name, "") for name in self._header], commas=self._commas)
