"""Word vectors as word2vec writes them: text with or without a heading, or binary."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from uertool.errors import InputError
from uertool.text.readers import open_bytes, read_blocks

_LONGEST_LINE = 1 << 22
_LONGEST_WORD = 1 << 12


def read_word_vectors(path: str | Path) -> Iterator[tuple[str, Sequence[float]]]:
    """Stream the words of a word2vec file with their vectors, gzip or not.

    A first line of two whole numbers is a heading ("rows dims"). A file with a heading whose
    rows are no text is binary: a word, a blank, float32 values in the byte order of Intel.

    Raises:
        InputError: the file is missing, or a line has another number of values than the first.
    """
    with open_bytes(path) as opened:
        stream = _Blocks(read_blocks(opened, str(path)))
        first = stream.readline(_LONGEST_LINE)
        head = first.split()
        if len(head) == 2 and all(part.isdigit() for part in head):
            count, size = int(head[0]), int(head[1])
            if size == 0 or size > _LONGEST_LINE // 4:
                raise InputError(f"{path} is no word2vec file: its heading says {size} values.")
            peeked = stream.readline(_LONGEST_LINE)
            if _is_text(peeked, size):
                yield from _text(path, stream, peeked, size, 2)
            elif peeked:
                yield from _binary(path, stream, peeked, count, size)
            return
        yield from _text(path, stream, first, None, 1)


class _Blocks:
    """Blocks of bytes, read by lines or by size."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none only at the end."""
        if not self._held:
            self._held = next(self._blocks, b"")
        found, self._held = self._held[:size], self._held[size:]
        return found

    def readline(self, limit: int) -> bytes:
        """A line with its end, or `limit` bytes of a longer one."""
        while (end := self._held.find(b"\n", 0, limit)) < 0 and len(self._held) < limit:
            more = next(self._blocks, b"")
            if not more:
                break
            self._held += more
        size = end + 1 if end >= 0 else min(limit, len(self._held))
        found, self._held = self._held[:size], self._held[size:]
        return found


def _is_text(line: bytes, size: int) -> bool:
    try:
        parts = line.decode("utf-8").split()
        return len(parts) > size and all(float(part) is not None for part in parts[-size:])
    except ValueError:
        return False


def _text(
    path: str | Path, stream: _Blocks, line: bytes, size: int | None, number: int
) -> Iterator[tuple[str, Sequence[float]]]:
    while line:
        if line.strip():
            parts = line.decode("utf-8", "replace").rstrip().split(" ")
            size = size or len(parts) - 1
            try:
                values = [float(part) for part in parts[-size:]]
                good = size > 0 and len(parts) > size
            except ValueError:
                good = False
            if not good:
                raise InputError(
                    f"{path}, line {number}: a word and {size} numbers are expected.",
                    "A word2vec text file has a word and its vector on every line.",
                )
            yield " ".join(parts[:-size]), values
        line = stream.readline(_LONGEST_LINE)
        number += 1


def _binary(
    path: str | Path, stream: _Blocks, start: bytes, count: int, size: int
) -> Iterator[tuple[str, Sequence[float]]]:
    held = start
    need = 4 * size
    for number in range(count):
        held = held.lstrip(b"\n")
        while (blank := held.find(b" ")) < 0 or len(held) < blank + 1 + need:
            more = stream.read(1 << 16)
            if not more or (blank < 0 and len(held) > _LONGEST_WORD):
                raise InputError(
                    f"{path} is truncated or no word2vec file: word {number + 1} of {count} "
                    "is not there."
                )
            held = (held + more).lstrip(b"\n")
        word = held[:blank].decode("utf-8", "replace")
        values = struct.unpack(f"<{size}f", held[blank + 1 : blank + 1 + need])
        held = held[blank + 1 + need :]
        yield word, values
