"""Scripts of words."""

from __future__ import annotations

import pytest

from uertool.text.scripts import scripts_of


@pytest.mark.parametrize(
    ("word", "scripts"),
    [
        ("天气", {"CJK"}),
        ("iPhone12", {"LATIN", "digit"}),
        ("ＯＫ", {"LATIN"}),
        ("カメラの", {"KATAKANA", "HIRAGANA"}),
        ("한국", {"HANGUL"}),
        ("мир", {"CYRILLIC"}),
        ("，", {"symbol"}),
        ("３", {"digit"}),
        ("", set()),
    ],
)
def test_the_scripts_of_a_word(word: str, scripts: set[str]) -> None:
    assert scripts_of(word) == scripts
