"""Writing systems of words."""

from __future__ import annotations

import functools
import unicodedata


def scripts_of(word: str) -> frozenset[str]:
    """The scripts of the letters of a word, with "digit" for digits and "symbol" for all else.

    Source: the first word of a letter's Unicode name, such as CJK, LATIN or HIRAGANA.
    """
    return frozenset(map(_script, word))


@functools.lru_cache(1 << 16)
def _script(char: str) -> str:
    category = unicodedata.category(char)
    if category.startswith("N"):
        return "digit"
    if not category.startswith(("L", "M")):
        return "symbol"
    words = unicodedata.name(char, "symbol").split()
    return words[1] if words[0] in ("FULLWIDTH", "HALFWIDTH") and len(words) > 1 else words[0]
