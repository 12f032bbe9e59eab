"""Merging checkpoints: every method against a small second implementation, and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import FIXTURES
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.writer import save_tensors
from uertool.errors import CheckpointError, InputError, OutputError, UsageError
from uertool.tasks.average import averaging
from uertool.tasks.average.averaging import merge_checkpoints
from uertool.tasks.average.merging import slerp_weights
from uertool.tasks.average.selection import (
    expand_models,
    greedy_soup,
    last_checkpoints,
    moving_average_weights,
    step_of,
)
from uertool.tasks.average.settings import MergeSettings

GENERATIONS = ["legacy", "modular"]


def members(generation: str) -> list[Path]:
    return [FIXTURES / f"misc-{generation}" / f"avg_{number}.bin" for number in range(3)]


def models(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """Small random models; the first doubles as a base."""
    chance = torch.Generator().manual_seed(seed)
    paths = []
    for number in range(count):
        tensors = {
            "a": torch.randn(7, 5, generator=chance),
            "b": torch.randn(40, generator=chance),
            "ids": torch.arange(4),
        }
        paths.append(folder / f"m{number}.bin")
        torch.save(tensors, paths[-1])
    return paths


def numpy_of(path: Path) -> dict[str, np.ndarray]:
    return {
        name: tensor.double().numpy()
        for name, tensor in torch.load(path, weights_only=True).items()
    }


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "BLOCK", 9)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_mean_is_that_of_the_reference(generation: str, suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"mean{suffix}"
    report = merge_checkpoints(members(generation), output)
    expected = load_file(FIXTURES / f"misc-{generation}" / "expected_average.safetensors")
    found = open_tensor_file(output)
    assert sorted(found.keys()) == sorted(expected)
    assert report.tensors == len(expected)
    for name, tensor in expected.items():
        assert found.tensor(name).dtype == tensor.dtype
        torch.testing.assert_close(found.tensor(name), tensor, atol=3e-7, rtol=0)


def test_weights_are_divided_by_their_sum(tmp_path: Path) -> None:
    paths = models(tmp_path, 2)
    report = merge_checkpoints(paths, tmp_path / "out.bin", MergeSettings(weights=(3, 1)))
    assert report.weights == (0.75, 0.25)
    one, other, out = (numpy_of(path) for path in (*paths, tmp_path / "out.bin"))
    np.testing.assert_allclose(out["a"], 0.75 * one["a"] + 0.25 * other["a"], atol=1e-7)


def test_the_sum_is_taken_in_double_precision(tmp_path: Path) -> None:
    values = [1.0, 1e8, -1e8]
    paths = [tmp_path / f"{i}.bin" for i in range(3)]
    for value, path in zip(values, paths, strict=True):
        torch.save({"w": torch.full((3,), value)}, path)
    merge_checkpoints(paths, tmp_path / "out.bin")
    assert torch.equal(numpy_tensor(tmp_path / "out.bin"), torch.full((3,), 1 / 3))


def numpy_tensor(path: Path) -> torch.Tensor:
    return torch.load(path, weights_only=True)["w"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_output_has_the_type_of_the_source(dtype: torch.dtype, tmp_path: Path) -> None:
    for number in range(2):
        torch.save({"w": torch.full((3,), float(number)).to(dtype)}, tmp_path / f"{number}.bin")
    merge_checkpoints([tmp_path / "0.bin", tmp_path / "1.bin"], tmp_path / "out.bin")
    assert torch.equal(numpy_tensor(tmp_path / "out.bin"), torch.full((3,), 0.5).to(dtype))


def test_mixed_number_types_give_the_widest_with_a_notice(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, dtype=torch.float16)}, tmp_path / "0.bin")
    torch.save({"w": torch.zeros(3)}, tmp_path / "1.bin")
    report = merge_checkpoints([tmp_path / "0.bin", tmp_path / "1.bin"], tmp_path / "out.bin")
    assert numpy_tensor(tmp_path / "out.bin").dtype == torch.float32
    assert "number types" in report.notices[0]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_float8_is_averaged_alone_and_with_wider_types(
    dtype: torch.dtype, suffix: str, tmp_path: Path
) -> None:
    values = [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 2.0, 0.5])]
    mean = (values[0] + values[1]) / 2
    for other, expected in [(dtype, dtype), (torch.bfloat16, torch.bfloat16)]:
        paths = [tmp_path / f"0{suffix}", tmp_path / f"1{suffix}"]
        for path, value, kind in zip(paths, values, (dtype, other), strict=True):
            save_tensors({"w": value.to(kind)}, path, overwrite=True)
        output = tmp_path / f"out{suffix}"
        merge_checkpoints(paths, output, overwrite=True)
        found = open_tensor_file(output).tensor("w")
        assert found.dtype == expected
        assert torch.equal(found.float(), mean)


def test_two_types_of_float8_are_averaged_in_float32(tmp_path: Path) -> None:
    for number, dtype in enumerate((torch.float8_e4m3fn, torch.float8_e5m2)):
        save_tensors({"w": torch.ones(3).to(dtype)}, tmp_path / f"{number}.safetensors")
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    merge_checkpoints(paths, tmp_path / "out.bin")
    assert numpy_tensor(tmp_path / "out.bin").dtype == torch.float32


def test_files_of_several_formats_mix(tmp_path: Path) -> None:
    tensors = [{"w": torch.full((3,), float(number))} for number in range(3)]
    torch.save(tensors[0], tmp_path / "0.bin")
    save_file(tensors[1], tmp_path / "1.safetensors")
    (tmp_path / "2").mkdir()
    save_file(tensors[2], tmp_path / "2" / "model.safetensors")
    paths = [tmp_path / "0.bin", tmp_path / "1.safetensors", tmp_path / "2"]
    merge_checkpoints(paths, tmp_path / "out.bin")
    assert torch.equal(numpy_tensor(tmp_path / "out.bin"), torch.ones(3))


def test_folders_give_a_folder_with_the_configuration_of_the_first(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file({"w": torch.full((3,), float(number))}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"number": number}))
        (folder / "vocab.txt").write_text("[PAD]\n")
    merge_checkpoints([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    names = ["config.json", "model.safetensors", "vocab.txt"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"number": 0}
    assert torch.equal(open_tensor_file(tmp_path / "out").tensor("w"), torch.full((3,), 0.5))


def test_other_files_stay_in_a_folder_that_is_overwritten(tmp_path: Path) -> None:
    for name in ("a", "b", "out"):
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(3)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "out" / "notes.md").write_text("mine")
    (tmp_path / "out" / "merges.txt").write_text("of the former model")
    report = merge_checkpoints([tmp_path / "a", tmp_path / "b"], tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "notes.md").read_text() == "mine"
    assert not (tmp_path / "out" / "merges.txt").exists()
    assert {file.name for file in report.written} == {"config.json", "model.safetensors"}


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.bin" for i in range(2)]
    for path in paths:
        word = torch.rand(5, 3)
        torch.save({"word": word, "output": word, "other": torch.rand(5, 3)}, path)
    for suffix in (".bin", ".safetensors"):
        merge_checkpoints(paths, tmp_path / f"out{suffix}")
        file = open_tensor_file(tmp_path / f"out{suffix}")
        assert file.storage_key("word") == file.storage_key("output")
        assert file.storage_key("word") != file.storage_key("other")


def test_slerp_is_the_formula_of_shoemake(tmp_path: Path) -> None:
    paths = models(tmp_path, 2)
    merge_checkpoints(paths, tmp_path / "out.bin", MergeSettings(method="slerp", fraction=0.3))
    one, other, out = (numpy_of(path) for path in (*paths, tmp_path / "out.bin"))
    for name in ("a", "b"):
        p, q = one[name].ravel(), other[name].ravel()
        angle = np.arccos(p @ q / np.linalg.norm(p) / np.linalg.norm(q))
        expected = (np.sin(0.7 * angle) * p + np.sin(0.3 * angle) * q) / np.sin(angle)
        np.testing.assert_allclose(out[name].ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("dot", "first", "second"), [(1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (-4.0, 4.0, 4.0)]
)
def test_slerp_of_parallel_or_empty_vectors_is_a_line(
    dot: float, first: float, second: float
) -> None:
    assert slerp_weights(dot, first, second, 0.25) == (0.75, 0.25)


def ties_reference(
    base: np.ndarray, others: list[np.ndarray], weights: list[float], density: float, scale: float
) -> np.ndarray:
    """TIES on whole models as one vector each, straight from section 4 of the paper."""
    trimmed = []
    for other in others:
        delta = other - base
        keep = np.argsort(-np.abs(delta), kind="stable")[: int(len(delta) * density)]
        sparse = np.zeros_like(delta)
        sparse[keep] = delta[keep]
        trimmed.append(sparse)
    merged = np.zeros_like(base)
    for place in range(len(base)):
        values = [sparse[place] for sparse in trimmed]
        elected = np.sign(sum(w * v for w, v in zip(weights, values, strict=True)))
        agreeing = [
            (w, v) for w, v in zip(weights, values, strict=True) if v != 0 and np.sign(v) == elected
        ]
        if agreeing:
            merged[place] = sum(w * v for w, v in agreeing) / sum(w for w, _ in agreeing)
    return base + scale * merged


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 3.0)])
def test_ties_is_the_procedure_of_the_paper(
    density: float, weights: tuple[float, ...] | None, tmp_path: Path
) -> None:
    base, *paths = models(tmp_path, 4)
    merge_checkpoints(
        paths,
        tmp_path / "out.bin",
        MergeSettings(method="ties", base=str(base), density=density, scale=0.7, weights=weights),
    )

    def vector(path: Path) -> np.ndarray:
        found = numpy_of(path)
        return np.concatenate([found["a"].ravel(), found["b"]])

    expected = ties_reference(
        vector(base),
        [vector(path) for path in paths],
        list(weights or [1.0, 1.0, 1.0]),
        density,
        0.7,
    )
    np.testing.assert_allclose(vector(tmp_path / "out.bin"), expected, atol=1e-6)


def test_ties_keeps_as_many_values_as_asked_for(tmp_path: Path) -> None:
    base, model = models(tmp_path, 2)
    merge_checkpoints(
        [model], tmp_path / "out.bin", MergeSettings(method="ties", base=str(base), density=0.4)
    )
    before, after = numpy_of(base), numpy_of(tmp_path / "out.bin")
    changed = sum(int((before[name] != after[name]).sum()) for name in ("a", "b"))
    assert changed == int(75 * 0.4)


def test_dare_keeps_and_rescales_as_the_paper_says(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(20_000)}, tmp_path / "base.bin")
    torch.save({"w": torch.ones(20_000)}, tmp_path / "one.bin")
    out = tmp_path / "out.bin"
    merge_checkpoints(
        [tmp_path / "one.bin"],
        out,
        MergeSettings(method="dare", base=str(tmp_path / "base.bin"), density=0.25, seed=3),
    )
    merged = numpy_tensor(out)
    assert set(merged.unique().tolist()) == {0.0, 4.0}
    assert merged.mean().item() == pytest.approx(1.0, abs=0.05)  # the expectation is unchanged


def test_dare_depends_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *paths = models(tmp_path, 3)

    def run(seed: int) -> bytes:
        out = tmp_path / "out.bin"
        settings = MergeSettings(method="dare", base=str(base), seed=seed)
        merge_checkpoints(paths, out, settings, overwrite=True)
        return out.read_bytes()

    first = run(1)
    assert first != run(2)
    monkeypatch.setattr(averaging, "BLOCK", 9_000)
    assert first == run(1)


def test_dare_that_drops_nothing_is_task_arithmetic(tmp_path: Path) -> None:
    base, *paths = models(tmp_path, 3)
    out = tmp_path / "out.bin"
    settings = MergeSettings(method="dare", base=str(base), density=1.0, scale=2.0)
    merge_checkpoints(paths, out, settings)
    start, one, other, merged = (numpy_of(path) for path in (base, *paths, out))
    expected = start["a"] + 2 * ((one["a"] + other["a"]) / 2 - start["a"])
    np.testing.assert_allclose(merged["a"], expected, atol=1e-6)


def test_a_moving_average_goes_by_step() -> None:
    assert moving_average_weights(None, 3, 0.5) == [0.25, 0.25, 0.5]
    assert moving_average_weights([100, 200, 300], 3, 0.5) == [0.25, 0.25, 0.5]
    uneven = moving_average_weights([0, 100, 300], 3, 0.5)
    running = np.array([1.0, 0.0, 0.0])
    running = 0.5 * running + 0.5 * np.array([0, 1, 0])
    running = 0.25 * running + 0.75 * np.array([0, 0, 1])
    assert uneven == pytest.approx(list(running))
    assert sum(uneven) == pytest.approx(1)
    with pytest.raises(UsageError, match="between 0 and 1"):
        moving_average_weights(None, 3, 1.5)


@pytest.mark.parametrize(
    ("name", "step"),
    [("model.bin-1000", 1000), ("checkpoint-50", 50), ("model-7.safetensors", 7), ("m.bin", None)],
)
def test_steps_are_read_from_names(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_the_last_checkpoints_are_found_by_step(tmp_path: Path) -> None:
    for step in (500, 1000, 2500, 10_000):
        (tmp_path / f"model.bin-{step}").write_text("")
    (tmp_path / "model.bin").write_text("")
    (tmp_path / "log-3.txt").write_text("")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("")
    assert [path.name for path in last_checkpoints(tmp_path, 2)] == [
        "model.bin-2500",
        "model.bin-10000",
    ]
    with pytest.raises(UsageError, match="fewer than 9"):
        last_checkpoints(tmp_path, 9)
    for step in (1, 2):
        (tmp_path / f"other-{step}.bin").write_text("")
    with pytest.raises(UsageError, match="more than one series"):
        last_checkpoints(tmp_path, 2)
    with pytest.raises(UsageError, match="training folder"):
        last_checkpoints(tmp_path / "model.bin", 2)


def test_folders_of_a_trainer_are_found_by_step(tmp_path: Path) -> None:
    for step in (5, 40):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert [path.name for path in last_checkpoints(tmp_path, 2)] == [
        "checkpoint-5",
        "checkpoint-40",
    ]


def test_patterns_are_expanded_in_step_order(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        (tmp_path / f"m.bin-{step}").write_text("")
    found = expand_models([f"{tmp_path}/m.bin-*", "last.bin"])
    assert [path.name for path in found] == ["m.bin-9", "m.bin-10", "m.bin-100", "last.bin"]
    (tmp_path / "m.bin-1²3").write_text("")  # a digit that is no number
    assert len(expand_models([f"{tmp_path}/m.bin-*"])) == 4
    with pytest.raises(InputError, match="Nothing matches"):
        expand_models([f"{tmp_path}/x*"])


def test_models_that_differ_are_refused_with_what_differs(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(1), "c": torch.ones(1)}, tmp_path / "0.bin")
    torch.save({"a": torch.ones(3, 2), "b": torch.ones(1).long()}, tmp_path / "1.bin")
    with pytest.raises(CheckpointError) as caught:
        merge_checkpoints([tmp_path / "0.bin", tmp_path / "1.bin"], tmp_path / "out.bin")
    assert "differ in 3 tensors" in str(caught.value)
    assert "0.bin, 1.bin cannot be merged" in str(caught.value)
    assert "a: 2x3 / 3x2" in str(caught.value)
    assert "b: 1 float32 / 1 int64" in str(caught.value)
    assert "c: 1 float32 / absent" in str(caught.value)
    assert "`unify`" in str(caught.value)
    assert not (tmp_path / "out.bin").exists()


def test_models_with_the_same_file_name_are_told_apart(tmp_path: Path) -> None:
    models = [tmp_path / name / "model.bin" for name in ("x", "y")]
    for model in models:
        model.parent.mkdir()
        torch.save({model.parent.name: torch.ones(1)}, model)
    with pytest.raises(CheckpointError) as caught:
        merge_checkpoints(models, tmp_path / "out.bin")
    message = str(caught.value)
    assert message.startswith(f"{models[0]}, {models[1]} cannot be merged")


def test_two_generations_of_names_are_averaged_by_meaning(tmp_path: Path) -> None:
    legacy, modular = members("legacy")[0], members("modular")[1]
    with pytest.raises(CheckpointError, match="`unify`"):
        merge_checkpoints([legacy, modular], tmp_path / "out.bin")
    merge_checkpoints([legacy, modular], tmp_path / "out.bin", MergeSettings(unify=True))
    # Tensors alone are written, so no configuration can hold a guess (see `require_known`).
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]
    found = torch.load(tmp_path / "out.bin", weights_only=True)
    one = torch.load(legacy, weights_only=True)["target.layer_norm.gamma"]
    other = torch.load(modular, weights_only=True)
    assert sorted(found) == sorted(other)
    name = "target.mlm.layer_norm.gamma"
    torch.testing.assert_close(found[name], (one + other[name]) / 2)


def test_integers_must_agree(tmp_path: Path) -> None:
    torch.save({"ids": torch.arange(3)}, tmp_path / "0.bin")
    torch.save({"ids": torch.arange(3) + 1}, tmp_path / "1.bin")
    with pytest.raises(CheckpointError, match="ids holds integers that differ"):
        merge_checkpoints([tmp_path / "0.bin", tmp_path / "1.bin"], tmp_path / "out.bin")


def test_results_that_are_not_finite_are_reported(tmp_path: Path) -> None:
    for number, value in enumerate((1.0, math.nan)):
        torch.save({"w": torch.tensor([value]), "v": torch.ones(2)}, tmp_path / f"{number}.bin")
    report = merge_checkpoints([tmp_path / "0.bin", tmp_path / "1.bin"], tmp_path / "out.bin")
    assert report.not_finite == ["w"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": (1.0,)}, "1 number for 2 models"),
        ({"weights": (1.0, -1.0)}, "sum zero"),
        ({"weights": (1.0, math.inf)}, "finite"),
        ({"method": "ties"}, "needs `base`"),
        ({"method": "mean", "base": "x"}, "`base` is for the methods ties and dare"),
        ({"method": "slerp", "fraction": 2.0}, "`fraction`"),
        ({"method": "slerp", "weights": (1.0, 1.0)}, "`fraction`, not `weights`"),
        ({"method": "middle"}, "mean, slerp, ties, dare"),
        ({"method": "dare", "base": "x", "density": 0.0}, "`density`"),
    ],
)
def test_options_that_clash_are_named(options: dict, words: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=words):
        merge_checkpoints(models(tmp_path, 2), tmp_path / "out.bin", MergeSettings(**options))


def test_one_model_or_an_existing_output_is_refused(tmp_path: Path) -> None:
    paths = models(tmp_path, 2)
    with pytest.raises(UsageError, match="nothing to merge"):
        merge_checkpoints(paths[:1], tmp_path / "out.bin")
    with pytest.raises(OutputError, match="exists already"):
        merge_checkpoints(paths, paths[0])


def test_a_greedy_soup_keeps_only_what_helps(tmp_path: Path) -> None:
    for number, value in enumerate((4.0, 1.0, 9.0, 5.0)):
        torch.save({"w": torch.full((2,), value)}, tmp_path / f"{number}.bin")
    seen = []

    def score(path: Path) -> float:
        seen.append(path.name)
        return -abs(float(numpy_tensor(path)[0]) - 4.6)  # the target value is 4.6

    kept, steps = greedy_soup(
        [tmp_path / f"{number}.bin" for number in range(4)], tmp_path, ".bin", score
    )
    assert [path.name for path in kept] == ["3.bin", "0.bin"]
    assert [step.kept for step in steps] == [True, True, False, False]
    assert len(seen) == 4 + 3
    reverse, _ = greedy_soup(
        [tmp_path / "0.bin", tmp_path / "1.bin"],
        tmp_path,
        ".bin",
        lambda path: -score(path),
        lower_is_better=True,
    )
    assert [path.name for path in reverse] == ["0.bin"]


_PEAK = """
import sys, torch
from uertool.tasks.average.averaging import merge_checkpoints

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

torch.ones(1).double().sum()
torch.set_num_threads(1)
before = peak()
merge_checkpoints(sys.argv[2:], sys.argv[1])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_memory_does_not_grow_with_the_number_of_models(suffix: str, tmp_path: Path) -> None:
    size = 1 << 20
    paths = []
    for number in range(4):
        path = tmp_path / f"m{number}{suffix}"
        tensors = {str(i): torch.full((size,), float(number)) for i in range(8)}
        torch.save(tensors, path) if suffix == ".bin" else save_file(tensors, path)
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / f"out{suffix}"), *paths],
        capture_output=True,
        text=True,
        check=True,
        # A fixed threshold: glibc otherwise raises it by chance and keeps freed blocks.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    # One result and some blocks, where one model has 32 MB and all have 128.
    assert int(done.stdout) < 64 << 20
