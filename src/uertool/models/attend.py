"""Scaled dot-product attention: torch's fused kernel, or spelled out where that is too coarse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float,
    causal: bool = False,
) -> Tensor:
    """softmax(q k^T * scale + mask) v.

    Without scaling (T5) scores are large, and torch's fused kernel on CPUs takes an exponential
    that is too coarse for them; there the formula is spelled out.

    Args:
        q: [batch, heads, queries, size].
        k, v: [batch, heads, keys, size].
        mask: bool (True: seen) or what is added to the scores, [batch or 1, heads or 1, queries or
            1, keys]; None for everything.
        scale: factor on the scores.
        causal: whether query i sees keys 0 to i only; without a mask.

    Returns:
        [batch, heads, queries, size].
    """
    if scale != 1.0 or q.device.type != "cpu" or causal:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
        else:
            scores += mask
    return torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ v
