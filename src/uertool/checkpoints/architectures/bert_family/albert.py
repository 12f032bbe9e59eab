"""ALBERT: one layer used many times, and word vectors smaller than the hidden size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import (
    Architecture,
    Head,
    Signature,
    Spiece,
    activation,
    number,
    refuse,
)
from uertool.checkpoints.architectures.bert_family import bert
from uertool.checkpoints.naming import Rule, dense, norm, prefixed, renamed, rule

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_CORE: tuple[Rule, ...] = (
    *renamed(bert.EMBEDDINGS, hf=("bert.", "albert.")),
    *dense(
        "encoder.linear",
        "albert.encoder.embedding_hidden_mapping_in",
        tf="bert/encoder/embedding_hidden_mapping_in",
    ),
    *prefixed(
        (
            (dense, "self_attn.linear_layers.0", "attention.query", "attention_1/self/query"),
            (dense, "self_attn.linear_layers.1", "attention.key", "attention_1/self/key"),
            (dense, "self_attn.linear_layers.2", "attention.value", "attention_1/self/value"),
            (dense, "self_attn.final_linear", "attention.dense", "attention_1/output/dense"),
            (norm, "layer_norm_1", "attention.LayerNorm", "LayerNorm"),
            (dense, "feed_forward.linear_1", "ffn", "ffn_1/intermediate/dense"),
            (dense, "feed_forward.linear_2", "ffn_output", "ffn_1/intermediate/output/dense"),
            (norm, "layer_norm_2", "full_layer_layer_norm", "LayerNorm_1"),
        ),
        "encoder.transformer.",
        "albert.encoder.albert_layer_groups.0.albert_layers.0.",
        "bert/encoder/transformer/group_0/inner_group_0/",
    ),
)

_MLM = bert.mlm_head(
    "predictions.dense",
    "predictions.LayerNorm",
    "predictions.decoder.weight",
    rule(
        "target.mlm.linear_2.bias",
        ("predictions.bias", "predictions.decoder.bias"),
        untied="predictions.decoder.bias",
        tf="cls/predictions/output_bias",
    ),
    google=True,
)

_CLS = Head(
    "cls",
    (
        *dense("output_layer_1", "albert.pooler", tf="bert/pooler/dense"),
        *dense("output_layer_2", "classifier"),
    ),
    hf=("classifier.weight", "albert.pooler.weight"),
    uer=("output_layer_2.weight",),
    hf_class="ForSequenceClassification",
)


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(config, num_hidden_groups=(1, None), inner_group_num=(1, None))
    values = bert.encoder_from_hf(
        {
            "vocab_size": 30000,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "intermediate_size": 16384,
            **config,
        }
    )
    return {
        **values,
        "emb_size": number(config, "embedding_size", default=128),
        "hidden_act": activation(config, "hidden_act", "gelu_new"),
        "factorized_embedding_parameterization": True,
        "parameter_sharing": True,
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **bert.encoder_to_hf(config),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "embedding_size": config.word_size,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
    }


ARCHITECTURE = Architecture(
    name="albert",
    model_types=("albert",),
    core=_CORE,
    heads=(
        _MLM,
        bert.pair_head("albert.pooler", "sop_classifier.classifier"),
        _CLS,
        bert.QA,
        bert.TOKEN_CLS,
        bert.pooler_head("albert.pooler", google=True),
    ),
    shadows=bert.SHADOWS,
    signature=Signature(
        has=(
            "embedding.word.embedding.weight",
            "embedding.pos.embedding.weight",
            "embedding.seg.embedding.weight",
            "embedding.layer_norm.gamma",
            "encoder.linear.weight",
            "encoder.transformer.self_attn.linear_layers.0.bias",
            "encoder.transformer.layer_norm_1.gamma",
        ),
        lacks=(
            "encoder.layer_norm.gamma",
            "decoder.transformer_decoder.0.self_attn.linear_layers.0.weight",
            "target.lm.output_layer.weight",
        ),
    ),
    base="albert.",
    activations_vary=True,
    hf_marks=("albert.encoder.embedding_hidden_mapping_in.weight",),
    tf_marks=("bert/encoder/embedding_hidden_mapping_in/kernel",),
    classes=bert.classes("Albert", "mlm", "mlm+sp", "cls", "qa", "token_cls"),
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
    spiece=Spiece("spiece.model", "AlbertTokenizer"),
    usual={"hidden_act": "relu"},
    pair_head="sop",
)
