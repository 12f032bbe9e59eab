"""GPT-2: a causal transformer whose weights Hugging Face keeps transposed, q, k, v joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import (
    ACTIVATIONS_OUT,
    Architecture,
    Signature,
    activation,
    lm_head,
    norm_settings,
    number,
    real,
    refuse,
)
from uertool.checkpoints.naming import JOIN3, JOIN3_TRANSPOSED, TRANSPOSE, Rule, dense, norm, rule

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_UER = "encoder.transformer.{i}."
_HF = "transformer.h.{i}."
_QKV = tuple(f"{_UER}self_attn.linear_layers.{part}" for part in range(3))

_CORE: tuple[Rule, ...] = (
    rule("embedding.word.embedding.weight", "transformer.wte.weight"),
    rule("embedding.pos.embedding.weight", "transformer.wpe.weight"),
    *norm(f"{_UER}layer_norm_1", f"{_HF}ln_1"),
    rule(
        tuple(f"{name}.weight" for name in _QKV),
        f"{_HF}attn.c_attn.weight",
        how=JOIN3_TRANSPOSED,
    ),
    rule(tuple(f"{name}.bias" for name in _QKV), f"{_HF}attn.c_attn.bias", how=JOIN3),
    *dense(f"{_UER}self_attn.final_linear", f"{_HF}attn.c_proj", how=TRANSPOSE),
    *norm(f"{_UER}layer_norm_2", f"{_HF}ln_2"),
    *dense(f"{_UER}feed_forward.linear_1", f"{_HF}mlp.c_fc", how=TRANSPOSE),
    *dense(f"{_UER}feed_forward.linear_2", f"{_HF}mlp.c_proj", how=TRANSPOSE),
    *norm("encoder.layer_norm", "transformer.ln_f"),
)


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(
        config,
        scale_attn_weights=(True, None),
        scale_attn_by_inverse_layer_idx=(False, None),
        add_cross_attention=(False, None),
    )
    hidden = number(config, "n_embd", "hidden_size", default=768)
    return {
        "vocab_size": number(config, "vocab_size", default=50257),
        "hidden_size": hidden,
        "emb_size": hidden,
        "layers_num": number(config, "n_layer", "num_hidden_layers", default=12),
        "heads_num": number(config, "n_head", "num_attention_heads", default=12),
        "feedforward_size": number(config, "n_inner", default=4 * hidden) or 4 * hidden,
        "max_seq_length": number(config, "n_positions", "n_ctx", default=1024),
        "hidden_act": activation(config, "activation_function", "gelu_new"),
        "embedding": ("word", "pos"),
        "remove_embedding_layernorm": True,
        "encoder": "transformer",
        "mask": "causal",
        "layernorm_positioning": "pre",
        "norm": "standard",
        "norm_eps": real(config, "layer_norm_epsilon", 1e-5),
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.max_seq_length,
        "n_embd": config.hidden_size,
        "n_layer": config.layers_num,
        "n_head": config.heads_num,
        "n_inner": config.feedforward_size,
        "activation_function": ACTIVATIONS_OUT[config.hidden_act],
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": norm_settings(config),
        "initializer_range": 0.02,
        "use_cache": True,
    }


ARCHITECTURE = Architecture(
    name="gpt2",
    model_types=("gpt2",),
    core=_CORE,
    heads=(lm_head("transformer.wte.weight"),),
    signature=Signature(
        has=(
            "embedding.word.embedding.weight",
            "embedding.pos.embedding.weight",
            "encoder.layer_norm.gamma",
            "encoder.transformer.0.self_attn.linear_layers.0.bias",
        ),
        lacks=(
            "embedding.seg.embedding.weight",
            "embedding.layer_norm.gamma",
            "decoder.transformer_decoder.0.self_attn.linear_layers.0.weight",
            "encoder.relative_pos_emb.relative_attention_bias.weight",
            "encoder.transformer.0.feed_forward.linear_gate.weight",
            "encoder.linear.weight",
            "target.lm.output_layer.bias",
            "target.mlm.linear_1.weight",
        ),
    ),
    base="transformer.",
    hf_marks=("transformer.wte.weight",),
    ignored_hf=(r"(^|\.)h\.\d+\.attn\.(bias|masked_bias)$",),
    classes={"": "GPT2Model", "lm": "GPT2LMHeadModel"},
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
    usual={"hidden_act": "gelu_fast", "mask": "causal"},
)
