"""LLaMA-like models in parts, without a configuration, or with one that does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import FIXTURES
from uertool.checkpoints.reader import open_checkpoint
from uertool.errors import CheckpointError, ConfigError, VocabError
from uertool.loading.registry import load_model
from uertool.tasks.generation.job import generate

LLAMA, QWEN3 = FIXTURES / "hf-llama", FIXTURES / "hf-qwen3"


def copied(source: Path, target: Path, *names: str) -> Path:
    target.mkdir()
    for name in names:
        shutil.copy(source / name, target)
    return target


def with_config(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a folder with another config.json; None takes a setting out."""
    folder = copied(source, target, "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    config = {**json.loads((source / "config.json").read_text()), **changes}
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def text_of(model: Any) -> str:
    ((text,),) = generate(model, "今天", temperature=0, max_new_tokens=6)
    return str(text.new_text)


# -- parts ----------------------------------------------------------------------------------------


def blocks(path: Path) -> Path:
    """TencentPretrain's blocks with the configuration and vocabulary of their model."""
    folder = path / "blocks"
    shutil.copytree(FIXTURES / "llama-blocks" / "model", folder)
    for name in ("config.json", "vocab.txt"):
        shutil.copy(FIXTURES / "llama-modular" / name, folder)
    return folder


def test_blocks_are_one_model(tmp_path: Path) -> None:
    folder = blocks(tmp_path)
    with open_checkpoint(folder) as made:
        whole = torch.load(FIXTURES / "llama-modular" / "model.bin", weights_only=True)
        assert set(made.keys()) == set(whole)
        assert all(torch.equal(made.tensor(name), whole[name]) for name in whole)
    whole_model = load_model(FIXTURES / "llama-modular" / "model.bin", device="cpu")
    assert text_of(load_model(folder, device="cpu")) == text_of(whole_model)


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    folder = blocks(tmp_path)
    (folder / "tencentpretrain_model-1.bin").unlink()
    with pytest.raises(CheckpointError, match=r"not in the folder: tencentpretrain_model-1\.bin"):
        open_checkpoint(folder)


def test_shards_of_different_types_are_noticed(tmp_path: Path) -> None:
    folder = copied(LLAMA, tmp_path / "m", "config.json", "tokenizer.json", "tokenizer_config.json")
    tensors = load_file(LLAMA / "model.safetensors")
    place = {}
    for number, name in enumerate(tensors):
        place[name] = f"model-0000{1 + number % 2}-of-00002.safetensors"
    for shard in set(place.values()):
        kind = torch.float32 if "00001-of" in shard else torch.bfloat16
        own = {n: t.to(kind) for n, t in tensors.items() if place[n] == shard}
        save_file(own, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    notes = load_model(folder, device="cpu").notes
    assert any("different number types: " in n and "bfloat16 in model-00002" in n for n in notes)


# -- without a configuration ----------------------------------------------------------------------


def test_the_size_of_heads_follows_from_their_norms(tmp_path: Path) -> None:
    folder = copied(QWEN3, tmp_path / "m", "model.safetensors", "tokenizer.json")
    bare = load_model(folder, device="cpu")
    assert (bare.config.heads_num, bare.config.kv_heads, bare.config.head_size) == (4, 2, 16)
    assert any("base 1e+06 of rotary positions" in note for note in bare.notes)
    assert text_of(bare) == text_of(load_model(QWEN3, device="cpu"))


def test_otherwise_the_number_of_heads_is_asked_for(tmp_path: Path) -> None:
    folder = copied(LLAMA, tmp_path / "m", "model.safetensors", "tokenizer.json")
    with pytest.raises(ConfigError, match="number of attention heads") as caught:
        load_model(folder, device="cpu")
    assert "`heads_num`" in (caught.value.hint or "")
    guessed = load_model(folder, device="cpu", heads_num=4, norm_eps=1e-5)
    assert any("base 10000 of rotary positions" in note for note in guessed.notes)
    expected = text_of(load_model(LLAMA, device="cpu"))
    assert text_of(guessed) == expected
    named = load_model(folder, device="cpu", config=LLAMA / "config.json")
    assert text_of(named) == expected
    assert named.notes == ()


# -- configurations that do not fit ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "'longrope' is unknown"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "yarn has no factor"),
        ({"num_key_value_heads": 4}, r"local_kv_heads_num .* is 4, but the tensors have 2"),
        ({"head_dim": 8}, r"attention_head_size .* is 8, but the tensors have 16"),
        ({"use_sliding_window": True}, "use_sliding_window = true"),
        ({"num_attention_heads": None}, "no num_attention_heads"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_model(with_config(QWEN3, tmp_path / "m", **changes), device="cpu")


def test_an_odd_size_of_heads_is_an_error() -> None:
    with pytest.raises(ConfigError, match="32 heads of 1 channels"):
        load_model(FIXTURES / "llama-modular" / "model.bin", device="cpu", heads_num=32)


def test_an_output_layer_is_not_invented(tmp_path: Path) -> None:
    folder = with_config(LLAMA, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no language-model output layer"):
        load_model(folder, device="cpu", heads=("lm",))


def test_a_tokenizer_of_another_model_is_an_error(tmp_path: Path) -> None:
    folder = with_config(QWEN3, tmp_path / "m")
    shutil.copy(LLAMA / "tokenizer.json", folder)
    with pytest.raises(VocabError, match="512 tokens, but the word embedding .* has 428 rows"):
        load_model(folder, device="cpu")


def test_files_of_meta_are_named(tmp_path: Path) -> None:
    names = ("tok_embeddings.weight", "norm.weight", "layers.0.attention.wq.weight")
    torch.save({name: torch.zeros(8, 8) for name in names}, tmp_path / "consolidated.00.pth")
    with pytest.raises(CheckpointError, match="in the format of Meta") as caught:
        open_checkpoint(tmp_path / "consolidated.00.pth")
    assert "Hugging Face" in (caught.value.hint or "")
