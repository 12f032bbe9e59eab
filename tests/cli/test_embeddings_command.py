"""`uertool extract-embeddings` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, TEXT
from uertool.cli.app import main

BERT = FIXTURES / "bert-modular"


def embeddings(*arguments: object) -> int:
    return main(["extract-embeddings", *map(str, arguments)])


def test_the_old_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "embeddings.txt"
    named = ("--load_model_path", BERT / "model.bin", "--vocab_path", BERT / "vocab.txt")
    assert embeddings(*named, "--word_embedding_path", output, "--save-run") == 0
    lines = output.read_text("utf-8").splitlines()
    assert lines[0] == "1040 32"
    assert len(lines) == 1041
    assert "1,040 vectors of 32" in capsys.readouterr().err
    record = json.loads((tmp_path / "embeddings.txt.run.json").read_text("utf-8"))
    assert record["results"] == {"words": 1040, "size": 32, "dropped": 0}


def test_text_to_a_pipe_and_binary_to_a_file(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert embeddings("zh-mlm-small", "-o", "-", "--drop-unused", "-q") == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0] == f"{len(lines) - 1} 192"
    assert embeddings("-m", "zh-mlm-small", "-o", tmp_path / "e.vec", "--binary") == 0
    assert (tmp_path / "e.vec").read_bytes().startswith(b"6354 192\n[PAD] ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--word-embedding-path"),
        (["zh-mlm-small", "-m", "other", "-o", "e.txt"], 2, "Two models"),
        (["no-such", "-o", "e.txt"], 1, "no-such does not exist"),
        (["zh-mlm-small", "-o", "e.npy", "--binary"], 2, "Name it .bin"),
        (["zh-mlm-small", "-o", "e.txt", "--projected"], 2, "not factorised"),
        (["zh-mlm-small", "-o", "e.txt", "--vocab-path", TEXT / "google_zh_vocab.txt"], 1, "21128"),
        (["zh-mlm-small", "-o", "e.txt", "--vocab-path", "none"], 1, "none does not exist"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    arguments: list[object],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert embeddings(*arguments) == code
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
