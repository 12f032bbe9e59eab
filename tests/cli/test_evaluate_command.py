"""`uertool evaluate` and `uertool whiten tune` as they are typed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.conftest import MODELS, TEXT
from uertool import Whitening
from uertool.cli.app import main

SMALL = str(MODELS / "zh-mlm-small")
BAD_WORD = "text_a\ttext_b\tscore\n好\t坏\tx\n"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    texts = (TEXT / "reviews_test.tsv").read_text("utf-8").split("\n")[1:41]
    rows = [text.partition("\t")[2][:30] for text in texts]
    neighbours = enumerate(zip(rows, rows[1:], strict=False))
    lines = [f"{a}\t{a[:10]}{b}\t{n % 7}" for n, (a, b) in neighbours]
    path = tmp_path / "pairs.tsv"
    path.write_text("text_a\ttext_b\tscore\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--device", "cpu"])


def test_models_and_poolings_are_in_one_table(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = MODELS / "zh-lm-small"
    options = ("--pooling", "mean,last", "--whitening-size", 8, "--resamples", 20)
    assert evaluate("sts", SMALL, other, "-i", pairs, *options) == 0
    out, err = capsys.readouterr()
    assert [line.count("1/1") for line in out.split("\n")].count(1) == 4
    assert "Spearman" in out and "AUC" not in out
    assert "39 pairs; numbers are multiplied by 100" in err
    assert evaluate("sts", SMALL, other, "-i", pairs, *options, "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["model"], record["pooling"]) for record in records[::2]] == [
        (name, pooling) for name in (SMALL, str(other)) for pooling in ("mean", "last")
    ]


def tune(*arguments: object) -> int:
    return main(["whiten", "tune", "-m", SMALL, "--device", "cpu", *map(str, arguments)])


def test_a_tuned_whitening_is_written_with_what_was_tried(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "w.safetensors"
    grid = ("--pooling", "mean,first", "--sizes", "8,16", "--gammas", "0,1", "--folds", 3)
    assert tune("-i", pairs, "-o", saved, *grid, "--save-run") == 0
    out, err = capsys.readouterr()
    assert out.count("mean") >= 4 and "is expected of the best one on new pairs" in err
    assert Whitening.load(saved).about["model"] == "zh-mlm-small"
    assert Path(f"{saved}.run.json").exists()
    assert tune("-i", pairs, "-o", saved, *grid) == 1
    assert "exists already" in capsys.readouterr().err
    assert tune("-i", pairs, "-o", saved, *grid, "--overwrite", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["trials"]) == 16 and record["folds"] == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-i", "pairs.tsv"), "There is no output"),
        (("-o", "w.safetensors"), "There are no pairs"),
        (("-i", "pairs.tsv", "-o", "w.npy"), "saved as .safetensors"),
        (("-i", "pairs.tsv", "-o", "w.safetensors", "--plot", "x.txt"), "picture is written as"),
        (("-i", "pairs.tsv", "-o", "w.safetensors", "--sizes", "900"), "--sizes 900"),
    ],
)
def test_what_cannot_be_tuned_leaves_nothing(
    arguments: tuple[object, ...],
    text: str,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pairs.parent)
    assert tune(*arguments) == 2
    assert text in capsys.readouterr().err
    assert [item.name for item in pairs.parent.iterdir()] == ["pairs.tsv"]


def test_cloze_reads_standard_input_for_one_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("今天天气很好。\n".encode())))
    assert evaluate("cloze", SMALL, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["lines"], record["tokens"], record["model"]) == (1, 7, SMALL)
    assert evaluate("cloze", SMALL, SMALL) == 2
    assert "can be read once" in capsys.readouterr().err


def test_cloze_reports_lines_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines.txt").write_bytes("今天天气很好。\n".encode() + b"\xff\xff\n")
    assert evaluate("cloze", SMALL, "-i", tmp_path / "lines.txt", "--skip-bad") == 0
    assert "1 line left out; the first is line 2" in capsys.readouterr().err


def test_a_word_list_masks_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.txt").write_text("天气\n今天\n", "utf-8")
    (tmp_path / "lines.txt").write_text("今天天气很好。\n", "utf-8")
    lists = ("-i", tmp_path / "lines.txt", "--word-list", tmp_path / "words.txt")
    assert evaluate("cloze", "-m", SMALL, *lists) == 0
    assert "words right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("sts",), 2, "There are no pairs"),
        (("sts", "-i", "bad.tsv"), 1, "line 2: the score 'x' is not a finite number"),
        (("sts", SMALL, "-m", SMALL, "-i", "pairs.tsv"), 2, "as arguments and as -m"),
        (("sts", "-i", "pairs.tsv", "--gamma", 0), 2, "nothing is whitened"),
        (("sts", "-i", "pairs.tsv", "--whitening-size", 999), 2, "have 192 dimensions"),
        (("sts", "-i", "pairs.tsv", "--load-whitening", "pairs.tsv"), 1, "not a whitening"),
        (("cloze", "-i", "nowhere.txt"), 1, "does not exist"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: tuple[object, ...],
    code: int,
    text: str,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pairs.parent)
    Path("bad.tsv").write_text(BAD_WORD, "utf-8")
    assert evaluate(*arguments) == code
    assert text in capsys.readouterr().err
