"""Counters of the characters or words of text, in arrays."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Codes = NDArray[np.uint32]
    Units = NDArray[np.uint16]
    Places = NDArray[np.int64]

_CODE_POINTS = 0x110000
_PEELS = 32  # blanks at the edge of a line that are taken off one by one


class TokenCounter:
    """Counts the tokens of pieces of text."""

    def breaks_at(self, block: str, normalizes: bool) -> int:
        """Where a block may be cut: 0 where it may not."""
        raise NotImplementedError

    def count(self, text: str, starts: bool, ends: bool) -> None:
        """Count a piece; `starts` and `ends` say whether its edges are edges of a line."""
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """How often each token was seen, in the order of first appearance."""
        raise NotImplementedError


# -- characters -----------------------------------------------------------------------------------


class _CharCounter(TokenCounter):
    """Counts characters as numbers in arrays."""

    def __init__(self) -> None:
        import numpy as np

        self._counts = np.zeros(_CODE_POINTS, dtype=np.int64)
        self._order: list[int] = []

    def breaks_at(self, block: str, normalizes: bool) -> int:
        # After a character that is no blank: a run of blanks stays whole, so that the next piece
        # can tell whether it ends a line.
        cut = len(block.rstrip())
        if not normalizes:
            return cut
        while cut > 1 and not (_is_safe_start(block[cut - 1]) and not block[cut - 2].isspace()):
            cut -= 1
        return max(cut - 1, 0)

    def count(self, text: str, starts: bool, ends: bool) -> None:
        import numpy as np

        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        dropped = _edge_blanks(codes, starts, ends)
        if dropped is not None:
            codes = codes[~dropped]
        if not len(codes):
            return
        found = np.bincount(codes)
        found[ord("\n") : ord("\n") + 1] = 0
        new = np.flatnonzero((found > 0) & (self._counts[: len(found)] == 0))
        if len(new):
            self._order.extend(_by_first_place(codes, new, len(found)))
        self._counts[: len(found)] += found

    def counts(self) -> dict[str, int]:
        return {chr(code): int(self._counts[code]) for code in self._order}


def _is_safe_start(char: str) -> bool:
    """Whether normalization never joins this character to the one before it."""
    return char.isascii() or "\u4e00" <= char <= "\u9fff"


def _by_first_place(codes: Codes, wanted: NDArray[np.int64], limit: int) -> list[int]:
    """The wanted codes in the order in which they first appear."""
    import numpy as np

    if len(wanted) <= 4:
        places = [int((codes == code).argmax()) for code in wanted]
        return [int(wanted[i]) for i in np.argsort(places)]
    first = np.zeros(limit, dtype=np.int64)
    # Of several assignments to one place the last one stays, here the first in the text.
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    ordered: list[int] = wanted[np.argsort(first[wanted], kind="stable")].tolist()
    return ordered


@cache
def _blank_table() -> NDArray[np.bool_]:
    """Which codes are blanks to Python's str.strip, the line end not among them."""
    import numpy as np

    table = np.array([chr(code).isspace() for code in range(0x3001)])
    table[ord("\n")] = False
    return table


def _is_blank(codes: Codes | Units) -> NDArray[np.bool_]:
    import numpy as np

    table = _blank_table()
    last = len(table) - 1
    blank: NDArray[np.bool_] = table[np.minimum(codes, last)] & (codes <= last)
    return blank


def _edge_blanks(codes: Codes | Units, starts: bool, ends: bool) -> NDArray[np.bool_] | None:
    """Marks the blanks at the edges of lines; None where there are none."""
    import numpy as np

    size = len(codes)
    breaks = np.flatnonzero(codes == ord("\n"))
    lefts = np.concatenate(([0] if starts else [], breaks + 1)).astype(np.int64)
    rights = np.concatenate((breaks - 1, [size - 1] if ends else [])).astype(np.int64)
    dropped: NDArray[np.bool_] | None = None
    for edge, step in ((lefts, 1), (rights, -1)):
        for _ in range(_PEELS):
            edge = edge[(edge >= 0) & (edge < size)]
            edge = edge[_is_blank(codes[edge])]
            if not len(edge):
                break
            if dropped is None:
                dropped = np.zeros(size, dtype=np.bool_)
            dropped[edge] = True
            edge = edge + step
        else:
            return _edge_blanks_by_search(codes, breaks, starts, ends)
    return dropped


def _edge_blanks_by_search(
    codes: Codes | Units, breaks: Places, starts: bool, ends: bool
) -> NDArray[np.bool_]:
    """The same for long runs of blanks, in one pass over all characters."""
    import numpy as np

    size = len(codes)
    blank = _is_blank(codes)
    solid = np.flatnonzero(~blank & (codes != ord("\n")))
    lines = len(breaks) + 1
    first = np.full(lines, size, dtype=np.int64)
    last = np.full(lines, -1, dtype=np.int64)
    owner = np.searchsorted(breaks, solid)
    first[owner[::-1]] = solid[::-1]
    last[owner] = solid
    if not starts:
        first[0] = 0
    if not ends:
        last[-1] = size
    places = np.flatnonzero(blank)
    line = np.searchsorted(breaks, places)
    dropped = np.zeros(size, dtype=np.bool_)
    dropped[places[(places < first[line]) | (places > last[line])]] = True
    return dropped


# -- words ----------------------------------------------------------------------------------------

_SHORT = 8  # UTF-16 units of a word that fits into two numbers of 64 bits
_TABLE_BITS = 21
_WORDS = 1 << 15  # that are looked up at a time: their arrays stay in the caches


class _WordCounter(TokenCounter):
    """Counts the words between blanks; empty words do not count.

    A short word is two numbers, its UTF-16 units, which are looked up in a hash table for many
    words at a time. Only words that are new or long, or whose place in the table is taken, become
    objects of Python.
    """

    def __init__(self) -> None:
        import numpy as np

        #: Words in UTF-16 -> their numbers from 1 on, in the order of their first appearance.
        self._numbers: dict[bytes, int] = {}
        self._counts = np.zeros(1, dtype=np.int64)
        #: Hash -> number, 0 where there is none.
        self._table = np.zeros(1 << _TABLE_BITS, dtype=np.int32)
        #: Units 0 to 3 and 4 to 7 of words by number. No word has those of number 0.
        self._units = np.array([[0], [1]], dtype=np.uint64)

    def breaks_at(self, block: str, normalizes: bool) -> int:
        # After a line end; in a line longer than a block after a space that has words on both
        # sides. Both are ASCII, so normalization does not change them.
        cut = block.rfind("\n") + 1
        if cut == 0:
            cut = block.rfind(" ", 0, len(block.rstrip())) + 1
            if not block[:cut].strip():
                return 0
        return cut

    def count(self, text: str, starts: bool, ends: bool) -> None:
        # Only spaces and line ends separate words. Other blanks are stripped from lines and
        # stay within words.
        import numpy as np

        units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
        gaps = _gaps(units)
        if gaps is None:
            dropped = _edge_blanks(units, starts, ends)
            units = units if dropped is None else units[~dropped]
            gaps = np.flatnonzero((units == ord(" ")) | (units == ord("\n")))
        edges = np.concatenate(([-1], gaps, [len(units)]))
        padded = np.concatenate((units, np.zeros(_SHORT, dtype="<u2")))
        data = padded.tobytes()
        # Zeros fill up short words, so words of text with zeros are treated as long ones.
        most = _SHORT if units.all() else 0
        start, many = 0, _WORDS >> 4  # few at first: all of these words are new
        while start < len(edges) - 1:
            part = edges[start : start + many + 1]
            start, many = start + many, min(2 * many, _WORDS)
            begins = part[:-1] + 1
            sizes = part[1:] - begins
            if not sizes.all():
                begins, sizes = begins[sizes > 0], sizes[sizes > 0]
            if len(sizes):
                self._count_words(padded, data, begins, sizes, most)

    def _count_words(
        self, padded: Units, data: bytes, begins: Places, sizes: Places, most: int
    ) -> None:
        """Count words of `padded` and `data`, of which those up to `most` units are short."""
        import numpy as np

        start = int(begins[0])
        fours = int(begins[-1]) - start + 5
        # Four units from every unit on, as one number.
        view = np.ndarray(fours, "<u8", padded.data, offset=2 * start, strides=(2,))
        keys = np.ascontiguousarray(view)
        masks, at = _masks(most), begins - start
        fill = np.minimum(sizes, _SHORT + 1)
        first = keys.take(at) & masks[0].take(fill)
        second = keys.take(at + 4) & masks[1].take(fill)
        # Multiplicative hashing (Knuth, The Art of Computer Programming, section 6.4).
        mixed = first * np.uint64(0x9E3779B97F4A7C15) + second * np.uint64(0xC2B2AE3D27D4EB4F)
        slots = (mixed >> np.uint64(64 - _TABLE_BITS)).view(np.int64)
        numbers = self._table.take(slots)
        differ = self._units[0].take(numbers) != first
        differ |= self._units[1].take(numbers) != second
        others = np.flatnonzero(differ)
        if len(others):
            numbers[others] = self._numbered(data, begins[others], sizes[others])
            free = (sizes[others] <= most) & (self._table.take(slots[others]) == 0)
            new = others[free]
            self._units[:, numbers[new]] = first[new], second[new]
            self._table[slots[new]] = numbers[new]
        found = np.bincount(numbers)
        self._counts[: len(found)] += found

    def _numbered(self, data: bytes, begins: Places, sizes: Places) -> list[int]:
        """The numbers of words, which new ones get here."""
        import numpy as np

        known = self._numbers
        bounds = zip((2 * begins).tolist(), (2 * (begins + sizes)).tolist(), strict=True)
        found = [known.setdefault(data[start:end], len(known) + 1) for start, end in bounds]
        lack = len(known) + 1 - len(self._counts)
        if lack > 0:
            room = ((0, 0), (0, lack + len(known)))
            self._units = np.pad(self._units, room)
            self._counts = np.pad(self._counts, room[1])
        return found

    def counts(self) -> dict[str, int]:
        # No word holds a line end.
        words = b"\n\0".join(self._numbers).decode("utf-16-le", "surrogatepass").split("\n")
        counts = self._counts[1:].tolist()
        return dict(zip(words, counts, strict=False)) if self._numbers else {}


def _gaps(units: Units) -> Places | None:
    """Where spaces and line ends are; None if there are other blanks, too."""
    import numpy as np

    low, high = np.uint16(0x80), np.uint16(0x3000 - 0x80)  # few characters are in between
    places = np.flatnonzero((units <= ord(" ")) | (units - low <= high))
    found = units.take(places)
    gaps = (found == ord(" ")) | (found == ord("\n"))
    return None if (_is_blank(found) & ~gaps).any() else places[gaps]


@cache
def _masks(most: int) -> NDArray[np.uint64]:
    """What is left of the units 0 to 3, and 4 to 7, of a word by its size [2, sizes].

    Words of more than `most` units become zeros.
    """
    import numpy as np

    bits = [
        [16 * min(max(size - start, 0), 4) * (size <= most) for size in range(_SHORT + 2)]
        for start in (0, 4)
    ]
    return np.array([[(1 << count) - 1 for count in row] for row in bits], dtype=np.uint64)


COUNTERS: dict[str, type[TokenCounter]] = {"char": _CharCounter, "space": _WordCounter}
