"""Key-value caches: the keys and values of the tokens so far, allocated once, written in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: The capacity grows in steps of this many tokens beyond what the prompts need at once.
CHUNK = 128

#: Keys are read in blocks of this many, with a mask on those after a row's last one. Matrix
#: products add up in blocks, so a row's sums do not depend on how long the other rows are.
STRIDE = 32

#: Scaled position biases [n, heads] of distances [n] (key position minus query position).
BiasOf = Callable[[Tensor], Tensor]


def in_strides(length: int) -> int:
    """The next multiple of STRIDE."""
    return -(-length // STRIDE) * STRIDE


class KeyValueCache:
    """One tensor [2, rows, heads, capacity, head size] per layer; keys are [0], values [1].

    Rows are left-aligned and have lengths of their own, so rows of different length share it.

    Args:
        layers: number of layers.
        rows: number of texts.
        heads: attention heads of keys and values.
        head_size: size of a head.
        capacity: tokens that fit before it grows.
        like: a tensor of the device and type to use.
        bias: the model's relative position bias, if it has one.

    Attributes:
        lengths: tokens of each row.
        positions: the same as a tensor [rows]: where the next token of each row goes.
        mask: added to the scores of the next token [rows or 1, heads or 1, 1, keys], or None.
        source: keys and values of the source, in an encoder-decoder.
        version: changes when tensors of the cache are replaced, not when they are written to.
        fixed: whether all steps are alike, see `fix`.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        head_size: int,
        capacity: int,
        like: Tensor,
        bias: BiasOf | None = None,
    ) -> None:
        self.capacity = in_strides(capacity)
        shape = (2, rows, heads, self.capacity, head_size)
        self.store = [like.new_zeros(shape) for _ in range(layers)]
        self.bias = bias
        self.bias_table: Tensor | None = None
        self.source: SourceMemory | None = None
        self.version = 0
        self.fixed = False
        device = self.store[0].device if self.store else torch.device("cpu")
        self.positions = torch.empty(0, dtype=torch.int64, device=device)
        self.set_lengths([0] * rows)

    @property
    def rows(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    def layer(self, number: int) -> LayerCache:
        """The part of one layer."""
        return LayerCache(self, number)

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Sets how many of the stored tokens are real in each row."""
        self.lengths = list(lengths)
        #: The length of all rows if it is the same: then no mask is needed.
        self.common = None
        if not self.fixed and len(set(self.lengths)) == 1:
            self.common = self.lengths[0]
        positions = torch.tensor(self.lengths, dtype=torch.int64, device=self.positions.device)
        if len(positions) == len(self.positions):
            self.positions.copy_(positions)
        else:
            self.positions = positions
            self.row_index = torch.arange(len(self.lengths), device=positions.device)
        self.seen = 0
        self.mask: Tensor | None = None

    def fix(self) -> None:
        """Makes all later steps alike, so that one can be recorded and replayed.

        They read the whole capacity, and find their places in `positions` alone. `make_room` must
        be called before each.
        """
        self.fixed = True
        self.common = None
        self.seen = self.capacity
        self._biases()

    def make_room(self) -> None:
        """Grows if there is no room for one more token in every row."""
        longest = max(self.lengths)
        if longest >= self.capacity:
            self._grow(in_strides(longest + max(CHUNK, longest // 2)))

    def open(self) -> None:
        """Makes room for one more token in every row; call before the layers run."""
        if self.fixed:
            self.seen = self.capacity
        else:
            self.make_room()
            self.seen = in_strides(max(self.lengths) + 1)
        self.mask = self._mask()

    def close(self) -> None:
        """Counts the token that every layer has stored."""
        self.positions += 1
        self.count()

    def count(self) -> None:
        """Counts a token where `positions` has counted it already."""
        self.lengths = [length + 1 for length in self.lengths]
        if self.common is not None:
            self.common += 1

    def forget(self, rows: Collection[int]) -> None:
        """Empties rows, which keep their places."""
        if rows:
            self.set_lengths(
                [0 if row in rows else length for row, length in enumerate(self.lengths)]
            )

    def select(self, rows: Sequence[int]) -> None:
        """Keeps the given rows, in that order; a row may be given several times."""
        if list(rows) == list(range(self.rows)):
            return
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.store[0].device)
        used = max((self.lengths[row] for row in rows), default=0)
        same = len(rows) == self.rows  # beams change places: no new allocation
        self.version += not same
        for number, store in enumerate(self.store):
            if same:
                store[:, :, :, :used] = store[:, :, :, :used].index_select(1, index)
            else:
                self.store[number] = store.index_select(1, index)
        self.set_lengths([self.lengths[row] for row in rows])
        if self.source is not None:
            self.source.select(index)

    def join(self, other: KeyValueCache) -> None:
        """Appends the rows of another cache."""
        capacity = max(self.capacity, other.capacity)
        self._grow(capacity)
        other._grow(capacity)
        self.version += 1
        self.store = _joined(self.store, other.store)
        self.set_lengths([*self.lengths, *other.lengths])
        if self.source is not None and other.source is not None:
            self.source.join(other.source)

    def _grow(self, capacity: int) -> None:
        if capacity <= self.capacity:
            return
        for number, store in enumerate(self.store):
            two, rows, heads, _, size = store.shape
            wider = store.new_zeros(two, rows, heads, capacity, size)
            wider[:, :, :, : self.capacity] = store
            self.store[number] = wider
        self.capacity = capacity
        self.version += 1

    def _mask(self) -> Tensor | None:
        if self.bias is None and self.seen - 1 == self.common:
            return None
        # Column c of the table is the bias at distance size - 1 - c, so that the biases of a row
        # are in the order of its keys; then follow columns for keys that do not exist.
        table = self._biases()
        size = table.shape[1] - STRIDE
        if self.common is not None:
            first = size - 1 - self.common
            return table[None, :, None, first : first + self.seen]
        keys = torch.arange(self.seen, device=table.device)
        columns = (size - 1 - self.positions[:, None] + keys).clamp(max=size)
        return table[:, columns].transpose(0, 1)[:, :, None, :]

    def _biases(self) -> Tensor:
        """Position biases [heads or 1, size + STRIDE] by falling distance, then STRIDE times -inf.

        The size is above `seen`, so that all distances are there.
        """
        if self.bias_table is None or self.bias_table.shape[1] < self.seen + STRIDE:
            like = self.store[0]
            size = (self.seen // CHUNK + 1) * CHUNK
            table = like.new_zeros(1, size)
            if self.bias is not None:
                distance = torch.arange(1 - size, 1, device=like.device)
                table = self.bias(distance).to(like.dtype).t()
            nothing = table.new_full((table.shape[0], STRIDE), float("-inf"))
            self.bias_table = torch.cat([table, nothing], dim=1)
        return self.bias_table


class LayerCache(NamedTuple):
    """What one layer reads and writes of a cache."""

    whole: KeyValueCache
    number: int

    @property
    def mask(self) -> Tensor | None:
        """See KeyValueCache."""
        return self.whole.mask

    @property
    def source(self) -> tuple[Tensor, Tensor | None]:
        """Keys and values [2, rows, heads, source, head size] of the source, and its mask."""
        source = self.whole.source
        assert source is not None
        return source.store[self.number], source.mask

    def write(self, rows: Tensor | slice, keys_values: Tensor) -> None:
        """Stores [rows, length, 2, heads, head size] at positions 0, 1, ... of some rows."""
        length = keys_values.shape[1]
        store = self.whole.store[self.number]
        store[:, rows, :, :length] = keys_values.permute(2, 0, 3, 1, 4)

    def append(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one token per row, [rows, 2, heads, head size].

        Returns:
            Keys and values [rows, heads, keys, head size]; those after a row's length are masked.
        """
        cache, store = self.whole, self.whole.store[self.number]
        if cache.common is not None:
            store.select(3, cache.common).copy_(keys_values.transpose(0, 1))
        else:
            store[:, cache.row_index, :, cache.positions] = keys_values
        keys, values = store.narrow(3, 0, cache.seen).unbind(0)
        return keys, values


class SourceMemory:
    """Keys and values of an encoder's output, computed once per source.

    Args:
        store: per layer [2, rows, heads, source, head size].
        visible: [rows, source] bool, False at padding.

    Attributes:
        mask: added to scores [rows, 1, 1, source], or None where everything is visible.
    """

    def __init__(self, store: list[Tensor], visible: Tensor) -> None:
        self.store = store
        self.visible = visible
        self._widen(in_strides(visible.shape[1]))
        self._set_mask()

    def select(self, index: Tensor) -> None:
        """Keeps the rows of an index, in its order."""
        visible = self.visible.index_select(0, index)
        if index.is_cuda and len(index) == len(self.visible):  # a recorded step reads these tensors
            for store in self.store:
                store.copy_(store.index_select(1, index))
            if self.mask is not None:
                self.mask.copy_(self.mask.index_select(0, index))
            self.visible.copy_(visible)
            return
        self.store = [store.index_select(1, index) for store in self.store]
        self.visible = visible
        self._set_mask()

    def join(self, other: SourceMemory) -> None:
        """Appends the rows of another memory."""
        length = max(self.visible.shape[1], other.visible.shape[1])
        self._widen(length)
        other._widen(length)
        self.store = _joined(self.store, other.store)
        self.visible = torch.cat([self.visible, other.visible])
        self._set_mask()

    def _widen(self, length: int) -> None:
        more = length - self.visible.shape[1]
        if more > 0:
            pad = torch.nn.functional.pad
            self.store = [pad(store, (0, 0, 0, more)) for store in self.store]
            self.visible = pad(self.visible, (0, more))

    def _set_mask(self) -> None:
        self.mask: Tensor | None = None
        if self.store and not bool(self.visible.all()):
            hidden = self.store[0].new_zeros(self.visible.shape)
            hidden.masked_fill_(~self.visible, float("-inf"))
            self.mask = hidden[:, None, None, :]


def _joined(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """Tensors [2, rows, ...] of each layer, the rows of the second appended."""
    return [torch.cat([mine, theirs], dim=1) for mine, theirs in zip(first, second, strict=True)]
