"""Weights go into the model strictly: what is missing, surplus or misshaped stops the run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import FIXTURES
from tests.models.model_fixtures import files_of, load_fixture, saved, weights
from uertool.errors import CheckpointError
from uertool.loading.registry import load_model

BERT = FIXTURES / "bert-modular"
LEGACY = FIXTURES / "bert-legacy"


def load(tensors: dict[str, torch.Tensor], folder: Path, like: str = "bert-modular", **more: Any):
    return load_model(
        saved(tensors, folder / "model.bin"),
        device="cpu",
        **files_of(FIXTURES / like),
        **more,
    )


def hidden(loaded: Any, like: Path = BERT) -> torch.Tensor:
    ids = torch.tensor([[5, 132, 347, 451, 6], [5, 77, 80, 6, 0]])
    with torch.inference_mode():
        found: torch.Tensor = loaded.model.encode(ids, (ids > 0).long())
    return found


def test_missing_weights_are_all_named(tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    gone = [name for name in tensors if "transformer.1.feed_forward.linear_2" in name]
    for name in gone:
        del tensors[name]
    with pytest.raises(CheckpointError) as failure:
        load(tensors, tmp_path)
    assert "missing" in failure.value.message
    for name in gone:
        assert name in failure.value.message


def test_unexpected_weights_are_named(tmp_path: Path) -> None:
    tensors = weights("bert-modular") | {
        "encoder.transformer.0.adapter.weight": torch.zeros(2, 2),
        "encoder.layer_norm_9.gamma": torch.zeros(32),
    }
    with pytest.raises(CheckpointError, match="unexpected") as failure:
        load(tensors, tmp_path)
    assert "encoder.transformer.0.adapter.weight" in failure.value.message
    assert "encoder.layer_norm_9.gamma" in failure.value.message


def test_unexpected_weights_can_be_ignored_by_patterns(tmp_path: Path) -> None:
    tensors = weights("bert-modular") | {
        "encoder.transformer.0.adapter.weight": torch.zeros(2, 2),
        "cls.species.weight": torch.zeros(2, 2),
    }
    with pytest.raises(CheckpointError, match=r"unexpected: .*cls\.species\.weight") as failure:
        load(tensors, tmp_path)
    assert "`ignore_unexpected`" in (failure.value.hint or "")
    loaded = load(tensors, tmp_path, ignore_unexpected=("*.adapter.*", "cls.species.*"))
    note = next(note for note in loaded.notes if "Ignored" in note)
    assert "encoder.transformer.0.adapter.weight" in note
    assert "cls.species.weight" in note
    with pytest.raises(CheckpointError, match="adapter"):
        load(tensors, tmp_path, ignore_unexpected=("cls.*",))


def test_building_a_model_initialises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def normal(*_: Any, **__: Any) -> None:
        raise AssertionError("initialised")

    monkeypatch.setattr(torch.Tensor, "normal_", normal)
    monkeypatch.setattr(torch.Tensor, "uniform_", normal)
    assert load(weights("bert-modular"), tmp_path).config.layers_num == 3


def test_misshaped_weights_are_named_with_both_shapes(tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    name = "encoder.transformer.2.feed_forward.linear_2.weight"
    tensors[name] = torch.zeros(32, 63)
    with pytest.raises(CheckpointError) as failure:
        load(tensors, tmp_path)
    assert f"{name} (32, 63), expected (32, 64)" in failure.value.message


def test_all_problems_are_in_one_message(tmp_path: Path) -> None:
    tensors = weights("bert-modular") | {"encoder.strange": torch.zeros(1)}
    del tensors["embedding.layer_norm.beta"]
    tensors["encoder.transformer.1.layer_norm_1.gamma"] = torch.zeros(31)
    with pytest.raises(CheckpointError) as failure:
        load(tensors, tmp_path)
    for part in ("embedding.layer_norm.beta", "encoder.strange", "layer_norm_1.gamma (31,)"):
        assert part in failure.value.message


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    name = "encoder.transformer.0.self_attn.final_linear.weight"
    tensors[name] = tensors[name].mul(100).to(torch.int8)
    with pytest.raises(CheckpointError, match=f"{name} .holds torch.int8"):
        load(tensors, tmp_path)


def test_a_head_that_is_needed_and_absent_is_named_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as failure:
        load_model(BERT / "model.bin", device="cpu", heads=("lm",), **files_of(BERT))
    assert "language-model output layer" in failure.value.message
    assert "a masked-language head" in failure.value.message
    assert "uertool cloze" in (failure.value.hint or "")


def test_heads_that_are_not_needed_are_left_out_and_named() -> None:
    loaded = load_model(BERT / "model.bin", device="cpu", heads=(), **files_of(BERT))
    assert loaded.model.mlm is None
    assert loaded.model.sp is None
    assert any("target.mlm.linear_2.weight" in detail for detail in loaded.details)


Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]

CHANGES: dict[str, Change] = {
    "module. before every name": lambda t: {f"module.{name}": x for name, x in t.items()},
    "half precision": lambda t: {name: x.half().float() for name, x in t.items()},
    "without pair head": lambda t: {n: x for n, x in t.items() if not n.startswith("target.sp")},
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("generation", ["legacy", "modular"])
def test_variants_of_a_file_compute_the_same(tmp_path: Path, change: str, generation: str) -> None:
    name = f"bert-{generation}"
    changed = load(CHANGES[change](weights(name)), tmp_path, name)
    plain = hidden(load_fixture(FIXTURES / name))
    tolerance = 1e-2 if change == "half precision" else 0.0
    assert (hidden(changed) - plain).abs().max() <= tolerance


def test_both_generations_compute_the_same() -> None:
    assert torch.equal(hidden(load_fixture(BERT)), hidden(load_fixture(LEGACY)))


def test_a_half_precision_file_computes_in_float32(tmp_path: Path) -> None:
    tensors = {name: x.half() for name, x in weights("bert-modular").items()}
    loaded = load(tensors, tmp_path)
    assert loaded.dtype == torch.float32
    assert hidden(loaded).dtype == torch.float32
    assert (hidden(loaded) - hidden(load_fixture(BERT))).abs().max() < 1e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_weight_gets_the_type_that_was_asked_for(dtype: str) -> None:
    loaded = load_model(BERT / "model.bin", device="cpu", dtype=dtype, **files_of(BERT))
    kinds = {p.dtype for p in loaded.model.parameters()}
    assert kinds == {getattr(torch, dtype)}
    assert (hidden(loaded).float() - hidden(load_fixture(BERT))).abs().max() < 0.15


@pytest.mark.parametrize("form", ["zip", "pickle", "safetensors"])
def test_formats_give_the_same_model(tmp_path: Path, form: str) -> None:
    tensors = weights("bert-modular")
    if form == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file({name: x.clone() for name, x in tensors.items()}, path)
    else:
        path = tmp_path / "model.bin"
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    loaded = load_model(path, device="cpu", **files_of(BERT))
    assert torch.equal(hidden(loaded), hidden(load_fixture(BERT)))


def test_tied_weights_share_their_memory(tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    tensors["target.mlm.linear_2.weight"] = tensors["embedding.word.embedding.weight"]
    model = load(tensors, tmp_path).model
    assert model.mlm is not None
    table = model.get_parameter("embedding.word.embedding.weight")
    assert model.mlm.linear_2.weight.data_ptr() == table.data_ptr()


def test_an_absent_output_layer_is_the_word_table_if_weights_are_tied(tmp_path: Path) -> None:
    tensors = weights("gpt2-modular")
    del tensors["target.lm.output_layer.weight"]
    loaded = load(tensors, tmp_path, "gpt2-modular", heads=("lm",), tie_weights=True)
    assert loaded.model.lm is not None
    table = loaded.model.get_parameter("embedding.word.embedding.weight")
    assert loaded.model.lm.output_layer.weight.data_ptr() == table.data_ptr()


def test_the_output_layer_of_the_file_is_used_even_with_tie_weights() -> None:
    """tie_weights with share_embedding left UER-py's T5 with an output layer of its own."""
    loaded = load_fixture(FIXTURES / "t5-modular")
    assert loaded.config.tie_weights
    assert loaded.model.lm is not None
    stored = weights("t5-modular")["target.lm.output_layer.weight"]
    assert torch.equal(loaded.model.lm.output_layer.weight, stored)


def test_the_model_does_not_hang_on_its_file(tmp_path: Path) -> None:
    loaded = load(weights("bert-modular"), tmp_path)
    before = hidden(loaded)
    (tmp_path / "model.bin").write_bytes(b"")
    assert torch.equal(hidden(loaded), before)


def test_no_parameter_asks_for_gradients() -> None:
    loaded = load_fixture(BERT)
    assert not loaded.model.training
    parameters = itertools.chain(loaded.model.parameters(), loaded.model.buffers())
    assert not any(parameter.requires_grad for parameter in parameters)
