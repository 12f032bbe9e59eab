"""Lines of text from files, columns, JSON records, archives and pipes, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from uertool.errors import InputError, UsageError, listed
from uertool.io.encodings import UTF8, decoded, encoding_hint, encoding_named, line_encoding
from uertool.io.line_bytes import LINE_LIMIT, name_of, open_bytes, raw_lines, read_blocks
from uertool.io.small_files import parse_json
from uertool.text.tables import BadContentError, Table


@dataclass(frozen=True)
class Line:
    """One line of input.

    Attributes:
        number: its place in the whole input, counted from 0; a header line has a number too, and
            a shard keeps the numbers of the whole.
        text: what is to be processed: the line without its end, or the chosen column or field.
            Blanks around it are kept; the old scripts' `line.strip()` is the caller's choice.
        fields: the other columns or fields by name, with what is not text written as JSON.
        cut: whether the line was longer than is read, so that its end is missing.
    """

    number: int
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


def too_long(number: int) -> InputError:
    """The error for a line that has to be whole, but was cut; lines are counted from 0."""
    return InputError(
        f"Line {number + 1} is longer than {LINE_LIMIT:,} bytes, the most that is read of a line.",
        "Divide it into several lines.",
    )


@dataclass(frozen=True)
class BadLine:
    """A line that could not be read, for the caller to count and report.

    Attributes:
        number: its place in the input, counted from 0.
        offset: where it starts, in bytes (uncompressed; characters for a text stream).
        reason: what is wrong, one clause.
    """

    number: int
    offset: int
    reason: str


def read_lines(
    source: str | Path | TextIO | BinaryIO,
    *,
    column: str | int | None = None,
    field: str | None = None,
    shard: tuple[int, int] | None = None,
    on_bad: Callable[[BadLine], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
    limit: int | None = LINE_LIMIT,
    encoding: str = UTF8,
) -> Iterator[Line]:
    """Stream the lines of a text, TSV or JSONL input, in order.

    Lines end with a line feed, a carriage return or both, as in Python's text files; nothing else
    cuts a line. A byte order mark is taken away. Gzip is recognised by its first bytes, whatever
    the name. Memory holds one block of 1 MiB and one line.

    A blank line is a line: its text is empty, also with a column or field.

    Args:
        source: a path, "-" for standard input, or an open stream.
        column: read tab-separated values, or comma-separated ones where the name ends in .csv,
            and give this column: the name of a column of the header
            line, or a number from 0 for a file without header.
        field: read one JSON object a line and give this field.
        shard: (i, n) keeps the lines i - 1, i - 1 + n, i - 1 + 2n, ...
            This streams from pipes too and balances the parts; a part's results are put back by
            `Line.number`, or by taking one row from each part in turn. The header of a table
            belongs to every part.
        on_bad: called for a line that cannot be read, which is then left out. Without it such a
            line ends the reading.
        on_bytes: called with the number of bytes just read (compressed ones of an archive).
        limit: the most bytes of a line that are read; a longer one is cut, see `Line.cut`,
            or bad where it is a JSON record. None reads all.
        encoding: of the text; a byte order mark of UTF-16 says that it is that.

    Raises:
        InputError: the input is missing or not text, a column or field does not exist, or a line
            is bad and there is no `on_bad`.
        UsageError: both column and field are given, the shard is not within 1..n, or there is no
            such encoding.
    """
    encoding = encoding_named(encoding)
    refuse_both(column, field)
    if shard is not None:
        _check_shard(*shard)
    # The checks above run at the call, not at the first line.
    return _lines(source, column, field, shard, on_bad, on_bytes, limit, encoding)


def refuse_both(column: str | int | None, field: str | None) -> None:
    """Raise UsageError if an input is to be a table and JSON lines."""
    if column is not None and field is not None:
        raise UsageError(
            "`column` and `field` were both given, but an input is either TSV or JSONL.",
            "Give `column` or `field`, not both.",
        )


def as_texts(texts: str | Path | Iterable[str]) -> list[str]:
    """One text, several, or the lines of a file, as a list.

    Raises:
        InputError: one of them is not text, or the file cannot be read.
    """
    if isinstance(texts, Path):
        return [line.text for line in read_lines(texts)]
    if not isinstance(texts, Iterable):
        raise InputError(
            f"Text is expected, not {texts!r:.100}.", "Give one text, several as a list, or a Path."
        )
    found = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"Text {number} is {text!r:.100}, which is not a str.")
    return found


def parse_shard(text: str) -> tuple[int, int]:
    """The pair of a shard option such as "2/8".

    Raises:
        UsageError: it is not written so, or the part does not exist.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.strip().isdecimal() and parts.strip().isdecimal()):
        raise UsageError(f"The shard {text!r} is not of the form i/n.", "For example: 1/4.")
    _check_shard(int(part), int(parts))
    return int(part), int(parts)


def _check_shard(part: int, parts: int) -> None:
    if not 1 <= part <= parts:
        raise UsageError(
            f"The shard {part}/{parts} does not exist.", "Parts are counted 1/n to n/n."
        )


def _lines(
    source: str | Path | TextIO | BinaryIO,
    column: str | int | None,
    field: str | None,
    shard: tuple[int, int] | None,
    on_bad: Callable[[BadLine], None] | None,
    on_bytes: Callable[[int], None] | None,
    limit: int | None,
    encoding: str,
) -> Iterator[Line]:
    name = name_of(source)
    parser = LineParser(name, column, field, encoding)
    first, step = (shard[0] - 1, shard[1]) if shard is not None else (0, 1)
    with open_bytes(source) as stream:
        for raw in raw_lines(read_blocks(stream, name, on_bytes, encoding=encoding), limit=limit):
            header = parser.wants_header
            if not header and raw.number % step != first:
                continue
            try:
                if header:
                    parser.read_header(raw.data)
                    continue
                line = parser.line(raw.number, raw.data, raw.cut)
            except BadContentError as error:
                bad = BadLine(raw.number, raw.offset + error.offset, error.reason)
                if on_bad is None or header:
                    raise InputError(
                        f"{name}, line {bad.number + 1} (byte {bad.offset}): {bad.reason}.",
                        error.hint,
                    ) from None
                on_bad(bad)
                continue
            yield line
        if parser.wants_header:
            raise InputError(f"{name} is empty, so it has no column {column!r}.")


class LineParser:
    """Bytes of lines into `Line`s: plain text, a column of a table, or a field of JSON records.

    Args:
        name: what to call the input in messages.
        column, field, encoding: as for `read_lines`; lines come from `read_blocks`.
    """

    def __init__(
        self,
        name: str,
        column: str | int | None = None,
        field: str | None = None,
        encoding: str = UTF8,
    ) -> None:
        self._name = name
        self._table = Table(column, name) if column is not None else None
        self._field = field
        self._encoding = line_encoding(encoding)
        self._hint: str | None = None  # the guess of an encoding takes long, so it is made once

    @property
    def wants_header(self) -> bool:
        """Whether the header line of a table must come first, by `read_header`."""
        return self._table is not None and self._table.wants_header

    def read_header(self, data: bytes) -> str:
        """Take in the header line, and return its text.

        Raises:
            InputError: it lacks the column.
            BadContentError: it is not text.
        """
        text = self._decoded(data)
        self.use_header(text)
        return text

    def use_header(self, text: str) -> None:
        """Take in a header line that was read before.

        Raises:
            InputError: it lacks the column.
        """
        assert self._table is not None
        self._table.read_header(text)

    def line(self, number: int, data: bytes, cut: bool = False) -> Line:
        """The line of this number; `cut` says that its end is missing.

        Raises:
            BadContentError: it cannot be read.
        """
        text = self._decoded(data, cut)
        if self._table is not None:
            if not text.strip():
                return Line(number, "", cut=cut)
            cell, fields, is_last = self._table.row(text)
            return Line(number, cell, fields, cut and is_last)
        if self._field is not None:
            return _record(number, text, self._field, cut)
        return Line(number, text, cut=True) if cut else Line(number, text)

    def _decoded(self, data: bytes, cut: bool = False) -> str:
        try:
            return decoded(data, self._encoding, cut=cut)
        except UnicodeDecodeError as error:
            what = "UTF-8" if self._encoding == UTF8 else self._encoding
            self._hint = self._hint or encoding_hint(self._name, data)
            raise BadContentError(
                f"invalid {what}, 0x{data[error.start]:02x} at byte {error.start} of the line",
                error.start,
                self._hint,
            ) from None


def _record(number: int, text: str, wanted: str, cut: bool) -> Line:
    if cut:
        raise BadContentError(f"a JSON record longer than the {len(text.encode())} bytes read")
    if not text.strip():
        return Line(number, "")
    try:
        record = parse_json(text, "the record")
    except InputError as error:
        raise BadContentError(error.message.removesuffix(".")) from None
    if not isinstance(record, dict):
        raise BadContentError(f"a JSON object was expected, not a {type(record).__name__}")
    fields = {
        str(key): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in record.items()
    }
    if wanted not in fields:
        known = listed(map(repr, fields)) or "none"
        raise BadContentError(f"it has no field {wanted!r}; its fields are {known}")
    if not isinstance(record[wanted], str):
        raise BadContentError(f"its field {wanted!r} is not text")
    return Line(number, fields[wanted], fields)
