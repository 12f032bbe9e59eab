"""Counting the characters or words of a corpus, in blocks and by several processes.

The counts, and the order in which tokens first appear, do not depend on the number of processes:
files are cut into ranges of whole lines, and the ranges are added up in their order.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uertool.engine.inputs.blocks import Block, line_start
from uertool.engine.inputs.reading import LineStream
from uertool.engine.inputs.sources import Reading
from uertool.engine.order import Order, Watch
from uertool.engine.run import gather
from uertool.engine.work import Event, Finished, Progress, Tasks
from uertool.errors import InputError, SettingError, UsageError
from uertool.io.encodings import (
    UTF8,
    encoding_by_mark,
    encoding_hint,
    has_byte_lines,
    line_encoding,
)
from uertool.io.line_bytes import name_of, open_bytes, read_blocks
from uertool.tasks.vocab.counters import COUNTERS, TokenCounter
from uertool.tasks.vocab.tallies import (
    Counting,
    Tally,
    count_text,
    whole_pieces,
)
from uertool.text.readers import read_lines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uertool.engine.storage.shards import Shards

    Codes = NDArray[np.uint32]

_BLOCK = 8 << 20  # bytes read at a time
_RANGE = 64 << 20  # most bytes of a file that one process counts at a time
_GZIP_MAGIC = b"\x1f\x8b"


def corpus_files(paths: Iterable[str | Path]) -> list[str | Path]:
    """The files of a corpus in order: paths as given, folders with all their files in name order.

    Hidden files, and partial files of a run that writes, are left out of folders. "-" is standard
    input.

    Raises:
        InputError: a path is missing, or a folder holds no file.
        UsageError: there are no paths, or standard input is named twice.
    """
    found: list[str | Path] = []
    for path in paths:
        if str(path) == "-":
            found.append("-")
            continue
        path = Path(path)
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"The corpus {path} does not exist.", "Check the path.")
            found.append(path)
            continue
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.suffix != ".partial"
        ]
        if not inside:
            raise InputError(f"The corpus folder {path} holds no files.")
        found.extend(inside)
    if not found:
        raise UsageError("No corpus was given.", "Name files or folders, or - for standard input.")
    if sum(str(path) == "-" for path in found) > 1:
        raise UsageError("Standard input (-) can be read only once.")
    return found


def total_bytes(files: Iterable[str | Path]) -> int | None:
    """The size of the files as they lie on the disk; None where standard input is among them."""
    sizes = [None if str(path) == "-" else Path(path).stat().st_size for path in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def count_corpus(
    files: Sequence[str | Path],
    counting: Counting,
    *,
    workers: int = 1,
    on_bytes: Callable[[int], None] | None = None,
    max_types: int | None = None,
) -> Tally:
    """Count the tokens of files, in the order of `corpus_files`.

    Memory holds the tokens that were seen and some blocks, not the corpus.

    Args:
        files: paths, or "-".
        counting: what is a token.
        workers: processes; 1 counts in this one.
        on_bytes: called with how many more bytes (on the disk) are done.
        max_types: see `tally_of`.

    Raises:
        InputError: a file cannot be read or is not UTF-8 text (line and byte are named), or there
            are too many distinct tokens.
        UsageError: there is less than one worker.
    """
    if workers < 1:
        raise SettingError("workers_num", workers, "must be at least 1")
    stream = CorpusStream(files, counting)
    order = Order(
        TallyWork(counting=counting),
        "-",
        stream=stream,
        devices=[None] * stream.workers(workers),
        strict=True,
        joins=False,
    )
    with gather(order, Watch(lines=on_bytes or (lambda _: None))) as found:
        return tally_of(found.shards, max_types)


# -- on the engine --------------------------------------------------------------------------------

#: Lines of a block that a worker on a cluster reads.
_BLOCK_LINES = 1 << 19
#: Characters of lines that are counted together.
_TEXT = 4 << 20


@dataclass(frozen=True)
class TallyWork:
    """Counts the tokens of blocks: of lines, or of what `CorpusStream` cuts.

    Attributes:
        counting: what is a token.
        name, suffix, window, block_lines, in_hand: see `uertool.engine.work.Work`.
    """

    counting: Counting = field(default_factory=lambda: Counting("char"))
    name: str = "vocab build"
    suffix: str = ".tally"
    window: int = 1
    block_lines: int | None = _BLOCK_LINES
    in_hand: int = 2
    notices: Sequence[str] = ()
    details: Sequence[str] = ()

    def open(self, device: object) -> TallyWork:
        """There is no model to load."""
        del device
        return self

    def run(self, tasks: Tasks) -> Iterator[Event]:
        """Count blocks."""
        for task in tasks:
            tally = Tally()
            for done, part in _parts(task.lines, self.counting):
                if part is not None:
                    tally = _added(tally, part)
                yield Progress(task.index, done)
            tally.save(task.path)
            yield Finished(task.index, {"rows": len(tally.counts), "tokens": tally.total})


def _added(tally: Tally, part: Tally) -> Tally:
    if not tally.counts:
        return part
    tally.add(part)
    return tally


def _parts(lines: Iterable[Any], counting: Counting) -> Iterator[tuple[int, Tally | None]]:
    """Tallies of the parts of a block, and how many more lines (or bytes) are done."""
    held: list[str] = []
    size = 0
    for item in lines:
        if isinstance(item, _Range):
            yield from _count_range(item, counting)
        elif isinstance(item, _Piece):
            counter: TokenCounter = COUNTERS[counting.delimiter]()
            counter.count(item.text, item.starts, item.ends)
            yield len(item.text), Tally(counter.counts())
        else:
            held.append(item.text)
            size += len(item.text) + 1
            if size >= _TEXT:
                yield len(held), count_text("\n".join(held), counting)
                held, size = [], 0
    if held:
        yield len(held), count_text("\n".join(held), counting)


class CorpusStream(LineStream):
    """A corpus in blocks of bytes, which workers read by themselves; standard input in pieces.

    Args:
        files: see `corpus_files`.
        counting: what is a token: none is cut in two.
    """

    def __init__(self, files: Sequence[str | Path], counting: Counting) -> None:
        super().__init__([], Reading())
        self._files = list(files)
        self._counting = counting

    def workers(self, most: int) -> int:
        """How many of at most so many workers have something to do."""
        encoding = self._counting.encoding
        pieces = sum(
            most if str(path) == "-" else sum(1 for _ in _ranges(path, encoding))
            for path in self._files
        )
        return max(1, min(most, pieces))

    def identity(self) -> list[Any]:
        """Names, sizes and times of the files."""
        found: list[Any] = []
        for path in self._files:
            state = None if str(path) == "-" else Path(path).stat()
            found.append([str(path), *((state.st_size, state.st_mtime_ns) if state else ())])
        return found

    def summary(self) -> list[dict[str, Any]]:
        """The files."""
        return [{"path": str(path)} for path in self._files]

    def blocks(self, window: int, fixed: int | None = None) -> Iterator[Block]:
        """A block for each range of a file."""
        del window, fixed
        for index, item in enumerate(self._items()):
            size = item.size if isinstance(item, _Range) else len(item.text)
            yield Block(index, 0, size, lines=(item,))  # type: ignore[arg-type]

    def _items(self) -> Iterator[_Range | _Piece]:
        for path in self._files:
            if str(path) != "-":
                yield from _ranges(path, self._counting.encoding)
                continue
            counter = COUNTERS[self._counting.delimiter]()
            blocks = _blocks(_Range("-", 0, 0, 0), self._counting.encoding, None)
            form = self._counting.normalization
            for piece in whole_pieces(blocks, counter.breaks_at, form):
                yield _Piece(*piece)


def tally_of(shards: Shards, max_types: int | None = None) -> Tally:
    """The tallies of all blocks, added up in their order.

    Args:
        shards: of `TallyWork`.
        max_types: most distinct tokens; their number decides how much memory is needed.

    Raises:
        InputError: there are more.
    """
    tally = Tally()
    for entry in shards.files():
        with shards.file(entry) as path:
            tally = _added(tally, Tally.load(path))
        if max_types is not None and len(tally.counts) > max_types:
            raise InputError(
                f"The corpus has more than {max_types:,} distinct tokens (see `max_types`).",
                "Count characters instead of words, normalize or clean the text, or raise the "
                "limit if there is memory for it.",
            )
    return tally


# -- ranges ---------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Text of a stream: whether it starts a line, and whether it ends one."""

    text: str
    starts: bool
    ends: bool


@dataclass(frozen=True)
class _Range:
    """The lines of a file that start within bytes [start, end); all of a stream where end is 0."""

    path: str
    start: int
    end: int
    size: int


def _ranges(path: str | Path, encoding: str) -> Iterator[_Range]:
    if str(path) == "-":
        yield _Range("-", 0, 0, 0)
        return
    path = Path(path)
    try:
        size = path.stat().st_size
        whole = not path.is_file()  # a pipe is read once, from its start
        if not whole:
            with path.open("rb") as stream:
                first = stream.read(4)
            whole = first.startswith(_GZIP_MAGIC) or not has_byte_lines(
                encoding_by_mark(first) or encoding
            )
    except OSError as error:
        raise InputError(f"The corpus {path} cannot be read: {error.strerror}.") from None
    if whole:
        yield _Range(str(path), 0, 0, size)
        return
    count = -(-size // _RANGE)
    edges = [size * part // count for part in range(count + 1)] if count else []
    for start, end in pairwise(edges):  # of about equal sizes, so that processes end together
        yield _Range(str(path), start, end, end - start)


def _count_range(piece: _Range, counting: Counting) -> Iterator[tuple[int, Tally | None]]:
    """Bytes as they are done, and at last the tally."""
    done: list[int] = []
    counter: TokenCounter = COUNTERS[counting.delimiter]()
    blocks = _blocks(piece, counting.encoding, done.append)
    for text, starts, ends in whole_pieces(blocks, counter.breaks_at, counting.normalization):
        counter.count(text, starts, ends)
        yield sum(done), None
        done.clear()
    yield sum(done), Tally(counter.counts())


def _blocks(piece: _Range, encoding: str, report: Callable[[int], None] | None) -> Iterator[str]:
    """The text of a range in blocks, with every line end written as a line feed."""
    lines_encoding = line_encoding(encoding)
    if lines_encoding == UTF8 and piece.start == 0:
        lines_encoding = "utf-8-sig"
    decoder = codecs.getincrementaldecoder(lines_encoding)("strict")
    held = ""  # a carriage return, which may be the first half of a line end
    lines = 0
    for block in _byte_blocks(piece, encoding, report):
        try:
            text = held + decoder.decode(block)
        except UnicodeDecodeError as error:
            raise _bad_bytes(piece, encoding, lines, error) from None
        held = ""
        if "\r" in text:  # io.IncrementalNewlineDecoder does the same, but takes longer without
            held = "\r" if text.endswith("\r") else ""
            text = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        lines += text.count("\n") if piece.path == "-" else 0
        yield text
    try:
        yield held.replace("\r", "\n") + decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _bad_bytes(piece, encoding, lines, error) from None


def _byte_blocks(
    piece: _Range, encoding: str, report: Callable[[int], None] | None
) -> Iterator[bytes]:
    with open_bytes(piece.path) as stream:
        if piece.end == 0:
            yield from read_blocks(stream, name_of(piece.path), report, encoding=encoding)
            return
        start, end = line_start(stream, piece.start), line_start(stream, piece.end)
        stream.seek(start)
        done = piece.start
        while start < end:
            block = stream.read(min(_BLOCK, end - start))
            if not block:
                break
            start += len(block)
            yield block
            if report is not None:
                report(min(start, piece.end) - min(done, piece.end))
                done = start
        if report is not None:
            report(max(0, piece.end - done))


def _bad_bytes(piece: _Range, encoding: str, lines: int, error: UnicodeDecodeError) -> InputError:
    if piece.path == "-":
        line = lines + error.object.count(b"\n", 0, error.start) + 1
        return InputError(
            f"standard input, line {line}: invalid {encoding.upper()}, "
            f"0x{error.object[error.start]:02x}.",
            encoding_hint("-", error.object),
        )
    try:
        for _ in read_lines(piece.path, encoding=encoding):
            pass
    except InputError as located:
        return located
    return InputError(f"{piece.path} is not {encoding.upper()} text.")
