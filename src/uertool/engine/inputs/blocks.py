"""The lines of an input cut into blocks that are worked on one by one.

Lines are numbered through all files in their order, so that a block is a range of numbers and the
same whoever runs it. Counting is a pass of its own, in parallel over pieces of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from uertool.engine.inputs.sources import Source, open_raw, open_stream
from uertool.engine.storage.files import reason_of, require_pyarrow
from uertool.errors import InputError
from uertool.io.line_bytes import read_blocks
from uertool.text.readers import Line

#: Bytes of a text file that are counted together. A block that starts within a piece is found by
#: reading the piece from its start, so pieces should be small compared with the work of a block.
PIECE = 8 << 20

_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"


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
    """Consecutive lines of one file.

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
class BadPlace:
    """A line that could not be processed, as errors.jsonl has it.

    Attributes:
        number: its number in the whole input, from 0, or None for what is not a line.
        file: its file.
        line: its number in the file, from 1.
        reason: what is wrong, one clause.
    """

    number: int | None
    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Block:
    """A range of lines that becomes one shard.

    Attributes:
        index: its place among the blocks.
        first: number of its first line in the whole input, from 0.
        count: number of lines.
        segments: where they are, of a block whose worker reads them from files.
        lines: the lines themselves, of a block that was cut from a stream.
        errors: lines that could not be read when the stream was cut.
    """

    index: int
    first: int
    count: int
    segments: tuple[Segment, ...] = ()
    lines: tuple[Line, ...] | None = None
    errors: tuple[BadPlace, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """A block of segments as plain data, for `from_json`."""
        data = asdict(self)
        del data["lines"], data["errors"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Block:
        """What `as_json` gave."""
        segments = tuple(Segment(**segment) for segment in data["segments"])
        return cls(data["index"], data["first"], data["count"], segments)


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
        if source.kind in ("gzip", "wide"):
            return _count_archive(source, piece)
        return _count_text(source, piece)
    except OSError as error:
        return _counted(piece, piece.start, piece.end, 0, f"cannot be read: {reason_of(error)}")


def _counted(piece: Piece, start: int, end: int, lines: int, problem: str | None = None) -> Piece:
    return Piece(piece.source, start, end, lines, problem)


def _count_text(source: Source, piece: Piece) -> Piece:
    counter = _LineCounter()
    with open_raw(source.path) as stream:
        start = line_start(stream, piece.start)
        end = line_start(stream, piece.end) if piece.end < source.size else source.size
        stream.seek(start)
        at = start
        while at < end:
            chunk = bytes(stream.read(min(_CHUNK, end - at)))
            if not chunk:
                break
            counter.add(chunk.removeprefix(_BOM) if at == 0 else chunk)
            at += len(chunk)
    return _counted(piece, start, end, counter.lines)


def _count_archive(source: Source, piece: Piece) -> Piece:
    counter = _LineCounter()
    problem = None
    stream = open_stream(source.path, source.kind)
    try:
        with stream:
            for n, block in enumerate(read_blocks(stream, "the file", encoding=source.encoding)):
                counter.add(block.removeprefix(_BOM) if n == 0 else block)
    except InputError as error:
        # What came before is good, but its last line may be torn.
        problem = error.message.removeprefix("the file ").rstrip(".")
        return _counted(piece, 0, piece.end, counter.finished, problem)
    return _counted(piece, 0, piece.end, counter.lines)


def _count_rows(source: Source, piece: Piece) -> Piece:
    require_pyarrow("Reading Parquet files")
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


def line_start(stream: Any, offset: int) -> int:
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
