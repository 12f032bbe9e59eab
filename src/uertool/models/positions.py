"""Sinusoidal position tables, and T5's relative position bias."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid_legacy(length: int, size: int) -> Tensor:
    """UER-py 2021's table [length, size]: sin and cos interleaved, row p for position p.

    Frequencies 10000^(-2i/size), after Vaswani et al. 2017.
    """
    angles = torch.arange(length, dtype=torch.float32)[:, None] * torch.exp(
        torch.arange(0, size, 2, dtype=torch.float32) * -(math.log(10000.0) / size)
    )
    return _interleave(angles, size)


def sinusoid_modular(length: int, size: int) -> Tensor:
    """UER-py 2023's table [length, size]; a text uses its rows 2, 3, ...

    Frequencies exp(-ln(10000) * i / (size/2 - 1)), sin in even columns, cos in odd ones. Row 0, the
    one of [PAD]'s id, is zero.
    """
    half = size // 2
    steps = torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / max(half - 1, 1))
    table = _interleave(torch.arange(length, dtype=torch.float32)[:, None] * torch.exp(steps), size)
    table[0] = 0.0
    return table


def _interleave(angles: Tensor, size: int) -> Tensor:
    table = torch.zeros(angles.shape[0], size)
    columns = angles.shape[1]
    table[:, 0 : 2 * columns : 2] = torch.sin(angles)
    table[:, 1 : 2 * columns : 2] = torch.cos(angles)[:, : size // 2]
    return table


def relative_buckets(
    distance: Tensor, *, bidirectional: bool, buckets: int, max_distance: int
) -> Tensor:
    """T5's bucket of a relative position (Raffel et al. 2020, section 2.1).

    Args:
        distance: key position minus query position, any shape, int64.
        bidirectional: whether keys to the right have buckets of their own.
        buckets: number of buckets in all.
        max_distance: distances from here on share the last bucket.

    Returns:
        Bucket numbers of the same shape.
    """
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    # Same order of float32 operations as in the original, or a bucket's edge may fall elsewhere.
    spread = (
        torch.log(distance.float() / exact) / math.log(max_distance / exact) * (buckets - exact)
    )
    far = (exact + spread.clamp(min=0).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class RelativePositionBias(nn.Module):
    """One learned bias per bucket and head, added to attention scores."""

    def __init__(self, heads: int, buckets: int, max_distance: int, bidirectional: bool) -> None:
        super().__init__()
        self.buckets = buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.relative_attention_bias = nn.Embedding(buckets, heads)

    def forward(self, distance: Tensor) -> Tensor:
        """The bias [..., heads] at distances [...], key position minus query position."""
        bucket = relative_buckets(
            distance,
            bidirectional=self.bidirectional,
            buckets=self.buckets,
            max_distance=self.max_distance,
        )
        return self.relative_attention_bias(bucket)
