"""Written files are read by torch, safetensors and transformers, and hold the same bits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.checkpoints.test_tensor_files import TYPES, assert_same
from tests.conftest import FIXTURES
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import TensorInfo, release_after
from uertool.checkpoints.writer import save_tensors
from uertool.errors import OutputError

FORMATS = ["torch", "safetensors"]
SUFFIX = {"torch": ".bin", "safetensors": ".safetensors"}


def load(path: Path) -> dict[str, torch.Tensor]:
    """What the library of the format reads."""
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert all(torch.equal(mapped[name], loaded[name]) for name in loaded)
    return loaded


def sample() -> dict[str, torch.Tensor]:
    return {
        "b.weight": torch.arange(6.0).reshape(2, 3),
        "a.bias": torch.tensor([1, 2], dtype=torch.int64),
        "half": torch.ones(3, dtype=torch.float16),
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "turned": torch.arange(6.0).reshape(2, 3).t(),
    }


def pairs(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    yield from tensors.items()


def infos(tensors: dict[str, torch.Tensor]) -> list[TensorInfo]:
    return [TensorInfo(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("source", ["mapping", "iterator", "announced"])
def test_the_library_reads_the_same_tensors(form: str, source: str, tmp_path: Path) -> None:
    tensors = sample()
    path = tmp_path / f"m{SUFFIX[form]}"
    if source == "mapping":
        written = save_tensors(tensors, path)
    else:
        known = infos(tensors) if source == "announced" else None
        written = save_tensors(pairs(tensors), path, infos=known)
    assert_same_dict(load(path), tensors)
    assert_same(open_tensor_file(path), tensors)
    assert os.listdir(tmp_path) == [item.name for item in written]


def assert_same_dict(found: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(tensors)
    for name, expected in tensors.items():
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize("form", FORMATS)
def test_every_element_type(form: str, tmp_path: Path) -> None:
    tensors = {str(t): torch.arange(6).reshape(2, 3).to(t) for t in TYPES}
    path = tmp_path / f"m{SUFFIX[form]}"
    save_tensors(tensors, path)
    assert_same(open_tensor_file(path), tensors)
    assert sorted(load(path)) == sorted(tensors)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_input_gives_the_same_bytes(form: str, tmp_path: Path) -> None:
    one, other = (tmp_path / f"{n}{SUFFIX[form]}" for n in "ab")
    save_tensors(sample(), one)
    save_tensors(pairs(sample()), other, infos=infos(sample()))
    assert one.read_bytes() == other.read_bytes()


def test_storages_are_aligned_for_memory_maps(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    save_tensors(sample(), path)
    file = open_tensor_file(path)
    for name in ("b.weight", "half", "a.bias"):
        assert file.tensor(name).data_ptr() % 64 == 0


def test_the_pickle_order_is_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    save_tensors(sample(), path)
    assert list(torch.load(path, weights_only=True)) == list(sample())


def tied_sample() -> dict[str, torch.Tensor]:
    word = torch.rand(50, 8)
    return {"output.weight": word, "norm": torch.ones(8), "word.weight": word}


def test_ties_share_one_storage_in_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    tensors = tied_sample()
    save_tensors(tensors, path)
    found = torch.load(path, weights_only=True)
    assert found["word.weight"].data_ptr() == found["output.weight"].data_ptr()
    file = open_tensor_file(path)
    assert file.storage_key("word.weight") == file.storage_key("output.weight")
    assert path.stat().st_size < 1.9 * tensors["word.weight"].nbytes


@pytest.mark.parametrize("ties", ["copy", "alias"])
def test_ties_in_safetensors_are_noted_and_found_again(ties: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = tied_sample()
    save_tensors(tensors, path, ties=ties)  # type: ignore[arg-type]
    stored = set(load_file(path))
    assert ("word.weight" in stored) == (ties == "copy")
    file = open_tensor_file(path)
    assert_same(file, tensors)
    assert file.storage_key("word.weight") == file.storage_key("output.weight")


@pytest.mark.parametrize("known", [True, False], ids=["announced", "spooled"])
@pytest.mark.parametrize("ties", ["copy", "alias"])
@pytest.mark.parametrize("form", FORMATS)
def test_ties_of_an_iterator_can_be_given(
    form: str, ties: str, known: bool, tmp_path: Path
) -> None:
    tensors = tied_sample()
    path = tmp_path / f"m{SUFFIX[form]}"
    save_tensors(
        pairs(tensors),
        path,
        infos=infos(tensors) if known else None,
        tied={"output.weight": "word.weight"},
        ties=ties,  # type: ignore[arg-type]
    )
    file = open_tensor_file(path)
    assert_same(file, tensors)
    assert file.storage_key("word.weight") == file.storage_key("output.weight")


def test_metadata_is_kept_and_names_the_framework(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_tensors({"w": torch.ones(1)}, path, metadata={"uertool.config": '{"天": 1}'})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "uertool.config": '{"天": 1}'}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("source", ["mapping", "iterator"])
def test_shards_with_an_index_hold_each_tensor_once(form: str, source: str, tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((100,), float(i)) for i in range(7)}
    stem = "model" if form == "safetensors" else "pytorch_model"
    path = tmp_path / f"{stem}{SUFFIX[form]}"
    given = tensors if source == "mapping" else pairs(tensors)
    written = save_tensors(given, path, infos=infos(tensors), max_shard_size="1KB")
    assert [item.name for item in written] == [
        *(f"{stem}-{i:05d}-of-00004{SUFFIX[form]}" for i in range(1, 5)),
        f"{path.name}.index.json",
    ]
    assert sorted(os.listdir(tmp_path)) == sorted(item.name for item in written)
    assert json.loads(written[-1].read_text())["metadata"]["total_size"] == 2800
    assert_same(open_tensor_file(tmp_path), tensors)
    assert all(item.stat().st_size < 3000 for item in written)


@pytest.mark.parametrize("ties", ["copy", "alias"])
@pytest.mark.parametrize("form", FORMATS)
def test_shards_of_tied_tensors(form: str, ties: str, tmp_path: Path) -> None:
    word = torch.rand(100)
    tensors = {"word": word, **{f"t{i}": torch.full((100,), 1.0 * i) for i in range(4)}}
    tensors["output"] = word
    stem = "model" if form == "safetensors" else "pytorch_model"
    path = tmp_path / f"{stem}{SUFFIX[form]}"
    save_tensors(tensors, path, max_shard_size=900, ties=ties)  # type: ignore[arg-type]
    file = open_tensor_file(tmp_path)
    assert_same(file, tensors)
    assert file.notices == ()


def test_what_fits_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(sample(), path, max_shard_size="5GB")
    assert os.listdir(tmp_path) == [path.name]


def test_new_shards_remove_the_single_file_that_would_hide_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors({"old": torch.ones(1)}, path)
    new = {f"t{i}": torch.ones(100) for i in range(4)}
    with pytest.raises(OutputError, match="exists already"):
        save_tensors(new, path, max_shard_size="1KB")
    save_tensors(new, path, max_shard_size="1KB", overwrite=True)
    assert_same(open_tensor_file(tmp_path), new)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shards", [None, 500])
def test_a_failure_midway_leaves_the_old_file(
    form: str, shards: int | None, tmp_path: Path
) -> None:
    path = tmp_path / f"m{SUFFIX[form]}"
    path.write_text("old")
    tensors = {f"t{i}": torch.ones(100) for i in range(4)}

    def failing() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(tensors.items())[:2]
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="disk is full"):
        save_tensors(failing(), path, infos=infos(tensors), max_shard_size=shards, overwrite=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("size", ["many", "-1GB", "0", "5XB"])
def test_a_shard_size_that_is_none_is_refused(size: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Invalid shard size"):
        save_tensors(sample(), tmp_path / "m.bin", max_shard_size=size)


def test_an_unknown_suffix_and_a_foreign_type_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'\.xyz'"):
        save_tensors(sample(), tmp_path / "m.xyz")
    with pytest.raises(OutputError, match=r"odd has the type torch\.complex128"):
        save_tensors({"odd": torch.ones(1, dtype=torch.complex128)}, tmp_path / "m.safetensors")
    with pytest.raises(OutputError, match="would hold w twice"):
        save_tensors([("w", torch.ones(1)), ("w", torch.ones(2))], tmp_path / "m.bin")


def test_a_copy_by_names_is_the_same_file(tmp_path: Path) -> None:
    source = open_tensor_file(FIXTURES / "bert-legacy" / "model.bin")
    known = [source.info(name) for name in source]
    path = tmp_path / "m.safetensors"
    save_tensors(release_after(source, source.keys()), path, infos=known)
    assert_same(open_tensor_file(path), {name: source.tensor(name) for name in source})


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_transformers_loads_ties_without_a_warning(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config)
    config.save_pretrained(tmp_path)
    name = "model.safetensors" if form == "safetensors" else "pytorch_model.bin"
    save_tensors({n: t.detach() for n, t in model.state_dict().items()}, tmp_path / name)
    loaded, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert not caplog.records
