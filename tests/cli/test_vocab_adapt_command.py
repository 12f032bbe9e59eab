"""`uertool vocab adapt` from the command line: old flags, report, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import FIXTURES
from uertool.cli.app import main

MLM = FIXTURES / "mlm-legacy"
NEW = str(FIXTURES / "misc-legacy" / "new_vocab.txt")
OLD_FLAGS = [
    *("vocab", "adapt", "--old_model_path", str(MLM / "model.bin")),
    *("--old_vocab_path", str(MLM / "vocab.txt"), "--new_vocab_path", NEW),
]


def test_the_old_flags_write_the_model_and_say_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new.bin"
    assert main([*OLD_FLAGS, "--new_model_path", str(output), "--save-run"]) == 0
    said = capsys.readouterr()
    for words in ("copied", "696", "composed", "drawn", "1040x32", "698x32", f"wrote {output}"):
        assert words in said.out
    tensors = torch.load(output, weights_only=True)
    assert tensors["embedding.word_embedding.weight"].shape == (698, 32)
    assert (tmp_path / "new.bin.run.json").is_file()
    assert main([*OLD_FLAGS, "--new_model_path", str(output)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_the_vocabulary_next_to_the_model_is_used(tmp_path: Path) -> None:
    named, found = tmp_path / "named.bin", tmp_path / "found.bin"
    assert main([*OLD_FLAGS, "--new_model_path", str(named), "-q"]) == 0
    model = ["vocab", "adapt", "--model", str(MLM / "model.bin")]
    assert main([*model, "--new_vocab_path", NEW, "-o", str(found), "-q"]) == 0
    assert found.read_bytes() == named.read_bytes()


def test_a_dry_run_in_json_lists_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OLD_FLAGS, "--dry-run", "--json", "--list", "drawn", "--list", "composed"]) == 0
    report = json.loads(capsys.readouterr().out)
    (side,) = report["vocabularies"]
    assert (side["copied"], side["composed"], side["drawn"]) == (696, 1, 1)
    assert side["lists"]["drawn"] == ["龘"]
    assert report["written"] == []
    assert {tensor["canonical"] for tensor in report["tensors"]} == {
        "embedding.word.embedding.weight",
        "target.mlm.linear_2.weight",
        "target.mlm.linear_2.bias",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("init", ["mean-of-pieces", "normal", "zero", "similar"])
def test_every_method_runs_and_is_the_same_twice(init: str, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("龘 1 0\n天 0.9 0.1\n气 0.1 0.9\n", encoding="utf-8")
    more = ["--similar-path", str(vectors)] if init == "similar" else []
    outputs = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for output in outputs:
        arguments = [*OLD_FLAGS, "--init", init, "--new_model_path", str(output), "-q", *more]
        assert main(arguments) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--init", "mean"], 2, "mean-of-pieces"),
        (["--init", "similar"], 2, "--similar-path"),
        (["--list", "all"], 2, "must be one of composed"),
        (["--new_tgt_vocab_path", NEW], 2, "go together"),
        (["--old_vocab_path", NEW], 1, "not the vocabulary of this model"),
        (["--old_model_path", "none.bin"], 1, "none.bin"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    change: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = [*OLD_FLAGS, "--new_model_path", str(tmp_path / "o.bin")]
    if change[0] in usual:
        place = usual.index(change[0])
        del usual[place : place + 2]
    assert main([*usual, *change]) == code
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
