"""The lines of a text by their numbers, in any order."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError
from uertool.io.encodings import UTF8, as_utf8, encoding_by_mark, encoding_named
from uertool.io.line_bytes import (
    RawLine,
    name_of,
    open_bytes,
    raw_lines,
    read_blocks,
    read_bytes,
)
from uertool.text.readers import Line, LineParser
from uertool.text.settings import InputSettings
from uertool.text.tables import BadContentError

T = TypeVar("T")


class LineFile:
    """The lines of a text, which is mapped; memory holds 8 bytes a line.

    Rows count the lines without the header of a table, from 0.

    Attributes:
        name: what the input is called in messages.
        header: the header line of a table, or None.

    Raises:
        InputError: it has no header with the column, or is not text.
    """

    def __init__(self, path: Path, name: str, settings: InputSettings) -> None:
        self.name = name
        self._parser = LineParser(name, settings.column, settings.field)
        with open_bytes(path) as stream:
            lines = raw_lines(read_blocks(stream, name))
            starts = np.fromiter((line.offset for line in lines), dtype=np.int64)
        self._starts: npt.NDArray[np.int64] = np.append(starts, path.stat().st_size)
        self._bytes: mmap.mmap | bytes = b""
        if starts.size:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.header: str | None = None
        self._first = 0
        if self._parser.wants_header:
            if not starts.size:
                raise InputError(f"{name} is empty, so it has no column {settings.column!r}.")
            self.header = self._parsed(0, self._parser.read_header, self._raw(0).data)
            self._first = 1

    def __len__(self) -> int:
        return len(self._starts) - 1 - self._first

    def __iter__(self) -> Iterator[Line]:
        return (self.line(row) for row in range(len(self)))

    def whole(self, row: int) -> str:
        """All of a line, with the other columns of a table."""
        return self._piece(row + self._first).decode().rstrip("\r\n")

    def line(self, row: int) -> Line:
        """A line.

        Raises:
            InputError: it cannot be read.
        """
        raw = self._raw(row + self._first)
        return self._parsed(raw.number, self._parser.line, raw.number, raw.data, raw.cut)

    def row_of(self, number: int) -> int:
        """The row of a line's number in the whole input."""
        return number - self._first

    def _raw(self, number: int) -> RawLine:
        start = int(self._starts[number])
        return next(raw_lines([self._piece(number)], number=number, offset=max(start, 1)))

    def _piece(self, number: int) -> bytes:
        return bytes(self._bytes[self._starts[number] : self._starts[number + 1]])

    def _parsed(self, number: int, parse: Callable[..., T], *given: object) -> T:
        try:
            return parse(*given)
        except BadContentError as error:
            raise InputError(
                f"{self.name}, line {number + 1}: {error.reason}.", error.hint
            ) from None


def open_lines(settings: InputSettings, scratch: Path) -> LineFile:
    """The lines of an input.

    Standard input, archives and other text than UTF-8 are copied into a scratch folder first.

    Raises:
        InputError: it is missing, cannot be read or holds nothing.
    """
    source = str(settings.test_path)
    path, name = Path(source), name_of(source)
    with open_bytes(source) as stream:
        encoding = encoding_named(settings.encoding)
        start = cast(io.BufferedReader, stream).peek(4)
        is_utf8 = encoding == (encoding_by_mark(start) or UTF8) == UTF8
        if source == "-" or not path.is_file() or hasattr(stream, "fileobj") or not is_utf8:
            path = scratch / "lines"
            with path.open("wb") as copy:
                copy.writelines(as_utf8(read_bytes(stream, name), encoding, name))
    lines = LineFile(path, name, settings)
    if not len(lines):
        raise InputError(f"{name} holds no lines.")
    return lines
