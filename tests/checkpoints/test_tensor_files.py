"""Every format gives the tensors that its own library reads, lazily, under the raw names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import FIXTURES, fixture_folders
from uertool.checkpoints.formats.hf_folder import HuggingFaceFolder
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import TensorFile, release_after
from uertool.errors import CheckpointError

FOLDERS = fixture_folders("model.bin")

TYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.complex64),
]


def assert_same(file: TensorFile, reference: dict[str, torch.Tensor]) -> None:
    assert sorted(file.keys()) == sorted(reference)
    for name, expected in reference.items():
        found = file.tensor(name)
        assert found.dtype == expected.dtype == file.info(name).dtype
        assert found.shape == expected.shape == file.info(name).shape
        assert bits(found) == bits(expected), name


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_fixtures_read_as_torch_reads_them(folder: Path, legacy: bool, tmp_path: Path) -> None:
    path = folder / "model.bin"
    reference = torch.load(path, map_location="cpu", weights_only=True)
    if legacy:
        path = tmp_path / "old.bin"
        torch.save(reference, path, _use_new_zipfile_serialization=False)
    with open_tensor_file(path) as file:
        assert file.format == ("torch-legacy" if legacy else "torch-zip")
        assert file.keys() == list(reference)
        assert_same(file, reference)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_every_element_type_and_odd_shapes(form: str, tmp_path: Path) -> None:
    tensors = {str(t): torch.arange(6).reshape(2, 3).to(t) for t in TYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "odd": torch.ones(3)}
    path = tmp_path / "model.bin"
    if form == "safetensors":
        save_file(tensors, path)
    elif form == "legacy":
        tensors = {k: t for k, t in tensors.items() if "uint" not in k and "float8" not in k}
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(tensors, path)
    assert_same(open_tensor_file(path), tensors)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_views_transposes_and_ties(legacy: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "whole": base,
        "tied": base,
        "rows": base[1:3],
        "transposed": base.t(),
        "steps": base[:, ::2],
        "expanded": torch.arange(3.0).expand(2, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "m.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    file = open_tensor_file(path)
    assert_same(file, {name: t.detach() for name, t in tensors.items()})
    assert file.storage_key("whole") == file.storage_key("tied")
    others = ("rows", "transposed", "steps")
    assert len({file.storage_key(name) for name in ("whole", *others)}) == 4


def test_a_tensor_saved_on_a_gpu_is_read_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    # The device is a string of the pickle: no GPU is needed to write one.
    patched = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1")
    assert patched != content
    path.write_bytes(patched)
    assert open_tensor_file(path).tensor("w").device.type == "cpu"


@pytest.mark.parametrize(
    ("wrap", "trail"),
    [
        (lambda d: {"state_dict": d, "epoch": 3}, "state_dict"),
        (lambda d: {"model": OrderedDict(d), "optimizer": {}, "args": "x"}, "model"),
        (lambda d: {"checkpoint": {"model_state_dict": d}}, "checkpoint.model_state_dict"),
    ],
)
def test_wrappers_are_taken_off_with_a_notice(wrap, trail, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "m.pt"
    torch.save(wrap({"w": torch.ones(2)}), path)
    file = open_tensor_file(path)
    assert file.keys() == ["w"]
    assert file.metadata["unwrapped"] == trail
    assert trail in file.notices[0]


def test_several_groups_without_a_telling_name_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"teacher": {"w": torch.ones(2)}, "student": {"w": torch.ones(2)}}, path)
    with pytest.raises(CheckpointError, match="teacher, student"):
        open_tensor_file(path)


def test_entries_that_are_no_tensors_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    torch.save({"w": torch.ones(2), "step": 7, "name": "x", "shape": (1, 2)}, path)
    file = open_tensor_file(path)
    assert file.keys() == ["w"]
    assert file.skipped == {"step": "an integer", "name": "a string", "shape": "a tuple"}
    assert "step (an integer)" in file.notices[-1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.ones(2)], "a list where a dictionary"),
        ({}, "holds no tensors"),
        ({"a": 1}, "holds no tensors"),
        (torch.ones(2), "a tensor where a dictionary"),
    ],
)
def test_a_torch_file_without_a_state_dict_says_what_it_holds(
    value: object, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.bin"
    torch.save(value, path)
    with pytest.raises(CheckpointError, match=words):
        open_tensor_file(path)


def test_a_missing_name_is_an_error_that_names_it() -> None:
    file = open_tensor_file(FIXTURES / "mlm-legacy" / "model.bin")
    for read in (file.info, file.tensor, file.storage_key):
        with pytest.raises(CheckpointError, match="holds no tensor named 'nothing'"):
            read("nothing")


def test_changing_a_tensor_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    torch.save({"w": torch.ones(5000)}, path)
    before = path.read_bytes()
    file = open_tensor_file(path)
    tensor = file.tensor("w")
    file.close()
    tensor.zero_()
    assert path.read_bytes() == before
    assert tensor.sum() == 0


def test_released_tensors_are_read_again(tmp_path: Path) -> None:
    reference = {str(i): torch.full((5000,), float(i)) for i in range(4)}
    path = tmp_path / "m.safetensors"
    save_file(reference, path)
    file = open_tensor_file(path)
    kept = [tensor for _, tensor in release_after(file, file.keys())]
    file.release()
    assert all(torch.equal(a, b) for a, b in zip(kept, reference.values(), strict=True))


def test_safetensors_metadata_and_aliases_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"format": "pt", "b": "a", "note": "天"})
    file = open_tensor_file(path)
    assert file.metadata["note"] == "天"
    assert file.keys() == ["a", "b"]
    assert file.storage_key("a") == file.storage_key("b")


def shards(folder: Path, suffix: str) -> dict[str, torch.Tensor]:
    tensors = {f"layer.{i}": torch.full((3,), float(i)) for i in range(4)}
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    save = save_file if suffix == ".safetensors" else torch.save
    places = {}
    for number in (0, 1):
        file = f"{stem}-{number + 1:05d}-of-00002{suffix}"
        part = {name: tensors[name] for name in list(tensors)[2 * number : 2 * number + 2]}
        save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return tensors


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_one_mapping(suffix: str, tmp_path: Path) -> None:
    reference = shards(tmp_path, suffix)
    file = open_tensor_file(tmp_path)
    assert isinstance(file, HuggingFaceFolder)
    assert_same(file, reference)
    assert file.hf_config == {"model_type": "bert"}
    assert len(file.files) == 2
    index = next(tmp_path.glob("*.index.json"))
    assert_same(open_tensor_file(index), reference)


def change_index(folder: Path, **places: str) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] |= {name.replace("_", "."): file for name, file in places.items()}
    index.write_text(json.dumps(content))


@pytest.mark.parametrize("place", ["../out.safetensors", "/etc/passwd", "a/../../b", "C:\\x"])
def test_an_index_that_names_files_outside_is_refused(place: str, tmp_path: Path) -> None:
    shards(tmp_path, ".safetensors")
    change_index(tmp_path, layer_0=place)
    with pytest.raises(CheckpointError, match="outside its folder"):
        open_tensor_file(tmp_path)


def test_missing_shards_and_tensors_are_named(tmp_path: Path) -> None:
    shards(tmp_path, ".safetensors")
    change_index(tmp_path, layer_9="model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensor .* layer\.9"):
        open_tensor_file(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        open_tensor_file(tmp_path)


def test_a_tensor_in_two_shards_that_the_index_does_not_place_is_an_error(tmp_path: Path) -> None:
    shards(tmp_path, ".safetensors")
    for number in (1, 2):
        part = tmp_path / f"model-0000{number}-of-00002.safetensors"
        save_file({**load_file(part), "twice": torch.ones(1)}, part)
    with pytest.raises(CheckpointError, match="both hold twice"):
        open_tensor_file(tmp_path)


def test_a_folder_of_the_old_scripts_is_read(tmp_path: Path) -> None:
    file = open_tensor_file(FIXTURES / "mlm-legacy")
    assert file.format == "hf-folder"
    assert file.hf_config is not None
    assert_same(file, torch.load(FIXTURES / "mlm-legacy" / "model.bin", weights_only=True))


def test_a_folder_with_several_weight_files_asks_which(tmp_path: Path) -> None:
    for name in ("one.bin", "two.bin"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    torch.save({"w": torch.ones(1)}, tmp_path / "training_args.bin")
    with pytest.raises(CheckpointError, match=r"2 weight files \(one\.bin, two\.bin\)"):
        open_tensor_file(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: None, "It is empty"),
        (lambda f: (f / "config.json").write_text("{}"), "without weights.*config.json"),
        (lambda f: (f / "tf_model.h5").write_text("x"), "only the weights of TensorFlow"),
        (lambda f: (f / "adapter_model.bin").write_text("x"), "an adapter"),
        (lambda f: (f / "data.pkl").write_text("x"), "unpacked"),
    ],
)
def test_a_folder_without_weights_says_what_it_is(make, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        open_tensor_file(tmp_path)


_PEAK = """
import resource, sys
import torch
from uertool.checkpoints.formats.opener import open_tensor_file

def rss():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

torch.ones(1)
before = rss()
file = open_tensor_file(sys.argv[1])
total = 0.0
for name in file.keys():
    total += float(file.tensor(name).sum())
    if len(sys.argv) > 2:
        file.release(name)
print(rss() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("form", ["torch-zip", "torch-legacy", "safetensors"])
def test_reading_takes_no_more_memory_than_the_file_has(form: str, tmp_path: Path) -> None:
    tensors = {str(i): torch.rand(1 << 20) for i in range(16)}
    path = tmp_path / "m"
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "torch-zip")
    size = path.stat().st_size

    def peak(*arguments: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, str(path), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    assert peak() <= 1.25 * size
    if form != "torch-legacy":  # whose storages are not aligned and are copied one by one
        assert peak("release") <= 0.4 * size
