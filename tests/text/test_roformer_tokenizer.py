"""RoFormer's tokenizer against transformers', from vocab.txt and from tokenizer.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, TEXT
from uertool.loading.registry import load_model
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder

LINES = [
    "今天天气非常好。",
    "我们一起去公园吧，ＡＢＣ 全角０１２！",
    "Hello World! apple APPLE googles café naïve don't",
    "  前后有空格的句子  ",
    "腾讯控股有限公司是一家民营IT企业，成立于1998年11月。",
    "[MASK]今天[SEP]",
    "C++和c#，3.14、1,000",
    "😀👍🏽\U0001fae8가각",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A RoFormer with a vocabulary of characters, pieces and words."""
    made = tmp_path / "words"
    shutil.copytree(FIXTURES / "hf-roformer", made)
    tokens = (made / "vocab.txt").read_text("utf-8").splitlines()
    words = ["非常", "我们", "一起", "公园", "天气", "有限公司", "hello", "一家", "c++"]
    # Words take the places of the last characters, so that the size stays.
    tokens[-len(words) :] = words
    (made / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")
    settings = {"do_lower_case": True, "tokenizer_class": "RoFormerTokenizer"}
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    return made


def test_words_of_the_vocabulary_stay_whole(folder: Path) -> None:
    tokenizer = tokenizer_from_hf_folder(folder)
    # The example of its documentation; 今天天气 is one word of jieba.
    tokens = tokenizer.tokenize("今天天气非常好。")
    assert tokens == ["今", "天", "天", "气", "非常", "好", "。"]
    assert tokenizer.with_special(tokenizer.encode("好"))[0] == tokenizer.cls_id
    assert tokenizer.tokenize("公园") == ["公园"]
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert tokenizer_from_hf_folder(folder).tokenize("公园") == ["公", "园"]


def test_it_goes_with_the_model(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "uer.safetensors"
    convert(folder, file, "safetensors", ConvertSettings())
    right = tokenizer_from_hf_folder(folder).encode_batch(LINES)
    assert load_model(file, device="cpu").tokenizer.encode_batch(LINES) == right
    convert(file, tmp_path / "again", "hf", ConvertSettings())
    assert tokenizer_from_hf_folder(tmp_path / "again").encode_batch(LINES) == right


@pytest.mark.slow
def test_ids_are_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers.models.roformer.tokenization_utils import JiebaPreTokenizer

    theirs = transformers.RoFormerTokenizer.from_pretrained(folder)
    # transformers 5.24 gives this step a vocabulary that it cannot look words up in.
    step = PreTokenizer.custom(JiebaPreTokenizer(theirs.get_vocab()))
    theirs.backend_tokenizer.pre_tokenizer = step
    reviews = (TEXT / "reviews_test.tsv").read_text("utf-8").splitlines()[:100]
    lines = [*LINES, *(line.split("\t")[-1] for line in reviews)]
    own = tokenizer_from_hf_folder(folder)
    ids = own.encode_batch(lines)
    assert [own.with_special(row) for row in ids] == theirs(lines)["input_ids"]
    assert sum(len(own.vocab.tokens[n]) > 1 for row in ids for n in row) > 50
