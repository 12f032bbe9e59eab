"""Attention over queries, keys and values, and which keys a query may read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from uertool.config import MaskName


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T * scale + mask) v.

    By torch's fused kernel, except where scores may be large: on CPUs that kernel uses an
    exponential that is too coarse for unscaled scores (T5).

    Args:
        q: [batch, heads, queries, size].
        k, v: [batch, heads, keys, size].
        mask: bool (True: visible) or what is added to the scores, [batch or 1, heads or 1, queries
            or 1, keys]; None for everything.
        scale: factor on the scores.
        causal: whether query i reads keys 0 to i only; without a mask.

    Returns:
        [batch, heads, queries, size].
    """
    if scale != 1.0 or q.device.type != "cpu" or causal:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    return attend_exactly(q, k, v, mask, scale=scale)


def attend_exactly(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float
) -> Tensor:
    """As `attend`, by separate matrix products and an exact softmax."""
    if scale != 1.0:
        q = q * scale
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= 8:
        # A step of generation: keys as rows are read up to four times as fast as keys as columns.
        scores = torch.matmul(k, q.transpose(2, 3)).transpose(2, 3)
    else:
        scores = torch.matmul(q, k.transpose(2, 3))
    if mask is not None:
        if mask.dtype == torch.bool:
            scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
        else:
            scores += mask
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype), v)


def attend_clipped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    distance: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float,
) -> Tensor:
    """As `attend_exactly`, with a vector for every distance added to the keys and to the values.

    After Shaw et al. 2018 (arXiv 1803.02155), as NEZHA has it (Wei et al. 2019, arXiv 1909.00204).

    Args:
        q, k, v, mask, scale: see `attend`.
        distance: key position minus query position [batch or 1, queries, keys].
        table: vectors of the distances -m to m [2m + 1, size]; further ones are clipped.
    """
    most = table.shape[0] // 2
    rows = (distance.clamp(-most, most) + most)[:, None].expand(*q.shape[:2], -1, -1)
    q = q * scale
    scores = torch.matmul(q, k.transpose(2, 3)) + torch.matmul(q, table.t()).gather(-1, rows)
    if mask is not None:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype)
    # The weights of one distance share its vector, so they are added up first.
    by_row = weights.new_zeros(*weights.shape[:-1], table.shape[0]).scatter_add_(-1, rows, weights)
    return torch.matmul(weights, v) + torch.matmul(by_row, table)


def attention_mask(
    segs: Tensor, mask: MaskName, positions: Tensor | None = None, window: int = 0
) -> Tensor | None:
    """Which keys each query may read, [batch, 1, queries or 1, keys] bool; None for all.

    UER-py adds -10000 to masked scores, which in float32 is the same as leaving them out. Its
    causal mask does not hide padding: that is to the right of every real token.

    Args:
        segs: segment ids [batch, keys], 0 for padding.
        mask: UER-py's name of the mask.
        positions: positions of the queries [batch, queries]; None for all.
        window: how far from its query a key may be, with a fully visible mask; 0: any distance.
    """
    keys = torch.arange(segs.shape[1], device=segs.device)
    if mask == "fully_visible" and window:
        distance = distances(keys, positions)[:, None].abs()
        # Every query reads itself, padding too: nothing must divide zero by zero.
        return (distance <= window) & (segs > 0)[:, None, None, :] | (distance == 0)
    if mask == "fully_visible":
        visible = segs > 0
        # A GPU would have to finish everything before it could say whether there is padding.
        if not segs.is_cuda and bool(visible.all()):
            return None
        # A row of padding alone must not divide zero by zero.
        visible = visible | ~visible.any(1, keepdim=True)
        return visible[:, None, None, :]
    queries = keys[None] if positions is None else positions
    visible = keys <= queries[..., None]
    if mask == "causal_with_prefix":
        # Sum of (first text, real token, not later) >= 2, as UER-py counts.
        votes = (segs == 1).int()[:, None] + (segs > 0).int()[:, None] + visible.int()
        visible = (votes >= 2) | (keys == queries[..., None])
    return visible[:, None]


def distances(keys: Tensor, positions: Tensor | None) -> Tensor:
    """Key position minus query position [batch or 1, queries, keys].

    Args:
        keys: positions of the keys [keys].
        positions: positions of the queries [batch, queries]; None for those of the keys.
    """
    return keys - (keys[None] if positions is None else positions)[..., None]
