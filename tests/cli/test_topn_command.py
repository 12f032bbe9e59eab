"""`uertool topn` as it is typed: the old text to the letter, JSON, tables, and odd lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import FIXTURES
from uertool.cli.app import main

BERT = FIXTURES / "bert-modular"
NAMED = ("--load_model_path", BERT / "model.bin", "--vocab_path", BERT / "vocab.txt")


def topn(*arguments: object) -> int:
    return main(["topn", *map(str, arguments)])


def rounded(text: str) -> str:
    """A text with its similarities cut to five digits."""
    return re.sub(r"\t(-?\d\.\d+)", lambda m: f"\t{float(m[1]):.5f}", text)


def assert_same_text(found: str, expected: str) -> None:
    for line, other in zip(rounded(found).split("\n"), rounded(expected).split("\n"), strict=True):
        word, _, score = line.partition("\t")
        other_word, _, other_score = other.partition("\t")
        assert word == other_word
        assert float(score or 0) == pytest.approx(float(other_score or 0), abs=1e-4)


@pytest.mark.parametrize("name", ["bert-legacy", "bert-modular"])
def test_indep_prints_the_old_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = FIXTURES / name
    named = ("--load_model_path", folder / "model.bin", "--vocab_path", folder / "vocab.txt")
    assert topn("indep", *named, "--test_path", folder / "topn_words.txt") == 0
    expected = (folder / "expected/topn_indep.txt").read_text("utf-8")
    assert_same_text(capsys.readouterr().out, expected)


@pytest.mark.parametrize(
    ("name", "tokenizer", "code"),
    [
        ("bert-legacy", "bert", 1),
        ("bert-modular", "bert", 1),
        ("word-bert-legacy", "space", 0),
        ("word-bert-modular", "space", 0),
    ],
)
def test_dep_prints_the_old_text(
    name: str, tokenizer: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = FIXTURES / name
    named = folder / "cand_vocab.txt"
    candidates = named if named.exists() else folder / "vocab.txt"
    arguments = (
        *("--load_model_path", folder / "model.bin", "--vocab_path", folder / "vocab.txt"),
        *("--cand_vocab_path", candidates, "--test_path", folder / "topn_sentences.txt"),
        *("--config_path", folder / "config.json", "--batch_size", 256, "--seq_length", 32),
        *("--tokenizer", tokenizer),
    )
    assert topn("dep", *arguments) == code
    assert_same_text(capsys.readouterr().out, (folder / "expected/topn_dep.txt").read_text("utf-8"))


def test_indep_answers_what_it_can_and_says_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("好 and more\n\n不存在\n人\n", "utf-8")
    path = tmp_path / "words.txt"
    assert topn("indep", *NAMED, "--test-path", path, "--topn", 2, "--json") == 1
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["word"] for record in records] == ["好", "不存在", "人"]
    assert [len(record["neighbours"]) for record in records] == [2, 0, 2]
    assert records[1]["problem"] == "The target word is not in the vocabulary."
    assert "1 word not in the vocabulary, the first is 不存在" in err


def test_indep_with_analogies_and_files_of_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "e.txt"
    assert main(["extract-embeddings", "zh-mlm-small", "-o", str(path), "-q"]) == 0
    asked = ("indep", "--plus", "好", "--plus", "人", "--minus", "男", "--topn", 3, "--json", "-q")
    assert topn(*asked) == 0
    from_model = json.loads(capsys.readouterr().out)
    assert topn(*asked, "--vectors", path) == 0
    from_file = json.loads(capsys.readouterr().out)
    assert from_model["word"] == "好 + 人 - 男"
    assert [n["word"] for n in from_model["neighbours"]] == [
        n["word"] for n in from_file["neighbours"]
    ]
    assert topn("indep", "好", "--by", "euclidean", "--format", "table", "--topn", 2) == 0
    table = capsys.readouterr().out
    assert re.search(r"1  \S+ +\d+\.\d{4}  \S+", table)


def test_dep_goes_on_after_odd_lines_and_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines.txt").write_text(
        "好\t今天天气很好\n\nno tab here\n好\t好人好事\n坏\t今天天气很好\n龘\t今天\n", "utf-8"
    )
    (tmp_path / "words.txt").write_text("坏\n冷\n龘\n公园\n", "utf-8")
    asked = ("dep", "--cand-vocab-path", tmp_path / "words.txt", "--topn", 2, "--device", "cpu")
    path = tmp_path / "lines.txt"
    assert topn(*asked, "--test-path", path, "--json") == 1
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["line"] for record in records] == [1, 4, 5, 6]
    assert [len(record["neighbours"]) for record in records] == [2, 2, 0, 0]
    assert "line 3 is not: word TAB sentence" in err
    assert "line 4: The target word 好 occurs 2 times" in err
    assert "4 words with sentences, 2 answered, 4 candidates" in err
    assert "1 unanswered: The target word is not in the vocabulary." in err
    assert "The vocabulary cannot spell 1 candidate" in err
    path.write_text("好\t好人好事\n", "utf-8")
    output = tmp_path / "out.txt"
    assert topn(*asked, "--test-path", path, "--occurrence", 2, "-o", output, "--save-run") == 0
    lines = output.read_text("utf-8").splitlines()
    assert lines[2:4] == ["Original sentence: 好人好事", "Target word: 好"]
    assert (tmp_path / "out.txt.run.json").exists()


def test_dep_of_a_word_and_a_sentence_typed(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("dep", "--load-model-path", BERT / "model.bin", "--cand-vocab-path")
    common = (*asked, BERT / "cand_vocab.txt", "--topn", 3, "--device", "cpu")
    assert topn(*common, "好", "今天天气很好", "--format", "table") == 0
    assert "好  in  今天天气很好" in capsys.readouterr().out
    assert topn(*common, "好") == 2
    assert "A word and a sentence are expected" in capsys.readouterr().err


@pytest.mark.slow
def test_dep_on_two_devices_is_dep_on_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("好\t今天天气很好\n坏\t今天\n" * 5, "utf-8")
    asked = ("dep", "--load-model-path", BERT / "model.bin", "--cand-vocab-path")
    common = (*asked, BERT / "cand_vocab.txt", "--test-path", path, "--topn", 3, "--threads", 1)
    assert topn(*common, "--device", "cpu", "-o", tmp_path / "one.txt") == 1
    one = capsys.readouterr().err
    assert topn(*common, "--device", "cpu,cpu", "-o", tmp_path / "two.txt") == 1
    two = capsys.readouterr().err
    assert (tmp_path / "two.txt").read_bytes() == (tmp_path / "one.txt").read_bytes()
    warnings = [[w for w in said.splitlines() if w.startswith("warning")] for said in (one, two)]
    assert sorted(warnings[0]) == sorted(warnings[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("indep", "好", "--vectors", "a.txt", "--model", "b"), "Give one of them"),
        (("indep", "好", "--json", "--format", "text"), "--json and --format text"),
        (("indep", "好", "--format", "table", "-o", "x.txt"), "a file"),
        (("dep", "好", "好人", "--test-path", "x"), "Give one of the two"),
    ],
)
def test_invalid_options_are_reported(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert topn(*arguments) == 2
    assert words in capsys.readouterr().err
