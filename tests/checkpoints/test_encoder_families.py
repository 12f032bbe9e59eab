"""Which encoder a file is of, by prefix, config.json or names, and what is left out or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import FIXTURES
from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.reader import open_checkpoint
from uertool.checkpoints.writer import save_tensors
from uertool.errors import ConfigError, UertoolError
from uertool.loading.registry import load_model

KINDS = {
    "ernie": "hf-ernie",
    "electra": "hf-electra-generator",
    "nezha": "hf-nezha",
    "roformer": "hf-roformer",
    "modernbert": "hf-modernbert",
}


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / KINDS[name] / "model.safetensors")


def settings(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / KINDS[name] / "config.json").read_text())
    return found


def saved(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None
) -> Path:
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_names_alone_say_what_it_is(name: str, tmp_path: Path) -> None:
    save_file(weights(name), tmp_path / "any.safetensors")
    found = open_checkpoint(tmp_path / "any.safetensors")
    assert found.architecture == name
    found.require_complete()
    assert not found.unmapped


@pytest.mark.parametrize("name", KINDS)
def test_a_complete_folder_leaves_nothing_to_say(name: str) -> None:
    loaded = load_model(FIXTURES / KINDS[name], device="cpu")
    assert loaded.architecture == name
    assert loaded.notes == ()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_a_bare_body_is_what_its_configuration_says(
    name: str, wrapper: str, tmp_path: Path
) -> None:
    base = architecture(name).base
    bare = {
        wrapper + n.removeprefix(base): t for n, t in weights(name).items() if n.startswith(base)
    }
    found = open_checkpoint(saved(tmp_path, bare, settings(name)))
    assert found.architecture == name
    assert found.heads == ()
    found.require_complete()
    assert not found.unmapped


def test_a_bare_bert_without_a_configuration_stays_a_bert(tmp_path: Path) -> None:
    tensors = {
        n.removeprefix("ernie."): t
        for n, t in weights("ernie").items()
        if n.startswith("ernie.") and "task_type" not in n
    }
    save_file(tensors, tmp_path / "any.safetensors")
    assert open_checkpoint(tmp_path / "any.safetensors").architecture == "bert"


def test_ernie_1_has_no_task_types(tmp_path: Path) -> None:
    tensors = {n: t for n, t in weights("ernie").items() if "task_type" not in n}
    folder = saved(tmp_path, tensors, {**settings("ernie"), "use_task_id": False})
    shutil.copy(FIXTURES / "hf-ernie/vocab.txt", folder)
    loaded = load_model(folder, device="cpu")
    assert loaded.architecture == "ernie"
    assert loaded.config.embedding == ("word", "pos", "seg")


def test_tables_that_are_computed_need_not_be_there_and_may_be(tmp_path: Path) -> None:
    tensors = weights("roformer")
    del tensors["roformer.encoder.embed_positions.weight"]
    found = open_checkpoint(saved(tmp_path, tensors, settings("roformer")))
    found.require_complete()
    stored = "nezha.encoder.layer.0.attention.self.relative_positions_encoding.positions_encoding"
    tensors = {**weights("nezha"), stored: torch.zeros(17, 17, 12)}
    found = open_checkpoint(saved(tmp_path, tensors, settings("nezha")))
    assert found.dropped == (stored,)
    assert not found.unmapped


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("modernbert", {"attention_bias": True}, "attention_bias = true"),
        ("modernbert", {"norm_bias": True, "mlp_bias": True}, "mlp_bias = true, norm_bias = true"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        (
            "modernbert",
            {"layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"]},
            "layer_types",
        ),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            'rope_type = "yarn"',
        ),
        ("ernie", {"use_task_id": False}, "embedding"),
        ("nezha", {"max_relative_position": "far"}, "max_relative_position"),
        ("electra", {"embedding_size": 48}, "emb_size"),
        ("roformer", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    name: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = FIXTURES / KINDS[name]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({**settings(name), **changes}))
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path, device="cpu")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("nezha", {"max_relative_position": 8}),
        ("roformer", {"rotary_position_embedding": True}),
        ("modernbert", {"local_attention": 8}),
    ],
)
def test_positions_that_leave_no_trace_are_asked_for(
    name: str, needed: dict[str, Any], tmp_path: Path
) -> None:
    """A file with UER-py's names and nothing else is not run on a guess."""
    source = open_checkpoint(FIXTURES / KINDS[name])
    save_tensors({n: source.tensor(n) for n in source}, tmp_path / "uer.bin")
    tokens = "".join(f"{n}\n" for n in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    rows = source.info("embedding.word.embedding.weight").shape[0]
    (tmp_path / "uer.vocab.txt").write_text(tokens + "".join(f"{n}\n" for n in range(rows - 5)))
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path / "uer.bin", device="cpu", heads_num=4)
    assert f"`{next(iter(needed))}`" in str(caught.value.hint)
    found = load_model(tmp_path / "uer.bin", device="cpu", heads_num=4, **needed)
    right = load_model(FIXTURES / KINDS[name], device="cpu")
    assert found.architecture == name
    ids = torch.arange(20, 40)[None]
    with torch.inference_mode():
        pair = [model.model.encode(ids, torch.ones_like(ids)) for model in (found, right)]
    assert torch.equal(*pair)


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_kinds_of_layers_are_a_period(every: int, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "hf-modernbert", tmp_path, dirs_exist_ok=True)
    kinds = ["sliding_attention" if n % every else "full_attention" for n in range(4)]
    changed = {**settings("modernbert"), "layer_types": kinds, "global_attn_every_n_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    config = load_model(tmp_path, device="cpu").config
    assert [config.is_local(n) for n in range(4)] == [n % every > 0 for n in range(4)]


@pytest.mark.parametrize("name", KINDS)
def test_everything_that_is_missing_or_unexpected_is_listed(name: str, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / KINDS[name], tmp_path, dirs_exist_ok=True)
    tensors = weights(name)
    lost = next(n for n in tensors if ".1." in n)
    del tensors[lost]
    tensors["something.new"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UertoolError) as caught:
        load_model(tmp_path, device="cpu")
    assert "missing: encoder.transformer.1." in str(caught.value)
    assert "unexpected: something.new" in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_fewer_bits_give_nearly_the_same(name: str, dtype: str) -> None:
    exact = load_model(FIXTURES / KINDS[name], device="cpu")
    try:
        rough = load_model(FIXTURES / KINDS[name], device="cpu", dtype=dtype)
    except UertoolError as error:
        pytest.skip(error.message)
    ids = torch.arange(100, 120).repeat(3, 1)
    segs = (torch.arange(20) < torch.tensor([[20], [7], [12]])).long()
    with torch.inference_mode():
        one, other = (loaded.model.encode(ids, segs)[segs > 0].float() for loaded in (exact, rough))
    assert torch.cosine_similarity(one, other, dim=-1).min() > 0.99


@pytest.mark.parametrize(
    ("changes", "thetas"),
    [
        ({}, (160000.0, 10000.0)),
        ({"local_rope_theta": None}, (160000.0, 160000.0)),
        ({"global_rope_theta": 500.0, "local_rope_theta": 70.0}, (500.0, 70.0)),
        (
            {
                "rope_parameters": {"sliding_attention": {"rope_theta": 3.0}},
                "local_rope_theta": 7.0,
            },
            (160000.0, 3.0),
        ),
    ],
)
def test_both_spellings_of_rotary_angles(
    changes: dict[str, Any], thetas: tuple[float, float]
) -> None:
    plain = {n: v for n, v in settings("modernbert").items() if n != "rope_parameters"}
    found = architecture("modernbert").config_from_hf({**plain, **changes})
    assert (found["rope_theta"], found["local_rope_theta"]) == thetas
