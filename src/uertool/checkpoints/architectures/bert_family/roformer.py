"""RoFormer: BERT without a pooler and with rotary positions; vectors of words may be narrower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.bert_family import bert
from uertool.checkpoints.architectures.bert_family.electra import PROJECTION, narrow_from_hf
from uertool.checkpoints.naming import renamed

if TYPE_CHECKING:
    from torch import Tensor

    from uertool.config import ModelConfig

_POSITIONS = "embedding.pos.embedding.weight"
_BERT = bert.ARCHITECTURE.with_base("roformer.")


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    config = {"vocab_size": 50000, "hidden_size": 768, "max_position_embeddings": 1536, **config}
    return {
        **bert.encoder_from_hf(config),
        **narrow_from_hf(config),
        "embedding": ("word", "seg"),
        "rotary_position_embedding": True,
        "rope_theta": 10000.0,  # fixed
        "rotary_value": bool(config.get("rotary_value")),
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **bert.encoder_to_hf(config),
        "embedding_size": config.word_size,
        "rotary_value": config.rotary_value,
    }


def _tables(config: ModelConfig) -> dict[str, Tensor]:
    """Sines and cosines [positions, head size] of the angles, as transformers computes them."""
    import torch

    size = config.head_size
    powers = 10000 ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(config.max_seq_length, dtype=torch.float64)[:, None] / powers
    return {"encoder.embed_positions.weight": torch.cat([angles.sin(), angles.cos()], 1).float()}


ARCHITECTURE = replace(
    _BERT,
    name="roformer",
    model_types=("roformer",),
    core=renamed(
        (
            *(row for row in bert.EMBEDDINGS if row.uer != (_POSITIONS,)),
            *PROJECTION,
            *bert.LAYER,
        ),
        hf=("bert.", "roformer."),
    ),
    heads=(bert.MLM, bert.QA, bert.TOKEN_CLS),
    signature=_BERT.signature.without(_POSITIONS, "encoder.linear.weight").lacking(_POSITIONS),
    by_name=True,
    usual={"norm": "standard"},
    unseen=("rotary_position_embedding",),
    tf_marks=(),
    ignored_hf=(r"(^|\.)encoder\.embed_positions\.weight$",),
    classes=bert.classes("RoFormer", "mlm", "qa", "token_cls"),
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
    computed=_tables,
)
