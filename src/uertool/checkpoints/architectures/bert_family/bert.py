"""BERT and the models that share its names: encoder, masked words, pairs, classification, QA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import (
    ACTIVATIONS_OUT,
    WORD,
    Architecture,
    Head,
    Signature,
    activation,
    norm_settings,
    number,
    real,
    refuse,
)
from uertool.checkpoints.naming import DROP_PAD_ROW, Rule, dense, norm, prefixed, rule

if TYPE_CHECKING:
    from uertool.config import ModelConfig

EMBEDDINGS: tuple[Rule, ...] = (
    rule(
        "embedding.word.embedding.weight",
        "bert.embeddings.word_embeddings.weight",
        tf="bert/embeddings/word_embeddings",
    ),
    rule(
        "embedding.pos.embedding.weight",
        "bert.embeddings.position_embeddings.weight",
        tf="bert/embeddings/position_embeddings",
    ),
    rule(
        "embedding.seg.embedding.weight",
        "bert.embeddings.token_type_embeddings.weight",
        tf="bert/embeddings/token_type_embeddings",
        how=DROP_PAD_ROW,
        tf_how=DROP_PAD_ROW,
    ),
    *norm("embedding.layer_norm", "bert.embeddings.LayerNorm", tf="bert/embeddings/LayerNorm"),
)

LAYER: tuple[Rule, ...] = prefixed(
    (
        (dense, "self_attn.linear_layers.0", "attention.self.query", "attention/self/query"),
        (dense, "self_attn.linear_layers.1", "attention.self.key", "attention/self/key"),
        (dense, "self_attn.linear_layers.2", "attention.self.value", "attention/self/value"),
        (dense, "self_attn.final_linear", "attention.output.dense", "attention/output/dense"),
        (norm, "layer_norm_1", "attention.output.LayerNorm", "attention/output/LayerNorm"),
        (dense, "feed_forward.linear_1", "intermediate.dense", "intermediate/dense"),
        (dense, "feed_forward.linear_2", "output.dense", "output/dense"),
        (norm, "layer_norm_2", "output.LayerNorm", "output/LayerNorm"),
    ),
    "encoder.transformer.{i}.",
    "bert.encoder.layer.{i}.",
    "bert/encoder/layer_{i}/",
)


def mlm_head(layer: str, layer_norm: str, output: str, bias: Rule, *, google: bool = False) -> Head:
    """The head for masked words; its last layer is the word table where a file does not store it.

    Args:
        layer, layer_norm, output: Hugging Face's names of its layers.
        bias: the rule of the bias of the last layer.
        google: whether Google's format has it, too.
    """
    tf = "cls/predictions/transform/" if google else ""
    first, last = "target.mlm.linear_1", "target.mlm.linear_2.weight"
    return Head(
        "mlm",
        (
            *dense(first, layer, tf=tf and f"{tf}dense"),
            *norm("target.mlm.layer_norm", layer_norm, tf=tf and f"{tf}LayerNorm"),
            rule(last, output, tied=WORD, tie_if=f"{first}.weight"),
            bias,
        ),
        hf=(f"{layer}.weight",),
        tf=(f"{tf}dense/kernel",) if google else (),
        uer=(f"{first}.weight",),
    )


def pair_head(pooler: str, classifier: str) -> Head:
    """The head for pairs of sentences, of Hugging Face's names of its two layers."""
    name, tf = "target.sp.linear_2", "cls/seq_relationship/output_"
    return Head(
        "sp",
        (
            *dense("target.sp.linear_1", pooler, tf=_TF_POOLER),
            rule(f"{name}.weight", f"{classifier}.weight", tf=f"{tf}weights"),
            rule(f"{name}.bias", f"{classifier}.bias", tf=f"{tf}bias"),
        ),
        hf=(f"{classifier}.weight",),
        tf=(f"{tf}weights",),
        uer=(f"{name}.weight",),
    )


def pooler_head(pooler: str, *, google: bool = False, uer_without: tuple[str, ...] = ()) -> Head:
    """A pooler without any head on it.

    UER-py has none: it keeps the place of the pair head's first layer, where its own converters put
    it.
    """
    return Head(
        "pooler",
        tuple(dense("target.sp.linear_1", pooler, tf=_TF_POOLER if google else "")),
        hf=(f"{pooler}.weight",),
        tf=(f"{_TF_POOLER}/kernel",) if google else (),
        uer=("target.sp.linear_1.weight",),
        uer_without=uer_without,
    )


_TF_POOLER = "bert/pooler/dense"

MLM = mlm_head(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder.weight",
    rule(
        "target.mlm.linear_2.bias",
        "cls.predictions.bias",
        accept=("cls.predictions.decoder.bias",),
        untied="cls.predictions.decoder.bias",
        tf="cls/predictions/output_bias",
    ),
    google=True,
)

SP = pair_head("bert.pooler.dense", "cls.seq_relationship")

CLS = Head(
    "cls",
    (
        *dense("output_layer_1", "bert.pooler.dense", tf=_TF_POOLER),
        rule("output_layer_2.weight", "classifier.weight", tf="output_weights"),
        rule("output_layer_2.bias", "classifier.bias", tf="output_bias"),
    ),
    hf=("classifier.weight", "bert.pooler.dense.weight"),
    tf=("output_weights", "bert/pooler/dense/kernel"),
    uer=("output_layer_2.weight",),
    hf_class="ForSequenceClassification",
)

QA = Head(
    "qa",
    (
        rule("output_layer.weight", "qa_outputs.weight", tf="cls/squad/output_weights"),
        rule("output_layer.bias", "qa_outputs.bias", tf="cls/squad/output_bias"),
    ),
    hf=("qa_outputs.weight",),
    tf=("cls/squad/output_weights",),
    uer=("output_layer.weight",),
    hf_class="ForQuestionAnswering",
)

TOKEN_CLS = Head(
    "token_cls",
    tuple(dense("output_layer", "classifier")),
    hf=("classifier.weight",),
    uer=("output_layer.weight",),
    hf_class="ForTokenClassification",
)

HEADS = (MLM, SP, CLS, QA, TOKEN_CLS, pooler_head("bert.pooler.dense", google=True))

SHADOWS: Mapping[str, tuple[str, ...]] = {
    "sp": ("pooler",),
    "cls": ("pooler", "token_cls", "qa"),
    "qa": ("token_cls",),
    "token_cls": ("cls", "qa"),
}


def encoder_from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json of a BERT-like encoder says, as ModelConfig fields."""
    refuse(
        config,
        position_embedding_type=("absolute", None),
        is_decoder=(False, None),
        add_cross_attention=(False, None),
        use_task_id=(False, None),
    )
    hidden = number(config, "hidden_size", default=768)
    return {
        "vocab_size": number(config, "vocab_size", default=30522),
        "hidden_size": hidden,
        "emb_size": hidden,
        "layers_num": number(config, "num_hidden_layers", default=12),
        "heads_num": number(config, "num_attention_heads", default=12),
        "feedforward_size": number(config, "intermediate_size", default=3072),
        "max_seq_length": number(config, "max_position_embeddings", default=512),
        "segments_num": number(config, "type_vocab_size", default=2) + 1,
        "hidden_act": activation(config, "hidden_act", "gelu"),
        "embedding": ("word", "pos", "seg"),
        "encoder": "transformer",
        "mask": "fully_visible",
        "layernorm_positioning": "post",
        "norm": "standard",
        "norm_eps": real(config, "layer_norm_eps", 1e-12),
    }


def encoder_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The shared part of config.json of BERT-like encoders."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers_num,
        "num_attention_heads": config.heads_num,
        "intermediate_size": config.feedforward_size,
        "hidden_act": ACTIVATIONS_OUT[config.hidden_act],
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": config.max_seq_length,
        "type_vocab_size": config.segments_num - 1,
        "initializer_range": 0.02,
        "layer_norm_eps": norm_settings(config),
    }


_CLASSES: Mapping[str, str] = {
    "mlm": "ForMaskedLM",
    "mlm+sp": "ForPreTraining",
    "sp": "ForNextSentencePrediction",
    "cls": "ForSequenceClassification",
    "qa": "ForQuestionAnswering",
    "token_cls": "ForTokenClassification",
}


def classes(prefix: str, *heads: str) -> dict[str, str]:
    """Heads (by default all of BERT's) to Hugging Face's classes, which begin with the prefix."""
    return {"": f"{prefix}Model", **{name: prefix + _CLASSES[name] for name in heads or _CLASSES}}


ARCHITECTURE = Architecture(
    name="bert",
    model_types=("bert",),
    core=(*EMBEDDINGS, *LAYER),
    heads=HEADS,
    shadows=SHADOWS,
    signature=Signature(
        has=(
            "embedding.word.embedding.weight",
            "embedding.pos.embedding.weight",
            "embedding.seg.embedding.weight",
            "embedding.layer_norm.gamma",
            "encoder.transformer.0.self_attn.linear_layers.0.bias",
            "encoder.transformer.0.layer_norm_1.gamma",
        ),
        lacks=(
            "encoder.layer_norm.gamma",
            "encoder.linear.weight",
            "decoder.transformer_decoder.0.self_attn.linear_layers.0.weight",
            "encoder.transformer.0.feed_forward.linear_gate.weight",
            "encoder.relative_pos_emb.relative_attention_bias.weight",
            "target.lm.output_layer.weight",
            "embedding.task.embedding.weight",
            "target.rtd.linear_1.weight",
        ),
    ),
    base="bert.",
    hf_marks=(
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
    ),
    hf_without=("lm_head.dense.weight", "classifier.out_proj.weight"),
    tf_marks=("bert/encoder/layer_0/attention/self/query/kernel",),
    classes=classes("Bert"),
    config_from_hf=encoder_from_hf,
    config_to_hf=encoder_to_hf,
)
