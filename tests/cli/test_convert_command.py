"""`uertool convert` from the command line, with the old scripts' flags and the new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import FIXTURES
from uertool.checkpoints.reader import open_checkpoint
from uertool.cli.app import main

pytestmark = pytest.mark.slow

MLM = str(FIXTURES / "mlm-modular" / "model.bin")
BERT = str(FIXTURES / "bert-legacy" / "model.bin")
T5 = str(FIXTURES / "t5-modular" / "model.bin")


def test_the_old_flags_work(tmp_path: Path) -> None:
    output = tmp_path / "pytorch_model.bin"
    code = main(
        [
            "convert",
            "uer2hf",
            "--input_model_path",
            BERT,
            "--output_model_path",
            str(output),
            "--layers_num",
            "3",
            "--target",
            "bert",
        ]
    )
    assert code == 0
    expected = FIXTURES / "bert-legacy" / "expected" / "hf_state_dict.json"
    assert set(torch.load(output, weights_only=True)) == set(json.loads(expected.read_text()))


def test_the_old_default_of_twelve_layers_is_no_trap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["convert", "uer2hf", MLM, str(tmp_path / "hf"), "--layers_num", "12"])
    assert code == 1
    assert "--layers_num is 12, but the encoder has 3 layers" in capsys.readouterr().err


def test_type_of_the_old_scripts_is_the_architecture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "uer2hf", T5, str(tmp_path / "hf"), "--type", "t5"]) == 0
    code = main(["convert", "uer2hf", T5, str(tmp_path / "x"), "--type", "t5-v1_1"])
    assert code == 1
    assert "t5-v1_1" in capsys.readouterr().err


def test_there_and_back_through_auto(tmp_path: Path) -> None:
    assert main(["convert", "auto", MLM, str(tmp_path / "hf"), "--to", "hf"]) == 0
    back = tmp_path / "back.safetensors"
    assert main(["convert", "auto", str(tmp_path / "hf"), str(back), "--to", "safetensors"]) == 0
    one, other = open_checkpoint(MLM), open_checkpoint(back)
    assert other.stored_config is not None
    for name in one:
        first, second = one.tensor(name), other.tensor(name)
        if name == "embedding.seg.embedding.weight":
            first, second = first[1:], second[1:]
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("command", "source", "generation"),
    [("legacy2modular", BERT, "modular"), ("modular2legacy", MLM, "legacy")],
)
def test_generations(command: str, source: str, generation: str, tmp_path: Path) -> None:
    assert main(["convert", command, source, str(tmp_path / "m.bin")]) == 0
    assert open_checkpoint(tmp_path / "m.bin").generation == generation


def test_a_dry_run_prints_the_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "uer2hf", MLM, str(tmp_path / "hf"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "BertForMaskedLM" in text
    row = next(line for line in text.splitlines() if "token_type_embeddings" in line)
    assert row.split()[:4] == [
        "bert.embeddings.token_type_embeddings.weight",
        "2x32",
        "float32",
        "embedding.seg.embedding.weight",
    ]
    assert "dropped" in row
    assert not (tmp_path / "hf").exists()


def test_what_was_proven_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "uer2hf", MLM, str(tmp_path / "hf"), "--verify-full"]) == 0
    text = capsys.readouterr().out
    assert "59 tensors read back, equal bit for bit" in text
    assert "source and output, both in uertool: 0." in text
    assert "output in uertool and in transformers: " in text
    assert "gamma copied bit for bit" in text
    assert "--exact-norm" in text
    assert main(["convert", "uer2hf", MLM, str(tmp_path / "exact"), "--exact-norm"]) == 0
    assert "every gamma multiplied" in capsys.readouterr().out


def test_a_pipe_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "uer2hf", MLM, "-"]) == 2
    assert "pipe" in capsys.readouterr().err


def test_json_is_one_line_with_the_proof(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "uer2hf", MLM, str(tmp_path / "hf"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["hf_class"] == "BertForMaskedLM"
    assert report["verification"]["tensors"] == 59


def test_a_folder_of_checkpoints_gets_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mlm-modular", "gpt2-modular"):
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        for file in ("model.bin", "config.json", "vocab.txt"):
            (folder / file).write_bytes((FIXTURES / name / file).read_bytes())
    code = main(["convert", "uer2hf", str(tmp_path / "in"), str(tmp_path / "out"), "--no-verify"])
    assert code == 0
    text = capsys.readouterr().out
    assert "mlm-modular" in text
    assert "gpt2-modular" in text
    assert (tmp_path / "out" / "gpt2-modular" / "generation_config.json").is_file()


def test_a_folder_is_looked_through_without_writing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.bin").write_bytes(Path(MLM).read_bytes())
    (source / "a.safetensors").write_text("<html>")
    arguments = ["convert", "auto", str(source), str(tmp_path / "out"), "--to", "safetensors"]
    assert main([*arguments, "--dry-run"]) == 1
    captured = capsys.readouterr()
    assert "a-bin.safetensors" in captured.out
    assert "a.safetensors: " in captured.err
    assert "HTML" in captured.err
    assert "1 of 2 checkpoints" in captured.err
    assert [item.name for item in tmp_path.iterdir()] == ["in"]
    assert main(arguments) == 1
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["a-bin.safetensors"]


def test_a_missing_output_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "uer2hf", MLM]) == 2
    assert "--output-model-path" in capsys.readouterr().err


def test_a_direction_says_what_the_input_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "hf2uer", MLM, str(tmp_path / "m.bin")]) == 2
    assert "names of UER-py" in capsys.readouterr().err
