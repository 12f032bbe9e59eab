"""NEZHA: BERT with vectors of clipped distances in place of a position table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import number
from uertool.checkpoints.architectures.bert_family import bert

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_POSITIONS = "embedding.pos.embedding.weight"
_BERT = bert.ARCHITECTURE.with_base("nezha.")


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **bert.encoder_from_hf({"vocab_size": 21128, **config}),
        "embedding": ("word", "seg"),
        "max_relative_position": number(config, "max_relative_position", default=64),
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **bert.encoder_to_hf(config),
        "max_relative_position": config.max_relative_position,
    }


ARCHITECTURE = replace(
    _BERT,
    name="nezha",
    model_types=("nezha",),
    core=tuple(row for row in _BERT.core if row.uer != (_POSITIONS,)),
    signature=_BERT.signature.without(_POSITIONS).lacking(_POSITIONS),
    by_name=True,
    in_transformers=False,
    usual={"norm": "standard"},
    unseen=("max_relative_position",),
    tf_marks=(),
    # A computed table that some files hold in every layer.
    ignored_hf=(r"relative_positions_encoding\.positions_encoding$",),
    classes=bert.classes("Nezha"),
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
)
