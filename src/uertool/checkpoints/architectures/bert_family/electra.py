"""ELECTRA: BERT without a pooler, narrow word vectors, heads for masked or for replaced words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import Architecture, Head, number
from uertool.checkpoints.architectures.bert_family import bert
from uertool.checkpoints.naming import Rule, dense, renamed, rule

if TYPE_CHECKING:
    from uertool.config import ModelConfig

#: The projection of narrow word vectors to the hidden size; other models have none.
PROJECTION: tuple[Rule, ...] = tuple(
    replace(row, optional=True) for row in dense("encoder.linear", "bert.embeddings_project")
)

_MLM = bert.mlm_head(
    "generator_predictions.dense",
    "generator_predictions.LayerNorm",
    "generator_lm_head.weight",
    rule("target.mlm.linear_2.bias", "generator_lm_head.bias"),
)

_RTD = Head(
    "rtd",
    (
        *dense("target.rtd.linear_1", "discriminator_predictions.dense"),
        *dense("target.rtd.linear_2", "discriminator_predictions.dense_prediction"),
    ),
    hf=("discriminator_predictions.dense.weight",),
    uer=("target.rtd.linear_1.weight",),
)


def narrow_from_hf(config: Mapping[str, Any], default: int | None = None) -> dict[str, Any]:
    """The size of the word vectors, and whether they are projected; without one the hidden size."""
    hidden = number(config, "hidden_size")
    size = number(config, "embedding_size", default=default or hidden)
    return {"emb_size": size, "factorized_embedding_parameterization": size != hidden}


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    small = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
    config = {**small, **config}
    return {
        **bert.encoder_from_hf(config),
        **narrow_from_hf(config, 128),
        # The generator's head always has this one.
        "mlm_act": "gelu",
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {**bert.encoder_to_hf(config), "embedding_size": config.word_size}


ARCHITECTURE = Architecture(
    name="electra",
    model_types=("electra",),
    core=renamed((*bert.EMBEDDINGS, *PROJECTION, *bert.LAYER), hf=("bert.", "electra.")),
    heads=(_MLM, _RTD, bert.QA, bert.TOKEN_CLS),
    shadows=bert.SHADOWS,
    signature=bert.ARCHITECTURE.signature.without(
        "encoder.linear.weight", "target.rtd.linear_1.weight"
    ),
    base="electra.",
    hf_marks=(
        "electra.embeddings.word_embeddings.weight",
        "electra.encoder.layer.0.attention.self.query.weight",
    ),
    by_name=True,
    classes={
        **bert.classes("Electra", "mlm", "qa", "token_cls"),
        "rtd": "ElectraForPreTraining",
    },
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
)
