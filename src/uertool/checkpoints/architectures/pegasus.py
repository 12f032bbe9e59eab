"""Pegasus: encoder and decoder with sinusoidal positions and layer norms before each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures import bart
from uertool.checkpoints.architectures.base import Architecture, Signature, refuse
from uertool.checkpoints.naming import KEEP, norm

if TYPE_CHECKING:
    from uertool.models.config import ModelConfig


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(
        config,
        normalize_before=(True, None),
        normalize_embedding=(False, None),
        add_final_layer_norm=(True, None),
    )
    # The table is in the file and holds whatever formula its maker used.
    return {
        **bart.seq2seq_from_hf(config),
        "layernorm_positioning": "pre",
        "remove_embedding_layernorm": True,
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {"model_type": "pegasus", **bart.seq2seq_to_hf(config)}


ARCHITECTURE = Architecture(
    name="pegasus",
    model_types=("pegasus",),
    core=(
        *bart.words(),
        *bart.positions(KEEP, optional=True),
        *bart.encoder_layer(),
        *norm("encoder.layer_norm", "model.encoder.layer_norm"),
        *bart.decoder_layer(),
        *norm("decoder.layer_norm", "model.decoder.layer_norm"),
    ),
    heads=(bart.lm_head("model.decoder.layer_norm.weight"),),
    signature=Signature(
        has=(
            bart.WORD,
            "encoder.layer_norm.gamma",
            "decoder.layer_norm.gamma",
            "decoder.transformer_decoder.0.self_attn.linear_layers.0.bias",
        ),
        lacks=(
            "embedding.seg.embedding.weight",
            "embedding.layer_norm.gamma",
            "tgt_embedding.layer_norm.gamma",
            "encoder.relative_pos_emb.relative_attention_bias.weight",
            "encoder.transformer.0.feed_forward.linear_gate.weight",
        ),
    ),
    base="model.",
    hf_marks=("model.encoder.layer_norm.weight",),
    hf_without=("model.encoder.layernorm_embedding.weight",),
    classes={"": "PegasusModel", "lm": "PegasusForConditionalGeneration"},
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
)
