"""What a distributed run reads: files of many kinds, counted and cut into blocks of whole lines.

Lines are numbered through all files in their order, so that a block is a range of numbers and the
same whoever runs it. Counting is a pass of its own, in parallel over pieces of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal

from uertool.engine.store import file_system, reason_of
from uertool.errors import InputError, UsageError
from uertool.io.line_bytes import raw_lines, read_blocks, unzipped
from uertool.text.readers import BadContentError, LineParser

#: "whole" is a file that is worked on as it is: its only line is its path.
Kind = Literal["text", "gzip", "parquet", "whole"]

#: Bytes of a text file that are counted together. A block that starts within a piece is found by
#: reading the piece from its start, so that pieces should be small beside the work of a block.
PIECE = 8 << 20

_CHUNK = 1 << 20
_MAGIC: Mapping[bytes, Kind] = {b"\x1f\x8b": "gzip", b"PAR1": "parquet"}
_BOM = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_WILD = re.compile(r"[*?\[]")
_SNIFFERS = 16  # files that are looked into at a time


@dataclass(frozen=True)
class Reading:
    """How text is taken from a file.

    Attributes:
        column: of a table, or of a Parquet file.
        field: of JSON records; the same as a column for a Parquet file.
        whole: take no lines out of files, but hand out the paths of the files themselves.
    """

    column: str | None = None
    field: str | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if self.column is not None and self.field is not None:
            raise UsageError(
                "A column and a field were both asked for, but an input is either TSV or JSONL.",
                "Give `column` or `field`, not both.",
            )


@dataclass(frozen=True)
class Source:
    """A file.

    Attributes:
        path: as its file system takes it: a path, or a URI.
        kind: what is in it.
        size: bytes.
        changed: when it was written last, in seconds, or None where that is not known.
        header: the first line of a table that has its columns named, or None.
    """

    path: str
    kind: Kind
    size: int
    changed: float | None = None
    header: str | None = None


@dataclass(frozen=True)
class Piece:
    """A part of a file whose lines were counted together.

    Attributes:
        source: number of the file.
        start, end: bytes of a text file, widened to whole lines; 0 and the size of others.
        lines: lines (rows of a Parquet file) that start in it; None before they are counted.
        problem: why the file could not be read further, or None.
    """

    source: int
    start: int
    end: int
    lines: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Segment:
    """Lines of one file that stand next to each other.

    Attributes:
        source: number of the file.
        start: byte (text only) where their piece starts.
        skip: lines between there and the first of them.
        count: how many there are.
        number: number of the first in the whole input, from 0.
        line: number of the first in its file, from 0.
    """

    source: int
    start: int
    skip: int
    count: int
    number: int
    line: int


@dataclass(frozen=True)
class Block:
    """A range of lines that becomes one shard.

    Attributes:
        index: its place among the blocks.
        first: number of its first line in the whole input, from 0.
        count: number of lines.
        segments: where they are.
    """

    index: int
    first: int
    count: int
    segments: tuple[Segment, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Block:
        """What `as_json` gave."""
        segments = tuple(Segment(**segment) for segment in data["segments"])
        return cls(data["index"], data["first"], data["count"], segments)


# -- finding files --------------------------------------------------------------------------------


def list_sources(paths: Sequence[str], reading: Reading | None = None) -> list[Source]:
    """The files of paths, folders and globs, in order; those of a folder by their names.

    Hidden files, and partial files of a run that writes, are left out of folders and globs.

    Raises:
        InputError: a path is missing or cannot be read, a folder or glob holds no file, or a table
            lacks the column.
        UsageError: standard input is among them, or there are none.
    """
    if not paths:
        raise UsageError("There is no input.", "Name files, folders or globs.")
    found: list[tuple[str, int, float | None]] = []
    for path in paths:
        if path == "-":
            raise UsageError(
                "Standard input cannot be shared out among workers.",
                "Write it to a file first, or take `engine` local.",
            )
        found.extend(_files_of(path))
    reading = reading or Reading()
    with ThreadPoolExecutor(_SNIFFERS) as pool:
        return list(pool.map(lambda file: _look_into(file[0], file[1], file[2], reading), found))


def _files_of(path: str) -> list[tuple[str, int, float | None]]:
    from pyarrow import fs

    system, inner = file_system(path)
    prefix = path[: -len(inner)] if "://" in path and path.endswith(inner) else ""
    try:
        info = system.get_file_info(inner)
    except OSError as error:
        raise InputError(f"The input {path} cannot be read: {reason_of(error)}.") from None
    if info.type == fs.FileType.NotFound and _WILD.search(inner):
        files = [entry for entry in _glob(system, inner) if _is_shown(entry.path)]
        if not files:
            raise InputError(f"No file fits the glob {path}.", "Check the path.")
    elif info.type == fs.FileType.Directory:
        inside = system.get_file_info(fs.FileSelector(inner, recursive=True))
        base = inner.rstrip("/")
        files = [
            entry
            for entry in inside
            if entry.type == fs.FileType.File and _is_shown(entry.path[len(base) :])
        ]
        if not files:
            raise InputError(f"The folder {path} holds no files.")
        files.sort(key=lambda entry: PurePosixPath(entry.path).parts)
    elif info.type == fs.FileType.File:
        files = [info]
    else:
        raise InputError(f"The input {path} does not exist.", "Check the path.")
    return [(prefix + entry.path, entry.size, _seconds(entry)) for entry in files]


def _seconds(entry: Any) -> float | None:
    return None if entry.mtime_ns is None else entry.mtime_ns / 1e9


def _is_shown(path: str) -> bool:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return not path.endswith(".partial") and not any(part.startswith(".") for part in parts[-1:])


def _glob(system: Any, pattern: str) -> list[Any]:
    """Files that fit a pattern with *, ?, [...] within names and ** over folders, by name."""
    from pyarrow import fs

    parts = pattern.split("/")
    fixed = next(n for n, part in enumerate(parts) if _WILD.search(part))
    base = "/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else "")
    deep = "**" in parts or fixed < len(parts) - 1
    try:
        entries = system.get_file_info(fs.FileSelector(base, recursive=deep))
    except OSError:
        return []
    wanted = re.compile(_as_expression(pattern))
    files = [e for e in entries if e.type == fs.FileType.File and wanted.fullmatch(e.path)]
    return sorted(files, key=lambda entry: PurePosixPath(entry.path).parts)


def _as_expression(pattern: str) -> str:
    """A glob as a regular expression; fnmatch's own lets * run over folders."""
    done = []
    rest = pattern
    while rest:
        if rest.startswith("**/"):
            done.append(r"(?:[^/]+/)*")
            rest = rest[3:]
        elif rest[0] == "*":
            rest = rest.lstrip("*")
            done.append(r"[^/]*")
        elif rest[0] == "?":
            done.append(r"[^/]")
            rest = rest[1:]
        elif rest[0] == "[" and "]" in rest[2:]:
            end = rest.index("]", 2)
            inside = rest[1:end].replace("\\", "\\\\")
            done.append(f"[{'^' + inside[1:] if inside[0] == '!' else inside}]")
            rest = rest[end + 1 :]
        else:
            done.append(re.escape(rest[0]))
            rest = rest[1:]
    return "".join(done)


def _look_into(path: str, size: int, changed: float | None, reading: Reading) -> Source:
    """What a file is, by its first bytes, and its header."""
    if reading.whole:
        return Source(path, "whole", size, changed)
    try:
        with open_raw(path) as stream:
            start = bytes(stream.read(4))
        kind = _kind_of(start)
        if kind == "text" and path.endswith(".parquet") and size:
            raise InputError(f"The input {path} is no Parquet file: it begins with {start!r}.")
        header = None
        if kind == "parquet":
            _check_columns(path, reading)
        elif LineParser(path, reading.column).wants_header:
            header = _header(path, kind, reading)
    except OSError as error:
        raise InputError(f"The input {path} cannot be read: {reason_of(error)}.") from None
    return Source(path, kind, size, changed, header)


def _kind_of(start: bytes) -> Kind:
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    return "text"


def _check_columns(path: str, reading: Reading) -> None:
    import pyarrow
    from pyarrow import parquet

    with open_raw(path) as stream:
        try:
            schema = parquet.ParquetFile(stream).schema_arrow
        except (pyarrow.ArrowException, OSError):
            return  # a broken file is told of when it is counted
    text_column(schema, reading, path)


def _header(path: str, kind: Kind, reading: Reading) -> str | None:
    with open_stream(path, kind) as stream:
        first = next(raw_lines(read_blocks(stream, path)), None)
    if first is None:
        return None  # an empty file has no lines to take a column of
    try:
        LineParser(path, reading.column).read_header(first.data)
    except BadContentError as error:
        raise InputError(f"{path}, line 1: {error.reason}.", error.hint) from None
    return first.data.decode("utf-8")


def text_column(schema: Any, reading: Reading, path: str) -> str:
    """The column of a Parquet file that was asked for, or the only one that holds text.

    Raises:
        InputError: there is no such column, or the file has several.
    """
    import pyarrow

    wanted = reading.column or reading.field
    names = [str(name) for name in schema.names]
    if wanted is not None and wanted.isdecimal() and wanted not in names:
        wanted = names[int(wanted)] if int(wanted) < len(names) else wanted
    if wanted is None:
        texts = [
            field.name
            for field in schema
            if pyarrow.types.is_string(field.type) or pyarrow.types.is_large_string(field.type)
        ]
        wanted = "text" if "text" in texts else texts[0] if len(texts) == 1 else None
    if wanted not in names:
        asked = "tells not which column is the text" if wanted is None else f"has no {wanted!r}"
        raise InputError(
            f"{path} {asked}; its columns are {', '.join(map(repr, names))}.",
            "Name one of them with `column`.",
        )
    return str(wanted)


# -- opening files --------------------------------------------------------------------------------


def open_raw(path: str) -> Any:
    """A file as it lies there; pyarrow's stream, which is a context manager and can seek."""
    system, inner = file_system(path)
    return system.open_input_file(inner)


def open_stream(path: str, kind: Kind, start: int = 0) -> BinaryIO:
    """The uncompressed bytes of a text or gzip file from a byte on."""
    import io

    raw = open_raw(path)
    if start:
        raw.seek(start)
    buffered: Any = io.BufferedReader(raw, buffer_size=_CHUNK)
    return unzipped(buffered) if kind == "gzip" else buffered


def file_size(path: str) -> int | None:
    """Bytes of a file, or None where there is none."""
    from pyarrow import fs

    system, inner = file_system(path)
    info = system.get_file_info(inner)
    return int(info.size) if info.type == fs.FileType.File else None


# -- counting -------------------------------------------------------------------------------------


def cut_pieces(sources: Sequence[Source], size: int = PIECE) -> list[Piece]:
    """What is to be counted: text files in pieces, others whole."""
    pieces = []
    for number, source in enumerate(sources):
        step = size if source.kind == "text" else max(source.size, 1)
        for start in range(0, max(source.size, 1), step):
            pieces.append(Piece(number, start, min(start + step, source.size)))
    return pieces


def count_piece(source: Source, piece: Piece) -> Piece:
    """The piece with its lines counted, and what stopped the counting, if anything did."""
    if source.kind == "whole":
        return _counted(piece, 0, piece.end, 1)
    try:
        if source.kind == "parquet":
            return _count_rows(source, piece)
        if source.kind == "gzip":
            return _count_archive(source, piece)
        return _count_text(source, piece)
    except OSError as error:
        return _counted(piece, piece.start, piece.end, 0, f"cannot be read: {reason_of(error)}")


def _counted(piece: Piece, start: int, end: int, lines: int, problem: str | None = None) -> Piece:
    return Piece(piece.source, start, end, lines, problem)


def _count_text(source: Source, piece: Piece) -> Piece:
    counter = _LineCounter()
    with open_raw(source.path) as stream:
        start = _line_start(stream, piece.start)
        end = _line_start(stream, piece.end) if piece.end < source.size else source.size
        stream.seek(start)
        at = start
        while at < end:
            chunk = bytes(stream.read(min(_CHUNK, end - at)))
            if not chunk:
                break
            if at == 0 and chunk.startswith(_UTF16_MARKS):
                return _counted(piece, start, end, 0, "is UTF-16 text; save it as UTF-8")
            counter.add(chunk.removeprefix(_BOM) if at == 0 else chunk)
            at += len(chunk)
    return _counted(piece, start, end, counter.lines)


def _count_archive(source: Source, piece: Piece) -> Piece:
    counter = _LineCounter()
    problem = None
    stream = open_stream(source.path, "gzip")
    try:
        with stream:
            for n, block in enumerate(read_blocks(stream, "the file")):
                counter.add(block.removeprefix(_BOM) if n == 0 else block)
    except InputError as error:
        # What came before is good, but its last line may be torn.
        problem = error.message.removeprefix("the file ").rstrip(".")
        return _counted(piece, 0, piece.end, counter.finished, problem)
    return _counted(piece, 0, piece.end, counter.lines)


def _count_rows(source: Source, piece: Piece) -> Piece:
    import pyarrow
    from pyarrow import parquet

    try:
        with open_raw(source.path) as stream:
            rows = parquet.ParquetFile(stream).metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        return _counted(piece, 0, piece.end, 0, f"is a broken Parquet file: {reason_of(error)}")
    return _counted(piece, 0, piece.end, rows)


class _LineCounter:
    """Counts lines that end with a line feed, a carriage return or both, chunk by chunk."""

    def __init__(self) -> None:
        self.finished = 0  # lines with an end
        self._last = b""

    def add(self, chunk: bytes) -> None:
        if not chunk:
            return
        self.finished += chunk.count(b"\n")
        if b"\r" in chunk:
            self.finished += chunk.count(b"\r") - chunk.count(b"\r\n")
        if self._last == b"\r" and chunk.startswith(b"\n"):
            self.finished -= 1
        self._last = chunk[-1:]

    @property
    def lines(self) -> int:
        """All lines, a last one without an end included."""
        return self.finished + (self._last not in (b"", b"\n", b"\r"))


def _line_start(stream: Any, offset: int) -> int:
    """The first byte, at `offset` or later, with which a line starts (or the end of the file)."""
    if offset == 0:
        return 0
    at = offset - 1
    stream.seek(at)
    while chunk := bytes(stream.read(1 << 16)):
        ends = [place for mark in (b"\n", b"\r") if (place := chunk.find(mark)) >= 0]
        if ends:
            place = min(ends)
            if chunk[place : place + 1] == b"\n":
                return at + place + 1
            after = chunk[place + 1 : place + 2] or bytes(stream.read(1))
            return at + place + 1 + (after == b"\n")
        at += len(chunk)
    return at


# -- blocks ---------------------------------------------------------------------------------------


def make_blocks(pieces: Sequence[Piece], size: int) -> list[Block]:
    """All lines in blocks of `size`, the last one shorter; without lines one empty block."""
    blocks: list[Block] = []
    held: list[Segment] = []
    room = size
    number = line = 0
    source = -1
    for piece in pieces:
        if piece.source != source:
            source, line = piece.source, 0
        done = 0
        lines = piece.lines or 0
        while done < lines:
            count = min(room, lines - done)
            held.append(Segment(piece.source, piece.start, done, count, number, line))
            done, number, line, room = done + count, number + count, line + count, room - count
            if room == 0:
                blocks.append(_block(len(blocks), held))
                held, room = [], size
    if held or not blocks:
        blocks.append(_block(len(blocks), held))
    return blocks


def _block(index: int, segments: list[Segment]) -> Block:
    first = segments[0].number if segments else 0
    return Block(index, first, sum(s.count for s in segments), tuple(_joined(segments)))


def _joined(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Segments with neighbours in the same file put together: pieces end where the next starts."""
    held: Segment | None = None
    for segment in segments:
        if (
            held is not None
            and held.source == segment.source
            and held.line + held.count == segment.line
        ):
            count = held.count + segment.count
            held = Segment(held.source, held.start, held.skip, count, held.number, held.line)
            continue
        if held is not None:
            yield held
        held = segment
    if held is not None:
        yield held


def sample_block(blocks: Sequence[Block], lines: int, places: int = 4) -> Block:
    """The first lines of some blocks, evenly chosen, as one block of about `lines` lines."""
    chosen = [blocks[len(blocks) * n // places] for n in range(min(places, len(blocks)))]
    each = max(1, lines // len(chosen))
    segments: list[Segment] = []
    for block in chosen:
        left = each
        for s in block.segments:
            count = min(left, s.count)
            if count:
                segments.append(Segment(s.source, s.start, s.skip, count, s.number, s.line))
            left -= count
    return Block(0, 0, sum(s.count for s in segments), tuple(segments))
