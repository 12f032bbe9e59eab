"""RoBERTa and XLM-RoBERTa: BERT's body, positions after unused rows, another head for words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import Architecture, Head, Spiece, number
from uertool.checkpoints.architectures.bert_family import bert
from uertool.checkpoints.naming import (
    DROP_PAD_ROW,
    XLMR_SEGMENT,
    XLMR_SEGMENT_SCRIPT,
    Rule,
    dense,
    fillers,
    renamed,
    rule,
)

if TYPE_CHECKING:
    from uertool.config import ModelConfig

#: transformers counts positions from padding_idx + 1, and <pad> is 1.
_PAD = 1


def _rules(offset: int, segments: int) -> tuple[Rule, ...]:
    single = segments == 1
    special = {
        "embedding.pos.embedding.weight": rule(
            "embedding.pos.embedding.weight",
            "roberta.embeddings.position_embeddings.weight",
            how=fillers(offset),
        ),
        "embedding.seg.embedding.weight": rule(
            "embedding.seg.embedding.weight",
            "roberta.embeddings.token_type_embeddings.weight",
            how=XLMR_SEGMENT if single else DROP_PAD_ROW,
            script=XLMR_SEGMENT_SCRIPT if single else None,
        ),
    }
    body = renamed((*bert.EMBEDDINGS, *bert.LAYER), hf=("bert.", "roberta."))
    return tuple(special.get(row.uer[0], row) for row in body)


def rules_for(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The body's rules for a config.json; its pad_token_id shifts the positions."""
    return _rules(
        number(config, "pad_token_id", default=_PAD) + 1,
        number(config, "type_vocab_size", default=1),
    )


_MLM = bert.mlm_head(
    "lm_head.dense",
    "lm_head.layer_norm",
    "lm_head.decoder.weight",
    rule(
        "target.mlm.linear_2.bias",
        ("lm_head.bias", "lm_head.decoder.bias"),
        untied="lm_head.decoder.bias",
    ),
)

_CLS = Head(
    "cls",
    (*dense("output_layer_1", "classifier.dense"), *dense("output_layer_2", "classifier.out_proj")),
    hf=("classifier.out_proj.weight",),
    uer=("output_layer_2.weight",),
    hf_class="ForSequenceClassification",
)

_POOLER = bert.pooler_head("roberta.pooler.dense", uer_without=("target.sp.linear_2.weight",))


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    values = bert.encoder_from_hf(
        {"type_vocab_size": 1, "vocab_size": 50265, "max_position_embeddings": 514, **config}
    )
    # Its one segment row is row 1 and row 2 of ours; the last rows of the positions are unused.
    values["segments_num"] = max(values["segments_num"], 3)
    # The head of RoBERTa always uses gelu.
    values["mlm_act"] = "gelu"
    return values


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return {
        **bert.encoder_to_hf(config),
        "type_vocab_size": 1,
        "bos_token_id": 0,
        "pad_token_id": _PAD,
        "eos_token_id": 2,
    }


ARCHITECTURE = Architecture(
    name="xlm-roberta",
    model_types=("xlm-roberta", "roberta", "camembert"),
    core=_rules(_PAD + 1, 1),
    heads=(_MLM, _CLS, bert.QA, bert.TOKEN_CLS, _POOLER),
    shadows=bert.SHADOWS,
    signature=bert.ARCHITECTURE.signature,
    base="roberta.",
    from_fairseq=True,
    class_prefixes={"roberta": "Roberta", "camembert": "Camembert"},
    hf_marks=(
        "roberta.embeddings.word_embeddings.weight",
        "roberta.encoder.layer.0.attention.self.query.weight",
    ),
    hf_without=("cls.predictions.transform.dense.weight", "cls.seq_relationship.weight"),
    classes=bert.classes("XLMRoberta", "mlm", "cls", "qa", "token_cls"),
    config_from_hf=_from_hf,
    config_to_hf=_to_hf,
    spiece=Spiece("sentencepiece.bpe.model", "XLMRobertaTokenizer"),
    rules_for=rules_for,
)
