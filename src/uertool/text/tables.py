"""Rows of tables, with tabs between the cells or, in files named .csv, commas."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from uertool.errors import InputError, UsageError, counted, listed, shown


class BadContentError(Exception):
    """What is wrong within a line, before its place in the input is known."""

    def __init__(self, reason: str, offset: int = 0, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.hint = hint


def is_csv(name: str) -> bool:
    """Whether a file has commas between its cells, by its name."""
    return name.lower().removesuffix(".gz").endswith(".csv")


def cells_of(text: str, *, commas: bool) -> list[str]:
    """The cells of a row; with commas between them a cell may be in quotes.

    Raises:
        BadContentError: a quote is not closed, or a cell is longer than Python's csv allows.
    """
    if not commas:
        return text.split("\t")
    if text.count('"') % 2:
        raise BadContentError("a quote is not closed; cells of several lines cannot be read")
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise BadContentError(f"invalid CSV, {error}") from None


def row_of(cells: Sequence[str], *, commas: bool) -> str:
    """The row that `cells_of` reads; without commas a tab within a cell becomes a blank."""
    if not commas:
        return "\t".join(cell.replace("\t", " ") for cell in cells)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()


class Table:
    """One column of a table that has a header line, or has none where the column is a number.

    Args:
        column: the name of a column, or its number from 0.
        name: what to call the table.
    """

    def __init__(self, column: str | int, name: str) -> None:
        self.name = name
        self.wanted = column
        numbered = isinstance(column, int) or column.isdecimal()
        self.index = int(column) if numbered else -1
        if numbered and self.index < 0:
            raise UsageError(f"The column {column} does not exist.", "Columns are counted from 0.")
        self.columns: list[str] | None = None
        self.wants_header = not numbered
        self._commas = is_csv(name)

    def read_header(self, text: str) -> None:
        """Take in the header line.

        Raises:
            InputError: it lacks the column.
        """
        self.columns = cells_of(text, commas=self._commas)
        self.wants_header = False
        if self.wanted not in self.columns:
            known = listed((repr(shown(column, 40)) for column in self.columns), 20)
            raise InputError(
                f"{self.name} has no column {self.wanted!r}; its columns are {known}.",
                "Name one of them with `column`, or a number from 0 for a file without header.",
            )
        self.index = self.columns.index(str(self.wanted))

    def row(self, text: str) -> tuple[str, Mapping[str, str], bool]:
        """The cell of the column, all cells by their names, and whether it is the last one.

        Raises:
            BadContentError: the row lacks the column.
        """
        cells = cells_of(text, commas=self._commas)
        if self.index >= len(cells):
            there = counted(len(cells), "column")
            raise BadContentError(f"it has {there}, so column {self.wanted!r} is missing")
        columns = self.columns or [str(i) for i in range(len(cells))]
        fields = dict(zip(columns, cells, strict=False))
        return cells[self.index], fields, self.index == len(cells) - 1
