"""Counters of words compared with a plain loop: long words, zeros, taken places of the table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uertool.tasks.vocab import counters
from uertool.tasks.vocab.counters import COUNTERS

words = st.text(st.sampled_from("ab天气😀\0\x01\uffff"), min_size=1, max_size=12)
lines = st.lists(st.lists(words, max_size=6).map(" ".join), max_size=8)


def plain(texts: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        for word in text.replace("\n", " ").split(" "):
            if word:
                found[word] = found.get(word, 0) + 1
    return found


@pytest.mark.parametrize("bits", [1, 4, 12])
@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(lines.map("\n".join), max_size=4))
def test_words_are_counted_in_their_order_whatever_the_size_of_the_table(
    bits: int, pieces: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "_TABLE_BITS", bits)
        patch.setattr(counters, "_WORDS", 32)
        counter = COUNTERS["space"]()
        for piece in pieces:
            counter.count(piece, True, True)
    assert list(counter.counts().items()) == list(plain(pieces).items())


def test_words_that_differ_in_length_only_are_not_one() -> None:
    counter = COUNTERS["space"]()
    sizes = range(1, 20)
    counter.count(" ".join("a" * size for size in sizes) + " " + "a" * 8, True, True)
    assert counter.counts() == {"a" * size: 2 if size == 8 else 1 for size in sizes}
