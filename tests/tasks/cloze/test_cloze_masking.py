"""What is masked: never a special token, the same for a seed, and only what the rule says."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import FIXTURES, MODELS, TEXT
from uertool.errors import UsageError, VocabError
from uertool.tasks.cloze.masking import Masked, Masker, words_of
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.factory import make_tokenizer
from uertool.text.tokenizers.sentencepiece import XlmRobertaTokenizer

VOCAB = MODELS / "zh-mlm-small" / "vocab.txt"
BERT = make_tokenizer("bert", vocab_path=VOCAB)

LINES = [
    "今天天气很好，我们去公园。",
    "The weather is nice, playing outside.",
    "我用iPhone拍了2004年的照片",
    "好",
]


def mask(
    text: str,
    rule: ClozeSettings | None = None,
    *,
    number: int = 0,
    most: int = 128,
    tokenizer: Tokenizer = BERT,
    variant: int = 0,
) -> Masked:
    masker = Masker(tokenizer, rule or ClozeSettings(), most)
    return masker.mask(number, masker.encode([text])[0], variant)


def unmasked(masked: Masked) -> list[int | None]:
    """The ids with what stood in the place of the masks."""
    ids: list[int | None] = list(masked.ids)
    for place, label in zip(masked.positions, masked.labels, strict=True):
        ids[place] = label
    return ids


WHOLE = ClozeSettings(whole_word=True)


# -- one at random --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    text=st.text("今天气很好，。 abcplayiPhone123😀晔", max_size=40),
    seed=st.integers(-5, 1000),
    ratio=st.none() | st.floats(0.01, 1.0),
    whole=st.booleans(),
    most=st.integers(2, 24),
)
def test_neither_special_tokens_nor_padding_are_masked(
    text: str, seed: int, ratio: float | None, whole: bool, most: int
) -> None:
    masked = mask(text, ClozeSettings(mask_ratio=ratio, whole_word=whole, seed=seed), most=most)
    full = BERT.with_special(BERT.encode(text))
    assert unmasked(masked) == full[:most]
    assert len(masked.ids) <= most
    special = BERT.vocab.special_ids
    assert all(label not in special for label in masked.labels)
    assert all(masked.ids[place] == BERT.mask_id for place in masked.positions)
    assert sorted(set(masked.positions)) == list(masked.positions)
    maskable = [i for i in full[1:most] if i not in special]
    assert bool(masked.positions) == bool(maskable)
    assert (masked.reason is None) == bool(masked.positions)
    if ratio is None and not whole and maskable:
        assert len(masked.positions) == 1


def test_every_token_of_a_line_may_be_chosen_equally_often() -> None:
    text = "今天天气很好啊"
    counts = Counter(mask(text, number=n).positions[0] for n in range(2100))
    assert set(counts) == set(range(1, 8))
    assert all(230 < count < 370 for count in counts.values())


def test_the_choice_depends_on_seed_line_and_variant_alone() -> None:
    text = LINES[0]
    once = [mask(text, ClozeSettings(seed=7), number=n).positions for n in range(40)]
    assert once == [mask(text, ClozeSettings(seed=7), number=n).positions for n in range(40)]
    assert once != [mask(text, ClozeSettings(seed=8), number=n).positions for n in range(40)]
    assert once != [
        mask(text, ClozeSettings(seed=7), number=n, variant=1).positions for n in range(40)
    ]


def test_a_line_of_unknown_tokens_has_nothing_to_mask() -> None:
    assert mask("😀 😀").reason == "no known token"


@pytest.mark.parametrize("text", ["", "   ", "\t"])
def test_a_blank_line_has_nothing_to_mask(text: str) -> None:
    masked = mask(text)
    assert (masked.positions, masked.reason) == ((), "blank")


def test_a_line_is_cut_as_uer_py_cuts_it() -> None:
    text = "今天" * 50
    masked = mask(text, most=10)
    assert masked.was_cut
    assert unmasked(masked) == BERT.with_special(BERT.encode(text))[:10]
    assert masked.positions[0] < 10
    assert not mask("今天", most=10).was_cut


# -- a share --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "count"), [(0.15, 3), (0.5, 10), (1.0, 20), (0.001, 1)])
def test_a_share_of_the_tokens_is_masked(ratio: float, count: int) -> None:
    text = "我们今天去公园看花，天气很好，大家高兴啊"
    assert len(BERT.encode(text)) == 20
    assert len(mask(text, ClozeSettings(mask_ratio=ratio)).positions) == count


# -- words ----------------------------------------------------------------------------------------


def test_whole_words_are_masked_together() -> None:
    text = "tencentqqgames 今天天气很好"
    pieces = len(BERT.encode("tencentqqgames"))
    assert pieces > 1
    seen = {mask(text, ClozeSettings(whole_word=True), number=n).positions for n in range(200)}
    starts = [1, 1 + pieces, 5 + pieces, 6 + pieces, 7 + pieces]  # 今天天气 is a word
    assert seen == {tuple(range(start, end)) for start, end in pairwise(starts)}


def test_a_word_list_makes_words_of_characters() -> None:
    rule = ClozeSettings(whole_word=True, words=frozenset({"今天", "天气", "今天天", "很好"}))
    seen = {mask("今天天气很好", rule, number=n).positions for n in range(200)}
    # The longest entry that fits, from left to right: 今天天 | 气 | 很好.
    assert seen == {(1, 2, 3), (4,), (5, 6)}


def test_chinese_words_need_no_list() -> None:
    seen = {mask("我们去北京大学读书", WHOLE, number=n).positions for n in range(200)}
    assert seen == {(1, 2), (3,), (4, 5, 6, 7), (8, 9)}


def test_words_of_the_list_come_before_those_of_the_segmentation() -> None:
    rule = ClozeSettings(whole_word=True, words=frozenset({"去北"}))
    seen = {mask("我们去北京大学读书", rule, number=n).positions for n in range(200)}
    assert (3, 4) in seen
    assert (1, 2) in seen
    assert all(4 not in positions or positions == (3, 4) for positions in seen)


def test_tokens_of_a_word_vocabulary_are_words_already(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n北京\n大学\n")
    words = make_tokenizer("space", vocab_path=tmp_path / "vocab.txt")
    masker = Masker(words, WHOLE, 128)
    assert masker.words(words.encode("北京 大学"), range(2)) == [range(0, 1), range(1, 2)]


def test_a_share_of_whole_words_masks_no_word_in_part() -> None:
    rule = ClozeSettings(mask_ratio=0.5, whole_word=True, words=frozenset({"今天", "天气", "很好"}))
    for number in range(50):
        positions = set(mask("今天天气很好啊我们去", rule, number=number).positions)
        assert len(positions) <= 5
        for word in ({1, 2}, {3, 4}, {5, 6}):
            assert word <= positions or not word & positions


def test_a_word_list_is_the_first_field_of_each_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("今天 100 t\n\n天气\t3\n", "utf-8")
    assert words_of(path) == {"今天", "天气"}


def test_a_word_is_masked_wherever_it_occurs_and_nothing_else() -> None:
    masked = mask("很好，今天很好吃，好", ClozeSettings(mask_word="很好"))
    assert masked.positions == (1, 2, 6, 7)
    assert masked.labels == tuple(BERT.encode("很好很好"))
    assert mask("今天", ClozeSettings(mask_word="很好")).reason == "no such word"


def test_a_word_of_letters_is_not_found_within_another() -> None:
    start, *rest = BERT.tokenize("tencentqqgames")
    assert rest
    rule = ClozeSettings(mask_word=start)
    assert mask("tencentqqgames", rule).reason == "no such word"
    assert mask(f"{start.upper()}, tencentqqgames", rule).positions == (1,)


def test_a_word_that_cannot_be_spelled_is_an_error_and_not_any_unknown_word() -> None:
    with pytest.raises(VocabError, match="晔"):
        Masker(BERT, ClozeSettings(mask_word="晔"), 128)


# -- masks written in the text --------------------------------------------------------------------


def test_written_masks_are_masked_and_nothing_else() -> None:
    for rule in (ClozeSettings(), ClozeSettings(mask_ratio=0.9), ClozeSettings(mask_word="今天")):
        masked = mask("今天[MASK]气[MASK][MASK]好", rule)
        assert masked.positions == (3, 5, 6)
        assert masked.labels == (None, None, None)
        assert len(masked.ids) == 9


@pytest.mark.parametrize(
    "written", ["[mask]", "[Mask]", "【MASK】", "［ＭＡＳＫ］", "【mask】", "<mask>"]
)
def test_a_mask_may_be_written_in_small_or_full_width_letters(written: str) -> None:
    assert mask(f"今天{written}好") == mask("今天[MASK]好")


def test_a_written_mask_needs_no_blanks_around_it_and_may_have_some() -> None:
    assert mask("很 [MASK] 好").ids == mask("很[MASK]好").ids


def test_a_written_mask_beyond_the_cut_is_reported() -> None:
    masked = mask("今天天气很[MASK]", most=4)
    assert (masked.positions, masked.reason, masked.was_cut) == ((), "beyond the cut", True)


def test_a_space_tokenizer_gets_no_empty_token_next_to_a_mask() -> None:
    words = make_tokenizer("space", vocab_path=FIXTURES / "word-bert-modular" / "vocab.txt")
    first, second = (t for t in words.vocab.tokens[10:12])
    masked = mask(f"[MASK] {first} [MASK]", tokenizer=words)
    assert masked.ids == tuple(
        words.with_special([words.mask_id or 0, words.vocab.id(first), words.mask_id or 0])
    )
    assert mask(f"{first} [MASK] {second}", tokenizer=words).positions == (2,)


def test_a_part_after_a_mask_goes_on_in_sentencepiece() -> None:
    pytest.importorskip("sentencepiece")
    pieces = XlmRobertaTokenizer.load(TEXT / "cluecorpussmall_spm.model")
    masked = mask("今天[MASK]。", tokenizer=pieces)
    name = pieces.vocab.mask
    assert pieces.tokens(masked.ids)[-3:] == [name, "。", pieces.vocab.sep]
    assert mask(f"今天{name}。", tokenizer=pieces).ids == masked.ids


# -- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_word": "好", "mask_ratio": 0.1},
        {"mask_ratio": 0.0},
        {"mask_ratio": 1.5},
        {"mask_word": "  "},
    ],
    ids=str,
)
def test_an_invalid_rule_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ClozeSettings(**settings)  # type: ignore[arg-type]


def test_a_vocabulary_without_mask_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n好\n", "utf-8")
    with pytest.raises(VocabError, match=r"vocab\.txt has no \[MASK\] token"):
        Masker(make_tokenizer("bert", vocab_path=path), ClozeSettings(), 128)


def test_room_for_special_tokens_only_is_an_error() -> None:
    with pytest.raises(UsageError, match="`seq_length` 1"):
        Masker(BERT, ClozeSettings(), 1)


def test_spans_say_where_the_tokens_of_a_line_stand() -> None:
    masker = Masker(BERT, ClozeSettings(), 128)
    for text in [*LINES, "很 [MASK]好[MASK]", "  é Ünï 今 "]:
        spans = masker.spans(text)
        assert spans is not None
        ids = masker.encode([text])[0]
        for (start, stop), index in zip(spans, ids, strict=True):
            token = BERT.vocab.tokens[index].removeprefix("##")
            if index != BERT.unk_id:
                shown = text[start:stop]
                assert shown == token or shown.lower() == token or not shown.isascii()
