"""`uertool average` from the command line, with the old flags and the new ones."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import FIXTURES
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.cli.app import main

MEMBERS = [str(FIXTURES / "misc-modular" / f"avg_{number}.bin") for number in range(3)]


def series(folder: Path, values: list[float]) -> None:
    for number, value in enumerate(values):
        step = 100 * (number + 1)
        torch.save({"w": torch.full((2,), value)}, folder / f"model.bin-{step}")


def value_of(path: Path) -> float:
    return float(open_tensor_file(path).tensor("w")[0])


def test_the_old_flags_give_the_old_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mean.bin"
    assert main(["average", "--model_list_path", *MEMBERS, "--output_model_path", str(output)]) == 0
    expected = load_file(FIXTURES / "misc-modular" / "expected_average.safetensors")
    found = torch.load(output, weights_only=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=3e-7, rtol=0)
    assert "wrote" in capsys.readouterr().out


def test_weights_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path, [0.0, 10.0])
    pattern = f"{tmp_path}/model.bin-*"
    output = tmp_path / "out.safetensors"
    code = main(["average", pattern, "--weights", "3", "1", "-o", str(output), "--json"])
    assert code == 0
    assert value_of(output) == 2.5
    report = json.loads(capsys.readouterr().out)
    assert report["weights"] == [0.75, 0.25]
    assert report["tensors"] == 1


def test_the_last_checkpoints_of_a_folder(tmp_path: Path) -> None:
    series(tmp_path, [100.0, 1.0, 2.0])
    output = tmp_path / "out.bin"
    assert main(["average", str(tmp_path), "--last", "2", "-o", str(output)]) == 0
    assert value_of(output) == 1.5


def test_a_moving_average_by_step(tmp_path: Path) -> None:
    series(tmp_path, [0.0, 4.0, 8.0])
    output = tmp_path / "out.bin"
    code = main(["average", str(tmp_path), "--last", "3", "--ema", "0.5", "-o", str(output)])
    assert code == 0
    assert value_of(output) == 0.25 * 4 + 0.5 * 8


def test_a_base_and_a_method(tmp_path: Path) -> None:
    series(tmp_path, [0.0, 1.0, 3.0])
    one, two, three = (str(tmp_path / f"model.bin-{step}") for step in (100, 200, 300))
    output = tmp_path / "out.bin"
    command = ["average", two, three, "--base", one, "--method", "ties", "--density", "1"]
    assert main([*command, "-o", str(output)]) == 0
    assert value_of(output) == 2.0
    assert main(["average", one, three, "--method", "slerp", "--fraction", "0.5"]) == 2


_SCORER = """
import struct, sys, zipfile  # torch would take seconds to import
with zipfile.ZipFile(sys.argv[1]) as archive:
    (name,) = (name for name in archive.namelist() if name.endswith("data/0"))
    (value,) = struct.unpack("<f", archive.read(name)[:4])
print("evaluated 10 lines")
print("score:", -abs(value - 4.6))
"""


@pytest.mark.slow
def test_a_greedy_soup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path, [4.0, 1.0, 9.0, 5.0])
    scorer = tmp_path / "score.py"
    scorer.write_text(_SCORER)
    output = tmp_path / "soup.bin"
    code = main(
        [
            "average",
            f"{tmp_path}/model.bin-*",
            "--greedy",
            "--score-command",
            f"{sys.executable} {scorer} {{}}",
            "-o",
            str(output),
            "--json",
        ]
    )
    assert code == 0
    assert value_of(output) == 4.5
    report = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path in report["models"]] == ["model.bin-400", "model.bin-100"]
    assert [step["kept"] for step in report["soup"]] == [True, True, False, False]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".soup")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", "ended with 1"),
        ("echo no figures", "printed no number"),
        ("/nonexistent/scorer", "cannot be run"),
        ("'", "cannot be parsed"),
    ],
)
def test_a_score_command_that_fails_is_one_sentence(
    command: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series(tmp_path, [1.0, 2.0])
    arguments = ["average", f"{tmp_path}/model.bin-*", "--greedy", "--score-command", command]
    assert main([*arguments, "-o", str(tmp_path / "out.bin")]) in (1, 2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.bin").exists()


def test_what_differs_is_shown_as_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(FIXTURES / "misc-legacy" / "avg_0.bin")
    output = tmp_path / "out.bin"
    assert main(["average", MEMBERS[0], other, "-o", str(output)]) == 1
    said = capsys.readouterr()
    assert "target.mlm.layer_norm.gamma" in said.out and "absent" in said.out
    assert "--unify" in said.err
    assert not output.exists()
    assert main(["average", MEMBERS[0], other, "--unify", "-o", str(output)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "x.bin"], "No checkpoints were named"),
        ([*MEMBERS], "There is no output"),
        ([MEMBERS[0], "-o", "x.bin"], "nothing to merge"),
        ([*MEMBERS, "-o", "x.bin", "--greedy"], "go together"),
        ([*MEMBERS, "-o", "x.bin", "--weights", "a,b"], "must be numbers"),
        ([*MEMBERS, "-o", "x.bin", "--weights", "1,1,1", "--ema", "0.5"], "both set the weights"),
        ([*MEMBERS, "-o", "x.bin", "--last", "2"], "one training folder"),
        ([*MEMBERS, "-o", "x.bin", "--method", "median"], "mean, slerp, ties, dare"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["average", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_an_existing_output_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.bin"
    output.write_text("old")
    assert main(["average", *MEMBERS, "-o", str(output)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "old"
    assert main(["average", *MEMBERS, "-o", str(output), "--overwrite", "--save-run"]) == 0
    record = json.loads((tmp_path / "out.bin.run.json").read_text())
    assert set(record["inputs"]) == set(MEMBERS)
