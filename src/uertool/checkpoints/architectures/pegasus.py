"""Pegasus: encoder and decoder with sinusoidal positions and layer norms before each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures import bart
from uertool.checkpoints.architectures.base import (
    WORD,
    Architecture,
    Signature,
    Spiece,
    lm_head,
    number,
    refuse,
)
from uertool.checkpoints.naming import KEEP, norm
from uertool.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


#: Of a position table; the longest published Pegasus has 16384 x 1024.
_MOST_ELEMENTS = 1 << 25


def hugging_face_sinusoid(config: Mapping[str, Any]) -> Tensor:
    """The position table [length, hidden] of transformers' own Pegasus, sines first, then cosines.

    Frequencies 10000^(-2i/hidden) as in Vaswani et al. 2017, but not interleaved.
    """
    import torch

    length = number(config, "max_position_embeddings", default=1024)
    size = number(config, "d_model", "hidden_size", default=1024)
    if length * size > _MOST_ELEMENTS:
        raise ConfigError(f"config.json asks for a position table of {length} x {size} numbers.")
    columns = torch.arange(size, dtype=torch.float64)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / torch.pow(
        torch.tensor(10000.0, dtype=torch.float64), 2 * (columns // 2) / size
    )
    sines, cosines = torch.sin(angles[:, 0::2]), torch.cos(angles[:, 1::2])
    return torch.cat([sines, cosines], 1).float()


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(
        config,
        normalize_before=(True, None),
        normalize_embedding=(False, None),
        add_final_layer_norm=(True, None),
    )
    # The table is in the file, computed by any formula.
    return {
        **bart.seq2seq_from_hf(config),
        "layernorm_positioning": "pre",
        "remove_embedding_layernorm": True,
    }


ARCHITECTURE = Architecture(
    name="pegasus",
    model_types=("pegasus",),
    core=(
        *bart.words(),
        *bart.positions(KEEP, derived=hugging_face_sinusoid),
        *bart.encoder_layer(),
        *norm("encoder.layer_norm", "model.encoder.layer_norm"),
        *bart.decoder_layer(),
        *norm("decoder.layer_norm", "model.decoder.layer_norm"),
    ),
    heads=(lm_head("model.decoder.layer_norm.weight", bart.LOGITS_BIAS),),
    signature=Signature(
        has=(
            WORD,
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
    config_to_hf=bart.seq2seq_to_hf,
    computes_positions=True,
    spiece=Spiece("spiece.model", "PegasusTokenizer"),
    usual={"hidden_act": "relu"},
)
