"""Chinese words: every piece is in one of them, a user's own come first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uertool.text.segmentation import chinese_words, segmenter

PIECES = st.lists(
    st.sampled_from("今天气很好北京大学，aX") | st.sampled_from(["今天", "北京", "##x"])
)


@settings(deadline=None)  # the dictionary is loaded by the first one
@given(texts=PIECES, entries=st.frozensets(st.sampled_from(["今天", "天气很", "好北", "a今"])))
def test_the_words_are_the_pieces_in_their_order(texts: list[str], entries: frozenset[str]) -> None:
    longest = max(map(len, entries), default=0)
    for segment in (True, False):
        words = chinese_words(texts, entries, longest, segment=segment)
        assert [place for word in words for place in word] == list(range(len(texts)))
        assert all(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("这家酒店的服务不错", "这家 酒店 的 服务 不错"),
        ("我在北京大学读书，你呢abc", "我 在 北京大学 读书 ， 你 呢 a b c"),
        ("", ""),
    ],
)
def test_chinese_is_segmented_and_the_rest_stays_single(text: str, words: str) -> None:
    found = chinese_words(text, (), 0)
    assert [text[word.start : word.stop] for word in found] == words.split()


def test_a_piece_of_several_words_joins_them() -> None:
    assert chinese_words(["我在北", "京大学", "读书"], (), 0) == [range(0, 2), range(2, 3)]


def test_the_segmenter_is_named_with_its_version() -> None:
    assert segmenter().startswith("rjieba ")
