"""How the rows of a batch lie in memory while a transformer runs, and who may see whom.

On a GPU, rows are padded and a mask hides the padding. On a CPU padding costs real work, so rows of
unequal length are packed: the linear layers see one long list of real tokens, and attention runs
over groups of rows of equal length. Both give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from uertool.config import MaskName
from uertool.models.attend import attend


class Layout(Protocol):
    """Rows in memory; `[tokens...]` is [batch, length] if padded, [real tokens] if packed."""

    def pack(self, x: Tensor) -> Tensor:
        """[batch, length, size] to [tokens..., size]."""

    def unpack(self, x: Tensor) -> Tensor:
        """[tokens..., size] to [batch, length, size], zeros at packed-away padding."""

    def select(self, x: Tensor, positions: Tensor) -> Tensor:
        """[tokens..., size] at positions [batch, k] to [batch, k, size]."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Self-attention of [tokens..., heads, head size], same shape out."""

    def attend_at(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, scale: float) -> Tensor:
        """Attention of queries [batch, k, heads, head size] that stand at positions [batch, k]."""


def visible(segs: Tensor, mask: MaskName, positions: Tensor | None = None) -> Tensor | None:
    """What each query may see, [batch, 1, queries or 1, keys] bool, or None for everything.

    UER-py adds -10000 to hidden scores, which in float32 is the same as leaving them out. Its
    causal mask does not hide padding: that lies to the right of every real token.

    Args:
        segs: segment ids [batch, keys], 0 for padding.
        mask: UER-py's name of the mask.
        positions: where the queries stand [batch, queries]; None: everywhere.
    """
    keys = torch.arange(segs.shape[1], device=segs.device)
    if mask == "fully_visible":
        seen = segs > 0
        if bool(seen.all()):
            return None
        seen = seen | (keys == 0)  # a row of padding alone must not divide zero by zero
        return seen[:, None, None, :]
    queries = keys[None] if positions is None else positions
    seen = keys <= queries[..., None]
    if mask == "causal_with_prefix":
        # Sum of (first text, real token, not later) >= 2, as UER-py counts.
        votes = (segs == 1).int()[:, None] + (segs > 0).int()[:, None] + seen.int()
        seen = (votes >= 2) | (keys == queries[..., None])
    return seen[:, None]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Attention over [rows, length, heads, head size]; `bias` [rows or 1, heads, queries, keys]."""
    if bias is not None and seen is not None:
        bias = bias.masked_fill(~seen, torch.finfo(bias.dtype).min)
    mask = seen if bias is None else bias
    out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, scale=scale)
    return out.transpose(1, 2)


class PaddedLayout:
    """Rows padded to one length.

    Args:
        segs: [batch, length].
        mask: UER-py's name of the mask.
        bias: position bias [1, heads, length, length], already scaled, or None.
    """

    def __init__(self, segs: Tensor, mask: MaskName, bias: Tensor | None) -> None:
        self.segs = segs
        self.mask = mask
        self.bias = bias
        self.seen = visible(segs, mask)
        self.rows = torch.arange(segs.shape[0], device=segs.device)[:, None]

    def pack(self, x: Tensor) -> Tensor:
        return x

    def unpack(self, x: Tensor) -> Tensor:
        return x

    def select(self, x: Tensor, positions: Tensor) -> Tensor:
        return x[self.rows, positions]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if self.bias is None and self.mask == "causal":
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            return attend(q, k, v, scale=scale, causal=True).transpose(1, 2)
        return _attend(q, k, v, self.seen, self.bias, scale)

    def attend_at(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, scale: float) -> Tensor:
        seen = visible(self.segs, self.mask, positions)
        bias = None
        if self.bias is not None:
            bias = self.bias[0][:, positions].transpose(0, 1)
        return _attend(q, k, v, seen, bias, scale)


@dataclass(frozen=True)
class _Group:
    """Consecutive rows of one length in the packed order."""

    rows: Tensor  # their numbers in the batch
    start: int  # first token
    count: int
    length: int
    layout: PaddedLayout

    @property
    def end(self) -> int:
        return self.start + self.count * self.length


#: The number of packed tokens is filled up to a multiple of this by copies of the first one: the
#: kernels of the linear layers are compiled for every number of rows that they meet.
ROUND = 32


class PackedLayout:
    """Real tokens only, rows ordered by length.

    Args:
        segs: [batch, length], padding (0) at the end of rows only.
        lengths: real tokens of each row [batch], each at least 1.
        mask: UER-py's name of the mask.
        bias: position bias [1, heads, length, length], already scaled, or None.
    """

    def __init__(self, segs: Tensor, lengths: Tensor, mask: MaskName, bias: Tensor | None) -> None:
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
            part = None if bias is None else bias[:, :, :length, :length]
            layout = PaddedLayout(segs[rows, :length], mask, part)
            self.groups.append(_Group(rows, token, count, length, layout))
            first += count
            token += count * length

    def pack(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])[self.index]

    def unpack(self, x: Tensor) -> Tensor:
        full = x.new_zeros(self.shape[0] * self.shape[1], x.shape[-1])
        full[self.index[: self.tokens]] = x[: self.tokens]
        return full.view(*self.shape, x.shape[-1])

    def select(self, x: Tensor, positions: Tensor) -> Tensor:
        return x[self.starts[:, None] + positions]

    def _part(self, x: Tensor, group: _Group) -> Tensor:
        return x[group.start : group.end].view(group.count, group.length, *x.shape[1:])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for group in self.groups:
            part = group.layout.attend(
                self._part(q, group), self._part(k, group), self._part(v, group), scale
            )
            self._part(out, group).copy_(part)
        out[self.tokens :] = 0
        return out

    def attend_at(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, scale: float) -> Tensor:
        out = torch.empty_like(q)
        for group in self.groups:
            out[group.rows] = group.layout.attend_at(
                q[group.rows],
                self._part(k, group),
                self._part(v, group),
                positions[group.rows],
                scale,
            )
        return out


def make_layout(segs: Tensor, mask: MaskName, bias: Tensor | None) -> Layout:
    """Packed where that saves work (CPU, rows of unequal length), else padded."""
    if segs.device.type == "cpu" and segs.shape[0] > 1:
        lengths = (segs > 0).sum(1)
        trailing = torch.equal(segs > 0, torch.arange(segs.shape[1]) < lengths[:, None])
        if trailing and int(lengths.min()) >= 1 and int(lengths.min()) < segs.shape[1]:
            return PackedLayout(segs, lengths, mask, bias)
    return PaddedLayout(segs, mask, bias)
