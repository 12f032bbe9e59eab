"""`uertool vocab build` and `uertool vocab diff` from the command line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.conftest import TEXT, fixture_folders
from uertool.cli.app import main
from uertool.text.vocab import Vocab

MISC = fixture_folders("expected_diff_vocab.txt")[0]


@pytest.mark.slow
def test_the_old_flags_build_the_old_vocabulary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vocab.txt"
    flags = f"--corpus_path {MISC / 'corpus.txt'} --output_path {out} --delimiter char"
    assert main(["vocab", "build", *flags.split(), "--workers_num", "2", "--min_count", "2"]) == 0
    tokens = Vocab.load(out).tokens
    golden = (MISC / "expected_vocab_char_w1_min2.txt").read_text(encoding="utf-8").split("\n")[:-1]
    # The old script lost the last line, which may lift a token over the minimum.
    assert set(golden) <= set(tokens)
    assert tokens[:104] == golden[:104]
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Vocabulary size: {len(tokens)} (104 reserved)" in said.err


def test_the_spelling_of_2021_is_understood(tmp_path: Path) -> None:
    out = tmp_path / "vocab.txt"
    corpus = str(MISC / "corpus_space.txt")
    arguments = ["--corpus_path", corpus, "--vocab_path", str(out), "--tokenizer", "space"]
    assert main(["vocab", "build", *arguments]) == 0
    assert len(Vocab.load(out)) > 2900


def test_several_corpora_give_counts_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("a.txt", "今天\n"), ("b.txt", "今\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    out, counts = tmp_path / "v.txt", tmp_path / "counts.tsv"
    arguments = ["--corpus_path", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    arguments += ["--output_path", str(out), "--counts", str(counts), "--json", "--save-run"]
    assert main(["vocab", "build", *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["size"], figures["tokens"], figures["coverage"]) == (106, 3, 1.0)
    assert counts.read_text(encoding="utf-8") == "今\t2\n天\t1\n"
    record = json.loads((tmp_path / "v.txt.run.json").read_text(encoding="utf-8"))
    assert str(tmp_path / "a.txt") in record["inputs"]


def test_a_pipe_goes_in_and_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("今今天".encode())))
    assert main(["vocab", "build", "-", "-o", "-", "-q"]) == 0
    said = capsys.readouterr()
    assert said.out.split("\n")[-3:] == ["今", "天", ""]
    assert said.err == ""


def test_subwords_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v.txt"
    corpus = str(MISC / "corpus.txt")
    arguments = [corpus, "-o", str(out), "--model", "wordpiece", "--vocab-size", "1450"]
    assert main(["vocab", "build", *arguments]) == 0
    assert len(Vocab.load(out)) == 1450
    assert "v.tokenizer.json" in capsys.readouterr().err


def test_an_existing_vocabulary_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v.txt"
    out.write_text("mine\n")
    corpus = str(MISC / "corpus.txt")
    assert main(["vocab", "build", corpus, "-o", str(out)]) == 1
    assert out.read_text() == "mine\n"
    assert "exists already" in capsys.readouterr().err
    assert main(["vocab", "build", corpus, "-o", str(out), "--overwrite"]) == 0
    assert len(Vocab.load(out)) > 1000


def test_words_that_readers_will_cut_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text("a\u3000b c\n", encoding="utf-8")
    out = str(tmp_path / "v.txt")
    assert main(["vocab", "build", str(corpus), "-o", out, "--delimiter", "space"]) == 0
    assert "1 words contain white space" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.txt"], "There is no output"),
        (["-o", "v"], "No corpus was given"),
        (["x.txt", "-o", "v"], "x.txt does not exist"),
        (["x.txt", "-o", "-", "--json"], "need the vocabulary to go to a file"),
        (["x.txt", "-o", "v", "--delimiter", "char", "--tokenizer", "space"], "contradict"),
        (["x.txt", "-o", "v", "--model", "bpe"], "needs --vocab-size"),
        (["x.txt", "-o", "v", "--vocab-size", "9"], "belongs to a trained"),
        (
            ["x.txt", "-o", "v", "--model", "bpe", "--vocab-size", "9", "--coverage", "1"],
            "cannot be combined",
        ),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["vocab", "build", *arguments]) in (1, 2)
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


# -- diff -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [["--vocab_1", "vocab_a.txt", "--vocab_2", "vocab_b.txt"], ["vocab_a.txt", "vocab_b.txt"]],
)
def test_the_first_lines_are_the_old_scripts(
    named: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(MISC)
    assert main(["vocab", "diff", *named]) == 0
    golden = (MISC / "expected_diff_vocab.txt").read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith(golden.rstrip("\n"))


def test_figures_lists_and_coverage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--vocab-1",
        str(MISC / "vocab_a.txt"),
        "--vocab-2",
        str(TEXT / "google_zh_vocab.txt"),
    ]
    arguments += [
        "--corpus",
        str(MISC / "corpus.txt"),
        "--list",
        "only-1",
        "--list",
        "moved",
        "--json",
    ]
    assert main(["vocab", "diff", *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["size_1"] == 402
    assert len(record["lists"]["only_1"]) == record["only_1"]
    assert len(record["lists"]["moved"]) == record["moved"]
    assert record["corpus_2"]["unknown_rate"] < record["corpus_1"]["unknown_rate"] < 1


def test_lists_are_printed_after_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    a = str(MISC / "vocab_a.txt")
    assert main(["vocab", "diff", "--vocab_1", a, "--vocab_2", a, "--list", "common"]) == 0
    figures, _, listed = capsys.readouterr().out.partition("\ncommon:\n")
    assert "Jaccard: 1.0000" in figures
    assert len(listed.splitlines()) == 402


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vocab_1", "a.txt"], "Two vocabularies"),
        (["--vocab_1", "a.txt", "--vocab_2", "b.txt"], "a.txt does not exist"),
        (["--vocab_1", "a.txt", "--vocab_2", "b.txt", "--list", "all"], "must be one of only_1"),
    ],
)
def test_what_cannot_be_compared_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vocab", "diff", *arguments]) in (1, 2)
    assert words in capsys.readouterr().err
