"""Tokens back to readable text and to whole words."""

from __future__ import annotations

import pytest

from tests.conftest import TEXT
from uertool.text.detokenize import BYTE_TO_CHAR, join, readable, words
from uertool.text.tokenizers.factory import make_tokenizer

ZH_VOCAB = TEXT / "google_zh_vocab.txt"
SPM = TEXT / "cluecorpussmall_spm.model"


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("今天天气很好，我们去公园吧。", None),
        ("hello world, this is google.", None),
        ("混合english和中文123，全角。", None),
        ("3.14 and 1,000 at 12:30", None),
        ("(see below)", None),
        ("the user's e-mail/phone", None),
        ("100% of $5", None),
        ("今天 天气", "今天天气"),
    ],
)
def test_wordpieces_become_readable_text(text: str, readable: str | None) -> None:
    tokenizer = make_tokenizer("bert", vocab_path=ZH_VOCAB)
    assert tokenizer.decode(tokenizer.with_special(tokenizer.encode(text))) == (readable or text)


def test_raw_text_keeps_everything_as_the_old_scripts_do() -> None:
    tokenizer = make_tokenizer("bert", vocab_path=ZH_VOCAB)
    ids = tokenizer.with_special(tokenizer.encode("googles 好"))
    assert tokenizer.decode(ids, raw=True) == "[CLS]google##s好[SEP]"


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("char", "今天天气", {"vocab_path": ZH_VOCAB}),
        ("space", "今 天 好", {"vocab_path": ZH_VOCAB}),
        ("xlmroberta", "今天天气很好 Hello World", {"spm_model_path": SPM}),
    ],
)
def test_text_comes_back(name: str, text: str, options: dict[str, object]) -> None:
    tokenizer = make_tokenizer(name, **options)  # type: ignore[arg-type]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_half_characters_of_bytes_are_shown_as_such() -> None:
    pieces = [BYTE_TO_CHAR[b] for b in "今".encode()]
    assert join(pieces, "bytes") == "今"
    assert join(pieces[:2], "bytes") == "\ufffd"


@pytest.mark.parametrize(
    ("joining", "tokens", "groups"),
    [
        ("wordpieces", ["[CLS]", "goo", "##gle", "今", "天", "##s"], [1, 2, 1, 2]),
        ("wordpieces", ["##a", "[MASK]", "##b"], [1, 1, 1]),
        ("characters", ["a", "b", "今", "1", "2", "，"], [2, 1, 2, 1]),
        ("blanks", ["ab", "cd"], [1, 1]),
        ("pieces", ["▁Hel", "lo", "▁World", "今天", "好"], [2, 1, 1, 1]),
        ("bytes", ["He", "llo", "Ġwor", "ld", "!", "ä»", "Ĭ"], [2, 2, 1, 2]),
        ("bytes", ["caf", "Ã", "©", "s"], [4]),
        ("characters", [], []),
    ],
)
def test_tokens_are_grouped_into_words(joining: str, tokens: list[str], groups: list[int]) -> None:
    found = words(tokens, joining, {"[CLS]", "[MASK]"})  # type: ignore[arg-type]
    assert [len(group) for group in found] == groups
    assert [place for group in found for place in group] == list(range(len(tokens)))


def test_words_can_be_asked_for_by_ids() -> None:
    tokenizer = make_tokenizer("bert", vocab_path=ZH_VOCAB)
    assert tokenizer.whole_words(tokenizer.encode("googles 好")) == [range(2), range(2, 3)]


def test_a_token_of_bytes_is_shown_as_text_where_it_is_whole_characters() -> None:
    def spelled(data: bytes) -> str:
        return "".join(BYTE_TO_CHAR[byte] for byte in data)

    assert readable(spelled("天气".encode()), "bytes") == "天气"
    assert readable(spelled(b" word"), "bytes") == "word"
    assert readable("[MASK]", "bytes") == "[MASK]"
    half = spelled("天".encode()[:2])
    assert readable(half, "bytes") == half
    assert readable(spelled(b" "), "bytes") == spelled(b" ")
    assert readable("##天", "wordpieces") == "##天"
