"""Tokens of texts: ids, places and round trips of every kind of tokenizer, without weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, MODELS, TEXT
from uertool.errors import InputError, UertoolError, UsageError, VocabError
from uertool.loading.registry import load_model
from uertool.loading.settings import TokenizerSettings
from uertool.loading.tokenizers import load_tokenizer
from uertool.tasks.tokenize.job import decode, tokenize
from uertool.tasks.tokenize.settings import TokenizeSettings
from uertool.text.tokenizers.factory import make_tokenizer

BERT = make_tokenizer("bert", vocab_path=MODELS / "zh-mlm-small" / "vocab.txt")


def test_tokens_have_ids_and_places() -> None:
    (found,) = tokenize(BERT, ["今天 Good。"], TokenizeSettings(add_special=True))
    assert found.tokens[:3] == ("[CLS]", "今", "天")
    assert found.ids == tuple(BERT.with_special(BERT.encode("今天 Good。")))
    assert found.spans is not None
    assert (found.spans[0], found.spans[-1]) == (None, None)
    places = [span for span in found.spans if span is not None]
    assert "".join(found.text[start:stop] for start, stop in places) == "今天Good。"
    assert not found.is_kept  # it is lower case
    assert tokenize(BERT, ["今天 好"])[0].is_kept


def test_special_tokens_in_a_text_are_read_if_that_is_asked_for() -> None:
    (plain,) = tokenize(BERT, ["很[MASK]好"])
    (special,) = tokenize(BERT, ["很[MASK]好"], TokenizeSettings(special_in_text=True))
    assert "[MASK]" not in plain.tokens
    assert special.tokens == ("很", "[MASK]", "好")
    assert special.spans == ((0, 1), (1, 7), (7, 8))
    assert not BERT.special_in_text


def test_unknown_tokens_are_counted() -> None:
    assert tokenize(BERT, ["今晔晔"])[0].unknown == 2


def test_ids_become_texts_again() -> None:
    ids = BERT.with_special(BERT.encode("今天天气很好"))
    for line in (" ".join(map(str, ids)), str(ids), ",".join(map(str, ids))):
        (found,) = decode(BERT, [line])
        assert (found.text, found.ids) == ("今天天气很好", tuple(ids))
    with pytest.raises(InputError, match="'a b' is not a list of ids"):
        decode(BERT, ["a b"])
    with pytest.raises(VocabError, match="outside"):
        decode(BERT, ["999999"])


def test_reading_ids_and_writing_them_is_refused() -> None:
    with pytest.raises(UsageError, match="`decode` and `ids`"):
        TokenizeSettings(decode=True, ids=True)


@pytest.mark.parametrize(
    "name", ["bert-modular", "albert-modular", "gpt2-modular", "word-bert-modular"]
)
def test_the_tokenizer_is_that_of_the_loaded_model(name: str) -> None:
    settings = TokenizerSettings(load_model_path=str(FIXTURES / name / "model.bin"))
    found, _ = load_tokenizer(settings)
    expected = load_model(FIXTURES / name / "model.bin").tokenizer
    text = "今天天气很好，iPhone12 不错"
    assert (type(found), found.encode(text)) == (type(expected), expected.encode(text))


def test_files_of_a_tokenizer_are_sufficient(tmp_path: Path) -> None:
    vocab = MODELS / "zh-mlm-small" / "vocab.txt"
    shutil.copy(vocab, tmp_path)
    named, _ = load_tokenizer(TokenizerSettings(vocab_path=vocab))
    folder, _ = load_tokenizer(TokenizerSettings(load_model_path=str(tmp_path)))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased, _ = load_tokenizer(TokenizerSettings(load_model_path=str(tmp_path)))
    assert named.encode("今天Good") == folder.encode("今天Good") == BERT.encode("今天Good")
    assert cased.encode("今天Good") != BERT.encode("今天Good")


def test_a_model_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UertoolError, match="has no vocabulary"):
        load_tokenizer(TokenizerSettings(load_model_path=str(tmp_path)))
    with pytest.raises(UertoolError, match="does not exist"):
        load_tokenizer(TokenizerSettings(load_model_path=str(tmp_path / "none")))


def test_a_vocabulary_of_google_has_the_same_tokens() -> None:
    found, _ = load_tokenizer(TokenizerSettings(vocab_path=TEXT / "google_zh_vocab.txt"))
    assert found.encode("今天") == [791, 1921]
    assert "tokenizers" in sys.modules
