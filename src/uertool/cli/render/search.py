"""How results of `search` are shown and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from uertool.cli import console
from uertool.io.json_text import json_text

if TYPE_CHECKING:
    from uertool.io.vector_writer import Note


class Answer(NamedTuple):
    """What was found for a query.

    Attributes:
        number: of the query, from 1.
        text: of the query, or nothing if only its vector is known.
        near: cosines and lines, nearest first.
    """

    number: int
    text: str
    near: Sequence[tuple[float, Note]]

    @property
    def title(self) -> str:
        """The query for people."""
        return self.text or f"query {self.number}"


def record_of(answer: Answer) -> dict[str, Any]:
    """An answer as JSON types; lines are counted from 1."""
    query: dict[str, Any] = {"line": answer.number}
    if answer.text:
        query["text"] = answer.text
    return query | {"neighbours": [_near_record(*pair) for pair in answer.near]}


def _near_record(cosine: float, note: Note) -> dict[str, Any]:
    record: dict[str, Any] = {"line": note.line + 1, "score": float(f"{cosine:.6g}")}
    if note.position is not None:
        record |= {"position": note.position, "token": note.text}
    elif note.text:
        record["text"] = note.text
    return record


def write_json(answer: Answer, stream: TextIO) -> None:
    """A line of JSON."""
    stream.write(json_text(record_of(answer)) + "\n")


def write_rows(answer: Answer, stream: TextIO) -> None:
    """A row for each line that was found."""
    for rank, (cosine, note) in enumerate(answer.near, 1):
        cells = (answer.title, rank, f"{cosine:.6f}", note.line + 1, note.text)
        stream.write("\t".join(" ".join(str(cell).split("\t")) for cell in cells) + "\n")


def show(answer: Answer, stream: TextIO) -> None:
    """Lines with their cosines, cut at the width of the terminal."""
    del stream
    console.heading(answer.title)
    widest = max((len(f"{note.line + 1:,}") for _, note in answer.near), default=0)
    for rank, (cosine, note) in enumerate(answer.near, 1):
        start = f"  {rank:>3}  {cosine:>7.4f}  line {note.line + 1:>{widest},}  "
        text = " ".join(note.text.split())
        console.out(start + console.cut(text, console.terminal_width() - len(start)))
    if not answer.near:
        console.out("     nothing found")
    console.out()


def bars_of(answer: Answer) -> tuple[str, list[tuple[str, float]]]:
    """An answer as a group of bars."""
    entries = [(note.text or f"line {note.line + 1}", cosine) for cosine, note in answer.near]
    return answer.title, entries


#: How answers are written, by format.
WRITERS: Mapping[str, Callable[[Answer, TextIO], None]] = {
    "table": show,
    "tsv": write_rows,
    "jsonl": write_json,
}

#: The header line of the format tsv.
HEADER = "query\trank\tscore\tline\ttext\n"
