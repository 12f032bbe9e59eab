"""Remarkable numbers are found, and differences between checkpoints measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import FIXTURES
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.writer import save_tensors
from uertool.tasks.check import tensor_health
from uertool.tasks.check.tensor_health import compare, examine


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_health, "BLOCK", 7)


def test_remarkable_numbers_are_named(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(1)
    good = torch.randn(4, 5, generator=chance)
    bad = good.clone()
    bad[1, 1], bad[3, 4] = math.nan, -math.inf
    tensors = {
        "good": good,
        "tied": good,
        "twin": good.clone(),
        "bad": bad,
        "zero": torch.zeros(9),
        "gamma": torch.ones(9),
        "stuck": torch.full((9,), -3.5),
        "half": torch.tensor([math.inf, 1.0], dtype=torch.float16),
        "large": torch.full((3,), 3e38).mul_(torch.tensor([1.0, 0.9, 1.0])),
        "ids": torch.arange(20),
        "empty": torch.empty(0),
        "one": torch.tensor(5.0),
    }
    path = tmp_path / "m.bin"
    torch.save(tensors, path)
    health = examine(open_tensor_file(path))
    assert health.not_finite == {"bad": 2, "half": 1}
    assert health.all_zero == ["zero"]
    assert health.constant == ["stuck", "one"]
    assert health.tied == [("good", "tied")]
    assert health.twins == [("good", "twin")]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_float8_is_examined_and_compared(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    good = torch.tensor([1.0, -2.0, 0.5])
    bad = torch.tensor([1.0, math.nan, 0.5])
    paths = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for path, weight in zip(paths, (good, bad), strict=True):
        save_tensors({"w": weight.to(dtype), "zero": torch.zeros(3).to(dtype)}, path)
    health = examine(open_tensor_file(paths[1]))
    assert health.not_finite == {"w": 1}
    assert health.all_zero == ["zero"]
    found = compare(open_tensor_file(paths[0]), open_tensor_file(paths[1]))
    assert {item.name: item.status for item in found} == {"w": "differs", "zero": "equal"}


@pytest.mark.parametrize("generation", ["legacy", "modular"])
def test_a_sound_checkpoint_has_nothing_remarkable(generation: str) -> None:
    health = examine(open_tensor_file(FIXTURES / f"bert-{generation}" / "model.bin"))
    assert not health.not_finite and not health.constant and not health.twins


def test_differences_are_measured(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    first = {
        "same": base,
        "moved": base,
        "shape": base,
        "type": base,
        "gone": base,
        "nan": torch.tensor([math.nan, 1.0]),
        "broken": base,
    }
    moved = base.clone()
    moved[3] += 0.5
    broken = base.clone()
    broken[0] = math.nan
    second = {
        "same": base.clone(),
        "moved": moved,
        "shape": base.reshape(2, 5),
        "type": base.half(),
        "new": base.clone(),
        "nan": torch.tensor([math.nan, 1.0]),
        "broken": broken,
    }
    torch.save(first, tmp_path / "a.bin")
    save_file({k: t.clone() for k, t in second.items()}, tmp_path / "b.safetensors")
    found = {
        item.name: item
        for item in compare(
            open_tensor_file(tmp_path / "a.bin"), open_tensor_file(tmp_path / "b.safetensors")
        )
    }
    assert {name: item.status for name, item in found.items()} == {
        "same": "equal",
        "moved": "differs",
        "shape": "shape",
        "type": "type",
        "gone": "only in the first",
        "nan": "equal",
        "broken": "differs",
        "new": "only in the second",
    }
    assert found["moved"].largest == 0.5
    assert found["moved"].mean == pytest.approx(0.05)
    cosine = torch.nn.functional.cosine_similarity(base, moved, dim=0).item()
    assert found["moved"].cosine == pytest.approx(cosine)
    assert found["broken"].largest == math.inf
    assert found["type"].largest == 0
    assert found["shape"].first == "10 float32" and found["shape"].second == "2x5 float32"
    assert [item.status for item in found.values()].count("equal") == 2
