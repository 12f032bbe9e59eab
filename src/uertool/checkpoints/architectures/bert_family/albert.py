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

_MLM = Head(
    "mlm",
    (
        *dense("target.mlm.linear_1", "predictions.dense", tf="cls/predictions/transform/dense"),
        *norm(
            "target.mlm.layer_norm",
            "predictions.LayerNorm",
            tf="cls/predictions/transform/LayerNorm",
        ),
        rule(
            "target.mlm.linear_2.weight",
            "predictions.decoder.weight",
            tied="embedding.word.embedding.weight",
            tie_if="target.mlm.linear_1.weight",
        ),
        rule(
            "target.mlm.linear_2.bias",
            ("predictions.bias", "predictions.decoder.bias"),
            untied="predictions.decoder.bias",
            tf="cls/predictions/output_bias",
        ),
    ),
    hf=("predictions.dense.weight",),
    tf=("cls/predictions/transform/dense/kernel",),
    uer=("target.mlm.linear_1.weight",),
)

_POOLER = tuple(dense("target.sp.linear_1", "albert.pooler", tf="bert/pooler/dense"))

_SP = Head(
    "sp",
    (
        *_POOLER,
        rule(
            "target.sp.linear_2.weight",
            "sop_classifier.classifier.weight",
            tf="cls/seq_relationship/output_weights",
        ),
        rule(
            "target.sp.linear_2.bias",
            "sop_classifier.classifier.bias",
            tf="cls/seq_relationship/output_bias",
        ),
    ),
    hf=("sop_classifier.classifier.weight",),
    tf=("cls/seq_relationship/output_weights",),
    uer=("target.sp.linear_2.weight",),
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

_BARE_POOLER = Head(
    "pooler",
    _POOLER,
    hf=("albert.pooler.weight",),
    tf=("bert/pooler/dense/kernel",),
    uer=("target.sp.linear_1.weight",),
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
        "model_type": "albert",
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
    heads=(_MLM, _SP, _CLS, bert.QA, bert.TOKEN_CLS, _BARE_POOLER),
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
    classes={
        "": "AlbertModel",
        "mlm": "AlbertForMaskedLM",
        "mlm+sp": "AlbertForPreTraining",
        "cls": "AlbertForSequenceClassification",
        "qa": "AlbertForQuestionAnswering",
        "token_cls": "AlbertForTokenClassification",
    },
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
    spiece=Spiece("spiece.model", "AlbertTokenizer"),
    usual={"hidden_act": "relu"},
    pair_head="sop",
)
