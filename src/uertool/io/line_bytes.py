"""Lines of files, archives, pipes and standard input as bytes, in bounded memory."""

from __future__ import annotations

import gzip
import io
import itertools
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO, cast

from uertool.errors import InputError
from uertool.io.encodings import UTF8, as_lines_of_bytes

#: The most bytes of a line that are kept: a thousand times what any model reads of one.
LINE_LIMIT = 1 << 20

_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"


class RawLine(NamedTuple):
    """A line as bytes.

    Attributes:
        number: its place in the input, counted from 0.
        offset: the byte at which it starts.
        data: the line without its end, cut to the requested number of bytes.
        cut: whether it is longer than that.
    """

    number: int
    offset: int
    data: bytes
    cut: bool = False


def name_of(source: object) -> str:
    """The name of an input in messages."""
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
    stream: BinaryIO,
    name: str,
    on_bytes: Callable[[int], None] | None = None,
    *,
    encoding: str = UTF8,
) -> Iterator[bytes]:
    """Blocks of bytes as they come, with errors of the stream and of gzip in words.

    Text in UTF-16 and the like comes as UTF-8, see `uertool.io.encodings`.

    Args:
        stream: what `open_bytes` gave.
        name: what to call it.
        on_bytes: called with the number of bytes just read (compressed ones of an archive).
        encoding: of the text.

    Raises:
        InputError: the stream or the archive is broken, or the text is of another encoding.
    """
    return as_lines_of_bytes(read_bytes(stream, name, on_bytes), encoding, name)


def read_bytes(
    stream: BinaryIO, name: str, on_bytes: Callable[[int], None] | None = None
) -> Iterator[bytes]:
    """As `read_blocks`, without a look at the encoding."""
    archive = getattr(stream, "fileobj", None)
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
        yield block


def raw_lines(
    blocks: Iterable[bytes], *, number: int = 0, offset: int = 0, limit: int | None = LINE_LIMIT
) -> Iterator[RawLine]:
    """Lines as bytes without their ends.

    Args:
        blocks: bytes of the input; they begin where a line begins.
        number: the number of that line.
        offset: where it starts; a byte order mark is looked for at 0 only.
        limit: the most bytes of a line that are kept, cut between two characters; None keeps all.
    """
    most = sys.maxsize if limit is None else limit
    blocks = iter(blocks)
    if offset == 0 and number == 0:
        start = _first_bytes(blocks)
        if start.startswith(_BOM):
            start, offset = start[len(_BOM) :], len(_BOM)
        blocks = itertools.chain([start] if start else [], blocks)
    held: list[bytes] = []  # pieces of a line that continues in the next block
    kept = length = 0  # bytes in `held`, and of that line
    returned = False  # whether it ended in \r, which may be followed by the \n of the same end
    for block in blocks:
        if returned:
            rest = b"\n" if block.startswith(b"\n") else b""
            yield _line(number, offset, b"".join(held), most)
            number, offset = number + 1, offset + length + len(rest)
            held, kept, length, returned = [], 0, 0, False
            block = block[len(rest) :]
        lines = block.splitlines(keepends=True)
        last = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        if held and lines:
            piece = lines.pop(0)
            end = piece.rstrip(b"\r\n")
            data = b"".join([*held, end[: most + 1 - kept]])
            yield _line(number, offset, data, most)
            number, offset = number + 1, offset + length + len(piece)
            held, kept, length = [], 0, 0
        short = len(block) <= most  # and so are its lines
        for line in lines:
            data = line.rstrip(b"\r\n")
            yield RawLine(number, offset, data) if short else _line(number, offset, data, most)
            number += 1
            offset += len(line)
        if last:
            returned = last.endswith(b"\r")
            piece = last.rstrip(b"\r")[: most + 1 - kept]
            held.append(piece)
            kept, length = kept + len(piece), length + len(last)
    if length:
        yield _line(number, offset, b"".join(held), most)


def _first_bytes(blocks: Iterator[bytes]) -> bytes:
    """At least as many bytes as a byte order mark has; they may come in drops from a pipe."""
    start = b""
    for block in blocks:
        start += block
        if len(start) >= len(_BOM):
            break
    return start


def _line(number: int, offset: int, data: bytes, limit: int) -> RawLine:
    """A line that may be longer than the limit, of which one byte more than that is enough."""
    if len(data) <= limit:
        return RawLine(number, offset, data)
    end = limit
    while end > max(limit - 3, 0) and data[end] & 0xC0 == 0x80:  # within a character of UTF-8
        end -= 1
    return RawLine(number, offset, data[:end], True)
