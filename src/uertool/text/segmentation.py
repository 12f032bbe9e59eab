"""Chinese words: a user's own, the longest first, and between them those of a segmentation.

The segmentation is jieba's (the library rjieba), with its dictionary and its hidden Markov model
for words that are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from importlib import metadata

_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")


def segmenter() -> str:
    """The library that segments and its version: another one may find other words."""
    return f"rjieba {metadata.version('rjieba')}"


def chinese_words(
    texts: Sequence[str], entries: Collection[str], longest: int, *, segment: bool = True
) -> list[range]:
    """Neighbouring pieces of a text that are a word together.

    Args:
        texts: the text in pieces, such as characters; a word ends where a piece ends.
        entries: words of the user's own.
        longest: the most characters of an entry.
        segment: whether there are other words than entries.

    Returns:
        Ranges of places in `texts`, all of them in order.
    """

    def others(places: range) -> Iterator[range]:
        return _segmented(texts, places) if segment else (range(n, n + 1) for n in places)

    found: list[range] = []
    start = 0  # of the pieces that belong to no entry
    place = 0
    while place < len(texts):
        end = _entry_end(texts, place, entries, longest) if longest else place
        if end > place:
            found.extend(others(range(start, place)))
            found.append(range(place, end))
            start = end
        place = max(end, place + 1)
    found.extend(others(range(start, len(texts))))
    return found


def _entry_end(texts: Sequence[str], start: int, entries: Collection[str], longest: int) -> int:
    """The end of the longest entry that starts at a piece; `start` if there is none."""
    best = start
    text = ""
    for place in range(start, len(texts)):
        text += texts[place]
        if len(text) > longest:
            break
        if text in entries:
            best = place + 1
    return best


def _segmented(texts: Sequence[str], places: range) -> Iterator[range]:
    """The words among pieces without an entry; what is not Chinese is a word of its own."""
    start = places.start
    while start < places.stop:
        end = start
        while end < places.stop and _CHINESE.fullmatch(texts[end]):
            end += 1
        if end == start:
            yield range(start, start + 1)
            start += 1
        else:
            yield from _cut(texts, range(start, end))
            start = end


def _cut(texts: Sequence[str], places: range) -> Iterator[range]:
    """The words of Chinese pieces; a piece of several words joins these."""
    import rjieba

    ends = set()
    at = 0
    for word in rjieba.cut("".join(texts[place] for place in places)):
        at += len(word)
        ends.add(at)
    start, at = places.start, 0
    for place in places:
        at += len(texts[place])
        if at in ends:
            yield range(start, place + 1)
            start = place + 1
