"""The lines of a block, read where it is worked on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from uertool.engine.inputs import (
    Block,
    Reading,
    Segment,
    Source,
    open_raw,
    open_stream,
    text_column,
)
from uertool.engine.store import reason_of
from uertool.errors import InputError
from uertool.io.line_bytes import RawLine, raw_lines, read_blocks
from uertool.text.readers import BadContentError, Line, LineParser


@dataclass(frozen=True)
class BadPlace:
    """A line that could not be processed, as errors.jsonl has it.

    Attributes:
        number: its number in the whole input, from 0, or None for what is no line.
        file: its file.
        line: its number in the file, from 1.
        reason: what is wrong, one clause.
    """

    number: int | None
    file: str
    line: int
    reason: str


OnBad = Callable[[BadPlace], None]


class BlockReader:
    """Reads the lines of blocks of the same files.

    An archive can be read from its start only. So the reader of an archive stays open between
    blocks: a worker that gets blocks in rising order goes through each archive once.

    Args:
        sources: all files.
        reading: how text is taken from them.
    """

    def __init__(self, sources: Sequence[Source], reading: Reading) -> None:
        self._sources = sources
        self._reading = reading
        self._archive: tuple[int, int, Iterator[RawLine]] | None = None

    def lines(self, block: Block, on_bad: OnBad) -> Iterator[Line]:
        """The lines in order, numbered through the whole input; header lines are left out.

        Args:
            block: which lines.
            on_bad: told of every line that cannot be read, which is then left out.

        Raises:
            InputError: a file changed since it was counted, or cannot be read any more.
        """
        for segment in block.segments:
            source = self._sources[segment.source]
            if source.kind == "whole":
                yield Line(segment.number, source.path)
            elif source.kind == "parquet":
                yield from self._rows(source, segment, on_bad)
            else:
                yield from self._text(source, segment, on_bad)

    def place(self, block: Block, number: int, reason: str) -> BadPlace:
        """Where a line of a block is."""
        for segment in block.segments:
            if segment.number <= number < segment.number + segment.count:
                path = self._sources[segment.source].path
                return BadPlace(number, path, segment.line + number - segment.number + 1, reason)
        raise ValueError(f"line {number} is not in block {block.index}")

    # -- text -------------------------------------------------------------------------------------

    def _text(self, source: Source, segment: Segment, on_bad: OnBad) -> Iterator[Line]:
        parser = LineParser(source.path, self._reading.column, self._reading.field)
        if source.header is not None and segment.line > 0:
            parser.read_header(source.header.encode())
        shift = segment.number - segment.line
        found = 0
        for raw in self._raw(source, segment):
            found += 1
            try:
                if parser.wants_header:
                    parser.read_header(raw.data)
                    continue
                line = parser.line(raw.number + shift, raw.data, raw.cut)
            except BadContentError as error:
                on_bad(BadPlace(raw.number + shift, source.path, raw.number + 1, error.reason))
                continue
            yield line
        if found < segment.count:
            raise InputError(
                f"{source.path} has fewer lines than it had when it was counted.",
                "Inputs must not change while they are worked on; run again with `overwrite`.",
            )

    def _raw(self, source: Source, segment: Segment) -> Iterator[RawLine]:
        """The lines of a segment as bytes, numbered in their file."""
        try:
            if source.kind == "gzip":
                yield from self._raw_of_archive(source, segment)
                return
            first = segment.line - segment.skip
            with open_stream(source.path, "text", segment.start) as stream:
                blocks = read_blocks(stream, source.path)
                lines = raw_lines(blocks, number=first, offset=segment.start)
                yield from itertools.islice(lines, segment.skip, segment.skip + segment.count)
        except OSError as error:
            raise InputError(f"{source.path} cannot be read: {reason_of(error)}.") from None

    def _raw_of_archive(self, source: Source, segment: Segment) -> Iterator[RawLine]:
        at, lines = 0, None
        if self._archive is not None and self._archive[0] == segment.source:
            _, at, lines = self._archive
        if lines is None or at > segment.line:
            stream = open_stream(source.path, "gzip")
            at, lines = 0, raw_lines(read_blocks(stream, source.path))
        self._archive = None  # unless all goes well it is not known where it stands
        yield from itertools.islice(lines, segment.line - at, segment.line - at + segment.count)
        self._archive = (segment.source, segment.line + segment.count, lines)

    # -- Parquet ----------------------------------------------------------------------------------

    def _rows(self, source: Source, segment: Segment, on_bad: OnBad) -> Iterator[Line]:
        import pyarrow
        from pyarrow import parquet

        try:
            with open_raw(source.path) as stream:
                file = parquet.ParquetFile(stream)
                column = text_column(file.schema_arrow, self._reading, source.path)
                row = segment.skip
                for table in _groups(file, segment.skip, segment.count):
                    for record in table.to_pylist():
                        number = segment.number + row - segment.skip
                        row += 1
                        text = record.get(column)
                        if isinstance(text, str):
                            yield Line(number, text, _fields(record, self._reading))
                        else:
                            found = "empty" if text is None else f"a {type(text).__name__}"
                            reason = f"its column {column!r} is {found}, and no text"
                            on_bad(BadPlace(number, source.path, row, reason))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{source.path} cannot be read: {reason_of(error)}.") from None


def _groups(file: Any, skip: int, count: int) -> Iterator[Any]:
    """Rows [skip, skip + count) as record batches of some thousand rows."""
    start = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if start + rows > skip and start < skip + count:
            at = start
            for batch in file.iter_batches(batch_size=4096, row_groups=[group]):
                low, high = max(skip - at, 0), min(skip + count - at, batch.num_rows)
                if low < high:
                    yield batch.slice(low, high - low)
                at += batch.num_rows
        start += rows


def _fields(record: dict[str, Any], reading: Reading) -> dict[str, str]:
    """The columns of a row as text, as fields of JSON records are given."""
    if reading.column is None and reading.field is None:
        return {}
    return {
        name: value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, default=str)
        for name, value in record.items()
    }
