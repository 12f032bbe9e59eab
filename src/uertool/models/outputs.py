"""Everything that a model computes of one input, to look at or to compare it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from uertool.models.model import UerModel


def all_outputs(
    model: UerModel, ids: Tensor, segs: Tensor, tgt_ids: Tensor | None = None
) -> dict[str, Tensor]:
    """The hidden states and the outputs of every head.

    Args:
        model: any model; a siamese one encodes with its first stream.
        ids: [lines, length] tokens.
        segs: [lines, length] segments, 0 at padding.
        tgt_ids: [lines, target] tokens for a decoder.

    Returns:
        "hidden" [lines, length, size], "decoder" of a model with one, and the scores of each head
        under its name: [lines, ...] of heads on the first token, [lines, length, ...] of others.
    """
    hidden = model.encode(ids, segs)
    assert isinstance(hidden, Tensor)
    found = {"hidden": hidden}
    first, last = hidden[:, 0], hidden
    if model.decoder is not None and tgt_ids is not None:
        last = found["decoder"] = model.decode(ids, segs, tgt_ids)
    heads: tuple[tuple[str, Any, Callable[[Any], Tensor]], ...] = (
        ("mlm", model.mlm, lambda head: head(hidden)),
        ("rtd", model.rtd, lambda head: head(hidden)),
        ("lm", model.lm, lambda head: head(last)),
        ("pooler", model.pooler, lambda head: head(first)),
        ("sp", model.sp, lambda head: head(first)),
        ("cls", model.classifier, lambda head: head(first)),
        ("token_cls", model.token_classifier, lambda head: head(hidden)),
        ("qa", model.qa, lambda head: head(hidden)),
        ("siamese", model.siamese, lambda head: head(first, first)),
    )
    found.update({name: run(head) for name, head, run in heads if head is not None})
    return found
