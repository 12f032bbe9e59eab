"""A trial run shows which number of attention heads a model was trained with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import FIXTURES
from uertool.bundled import bundled_models
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.loading.settings import DeviceSettings
from uertool.tasks.check.head_evidence import best_heads
from uertool.tasks.check.inspection import inspect_checkpoint, run_once
from uertool.tasks.check.report import Inspection
from uertool.tasks.check.trial_run import trial_run

CPU = DeviceSettings(device="cpu")
SMALL = bundled_models()["zh-mlm-small"]


def model_without_heads(folder: Path, **config: object) -> Path:
    """The bundled model as a file that does not say how many heads it has."""
    file = open_tensor_file(SMALL)
    torch.save({name: file.tensor(name).clone() for name in file}, folder / "model.bin")
    shutil.copyfile(SMALL / "vocab.txt", folder / "vocab.txt")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.bin"


def run(path: Path) -> Inspection:
    result = inspect_checkpoint(path, numbers=False)
    run_once(result, CPU)
    return result


def test_the_right_number_of_heads_predicts_best() -> None:
    found = trial_run(SMALL, CPU)
    assert found.heads == 6
    assert min(found.perplexities, key=found.perplexities.__getitem__) == 6
    assert best_heads(found.perplexities, 6) is None
    assert {3, 6, 12} <= set(found.perplexities)


@pytest.mark.parametrize("config", [{}, {"heads_num": 3}], ids=["guessed", "wrong config"])
def test_a_wrong_number_of_heads_is_a_problem(config: dict[str, int], tmp_path: Path) -> None:
    result = run(model_without_heads(tmp_path, **config))
    (problem,) = result.problems
    assert "much better with 6 attention heads" in problem.what
    assert "than with 3" in problem.what
    assert "`heads_num` to 6" in (problem.hint or "")


def test_a_model_that_predicts_nothing_is_no_evidence() -> None:
    assert trial_run(FIXTURES / "mlm-modular" / "model.bin", CPU).perplexities == {}


def test_the_best_number_must_be_clearly_better() -> None:
    assert best_heads({}, 4) is None
    assert best_heads({2: 100.0, 4: 110.0}, 4) is None
    assert best_heads({2: 50.0, 4: 110.0}, 4) == 2
    assert best_heads({2: 50.0, 4: 110.0, 8: 55.0}, 0) is None
    assert best_heads({2: 50.0, 4: 110.0, 8: 90.0}, 0) == 2


@pytest.mark.parametrize("name", ["llama-modular", "llama-gqa-modular"])
def test_a_model_with_shared_keys_is_run(name: str) -> None:
    run = trial_run(FIXTURES / name / "model.bin", DeviceSettings(device="cpu"))
    assert run.heads == 4
    assert run.outputs["lm"][-1] == 480


def test_heads_that_follow_from_norms_are_not_tried() -> None:
    run = trial_run(FIXTURES / "hf-qwen3", DeviceSettings(device="cpu"))
    assert run.perplexities == {}
    assert run.outputs["hidden"][-1] == 40
