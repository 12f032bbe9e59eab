"""Counting the characters or words of text, piece by piece."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from uertool.io.encodings import UTF8, encoding_named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Codes = NDArray[np.uint32]

Delimiter = Literal["char", "space"]
Normalization = Literal["NFC", "NFKC"]
NORMALIZATIONS: tuple[str, ...] = ("NFC", "NFKC")

_CODE_POINTS = 0x110000
_PEELS = 32  # blanks at the edge of a line that are taken off one by one


@dataclass(frozen=True)
class Counting:
    """What to count and how.

    Attributes:
        delimiter: "char" counts every character of a line, "space" the words between blanks. As
            UER-py's tokenizers do, both cut off the blanks around a line first.
        normalization: a Unicode normal form to bring the text into before, or None.
        encoding: of the text.
    """

    delimiter: Delimiter
    normalization: Normalization | None = None
    encoding: str = UTF8

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoding", encoding_named(self.encoding))


@dataclass
class Tally:
    """How often each token was seen, in the order of first appearance."""

    counts: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of tokens seen."""
        return sum(self.counts.values())

    def add(self, other: Tally) -> None:
        """Add the counts of text that comes after what was counted so far."""
        counts = self.counts
        for token, count in other.counts.items():
            counts[token] = counts.get(token, 0) + count

    def save(self, path: Path) -> None:
        """Write a file for `load`: how many tokens, their counts, and the tokens as lines."""
        import numpy as np

        numbers = np.fromiter(self.counts.values(), dtype="<i8", count=len(self.counts))
        with open(path, "wb") as stream:
            stream.write(np.array([len(self.counts)], dtype="<i8").tobytes())
            stream.write(numbers.tobytes())
            stream.write("\n".join(self.counts).encode("utf-8", "surrogatepass"))

    @classmethod
    def load(cls, path: Path) -> Tally:
        """Read what `save` wrote."""
        import numpy as np

        data = path.read_bytes()
        size = int(np.frombuffer(data, "<i8", 1)[0])
        counts = np.frombuffer(data, "<i8", size, offset=8).tolist()
        tokens = data[8 + 8 * size :].decode("utf-8", "surrogatepass").split("\n")
        return cls(dict(zip(tokens[:size], counts, strict=True)))

    def ranked(self) -> list[tuple[str, int]]:
        """Tokens and counts in descending order of counts, ties by first occurrence."""
        return sorted(self.counts.items(), key=lambda item: -item[1])


def count_text(text: str, counting: Counting) -> Tally:
    """Count the tokens of whole lines, with a line feed between two of them."""
    counter: TokenCounter = COUNTERS[counting.delimiter]()
    counter.count(_normalized(text, counting.normalization), True, True)
    return counter.tally()


# -- pieces ---------------------------------------------------------------------------------------


def whole_pieces(
    blocks: Iterable[str],
    breaks_at: Callable[[str, bool], int],
    normalization: Normalization | None,
) -> Iterator[tuple[str, bool, bool]]:
    """Blocks cut again where no token and no run of blanks is torn.

    What is behind the cut goes before the next block. Yields the text, whether it starts a line,
    and whether it ends one.
    """
    held: list[str] = []
    starts = True
    for block in blocks:
        cut = breaks_at(block, normalization is not None)
        if cut == 0:
            held.append(block)
            continue
        text = "".join([*held, block[:cut]])
        held = [block[cut:]]
        yield _normalized(text, normalization), starts, False
        starts = text.endswith("\n")
    text = "".join(held)
    if text:
        yield _normalized(text, normalization), starts, True


def _normalized(text: str, form: Normalization | None) -> str:
    return text if form is None else unicodedata.normalize(form, text)


def _is_safe_start(char: str) -> bool:
    """Whether normalization never joins this character to the one before it."""
    return char.isascii() or "\u4e00" <= char <= "\u9fff"


class TokenCounter:
    """Counts the tokens of pieces of text."""

    def breaks_at(self, block: str, normalizes: bool) -> int:
        """Where a block may be cut: 0 where it may not."""
        raise NotImplementedError

    def count(self, text: str, starts: bool, ends: bool) -> None:
        """Count a piece; `starts` and `ends` say whether its edges are edges of a line."""
        raise NotImplementedError

    def tally(self) -> Tally:
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

    def tally(self) -> Tally:
        return Tally({chr(code): int(self._counts[code]) for code in self._order})


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


def _is_blank(codes: Codes) -> NDArray[np.bool_]:
    import numpy as np

    table = _blank_table()
    last = len(table) - 1
    blank: NDArray[np.bool_] = table[np.minimum(codes, last)] & (codes <= last)
    return blank


def _edge_blanks(codes: Codes, starts: bool, ends: bool) -> NDArray[np.bool_] | None:
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
    codes: Codes, breaks: NDArray[np.int64], starts: bool, ends: bool
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


class _WordCounter(TokenCounter):
    """Counts the words between blanks; empty words do not count."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()

    def breaks_at(self, block: str, normalizes: bool) -> int:
        # After a line end; in a line longer than a block after a space that has words on both
        # sides. Both are ASCII, so normalization does not mind.
        cut = block.rfind("\n") + 1
        if cut == 0:
            cut = block.rfind(" ", 0, len(block.rstrip())) + 1
            if not block[:cut].strip():
                return 0
        return cut

    def count(self, text: str, starts: bool, ends: bool) -> None:
        # Only spaces and line ends part words. Other blanks, which are rare, are taken off the
        # edges of lines and stay within words. `bytes.split` is the fast way, and knows of these
        # blanks only the ASCII ones.
        if any(blank in text for blank in _OTHER_BLANKS):
            text = _without_edges(text, starts, ends)
        data = text.encode("utf-8")
        if any(blank in data for blank in (b"\t", b"\v", b"\f")):
            self._counts.update(filter(None, data.replace(b"\n", b" ").split(b" ")))
        else:
            self._counts.update(data.split())

    def tally(self) -> Tally:
        return Tally({word.decode("utf-8"): count for word, count in self._counts.items()})


_OTHER_BLANKS = tuple(
    chr(code) for code in range(0x3001) if chr(code).isspace() and chr(code) not in " \n"
)


def _without_edges(text: str, starts: bool, ends: bool) -> str:
    """The text with the blanks at the edges of its lines taken off."""
    first, *rest = text.split("\n")
    if not rest:
        first = first.lstrip() if starts else first
        return first.rstrip() if ends else first
    last = rest.pop()
    first = first.strip() if starts else first.rstrip()
    last = last.strip() if ends else last.lstrip()
    return "\n".join([first, *map(str.strip, rest), last])


COUNTERS: dict[str, type[TokenCounter]] = {"char": _CharCounter, "space": _WordCounter}
