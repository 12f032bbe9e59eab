"""uertool running a Hugging Face folder computes what transformers computes, whatever the class.

Parametrised over what is registered: a new architecture is tested by being there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tests.parity.hf_models import computed, make, ours, texts
from uertool.checkpoints.architectures import all_architectures, architecture
from uertool.checkpoints.architectures.base import Architecture
from uertool.loading.registry import load_model

pytestmark = pytest.mark.slow

LIMIT = 1e-5

#: Settings besides sizes that tell an architecture from a similar one.
TELLING: dict[tuple[str, str], dict[str, Any]] = {
    ("t5", "mt5"): {"feed_forward_proj": "relu"},
    ("modernbert", "modernbert"): {"local_attention": 6, "pad_token_id": 0},
    ("t5-v1_1", "t5"): {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}

#: Read by name alone: its files are those of another architecture.
NAMED = ("sbert",)

CASES = [
    pytest.param(arch, kind, head, id=f"{arch.name}-{kind}-{head or 'body'}")
    for arch in all_architectures()
    for kind in arch.model_types
    if arch.in_transformers
    for head in arch.classes
]


def compare(folder: Path, arch: Architecture, model: Any, heads: set[str]) -> None:
    given = texts(model.config.vocab_size, pairs=getattr(model.config, "type_vocab_size", 0) > 1)
    loaded = load_model(
        folder,
        device="cpu",
        vocab=folder / "vocab.txt",
        arch=arch.name if arch.name in NAMED else None,
    )
    assert loaded.architecture == arch.name
    assert loaded.config.norm in ("standard", "rms")
    theirs = computed(model, given)
    found = ours(loaded.model, given)
    assert heads <= set(theirs)
    assert heads <= set(found)
    for name in set(theirs) & set(found):
        assert found[name].shape == theirs[name].shape, name
        assert (found[name] - theirs[name]).abs().max() < LIMIT, name


@pytest.mark.parametrize(("arch", "kind", "head"), CASES)
def test_every_class_of_every_architecture(
    arch: Architecture, kind: str, head: str, tmp_path: Path
) -> None:
    model, _ = make(tmp_path, arch, kind, head, **TELLING.get((arch.name, kind), {}))
    compare(tmp_path, arch, model, set(head.split("+")) if head else set())


#: Settings that change what is computed.
VARIANTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("bert", "bert", "mlm", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    ("bert", "bert", "mlm+sp", {"hidden_act": "relu", "type_vocab_size": 4}),
    ("ernie", "ernie", "mlm+sp", {"use_task_id": True, "hidden_act": "relu"}),
    ("ernie", "ernie", "", {"use_task_id": True, "task_type_vocab_size": 5, "type_vocab_size": 4}),
    ("electra", "electra", "mlm", {"hidden_act": "relu", "embedding_size": 32}),
    ("electra", "electra", "rtd", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    ("roformer", "roformer", "mlm", {"rotary_value": True, "hidden_act": "relu"}),
    ("roformer", "roformer", "mlm", {"embedding_size": 32, "layer_norm_eps": 1e-3}),
    (
        "modernbert",
        "modernbert",
        "mlm",
        {
            "pad_token_id": 0,
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            "hidden_activation": "silu",
            "classifier_activation": "relu",
            "norm_eps": 1e-3,
            "global_rope_theta": 1000.0,
            "local_rope_theta": 50.0,
        },
    ),
    ("bert", "bert", "mlm", {"hidden_act": "silu", "tie_word_embeddings": False}),
    ("xlm-roberta", "roberta", "mlm", {"type_vocab_size": 2, "hidden_act": "relu"}),
    ("xlm-roberta", "xlm-roberta", "mlm", {"pad_token_id": 4, "layer_norm_eps": 1e-3}),
    ("albert", "albert", "mlm+sp", {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
    ("albert", "albert", "", {"embedding_size": 32}),
    ("gpt2", "gpt2", "lm", {"activation_function": "relu", "layer_norm_epsilon": 1e-3}),
    ("gpt2", "gpt2", "lm", {"tie_word_embeddings": False, "n_inner": None}),
    ("t5", "t5", "lm", {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 9}),
    ("t5", "t5", "lm", {"tie_word_embeddings": False}),
    ("t5-v1_1", "t5", "lm", {"feed_forward_proj": "gated-silu"}),
    ("t5-v1_1", "t5", "lm", {"feed_forward_proj": "gated-gelu"}),
    ("bart", "bart", "lm", {"scale_embedding": True, "activation_function": "relu"}),
    ("pegasus", "pegasus", "lm", {"scale_embedding": True, "activation_function": "gelu"}),
]


@pytest.mark.parametrize(
    ("name", "kind", "head", "settings"),
    VARIANTS,
    ids=[f"{name}-{number}" for number, (name, *_) in enumerate(VARIANTS)],
)
def test_settings_that_change_what_is_computed(
    name: str, kind: str, head: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    arch = architecture(name)
    model, _ = make(tmp_path, arch, kind, head, **settings)
    compare(tmp_path, arch, model, set(head.split("+")) if head else set())


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_old_names_of_weights_and_norms_are_read_alike(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    arch = architecture("bert")
    model, _ = make(tmp_path, arch, "bert", "mlm")
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in weights.items()
    }
    if suffix == ".bin":
        torch.save(old, tmp_path / "pytorch_model.bin")
    else:
        save_file(old, tmp_path / "model.safetensors")
    compare(tmp_path, arch, model, {"mlm"})
