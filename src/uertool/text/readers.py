"""Lines of text from files, columns, JSON records, archives and pipes, one after the other."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO, cast

from uertool.errors import InputError, UsageError

_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Line:
    """One line of input.

    Attributes:
        number: its place in the whole input, counted from 0; a header line has a number too, and
            a shard keeps the numbers of the whole.
        text: what is to be processed: the line without its end, or the chosen column or field.
            Blanks around it are kept; the old scripts' `line.strip()` is the caller's choice.
        fields: the other columns or fields by name, with what is not text written as JSON.
    """

    number: int
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)


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


class RawLine(NamedTuple):
    """A line as bytes, with its number and where it starts."""

    number: int
    offset: int
    data: bytes


def read_lines(
    source: str | Path | TextIO | BinaryIO,
    *,
    column: str | int | None = None,
    field: str | None = None,
    shard: tuple[int, int] | None = None,
    on_bad: Callable[[BadLine], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Line]:
    """Stream the lines of a text, TSV or JSONL input, in order.

    Lines end with a line feed, a carriage return or both, as in Python's text files; nothing else
    cuts a line. A byte order mark is taken away. Gzip is recognised by its first bytes, whatever
    the name. Memory holds one block of 1 MiB and one line.

    A blank line is a line: its text is empty, also where a column or field was asked for.

    Args:
        source: a path, "-" for standard input, or an open stream.
        column: read tab-separated values and give this column: the name of a column of the header
            line, or a number from 0 for a file without header.
        field: read one JSON object a line and give this field.
        shard: (i, n) keeps the lines whose number leaves the remainder i - 1 when divided by n.
            This streams from pipes too and balances the parts; a part's results are put back by
            `Line.number`, or by taking one row from each part in turn. The header of a table
            belongs to every part.
        on_bad: called for a line that cannot be read, which is then left out. Without it such a
            line ends the reading.
        on_bytes: told how many more bytes were read (of an archive, as it lies on the disk).

    Raises:
        InputError: the input is missing or not text, a column or field does not exist, or a line
            is bad and there is no `on_bad`.
        UsageError: both column and field are given, or the shard is not within 1..n.
    """
    if column is not None and field is not None:
        raise UsageError(
            "A column and a field were both asked for, but an input is either TSV or JSONL.",
            "Give `column` or `field`, not both.",
        )
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise UsageError(
            f"The shard {shard[0]}/{shard[1]} does not exist.", "Parts are counted 1/n to n/n."
        )
    # The checks above run at the call, not at the first line.
    return _lines(source, column, field, shard, on_bad, on_bytes)


def parse_shard(text: str) -> tuple[int, int]:
    """The pair of a shard option such as "2/8".

    Raises:
        UsageError: it is not written so, or the part does not exist.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.strip().isdecimal() and parts.strip().isdecimal()):
        raise UsageError(f"The shard {text!r} is not of the form i/n.", "For example: 1/4.")
    if not 1 <= int(part) <= int(parts):
        raise UsageError(f"The shard {text} does not exist.", "Parts are counted 1/n to n/n.")
    return int(part), int(parts)


def _lines(
    source: str | Path | TextIO | BinaryIO,
    column: str | int | None,
    field: str | None,
    shard: tuple[int, int] | None,
    on_bad: Callable[[BadLine], None] | None,
    on_bytes: Callable[[int], None] | None,
) -> Iterator[Line]:
    name = name_of(source)
    parser = LineParser(name, column, field)
    first, step = (shard[0] - 1, shard[1]) if shard is not None else (0, 1)
    with open_bytes(source) as stream:
        for raw in raw_lines(read_blocks(stream, name, on_bytes)):
            header = parser.wants_header
            if not header and raw.number % step != first:
                continue
            try:
                if header:
                    parser.read_header(raw.data)
                    continue
                line = parser.line(raw.number, raw.data)
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
        column, field: as for `read_lines`.
    """

    def __init__(
        self, name: str, column: str | int | None = None, field: str | None = None
    ) -> None:
        self._table = _Table(column, name) if column is not None else None
        self._field = field

    @property
    def wants_header(self) -> bool:
        """Whether the header line of a table must come first, by `read_header`."""
        return self._table is not None and self._table.wants_header

    def read_header(self, data: bytes) -> None:
        """Take in the header line.

        Raises:
            InputError: it lacks the column.
            BadContentError: it is not text.
        """
        assert self._table is not None
        self._table.read_header(_decode(data))

    def line(self, number: int, data: bytes) -> Line:
        """The line of this number.

        Raises:
            BadContentError: it cannot be read.
        """
        text = _decode(data)
        if self._table is not None:
            return self._table.line(number, text)
        if self._field is not None:
            return _record(number, text, self._field)
        return Line(number, text)


class BadContentError(Exception):
    """What is wrong within a line, before its place in the input is known."""

    def __init__(self, reason: str, offset: int = 0, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.hint = hint


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadContentError(
            f"invalid UTF-8, 0x{data[error.start]:02x} at byte {error.start} of the line",
            error.start,
            "Convert the file to UTF-8, for example with: iconv -f GB18030 -t UTF-8.",
        ) from None


class _Table:
    """Tab-separated rows with a header line, or without one when the column is a number."""

    def __init__(self, column: str | int, name: str) -> None:
        self.name = name
        self.wanted = column
        numbered = isinstance(column, int) or column.isdecimal()
        self.index = int(column) if numbered else -1
        if numbered and self.index < 0:
            raise UsageError(f"The column {column} does not exist.", "Columns are counted from 0.")
        self.columns: list[str] | None = None
        self.wants_header = not numbered

    def read_header(self, text: str) -> None:
        self.columns = text.split("\t")
        self.wants_header = False
        if self.wanted not in self.columns:
            known = ", ".join(repr(c[:40]) for c in self.columns[:20])
            known += f" and {len(self.columns) - 20} more" if len(self.columns) > 20 else ""
            raise InputError(
                f"{self.name} has no column {self.wanted!r}; its columns are {known}.",
                "Name one of them with `column`, or a number from 0 for a file without header.",
            )
        self.index = self.columns.index(str(self.wanted))

    def line(self, number: int, text: str) -> Line:
        if not text.strip():
            return Line(number, "")
        cells = text.split("\t")
        if self.index >= len(cells):
            there = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
            raise BadContentError(f"it has {there}, so column {self.wanted!r} is missing")
        columns = self.columns or [str(i) for i in range(len(cells))]
        return Line(number, cells[self.index], dict(zip(columns, cells, strict=False)))


def _record(number: int, text: str, wanted: str) -> Line:
    if not text.strip():
        return Line(number, "")
    try:
        record = json.loads(text)
    except ValueError as error:
        raise BadContentError(f"invalid JSON, {error}") from None
    except RecursionError:
        raise BadContentError("invalid JSON, nested too deeply") from None
    if not isinstance(record, dict):
        raise BadContentError(f"a JSON object was expected, not a {type(record).__name__}")
    fields = {
        str(key): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in record.items()
    }
    if wanted not in fields:
        known = ", ".join(repr(key) for key in fields) or "none"
        raise BadContentError(f"it has no field {wanted!r}; its fields are {known}")
    if not isinstance(record[wanted], str):
        raise BadContentError(f"its field {wanted!r} is not text")
    return Line(number, fields[wanted], fields)


# -- bytes ----------------------------------------------------------------------------------------


def name_of(source: object) -> str:
    """What to call an input in messages."""
    if isinstance(source, (str, Path)):
        return "standard input" if str(source) == "-" else str(source)
    return str(getattr(source, "name", "the input"))


@contextmanager
def open_bytes(source: str | Path | TextIO | BinaryIO) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a path, "-" or stream; what was opened here is closed here.

    Raises:
        InputError: the path is missing, a folder, or not readable.
    """
    if isinstance(source, (str, Path)) and str(source) != "-":
        with _open_file(source) as opened:
            yield unzipped(opened)
        return
    stream = sys.stdin if isinstance(source, (str, Path)) else source
    if isinstance(stream, io.TextIOBase) and not hasattr(stream, "buffer"):
        yield cast(BinaryIO, _TextAsBytes(stream))
        return
    raw = cast(BinaryIO, getattr(stream, "buffer", stream))
    if hasattr(raw, "peek"):
        yield unzipped(raw)
        return
    buffered = io.BufferedReader(cast(io.RawIOBase, raw))
    try:
        yield unzipped(cast(BinaryIO, buffered))
    finally:
        buffered.detach()  # or it would close the caller's stream with itself


def _open_file(path: str | Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise InputError(f"The input {path} does not exist.", "Check the path.") from None
    except IsADirectoryError:
        raise InputError(f"The input {path} is a folder.", "Name a file in it.") from None
    except OSError as error:
        raise InputError(f"The input {path} cannot be read: {error.strerror}.") from None


def unzipped(stream: BinaryIO) -> BinaryIO:
    """A stream that can peek, or what is in it where it is gzip."""
    if cast(io.BufferedReader, stream).peek(2)[:2] == _GZIP_MAGIC:
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
    return stream


class _TextAsBytes:
    """A text stream without bytes behind it, such as a StringIO, read as UTF-8."""

    def __init__(self, stream: TextIO | io.TextIOBase) -> None:
        self._stream = stream

    def read1(self, size: int) -> bytes:
        return self._stream.read(size).encode("utf-8", "surrogatepass")


def read_blocks(
    stream: BinaryIO, name: str, on_bytes: Callable[[int], None] | None = None
) -> Iterator[bytes]:
    """Blocks of bytes as they come, with errors of the stream and of gzip in words.

    Args:
        stream: what `open_bytes` gave.
        name: what to call it.
        on_bytes: told how many more bytes were read (of an archive, as it lies on the disk).

    Raises:
        InputError: the stream or the archive is broken, or the text is UTF-16.
    """
    archive = getattr(stream, "fileobj", None)
    first = True
    done = 0
    while True:
        try:
            block = cast(io.BufferedReader, stream).read1(_BLOCK)
        except EOFError:
            raise InputError(
                f"{name} is a truncated gzip file.", "Copy it again; the end is missing."
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{name} is a broken gzip file: {error}.") from None
        except OSError as error:
            raise InputError(f"{name} cannot be read: {error.strerror}.") from None
        if on_bytes is not None:
            now = done + len(block) if archive is None or not archive.seekable() else archive.tell()
            on_bytes(now - done)
            done = now
        if not block:
            return
        if first and block.startswith(_UTF16_MARKS):
            raise InputError(f"{name} is UTF-16 text.", "Save it as UTF-8.")
        first = False
        yield block


def raw_lines(blocks: Iterable[bytes], *, number: int = 0, offset: int = 0) -> Iterator[RawLine]:
    """Lines as bytes without their ends, with number and byte offset.

    Args:
        blocks: bytes of the input; they begin where a line begins.
        number: the number of that line.
        offset: where it starts; a byte order mark is looked for at 0 only.
    """
    rest = b""
    held: list[bytes] = []  # the pieces of a line longer than a block
    for block in blocks:
        if offset == 0 and number == 0 and not held and len(rest) < len(_BOM):
            # The first bytes may come in drops from a pipe.
            block = rest + block
            rest = b""
            if len(block) < len(_BOM) and _BOM.startswith(block):
                rest = block
                continue
            if block.startswith(_BOM):
                block, offset = block[len(_BOM) :], len(_BOM)
        if rest:
            block, rest = rest + block, b""
        if b"\n" not in block and b"\r" not in block:
            held.append(block)
            continue
        if held:
            block = b"".join([*held, block])
            held.clear()
        lines = block.splitlines(keepends=True)
        # A block that ends in \r may go on with the \n of the same line end.
        if not lines[-1].endswith(b"\n"):
            last = lines.pop()
            if last.endswith(b"\r"):
                rest = last
            else:
                held.append(last)
        for line in lines:
            yield RawLine(number, offset, line.rstrip(b"\r\n"))
            number += 1
            offset += len(line)
    tail = b"".join([*held, rest])
    for line in tail.splitlines(keepends=True):
        yield RawLine(number, offset, line.rstrip(b"\r\n"))
        number += 1
        offset += len(line)
