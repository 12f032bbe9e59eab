"""The files of an input: found by paths, folders and globs, identified and opened."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal, cast

from uertool.engine.storage.files import Entry, FileSystem, file_system, reason_of, require_pyarrow
from uertool.engine.storage.manifest import MANIFEST
from uertool.errors import InputError, UsageError
from uertool.io.encodings import UTF8, encoding_by_mark, encoding_named, has_byte_lines
from uertool.io.line_bytes import raw_lines, read_blocks, unzipped
from uertool.text.readers import LineParser, refuse_both
from uertool.text.tables import BadContentError

#: "wide" is text that is read from its start only, since its lines cannot be found in its bytes;
#: "whole" is a file that is worked on as it is: its only line is its path.
Kind = Literal["text", "wide", "gzip", "parquet", "whole"]

_CHUNK = 1 << 20
_MAGIC: Mapping[bytes, Kind] = {b"\x1f\x8b": "gzip", b"PAR1": "parquet"}
_SHARD = re.compile(r"part-\d+\.\w+")
_WILD = re.compile(r"[*?\[]")
_SNIFFERS = 16  # files that are looked into at a time


@dataclass(frozen=True)
class Reading:
    """How text is taken from a file.

    Attributes:
        column: of a table, or of a Parquet file.
        field: of JSON records; the same as a column for a Parquet file.
        whole: read no lines from files, but hand out the paths of the files themselves.
        part: (i, n) keeps the lines whose number leaves the remainder i - 1 when divided by n.
        encoding: of text files.
    """

    column: str | None = None
    field: str | None = None
    whole: bool = False
    part: tuple[int, int] | None = None
    encoding: str = UTF8

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoding", encoding_named(self.encoding))
        refuse_both(self.column, self.field)


@dataclass(frozen=True)
class Source:
    """A file.

    Attributes:
        path: as its file system takes it: a path, or a URI.
        kind: what is in it.
        size: bytes.
        changed: when it was last modified, in seconds, or None if unknown.
        header: the first line of a table that has its columns named, or None.
        encoding: of its text.
    """

    path: str
    kind: Kind
    size: int
    changed: float | None = None
    header: str | None = None
    encoding: str = UTF8


# -- finding files --------------------------------------------------------------------------------


def list_sources(paths: Sequence[str], reading: Reading | None = None) -> list[Source]:
    """The files of paths, folders and globs, in order; those of a folder by their names.

    Hidden files, and partial files of a run that writes, are left out of folders and globs. Of a
    folder of shards only the shards count.

    Raises:
        InputError: a path is missing or cannot be read, a folder or glob holds no file, or a table
            lacks the column.
        UsageError: standard input is among them, or there are none.
    """
    if not paths:
        raise UsageError("There is no input.", "Name files, folders or globs.")
    if "-" in paths:
        raise UsageError(
            "Standard input cannot be shared out among workers.",
            "Write it to a file first, or use `engine` local.",
        )
    found = [entry for path in paths for entry in _files_of(path)]
    how = reading or Reading()
    with ThreadPoolExecutor(_SNIFFERS) as pool:
        return list(pool.map(lambda entry: _look_into(entry, how), found))


def stream_sources(paths: Sequence[str], reading: Reading) -> list[Source]:
    """As `list_sources`, for one process that reads everything in order.

    Standard input ("-") and pipes may be among them; nothing of them is read yet, and files keep
    the names that they were given by.
    """
    sources: list[Source] = []
    for path in paths:
        if path == "-":
            sources.append(Source(path, "text", 0, encoding=reading.encoding))
            continue
        for entry in _files_of(path):
            name = path if os.path.exists(path) and not os.path.isdir(path) else entry.path
            kind: Kind = "whole" if reading.whole else "text"
            if kind == "text" and (os.path.isfile(name) or "://" in name):
                kind = _sniffed(name, reading)
            encoding = reading.encoding
            sources.append(Source(name, kind, entry.size, entry.changed, encoding=encoding))
    return sources


def _files_of(path: str) -> list[Entry]:
    system, inner = file_system(path)
    prefix = path[: -len(inner)] if "://" in path and path.endswith(inner) else ""
    try:
        entry = system.entry(inner)
        if entry is None and _WILD.search(inner):
            files = [found for found in _glob(system, inner) if _is_shown(found.path)]
            if not files:
                raise InputError(f"No file matches the glob {path}.", "Check the path.")
        elif entry is None:
            raise InputError(f"The input {path} does not exist.", "Check the path.")
        elif entry.is_file:
            files = [entry]
        else:
            base = len(inner.rstrip("/"))
            inside = system.entries(inner, deep=True)
            files = [found for found in inside if found.is_file and _is_shown(found.path[base:])]
            if any(found.name == MANIFEST for found in files):
                files = [found for found in files if _SHARD.fullmatch(found.name)]
            if not files:
                raise InputError(f"The folder {path} holds no files.")
            files.sort(key=_place)
    except OSError as error:
        raise InputError(f"The input {path} cannot be read: {reason_of(error)}.") from None
    return [replace(found, path=prefix + found.path) for found in files]


def _place(entry: Entry) -> tuple[str, ...]:
    return PurePosixPath(entry.path).parts


def _is_shown(path: str) -> bool:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return not path.endswith(".partial") and not any(part.startswith(".") for part in parts[-1:])


def _glob(system: FileSystem, pattern: str) -> list[Entry]:
    """Files that match a pattern with *, ?, [...] within names and ** over folders, by name."""
    parts = pattern.split("/")
    fixed = next(n for n, part in enumerate(parts) if _WILD.search(part))
    base = "/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else "")
    deep = "**" in parts or fixed < len(parts) - 1
    wanted = re.compile(_as_expression(pattern))
    found = system.entries(base, deep=deep)
    return sorted((e for e in found if e.is_file and wanted.fullmatch(e.path)), key=_place)


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


def _look_into(entry: Entry, reading: Reading) -> Source:
    """What a file is, by its first bytes, and its header."""
    path, size, changed = entry.path, entry.size, entry.changed
    if reading.whole:
        return Source(path, "whole", size, changed)
    kind = _sniffed(path, reading)
    try:
        if kind == "text" and path.endswith(".parquet") and size:
            raise InputError(f"The input {path} is not a Parquet file.")
        header = None
        if kind == "parquet":
            _check_columns(path, reading)
        elif LineParser(path, reading.column).wants_header:
            header = _header(path, kind, reading)
    except OSError as error:
        raise InputError(f"The input {path} cannot be read: {reason_of(error)}.") from None
    return Source(path, kind, size, changed, header, reading.encoding)


def _sniffed(path: str, reading: Reading) -> Kind:
    try:
        with open_raw(path) as stream:
            start = bytes(stream.read(4))
    except OSError as error:
        raise InputError(f"The input {path} cannot be read: {reason_of(error)}.") from None
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    # The reader reports a mark of another encoding than the one that was given.
    encoding = (reading.encoding == UTF8 and encoding_by_mark(start)) or reading.encoding
    return "text" if has_byte_lines(encoding) else "wide"


def _check_columns(path: str, reading: Reading) -> None:
    require_pyarrow("Reading Parquet files")
    import pyarrow
    from pyarrow import parquet

    with open_raw(path) as stream:
        try:
            schema = parquet.ParquetFile(stream).schema_arrow
        except (pyarrow.ArrowException, OSError):
            return  # a broken file is reported when it is counted
    text_column(schema, reading, path)


def _header(path: str, kind: Kind, reading: Reading) -> str | None:
    with open_stream(path, kind) as stream:
        first = next(raw_lines(read_blocks(stream, path, encoding=reading.encoding)), None)
    if first is None:
        return None  # an empty file has no lines to take a column of
    try:
        return LineParser(path, reading.column, encoding=reading.encoding).read_header(first.data)
    except BadContentError as error:
        raise InputError(f"{path}, line 1: {error.reason}.", error.hint) from None


def text_column(schema: Any, reading: Reading, path: str) -> str:
    """The given column of a Parquet file, or the only one that holds text.

    Raises:
        InputError: there is no such column, or the file has several.
    """
    require_pyarrow("Reading Parquet files")
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
        asked = "has several columns of text, or none" if wanted is None else f"has no {wanted!r}"
        raise InputError(
            f"{path} {asked}; its columns are {', '.join(map(repr, names))}.",
            "Name one of them with `column`.",
        )
    return str(wanted)


# -- opening files --------------------------------------------------------------------------------


def open_raw(path: str) -> BinaryIO:
    """The bytes of a file as they are stored; the stream can seek."""
    system, inner = file_system(path)
    return system.read(inner)


def open_stream(path: str, kind: Kind, start: int = 0) -> BinaryIO:
    """The uncompressed bytes of a file of text from a byte on."""
    raw: Any = open_raw(path)
    if start:
        raw.seek(start)
    buffered: Any = raw if hasattr(raw, "peek") else io.BufferedReader(raw, buffer_size=_CHUNK)
    return unzipped(buffered) if kind == "gzip" else cast(BinaryIO, buffered)


def file_size(path: str) -> int | None:
    """Bytes of a file, or None if there is none."""
    system, inner = file_system(path)
    entry = system.entry(inner)
    return entry.size if entry is not None and entry.is_file else None
