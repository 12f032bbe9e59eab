"""Tallies of the characters or words of text, and how text is cut into pieces for them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uertool.io.encodings import UTF8, encoding_named
from uertool.tasks.vocab.counters import COUNTERS

Delimiter = Literal["char", "space"]
Normalization = Literal["NFC", "NFKC"]


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
    counter = COUNTERS[counting.delimiter]()
    counter.count(_normalized(text, counting.normalization), True, True)
    return Tally(counter.counts())


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
