"""BART: encoder and decoder with learned positions and layer norms after each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import (
    ACTIVATIONS_OUT,
    WORD,
    Architecture,
    Signature,
    activation,
    lm_head,
    number,
    refuse,
)
from uertool.checkpoints.naming import (
    LEADING_AXIS,
    OFFSET2,
    Derived,
    Rule,
    Transform,
    dense,
    norm,
    rule,
)

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def _attention(uer: str, hf: str) -> list[Rule]:
    rows: list[Rule] = []
    for part, name in enumerate(_PROJECTIONS):
        rows.extend(dense(f"{uer}.linear_layers.{part}", f"{hf}.{name}"))
    rows.extend(dense(f"{uer}.final_linear", f"{hf}.out_proj"))
    return rows


def encoder_layer() -> list[Rule]:
    """One layer of BART's and Pegasus' encoder."""
    uer, hf = "encoder.transformer.{i}.", "model.encoder.layers.{i}."
    return [
        *_attention(f"{uer}self_attn", f"{hf}self_attn"),
        *norm(f"{uer}layer_norm_1", f"{hf}self_attn_layer_norm"),
        *dense(f"{uer}feed_forward.linear_1", f"{hf}fc1"),
        *dense(f"{uer}feed_forward.linear_2", f"{hf}fc2"),
        *norm(f"{uer}layer_norm_2", f"{hf}final_layer_norm"),
    ]


def decoder_layer() -> list[Rule]:
    """One layer of BART's and Pegasus' decoder."""
    uer, hf = "decoder.transformer_decoder.{i}.", "model.decoder.layers.{i}."
    return [
        *_attention(f"{uer}self_attn", f"{hf}self_attn"),
        *norm(f"{uer}layer_norm_1", f"{hf}self_attn_layer_norm"),
        *_attention(f"{uer}context_attn", f"{hf}encoder_attn"),
        *norm(f"{uer}layer_norm_2", f"{hf}encoder_attn_layer_norm"),
        *dense(f"{uer}feed_forward.linear_1", f"{hf}fc1"),
        *dense(f"{uer}feed_forward.linear_2", f"{hf}fc2"),
        *norm(f"{uer}layer_norm_3", f"{hf}final_layer_norm"),
    ]


def words() -> list[Rule]:
    """The word tables of both sides."""
    return [
        rule(WORD, ("model.encoder.embed_tokens.weight", "model.shared.weight")),
        rule(
            "tgt_embedding.word.embedding.weight",
            "model.decoder.embed_tokens.weight",
            tied=WORD,
            tie_if=WORD,
        ),
    ]


def positions(how: Transform, *, derived: Derived | None = None) -> list[Rule]:
    """The position tables of both sides."""
    return [
        rule(
            f"{uer}.pos.embedding.weight",
            f"model.{hf}.embed_positions.weight",
            how=how,
            optional=derived is not None,
            derived=derived,
        )
        for uer, hf in (("embedding", "encoder"), ("tgt_embedding", "decoder"))
    ]


#: The bias of the output layer.
LOGITS_BIAS = rule(
    "target.lm.output_layer.bias", "final_logits_bias", how=LEADING_AXIS, optional=True
)


def seq2seq_from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """What BART's and Pegasus' config.json have in common, as ModelConfig fields."""
    hidden = number(config, "d_model", "hidden_size", default=1024)
    heads = number(config, "encoder_attention_heads", default=16)
    feed_forward = number(config, "encoder_ffn_dim", default=4096)
    refuse(
        config,
        decoder_attention_heads=(heads, None),
        decoder_ffn_dim=(feed_forward, None),
    )
    layers = number(config, "encoder_layers", "num_hidden_layers", default=12)
    vocab = number(config, "vocab_size", default=50265)
    return {
        "vocab_size": vocab,
        "tgt_vocab_size": vocab,
        "hidden_size": hidden,
        "emb_size": hidden,
        "layers_num": layers,
        "decoder_layers_num": number(config, "decoder_layers", default=layers),
        "heads_num": heads,
        "feedforward_size": feed_forward,
        "max_seq_length": number(config, "max_position_embeddings", default=1024),
        "hidden_act": activation(config, "activation_function", "gelu"),
        "embedding": ("word", "pos"),
        "tgt_embedding": ("word", "pos"),
        "encoder": "transformer",
        "decoder": "transformer",
        "mask": "fully_visible",
        "norm": "standard",
        "norm_eps": 1e-5,
        "scale_embedding": bool(config.get("scale_embedding", False)),
    }


def seq2seq_to_hf(config: ModelConfig) -> dict[str, Any]:
    """What BART's and Pegasus' config.json have in common."""
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "encoder_layers": config.layers_num,
        "decoder_layers": config.decoder_layers_num,
        "encoder_attention_heads": config.heads_num,
        "decoder_attention_heads": config.heads_num,
        "encoder_ffn_dim": config.feedforward_size,
        "decoder_ffn_dim": config.feedforward_size,
        "max_position_embeddings": config.max_seq_length,
        "activation_function": ACTIVATIONS_OUT[config.hidden_act],
        "dropout": 0.1,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "use_cache": True,
        "scale_embedding": config.scale_embedding or "sinusoidalpos" in config.embedding,
    }


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(
        config,
        normalize_before=(False, None),
        normalize_embedding=(True, None),
        add_final_layer_norm=(False, None),
        static_position_embeddings=(False, None),
    )
    return {**seq2seq_from_hf(config), "layernorm_positioning": "post"}


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {**seq2seq_to_hf(config), "forced_eos_token_id": None}


ARCHITECTURE = Architecture(
    name="bart",
    model_types=("bart",),
    core=(
        *words(),
        *positions(OFFSET2),
        *norm("embedding.layer_norm", "model.encoder.layernorm_embedding"),
        *encoder_layer(),
        *norm("tgt_embedding.layer_norm", "model.decoder.layernorm_embedding"),
        *decoder_layer(),
    ),
    heads=(lm_head("model.decoder.layernorm_embedding.weight", LOGITS_BIAS),),
    signature=Signature(
        has=(
            "embedding.pos.embedding.weight",
            "tgt_embedding.pos.embedding.weight",
            "embedding.layer_norm.gamma",
            "tgt_embedding.layer_norm.gamma",
            "decoder.transformer_decoder.0.self_attn.linear_layers.0.bias",
        ),
        lacks=("embedding.seg.embedding.weight", "encoder.layer_norm.gamma"),
    ),
    base="model.",
    hf_marks=("model.encoder.layernorm_embedding.weight",),
    hf_without=("model.encoder.layer_norm.weight",),
    classes={"": "BartModel", "lm": "BartForConditionalGeneration"},
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
    has_fixed_epsilon=True,
)
