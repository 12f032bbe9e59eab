"""The lines of an input: block by block where it is worked on, or all of them in order."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, BinaryIO

from uertool.engine.inputs.blocks import BadPlace, Block, Segment
from uertool.engine.inputs.sources import Reading, Source, open_raw, open_stream, text_column
from uertool.engine.storage.files import reason_of, require_pyarrow
from uertool.errors import InputError
from uertool.io.line_bytes import RawLine, name_of, open_bytes, raw_lines, read_blocks
from uertool.text.readers import Line, LineParser
from uertool.text.tables import BadContentError

OnBad = Callable[[BadPlace], None]

#: Blocks of a stream hold one window of lines, later ones several: their shards stay few.
_GROWTH = ((256, 1), (512, 4), (sys.maxsize, 16))


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
        self._offset = 0  # bytes of the current file that were read

    def lines(self, block: Block, on_bad: OnBad) -> Iterator[Line]:
        """The lines in order, numbered through the whole input; header lines are left out.

        Args:
            block: which lines.
            on_bad: called for every line that cannot be read, which is then left out.

        Raises:
            InputError: a file changed since it was counted, or cannot be read any more.
        """
        if block.lines is not None:
            for bad in block.errors:
                on_bad(bad)
            yield from block.lines
            return
        for segment in block.segments:
            source = self._sources[segment.source]
            if source.kind == "whole":
                yield Line(segment.number, source.path)
            elif source.kind == "parquet":
                yield from self._rows(source, segment, on_bad)
            else:
                found = yield from self._text(source, segment, on_bad)
                if found < segment.count:
                    raise InputError(
                        f"{source.path} has fewer lines than it had when it was counted.",
                        "Inputs must not change during a run; run again with `overwrite`.",
                    )

    def place(self, block: Block, number: int, reason: str) -> BadPlace:
        """Where a line of a block is."""
        for segment in block.segments:
            if segment.number <= number < segment.number + segment.count:
                path = name_of(self._sources[segment.source].path)
                return BadPlace(number, path, segment.line + number - segment.number + 1, reason)
        raise ValueError(f"line {number} is not in block {block.index}")

    # -- text -------------------------------------------------------------------------------------

    def _text(
        self, source: Source, segment: Segment, on_bad: OnBad | None
    ) -> Generator[Line, None, int]:
        """Yield the lines of a segment and return how many there were, bad ones included.

        Without `on_bad` the first line that cannot be read raises InputError.
        """
        name = name_of(source.path)
        parser = LineParser(name, self._reading.column, self._reading.field, self._reading.encoding)
        if source.header is not None and segment.line > 0:
            parser.use_header(source.header)
        shift = segment.number - segment.line
        part, parts = self._reading.part or (1, 1)
        found = 0
        for raw in self._raw(source, segment):
            found += 1
            self._offset = raw.offset + len(raw.data)
            header = parser.wants_header
            number = raw.number + shift
            if not header and number % parts != part - 1:
                continue
            try:
                if header:
                    parser.read_header(raw.data)
                    continue
                line = parser.line(number, raw.data, raw.cut)
            except BadContentError as error:
                if on_bad is None or header:
                    raise InputError(
                        f"{name}, line {raw.number + 1} (byte {raw.offset + error.offset}): "
                        f"{error.reason}.",
                        error.hint,
                    ) from None
                on_bad(BadPlace(number, name, raw.number + 1, error.reason))
                continue
            yield line
        if parser.wants_header and segment.count == _ALL:
            raise InputError(f"{name} is empty, so it has no column {self._reading.column!r}.")
        return found

    def _raw(self, source: Source, segment: Segment) -> Iterator[RawLine]:
        """The lines of a segment as bytes, numbered in their file."""
        try:
            if source.kind in ("gzip", "wide"):
                yield from self._raw_of_archive(source, segment)
                return
            first = segment.line - segment.skip
            if segment.count == _ALL and "://" not in source.path:
                with open_bytes(source.path) as opened:  # standard input, pipes and archives too
                    yield from raw_lines(self._blocks(opened, source))
                return
            with open_stream(source.path, "text", segment.start) as stream:
                blocks = self._blocks(stream, source)
                lines = raw_lines(blocks, number=first, offset=segment.start)
                yield from itertools.islice(lines, segment.skip, segment.skip + segment.count)
        except OSError as error:
            raise InputError(
                f"{name_of(source.path)} cannot be read: {reason_of(error)}."
            ) from None

    def _blocks(self, stream: BinaryIO, source: Source) -> Iterator[bytes]:
        return read_blocks(stream, name_of(source.path), encoding=source.encoding)

    def _raw_of_archive(self, source: Source, segment: Segment) -> Iterator[RawLine]:
        at, lines = 0, None
        if self._archive is not None and self._archive[0] == segment.source:
            _, at, lines = self._archive
        if lines is None or at > segment.line:
            stream = open_stream(source.path, source.kind)
            at, lines = 0, raw_lines(self._blocks(stream, source))
        self._archive = None  # unless all goes well its position is unknown
        yield from itertools.islice(lines, segment.line - at, segment.line - at + segment.count)
        self._archive = (segment.source, segment.line + segment.count, lines)

    # -- Parquet ----------------------------------------------------------------------------------

    def _rows(self, source: Source, segment: Segment, on_bad: OnBad) -> Iterator[Line]:
        require_pyarrow("Reading Parquet files")
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
                            reason = f"its column {column!r} is {found}, not text"
                            on_bad(BadPlace(number, source.path, row, reason))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(
                f"{name_of(source.path)} cannot be read: {reason_of(error)}."
            ) from None


_ALL = sys.maxsize


class LineStream(BlockReader):
    """All lines of an input in order, cut into blocks as they come.

    Args:
        sources: files, standard input and pipes; see `stream_sources`.
        reading: how text is taken from them.
        texts: lines instead of files.
        strict: raise for the first line that cannot be read.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        reading: Reading,
        *,
        texts: Sequence[str] | None = None,
        strict: bool = True,
    ) -> None:
        super().__init__(sources, reading)
        self._texts = texts
        self._strict = strict
        self._starts: list[int] = []  # numbers of the first lines of the files so far
        self._end = 0
        self._bytes = 0  # of the files that were read to their end
        known = all(source.kind == "text" and source.size for source in sources)
        self._total = sum(source.size for source in sources) if known else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_texts": None}  # workers get their lines with the blocks

    def place(self, block: Block, number: int, reason: str) -> BadPlace:
        """Where a line of a block is."""
        if not self._sources:
            return BadPlace(number, "the arguments", number + 1, reason)
        return super().place(block, number, reason)

    def identity(self) -> list[Any]:
        """What the input is, so that no other one is continued."""
        if not self._sources:
            return list(self._texts or ())
        return [[source.path, source.size, source.changed] for source in self._sources]

    def summary(self) -> list[dict[str, Any]]:
        """The files with their bytes and lines, when they are read."""
        ends = [*self._starts[1:], self._end]
        return [
            {"path": source.path, "bytes": source.size, "lines": end - start}
            for source, start, end in zip(self._sources, self._starts, ends, strict=False)
        ]

    def blocks(self, window: int, fixed: int | None = None) -> Iterator[Block]:
        """Blocks of whole windows.

        Args:
            window: lines that are processed together.
            fixed: lines of every block, if they are not to grow with the input.
        """
        errors: list[BadPlace] = []
        stream = self._every(None if self._strict else errors.append)
        for index in itertools.count():
            size = fixed or window * next(many for below, many in _GROWTH if index < below)
            lines = tuple(itertools.islice(stream, size))
            if not lines and not errors:
                return
            first = lines[0].number if lines else errors[0].number or 0
            last = lines[-1].number if lines else first
            segments = tuple(self._segments(first, last))
            yield Block(index, first, len(lines), segments, lines, tuple(errors))
            errors.clear()

    def _segments(self, first: int, last: int) -> Iterator[Segment]:
        """Where the lines of these numbers are, file by file."""
        for source, start in enumerate(self._starts):
            end = self._starts[source + 1] if source + 1 < len(self._starts) else last + 1
            low, high = max(first, start), min(last + 1, end)
            if low < high:
                yield Segment(source, 0, 0, high - low, low, low - start)

    def _every(self, on_bad: OnBad | None) -> Iterator[Line]:
        part, parts = self._reading.part or (1, 1)
        for number, text in enumerate(self._texts or ()):
            if number % parts == part - 1:
                yield Line(number, text)
        number = 0
        for index, source in enumerate(self._sources):
            self._starts.append(number)
            if source.kind == "whole":
                yield Line(number, source.path)
                number += 1
                continue
            segment = Segment(index, 0, 0, _ALL, number, 0)
            if source.kind == "parquet":
                for line in self._rows(source, segment, on_bad or _refuse):
                    number = line.number + 1
                    if line.number % parts == part - 1:
                        yield line
            else:
                number += yield from self._text(source, segment, on_bad)
            self._end = number
            self._bytes += source.size
            self._offset = 0

    def share(self) -> float | None:
        """How much of the input was read, from 0 to 1; None if that cannot be known."""
        if not self._total:
            return None
        return min((self._bytes + self._offset) / self._total, 1.0)


def _refuse(bad: BadPlace) -> None:
    raise InputError(f"{bad.file}, line {bad.line}: {bad.reason}.")


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
