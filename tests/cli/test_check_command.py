"""`uertool check` from the command line: tables, JSON, copies, comparisons and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints.malicious import corpus
from tests.conftest import FIXTURES, fixture_folders
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.cli.app import main

BERT = FIXTURES / "bert-legacy"
MODEL = str(BERT / "model.bin")


def test_a_good_checkpoint_is_described_and_ends_with_0(
    capsys: pytest.CaptureFixture[str],
) -> None:
    vocab, config = str(BERT / "vocab.txt"), str(BERT / "config.json")
    arguments = ["--load_model_path", MODEL, "--vocab_path", vocab, "--config_path", config]
    assert main(["check", *arguments]) == 0
    said = capsys.readouterr().out
    for words in ("UER-py legacy", "bert", "torch-zip", "cloze", "No problems found", "layers_num"):
        assert words in said


def test_what_is_assumed_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes((BERT / "model.bin").read_bytes())  # without its config.json
    assert main(["check", str(model), "--fast"]) == 0
    said = capsys.readouterr().out
    assert "warning: The number of attention heads" in said and "--heads-num" in said
    assert "No problems found" not in said
    assert said.rstrip().endswith("warning.")


def test_json_is_one_line_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", MODEL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["good"] is True
    assert report["generation"] == "legacy"
    assert {"cloze", "extract-features"} <= {
        s["command"] for s in report["services"] if s["possible"]
    }
    assert report["security"][0]["safe"] is True


@pytest.mark.parametrize("attack", ["os-system", "torch-zip", "torch-legacy"])
def test_a_dangerous_pickle_ends_with_1_and_is_never_run(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(corpus(tmp_path / "canary")[attack])
    assert main(["check", str(path)]) == 1
    said = capsys.readouterr().out
    assert "system" in said and "PROBLEM" in said
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"<html>", "HTML"),
        (b"PK\x03\x04cut", "truncated"),
    ],
)
def test_what_is_no_checkpoint_ends_with_1(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    assert main(["check", str(path)]) == 1
    assert words in capsys.readouterr().out


def test_fix_writes_a_clean_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(FIXTURES / "misc-legacy" / "multi_gpu.bin")
    output = tmp_path / "clean.safetensors"
    assert main(["check", source, "--fix", str(output)]) == 0
    assert "embedding.word.embedding.weight" in open_tensor_file(output)
    assert main(["check", str(output), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["multi_gpu"] is False and report["generation"] == "modular"
    assert main(["check", source, "--fix", str(output)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_to_safetensors_keeps_the_names(tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    assert main(["check", MODEL, "--fast", "--to-safetensors", str(output)]) == 0
    assert sorted(open_tensor_file(output)) == sorted(torch.load(MODEL, weights_only=True))


def test_compare_ends_with_0_if_equal_and_1_if_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = torch.load(MODEL, weights_only=True)
    tensors["target.mlm_linear_2.bias"][0] += 0.25
    torch.save(tensors, tmp_path / "m.bin")
    assert main(["check", MODEL, "--compare", MODEL]) == 0
    capsys.readouterr()
    assert main(["check", MODEL, "--compare", str(tmp_path / "m.bin")]) == 1
    said = capsys.readouterr().out
    assert "target.mlm_linear_2.bias" in said and "0.25" in said and "1 differs" in said
    assert main(["check", MODEL, "--compare", str(tmp_path / "m.bin"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["tensors"][0]["largest"] == pytest.approx(0.25)


def test_two_generations_are_compared_by_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    other = str(FIXTURES / "bert-modular" / "model.bin")
    main(["check", MODEL, "--compare", other, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["by_meaning"] is True
    assert not report["counts"].get("only in the first")


@pytest.mark.parametrize("folder", fixture_folders("model.bin"), ids=lambda path: path.name)
def test_run_does_a_forward_pass_with_every_head(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folder / "model.bin")
    assert main(["check", model, "--run", "--device", "cpu", "--json", "--fast"]) == 0
    report = json.loads(capsys.readouterr().out)
    outputs = report["run"]["outputs"]
    assert report["run"]["finite"] is True
    assert outputs["hidden"][-1] == 32
    assert set(report["heads"]) - {"pooler"} <= set(outputs)


def test_a_model_that_does_not_run_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = torch.load(MODEL, weights_only=True)
    torch.save(tensors, tmp_path / "m.bin")
    assert main(["check", str(tmp_path / "m.bin"), "--run", "--fast"]) == 1
    assert "--heads-num" in capsys.readouterr().out
    tensors["encoder.transformer.1.feed_forward.linear_1.bias"][0] = float("inf")
    torch.save(tensors, tmp_path / "m.bin")
    config = str(BERT / "config.json")
    arguments = ["--run", "--fast", "--config_path", config, "--device", "cpu"]
    assert main(["check", str(tmp_path / "m.bin"), *arguments]) == 1
    assert "forward pass gives NaN" in capsys.readouterr().out


def test_a_missing_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert "FILE is missing" in capsys.readouterr().err
    assert main(["check", MODEL, "--model", "other.bin"]) == 2


def test_a_missing_file_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "/nonexistent/model.bin"]) == 1
    assert "no file" in capsys.readouterr().out
