"""Clean copies hold the same numbers under clean names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints.malicious import corpus
from tests.conftest import FIXTURES, fixture_folders
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.errors import CheckpointError, UsageError
from uertool.tasks.check.repair import to_safetensors, write_clean

GENERATIONS = ["legacy", "modular"]


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_multi_gpu_prefix_goes_and_names_become_modular(
    generation: str, suffix: str, tmp_path: Path
) -> None:
    source = FIXTURES / f"misc-{generation}" / "multi_gpu.bin"
    before = torch.load(source, weights_only=True)
    report = write_clean(source, tmp_path / f"clean{suffix}")
    after = open_tensor_file(tmp_path / f"clean{suffix}")
    assert report.tensors == len(before) == len(after)
    assert report.renamed == len(before)
    assert not any(name.startswith("module.") for name in after)
    found = after.tensor("embedding.word.embedding.weight")
    old = {"legacy": "embedding.word_embedding", "modular": "embedding.word.embedding"}[generation]
    assert torch.equal(found, before[f"module.{old}.weight"])


def test_a_modular_file_keeps_its_names_and_bits(tmp_path: Path) -> None:
    source = FIXTURES / "bert-modular" / "model.bin"
    report = write_clean(source, tmp_path / "clean.bin")
    assert report.renamed == 0
    before = torch.load(source, weights_only=True)
    after = torch.load(tmp_path / "clean.bin", weights_only=True)
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_hugging_face_names_only_lose_the_prefix(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12,
    )  # fmt: skip
    state = transformers.BertModel(config).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "m.bin")
    write_clean(tmp_path / "m.bin", tmp_path / "clean.safetensors")
    found = load_file(tmp_path / "clean.safetensors")
    assert sorted(found) == sorted(state)


def test_names_that_nobody_understands_are_not_lost_in_silence(tmp_path: Path) -> None:
    tensors = torch.load(FIXTURES / "bert-modular" / "model.bin", weights_only=True)
    torch.save({**tensors, "my.own.adapter": torch.ones(2)}, tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match=r"my\.own\.adapter"):
        write_clean(tmp_path / "m.bin", tmp_path / "clean.bin")
    assert not (tmp_path / "clean.bin").exists()


@pytest.mark.slow
def test_a_tensorflow_checkpoint_is_for_convert(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    with pytest.raises(UsageError, match="google2uer"):
        write_clean(FIXTURES / "bert-legacy" / "google", tmp_path / "clean.bin")


@pytest.mark.parametrize("folder", fixture_folders("model.bin")[:6], ids=lambda path: path.name)
def test_to_safetensors_keeps_names_and_bits(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    to_safetensors(folder / "model.bin", output)
    before, after = torch.load(folder / "model.bin", weights_only=True), load_file(output)
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_to_safetensors_refuses_other_outputs_and_bad_pickles(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.safetensors"):
        to_safetensors(FIXTURES / "bert-legacy" / "model.bin", tmp_path / "m.bin")
    (tmp_path / "evil.bin").write_bytes(corpus(tmp_path / "canary")["torch-zip"])
    with pytest.raises(CheckpointError, match="not loaded"):
        to_safetensors(tmp_path / "evil.bin", tmp_path / "m.safetensors")
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "m.safetensors").exists()
