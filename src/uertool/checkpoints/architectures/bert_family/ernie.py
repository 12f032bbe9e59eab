"""ERNIE 1.0 and 3.0: BERT, and in 3.0 an embedding of the type of task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import number
from uertool.checkpoints.architectures.bert_family import bert
from uertool.checkpoints.naming import renamed, rule

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_TASK = "embedding.task.embedding.weight"


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    values = bert.encoder_from_hf({**config, "use_task_id": None})
    if config.get("use_task_id"):
        values["embedding"] = (*values["embedding"], "task")
        values["task_types_num"] = number(config, "task_type_vocab_size", default=3)
    return values


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **bert.encoder_to_hf(config),
        "use_task_id": "task" in config.embedding,
        "task_type_vocab_size": config.task_types_num,
    }


_BERT = bert.ARCHITECTURE

ARCHITECTURE = replace(
    _BERT.with_base("ernie."),
    name="ernie",
    model_types=("ernie",),
    core=(
        *renamed(bert.EMBEDDINGS, hf=("bert.", "ernie.")),
        rule(_TASK, "ernie.embeddings.task_type_embeddings.weight", optional=True),
        *renamed(bert.LAYER, hf=("bert.", "ernie.")),
    ),
    signature=_BERT.signature.without(_TASK),
    tf_marks=(),
    classes=bert.classes("Ernie"),
    by_name=True,
    usual={"norm": "standard"},
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
)
