"""Batch layouts: how the tokens of a batch lie in memory, and attention over them.

On a GPU, rows are padded and a mask hides the padding. On a CPU padding costs real work, so rows of
unequal length are packed: the linear layers see one long list of real tokens, and attention runs
over groups of rows of equal length. Both give the same numbers. A step of generation has one new
token in every row and reads the others from a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from uertool.config import MaskName
from uertool.models.cache import LayerCache
from uertool.models.rotary import Rotary
from uertool.models.scores import (
    attend,
    attend_clipped,
    attend_exactly,
    attention_mask,
    distances,
)


class Layout(Protocol):
    """Tokens in memory; `[tokens...]` is [batch, length], [real tokens] or, in a step, [batch].

    Attributes:
        turns: turns [tokens..., pairs] of rotary positions, or None; see `Rotary`.
    """

    turns: Tensor | None

    def select(self, x: Tensor, positions: Tensor) -> Tensor:
        """[tokens..., size] at positions [batch, k] to [batch, k, size]."""

    def attend(
        self,
        q: Tensor,
        keys_values: Tensor,
        scale: float,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Self-attention.

        Args:
            q: [tokens..., heads, head size]; [batch, k, heads, head size] with `positions`.
            keys_values: [tokens..., 2, key heads, head size].
            scale: factor on the scores.
            positions: positions [batch, k] of the queries; None for all tokens.
            cache: where keys and values are kept for the steps that follow.

        Returns:
            As q.
        """


class Reach(NamedTuple):
    """Which tokens a token attends to, and how their distances count.

    Attributes:
        mask: UER-py's name of the mask.
        bias: position bias [1, heads, length, length], already scaled, or None.
        window: see `attention_mask`.
        clipped: vectors of distances, see `attend_clipped`; without a bias.
    """

    mask: MaskName
    bias: Tensor | None = None
    window: int = 0
    clipped: Tensor | None = None


class PaddedLayout:
    """Rows padded to one length.

    Args:
        segs: segment ids [batch, length], 0 for padding.
        reach: what tokens attend to.
    """

    def __init__(self, segs: Tensor, reach: Reach) -> None:
        self.turns: Tensor | None = None
        self.segs = segs
        self.reach = reach
        self.visible = attention_mask(segs, reach.mask, None, reach.window)
        self.rows = torch.arange(segs.shape[0], device=segs.device)[:, None]

    def pack(self, x: Tensor) -> Tensor:
        """[batch, length, size] as it is."""
        return x

    def unpack(self, x: Tensor) -> Tensor:
        """[batch, length, size] as it is."""
        return x

    def select(self, x: Tensor, positions: Tensor) -> Tensor:
        return x[self.rows, positions]

    def masks(self, positions: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Attention mask and position bias of the queries at some positions, or of all."""
        mask, bias, window, _ = self.reach
        if positions is None:
            return self.visible, bias
        bias = None if bias is None else bias[0][:, positions].transpose(0, 1)
        return attention_mask(self.segs, mask, positions, window), bias

    def attend(
        self,
        q: Tensor,
        keys_values: Tensor,
        scale: float,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        if cache is not None:
            cache.write(slice(None), keys_values)
        shared = q.shape[-2] // keys_values.shape[-2]
        if shared > 1:  # consecutive heads of queries read one of keys and values
            keys_values = keys_values.repeat_interleave(shared, -2)
        q, (k, v) = q.transpose(1, 2), keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        return self._attended(q, k, v, scale, positions).transpose(1, 2)

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, positions: Tensor | None
    ) -> Tensor:
        """Attention over [batch, heads, queries or keys, head size]."""
        if self.reach.bias is None and self.reach.mask == "causal" and positions is None:
            return attend(q, k, v, scale=scale, causal=True)
        visible, bias = self.masks(positions)
        if self.reach.clipped is not None:
            keys = torch.arange(k.shape[2], device=k.device)
            distance = distances(keys, positions)
            return attend_clipped(q, k, v, distance, self.reach.clipped, visible, scale=scale)
        if bias is not None and visible is not None:
            bias = bias.masked_fill(~visible, torch.finfo(bias.dtype).min)
        return attend(q, k, v, visible if bias is None else bias, scale=scale)


class ResidualLayout(PaddedLayout):
    """Padded rows with residual attention: scores add up from layer to layer.

    After He et al. 2020 (RealFormer). Use one for each run through the layers.
    """

    scores: Tensor | None = None

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, positions: Tensor | None
    ) -> Tensor:
        scores = q @ k.transpose(-2, -1) * scale
        visible, bias = self.masks(positions)
        if bias is not None:
            scores = scores + bias
        if visible is not None:
            scores = scores + (~visible).to(scores.dtype) * -10000.0
        if self.scores is not None:
            previous = self.scores
            if positions is not None:
                previous = self.select(previous.transpose(1, 2), positions).transpose(1, 2)
            scores = scores + previous
        self.scores = scores
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v


@dataclass(frozen=True)
class _Group:
    """Consecutive rows of one length in the packed order."""

    rows: Tensor  # their numbers in the batch
    start: int  # first token
    count: int
    length: int
    layout: PaddedLayout

    def of(self, x: Tensor) -> Tensor:
        """Its tokens of [tokens, ...], as a view [count, length, ...]."""
        end = self.start + self.count * self.length
        return x[self.start : end].view(self.count, self.length, *x.shape[1:])


#: The number of packed tokens is filled up to a multiple of this by copies of the first one: the
#: kernels of the linear layers are compiled for every number of rows that they meet.
ROUND = 32


class PackedLayout:
    """Real tokens only, rows ordered by length.

    Args:
        segs: [batch, length], padding (0) at the end of rows only.
        lengths: real tokens of each row [batch], each at least 1.
        reach: what tokens attend to.
    """

    def __init__(self, segs: Tensor, lengths: Tensor, reach: Reach) -> None:
        self.turns: Tensor | None = None
        self.shape = segs.shape
        order = torch.argsort(lengths, stable=True)
        columns = torch.arange(segs.shape[1])
        sorted_lengths = lengths[order]
        real = columns < sorted_lengths[:, None]
        index = (order[:, None] * segs.shape[1] + columns)[real]
        self.tokens = index.shape[0]
        spare = -self.tokens % ROUND if self.tokens > 8 * ROUND else 0
        self.index = torch.cat([index, index[:1].expand(spare)])
        starts = torch.empty_like(lengths)
        starts[order] = sorted_lengths.cumsum(0) - sorted_lengths
        self.starts = starts
        self.groups: list[_Group] = []
        first = token = 0
        values, counts = torch.unique_consecutive(sorted_lengths, return_counts=True)
        for length, count in zip(values.tolist(), counts.tolist(), strict=True):
            rows = order[first : first + count]
            part = None if reach.bias is None else reach.bias[:, :, :length, :length]
            layout = PaddedLayout(segs[rows, :length], reach._replace(bias=part))
            self.groups.append(_Group(rows, token, count, length, layout))
            first += count
            token += count * length

    def pack(self, x: Tensor) -> Tensor:
        """[batch, length, size] to [tokens, size]."""
        return x.reshape(-1, x.shape[-1])[self.index]

    def unpack(self, x: Tensor) -> Tensor:
        """[tokens, size] to [batch, length, size], zeros at padding."""
        full = x.new_zeros(self.shape[0] * self.shape[1], x.shape[-1])
        full[self.index[: self.tokens]] = x[: self.tokens]
        return full.view(*self.shape, x.shape[-1])

    def select(self, x: Tensor, positions: Tensor) -> Tensor:
        return x[self.starts[:, None] + positions]

    def attend(
        self,
        q: Tensor,
        keys_values: Tensor,
        scale: float,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for group in self.groups:
            part = group.of(keys_values)
            if cache is not None:
                cache.write(group.rows, part)
            if positions is None:
                group.of(out).copy_(group.layout.attend(group.of(q), part, scale))
            else:
                at = positions[group.rows]
                out[group.rows] = group.layout.attend(q[group.rows], part, scale, at)
        if positions is None:
            out[self.tokens :] = 0
        return out


def make_layout(
    segs: Tensor, reach: Reach, *, residual: bool = False, rotary: Rotary | None = None
) -> PaddedLayout | PackedLayout:
    """Packed where that saves work (CPU, rows of unequal length), else padded.

    Args:
        segs, reach: see PaddedLayout.
        residual: whether the model has residual attention; such rows are always padded.
        rotary: the model's rotary positions, if it has them.
    """
    layout: PaddedLayout | PackedLayout
    lengths = None if residual else _packable(segs)
    if residual:
        layout = ResidualLayout(segs, reach)
    elif lengths is not None:
        layout = PackedLayout(segs, lengths, reach)
    else:
        layout = PaddedLayout(segs, reach)
    if rotary is not None:
        positions = torch.arange(segs.shape[1], device=segs.device).expand(segs.shape)
        layout.turns = layout.pack(rotary(positions, (segs > 0).sum(1, keepdim=True)))
    return layout


def _packable(segs: Tensor) -> Tensor | None:
    """The lengths of rows [batch] if packing them saves work and is possible, else None."""
    if segs.device.type != "cpu" or segs.shape[0] == 1:
        return None
    lengths = (segs > 0).sum(1)
    shortest = int(lengths.min())
    trailing = torch.equal(segs > 0, torch.arange(segs.shape[1]) < lengths[:, None])
    return lengths if trailing and 1 <= shortest < segs.shape[1] else None


class StepLayout:
    """One new token in every row, [rows, ...]; the tokens before it are in a cache.

    Args:
        turns: turns [rows, pairs] of the new tokens, where positions are rotary.
    """

    def __init__(self, turns: Tensor | None = None) -> None:
        self.turns = turns

    def select(self, x: Tensor, positions: Tensor) -> Tensor:
        raise NotImplementedError("a step has one token per row")

    def attend(
        self,
        q: Tensor,
        keys_values: Tensor,
        scale: float,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        assert cache is not None
        keys, values = cache.append(keys_values)
        # The query heads that share a head of keys are read with it as if they were its queries.
        grouped = q.unflatten(1, (keys.shape[1], -1))
        return attend_exactly(grouped, keys, values, cache.mask, scale=scale).flatten(1, 2)
