"""Tokenizers of Hugging Face folders, compared with transformers' AutoTokenizer."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TEXT, fixture_folders
from uertool.errors import VocabError
from uertool.text.readers import read_lines
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

INPUT = fixture_folders("input.txt", "expected/tokens.json")[0] / "input.txt"
LINES = [line.text for line in read_lines(INPUT)] + [
    "今天天气很[MASK]。",
    "İ Σ ß \u200b\ue000 \ufffd café",
    "a" * 150,
    "<s> text </s> <mask>",
    " leading and  double blanks ",
]


def write_bert(folder: Path, **settings: Any) -> None:
    shutil.copy(TEXT / "google_zh_vocab.txt", folder / "vocab.txt")
    config = {"tokenizer_class": "BertTokenizer", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")


def write_byte_bpe(folder: Path, model_type: str, special: list[str], **settings: Any) -> None:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    lines = (TEXT / "parallel_en_zh.tsv").read_text(encoding="utf-8").splitlines()[:300]
    trained.train_from_iterator(lines, vocab_size=700, special_tokens=special)
    trained.save_model(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def bert(folder: Path) -> None:
    write_bert(folder)


def bert_cased(folder: Path) -> None:
    write_bert(folder, do_lower_case=False)


def bert_with_accents(folder: Path) -> None:
    write_bert(folder, strip_accents=False)


def bert_without_config(folder: Path) -> None:
    write_bert(folder)
    (folder / "tokenizer_config.json").unlink()


def gpt2(folder: Path) -> None:
    write_byte_bpe(folder, "gpt2", ["<|endoftext|>"], tokenizer_class="GPT2Tokenizer")


def roberta(folder: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    write_byte_bpe(folder, "roberta", special, tokenizer_class="RobertaTokenizer")


def bart(folder: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    write_byte_bpe(folder, "bart", special, tokenizer_class="BartTokenizer")


MAKERS = [bert, bert_cased, bert_with_accents, bert_without_config, gpt2, roberta, bart]


@pytest.mark.parametrize("whole", [False, True], ids=["plain files", "tokenizer.json"])
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_ids_are_those_of_transformers(
    make: Callable[[Path], None], whole: bool, tmp_path: Path
) -> None:
    make(tmp_path)
    judge = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    folder = tmp_path
    if whole:
        folder = tmp_path / "saved"
        judge.save_pretrained(str(folder))
        (folder / "vocab.txt").unlink(missing_ok=True)
    tokenizer = tokenizer_from_hf_folder(folder)
    plain = judge(LINES, add_special_tokens=False)["input_ids"]
    full = judge(LINES)["input_ids"]
    assert tokenizer.encode_batch(LINES) == plain
    assert [tokenizer.with_special(ids) for ids in tokenizer.encode_batch(LINES)] == full
    assert [tokenizer.tokenize(line) for line in LINES] == [judge.tokenize(line) for line in LINES]
    for role in ("pad", "unk", "cls", "sep", "mask"):
        # GPT-2 has no [CLS], but its one special token opens and closes a text.
        expected = getattr(judge, f"{role}_token_id")
        if expected is not None:
            assert getattr(tokenizer, f"{role}_id") == expected, role
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode_batch(LINES) == plain


def test_special_tokens_in_the_text_can_be_ordinary_characters(tmp_path: Path) -> None:
    bert(tmp_path)
    tokenizer = tokenizer_from_hf_folder(tmp_path)
    assert tokenizer.tokenize("很[MASK]。") == ["很", "[MASK]", "。"]
    tokenizer.special_in_text = False
    assert tokenizer.tokenize("很[MASK]。") == ["很", "[", "ma", "##sk", "]", "。"]


# -- sentencepiece --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def english_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with <unk> <s> </s> in front, as T5's and XLM-R's have it."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("spm")
    sentencepiece.SentencePieceTrainer.train(
        input=str(TEXT / "parallel_en_zh.tsv"),
        model_prefix=str(folder / "m"),
        vocab_size=4000,
        character_coverage=0.98,
        minloglevel=2,
        input_sentence_size=500,
        hard_vocab_limit=False,
    )
    return folder / "m.model"


def test_xlm_roberta_has_fairseqs_order_and_its_marks(english_pieces: Path, tmp_path: Path) -> None:
    shutil.copy(english_pieces, tmp_path / "sentencepiece.bpe.model")
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}', encoding="utf-8")
    tokenizer = tokenizer_from_hf_folder(tmp_path)
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(english_pieces))
    assert tokenizer.vocab.tokens[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.vocab.tokens[-1] == "<mask>"
    for line in ("The world is flat", "龘"):
        # fairseq's ids: one more than the model's, and 3 for what is unknown.
        ids = [i + 1 if i else 3 for i in model.encode(line)]
        assert tokenizer.encode(line) == ids
        assert tokenizer.with_special(ids) == [0, *ids, 2]
    assert tokenizer.tokenize("The <mask>")[-1] == "<mask>"


def test_t5_ends_with_its_mark_and_has_sentinels_behind(
    english_pieces: Path, tmp_path: Path
) -> None:
    shutil.copy(english_pieces, tmp_path / "spiece.model")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    tokenizer = tokenizer_from_hf_folder(tmp_path)
    size = len(tokenizer.vocab)
    assert tokenizer.vocab.sentinels[:2] == (size - 1, size - 2)
    ids = tokenizer.encode("The world")
    assert tokenizer.with_special(ids) == [*ids, tokenizer.vocab.id("</s>")]
    assert tokenizer.encode("The <extra_id_0> is")[-2] != tokenizer.unk_id
    assert tokenizer.vocab.id("<extra_id_0>") in tokenizer.encode("The <extra_id_0> is")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no tokenizer"),
        ({"tokenizer.json": "{}"}, "not a valid tokenizer"),
        (
            {"vocab.txt": "[PAD]\n", "tokenizer_config.json": "{"},
            "tokenizer_config.json is not valid JSON",
        ),
    ],
)
def test_a_folder_that_is_not_understood_is_named(
    files: dict[str, str], words: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(VocabError, match=words):
        tokenizer_from_hf_folder(tmp_path)


def test_a_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabError, match="is not a folder"):
        tokenizer_from_hf_folder(tmp_path / "none")
