"""SBERT: two streams with BERT's body each, of which Hugging Face holds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uertool.checkpoints.architectures.base import Architecture, Signature
from uertool.checkpoints.architectures.bert_family import bert
from uertool.checkpoints.naming import (
    BOTH_STREAMS,
    BOTH_STREAMS_PAD_ROW,
    DROP_PAD_ROW,
    Rule,
    rule,
)

_STREAMS = (("embedding.", "embedding.dual.embedding_{s}."), ("encoder.", "encoder.encoder_{s}."))


def _both(row: Rule) -> Rule:
    """A row of BERT's table for both streams; SBERT's files have no `bert.` prefix."""
    for old, new in _STREAMS:
        if row.uer[0].startswith(old):
            names = tuple(new.replace("{s}", str(s)) + row.uer[0][len(old) :] for s in (0, 1))
            how = BOTH_STREAMS_PAD_ROW if row.how is DROP_PAD_ROW else BOTH_STREAMS
            return rule(names, row.hf[0].removeprefix("bert."), how=how)
    raise AssertionError(row)


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **bert.encoder_from_hf(config),
        "embedding": ("dual",),
        "encoder": "dual",
        # Hugging Face's body has one layer norm on its embeddings; the streams' own are absent.
        "remove_embedding_layernorm": True,
    }


ARCHITECTURE = Architecture(
    name="sbert",
    model_types=("bert",),
    core=tuple(_both(row) for row in (*bert.EMBEDDINGS, *bert.LAYER)),
    # The streams have none; transformers asks for one, and files of others bring one.
    heads=(bert.pooler_head("pooler.dense"),),
    signature=Signature(
        has=(
            "embedding.dual.embedding_0.word.embedding.weight",
            "embedding.dual.embedding_1.word.embedding.weight",
            "encoder.encoder_0.transformer.0.self_attn.linear_layers.0.bias",
        ),
        lacks=(),
    ),
    hf_marks=(),
    classes={"": "BertModel"},
    config_from_hf=_from_hf,
    config_to_hf=bert.encoder_to_hf,
)
