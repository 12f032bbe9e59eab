"""Readable text from ids: joints, growth, gaps, ends, and how outputs are judged."""

from __future__ import annotations

import pytest

from uertool.errors import InputError, UsageError
from uertool.tasks.generation.filling import Gaps
from uertool.tasks.generation.judging import judge
from uertool.tasks.generation.stopping import Stopping
from uertool.tasks.generation.text import Growing, continuation
from uertool.text.tokenizers.bert import BertTokenizer
from uertool.text.vocab import Vocab

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] 今 天 好 。 app ##le ##s a 3 . 14 <extra_id_0> <extra_id_1>"
WORDS += " <extra_id_2>"


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(Vocab(WORDS.split()))


def ids(tokenizer: BertTokenizer, tokens: str) -> list[int]:
    return [tokenizer.vocab.id(token) for token in tokens.split()]


@pytest.mark.parametrize(
    ("prompt", "new", "expected"),
    [
        ("[CLS] 今 天", "好 。 [SEP]", "好。"),
        ("[CLS] app", "##le", "le"),
        ("[CLS] a", "app ##le ##s", " apples"),
        ("[CLS] 今", "app a 好", "app a好"),
        ("3 .", "14", "14"),
        ("", "今 天", "今天"),
        ("今", "", ""),
    ],
)
def test_new_words_are_joined_to_the_prompt_as_they_ask_for(
    tokenizer: BertTokenizer, prompt: str, new: str, expected: str
) -> None:
    assert continuation(tokenizer, ids(tokenizer, prompt), ids(tokenizer, new)) == expected


def pieces(growing: Growing, tokens: list[int]) -> list[str]:
    return [growing.add(token) for token in tokens]


def test_a_text_grows_by_what_is_new(tokenizer: BertTokenizer) -> None:
    growing = Growing(tokenizer, ids(tokenizer, "[CLS] a"))
    new = ids(tokenizer, "app ##le ##s 好")
    assert pieces(growing, new) == [" app", "le", "s", "好"]
    assert growing.rest(" apples好") == ""


def test_the_beginning_of_a_stop_string_is_held_back(tokenizer: BertTokenizer) -> None:
    growing = Growing(tokenizer, [], ("天好",))
    assert pieces(growing, ids(tokenizer, "今 天")) == ["今", ""]
    assert pieces(growing, ids(tokenizer, "天 好 。")) == ["天", "", ""]
    assert growing.rest("今天") == ""
    ended = Growing(tokenizer, [], ("天好",))
    assert pieces(ended, ids(tokenizer, "今 天")) == ["今", ""]
    assert ended.rest("今天") == "天"


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


def test_half_a_character_is_not_shown() -> None:
    growing = Growing(Bytes(), [])  # type: ignore[arg-type]
    assert pieces(growing, list("天a".encode())) == ["", "", "天", "a"]


# -- ends -----------------------------------------------------------------------------------------


def test_texts_end_at_tokens_strings_and_without_room() -> None:
    stopping = Stopping([3], ["bc"], decode=lambda new: "".join(chr(97 + i) for i in new))
    assert stopping.reason([9, 0, 3], 2, 9) == "stop_token"
    assert stopping.reason([9, 1, 2], 2, 9) == "stop_string"
    assert stopping.reason([9, 1, 1], 2, 2) == "length"
    assert stopping.reason([9, 1, 1], 2, 3) is None
    assert list(stopping.visible([0, 3], "stop_token")) == [0]
    assert stopping.cut("abcd") == "a"


# -- gaps -----------------------------------------------------------------------------------------


def test_gaps_are_read_and_filled(tokenizer: BertTokenizer) -> None:
    gaps = Gaps(tokenizer)
    source = "今<extra_id_0>好<extra_id_1>。"
    expected = ids(tokenizer, "今 <extra_id_0> 好 <extra_id_1> 。")
    assert gaps.encode(source) == expected
    target = ids(tokenizer, "[CLS] <extra_id_0> 天 app ##le <extra_id_1> a <extra_id_2> [SEP]")
    answers = gaps.answers(target, tokenizer)
    assert answers == {0: "天apple", 1: "a", 2: ""}
    assert gaps.fill(source, answers) == "今天apple好a。"
    assert gaps.fill(source, {1: "a"}) == "今<extra_id_0>好a。"


def test_a_gap_that_is_answered_twice_keeps_its_first_answer(tokenizer: BertTokenizer) -> None:
    target = ids(tokenizer, "<extra_id_0> 今 <extra_id_0> 天")
    assert Gaps(tokenizer).answers(target, tokenizer) == {0: "今"}


def test_the_chinese_t5_spelling_and_gaps_beyond_the_vocabulary() -> None:
    tokenizer = BertTokenizer(Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "今", "extra0"]))
    gaps = Gaps(tokenizer)
    assert gaps.encode("今extra0") == [5, 6]
    assert gaps.fill("今<extra_id_0>extra7", {0: "天", 7: "x"}) == "今天extra7"
    assert not Gaps(BertTokenizer(Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])))


# -- judging --------------------------------------------------------------------------------------


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    import sacrebleu

    found = ["今天的天气非常好，我们出去玩。", "他说这件事情不好。"]
    wanted = ["今天的天气很好，我们出去玩吧。", "他说这件事不太好。"]
    scores = judge(found, wanted)
    assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(found, [wanted], tokenize="zh").score)
    assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(found, [wanted]).score)
    assert "tok:zh" in scores.bleu_signature and scores.texts == 2
    assert judge(["a b c d e"], ["a b c d e"]).bleu == pytest.approx(100.0)
    assert "tok:13a" in judge(["a b"], ["a b"]).bleu_signature


def test_texts_without_references_are_not_judged() -> None:
    with pytest.raises(InputError, match="2 texts but 1 references"):
        judge(["a", "b"], ["a"])
    with pytest.raises(InputError, match="no texts"):
        judge([], [])
    with pytest.raises(UsageError, match="Invalid `bleu_tokenize`: 'thai'"):
        judge(["a"], ["a"], "thai")
