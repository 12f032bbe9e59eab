"""ModernBERT: rotary positions, local and global layers, gated layers, almost no biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import (
    ACTIVATIONS_OUT,
    WORD,
    Architecture,
    Head,
    Signature,
    activation,
    norm_settings,
    number,
    real,
    refuse,
)
from uertool.checkpoints.naming import JOIN2, JOIN3, Rule, rule
from uertool.errors import ConfigError

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_UER = "encoder.transformer.{i}."
_HF = "model.layers.{i}."
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"

_CORE: tuple[Rule, ...] = (
    rule(WORD, "model.embeddings.tok_embeddings.weight"),
    rule("embedding.layer_norm.gamma", "model.embeddings.norm.weight"),
    # The first layer reads the normed embedding, so it has no norm of its own.
    rule(f"{_UER}layer_norm_1.gamma", f"{_HF}attn_norm.weight", optional=True),
    rule(
        tuple(f"{_UER}self_attn.linear_layers.{part}.weight" for part in range(3)),
        f"{_HF}attn.Wqkv.weight",
        how=JOIN3,
    ),
    rule(f"{_UER}self_attn.final_linear.weight", f"{_HF}attn.Wo.weight"),
    rule(f"{_UER}layer_norm_2.gamma", f"{_HF}mlp_norm.weight"),
    rule(
        tuple(f"{_UER}feed_forward.{part}.weight" for part in ("linear_gate", "linear_1")),
        f"{_HF}mlp.Wi.weight",
        how=JOIN2,
    ),
    rule(f"{_UER}feed_forward.linear_2.weight", f"{_HF}mlp.Wo.weight"),
    rule("encoder.layer_norm.gamma", "model.final_norm.weight"),
)

_MLM = Head(
    "mlm",
    (
        rule("target.mlm.linear_1.weight", "head.dense.weight"),
        rule("target.mlm.layer_norm.gamma", "head.norm.weight"),
        rule(
            "target.mlm.linear_2.weight",
            "decoder.weight",
            tied=WORD,
            tie_if="target.mlm.linear_1.weight",
        ),
        rule("target.mlm.linear_2.bias", "decoder.bias"),
    ),
    hf=("head.dense.weight", "decoder.bias"),
    uer=("target.mlm.linear_1.weight",),
)


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(
        config,
        attention_bias=(False, None),
        mlp_bias=(False, None),
        norm_bias=(False, None),
        classifier_bias=(False, None),
        decoder_bias=(True, None),
    )
    hidden = number(config, "hidden_size", default=768)
    theta = _theta(config, _GLOBAL, "global_rope_theta", 160000.0)
    # transformers 4 takes the base of global layers where that of local ones is null.
    local = theta if config.get("local_rope_theta", 0) is None else 10000.0
    layers = number(config, "num_hidden_layers", default=22)
    act = activation(config, "hidden_activation", "gelu")
    return {
        "vocab_size": number(config, "vocab_size", default=50368),
        "hidden_size": hidden,
        "emb_size": hidden,
        "layers_num": layers,
        "heads_num": number(config, "num_attention_heads", default=12),
        "feedforward_size": number(config, "intermediate_size", default=1152),
        "max_seq_length": number(config, "max_position_embeddings", default=8192),
        "hidden_act": act,
        "mlm_act": activation(config, "classifier_activation", "gelu"),
        "embedding": ("word",),
        "encoder": "transformer",
        "mask": "fully_visible",
        "layernorm_positioning": "pre",
        "norm": "standard",
        "norm_eps": real(config, "norm_eps", 1e-5),
        "feed_forward": "gated",
        "remove_transformer_bias": True,
        "remove_layernorm_bias": True,
        "remove_first_layernorm": True,
        "rotary_position_embedding": True,
        "rotary_order": "half",
        "rope_theta": theta,
        "local_rope_theta": _theta(config, _LOCAL, "local_rope_theta", local),
        "local_attention": number(config, "local_attention", default=128),
        "global_attn_every_n_layers": _global_every(config, layers),
    }


def _theta(config: Mapping[str, Any], kind: str, old: str, default: float) -> float:
    """The base of rotary angles of a kind of layer, from the spelling of transformers 4 or 5."""
    parameters = (config.get("rope_parameters") or {}).get(kind) or {}
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"config.json has invalid rope_parameters of {kind}.")
    refuse(parameters, rope_type=("default", None))
    return real(parameters, "rope_theta", real(config, old, default))


def _global_every(config: Mapping[str, Any], layers: int) -> int:
    """After how many layers one sees all tokens; `layer_types` decides if it is there.

    Raises:
        ConfigError: the kinds of layers have no such period.
    """
    every = number(config, "global_attn_every_n_layers", default=3) or 1
    kinds = config.get("layer_types")
    if kinds is None:
        return every
    if isinstance(kinds, list) and len(kinds) == layers and kinds[:1] == [_GLOBAL]:
        every = kinds.index(_GLOBAL, 1) if _GLOBAL in kinds[1:] else max(layers, 1)
        if kinds == _kinds(every, layers):
            return every
    raise ConfigError(
        "config.json has layer_types that uertool does not support: every n-th layer, from the "
        f"first on, must be {_GLOBAL}, and the others {_LOCAL}."
    )


def _kinds(every: int, layers: int) -> list[str]:
    return [_LOCAL if layer % every else _GLOBAL for layer in range(layers)]


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers_num,
        "num_attention_heads": config.heads_num,
        "intermediate_size": config.feedforward_size,
        "max_position_embeddings": config.max_seq_length,
        "hidden_activation": ACTIVATIONS_OUT[config.hidden_act],
        "classifier_activation": ACTIVATIONS_OUT[config.mlm_act or config.hidden_act],
        "norm_eps": norm_settings(config),
        "local_attention": config.local_attention,
        "global_attn_every_n_layers": config.global_attn_every_n_layers,
        "layer_types": _kinds(config.global_attn_every_n_layers, config.layers_num),
        # Both spellings, for transformers 4 and 5.
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "rope_parameters": {
            _GLOBAL: {"rope_type": "default", "rope_theta": config.rope_theta},
            _LOCAL: {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
    }


ARCHITECTURE = Architecture(
    name="modernbert",
    model_types=("modernbert",),
    core=_CORE,
    heads=(_MLM,),
    signature=Signature(
        has=(
            WORD,
            "embedding.layer_norm.gamma",
            "encoder.layer_norm.gamma",
            "encoder.transformer.0.self_attn.linear_layers.0.weight",
            "encoder.transformer.0.feed_forward.linear_gate.weight",
        ),
        lacks=(
            "embedding.pos.embedding.weight",
            "embedding.layer_norm.beta",
            "encoder.transformer.0.self_attn.linear_layers.0.bias",
        ),
    ),
    base="model.",
    hf_marks=("model.embeddings.tok_embeddings.weight", "model.layers.0.attn.Wqkv.weight"),
    classes={"": "ModernBertModel", "mlm": "ModernBertForMaskedLM"},
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
    usual={
        "norm": "standard",
        "norm_eps": 1e-5,
        "mlm_act": "gelu",
        "rotary_position_embedding": True,
        "rotary_order": "half",
        "rope_theta": 160000.0,
    },
    unseen=("local_attention",),
)
