"""Keys and values of the tokens so far, in tensors that are allocated once and written in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Room is made in steps of this many tokens beyond what the prompts need at once.
CHUNK = 128

#: Keys are read in steps of so many, with a mask on those behind a row's last one. Matrix products
#: add up in blocks, so a row's sums do not depend on how long its neighbours are.
STRIDE = 32


def in_strides(length: int) -> int:
    """The next multiple of STRIDE."""
    return -(-length // STRIDE) * STRIDE


class KeyValueCache:
    """One tensor [2, rows, heads, capacity, head size] per layer; keys are [0], values [1].

    Rows stand at the left and have lengths of their own, so rows of different length share it.

    Args:
        layers: number of layers.
        rows: number of texts.
        heads: attention heads.
        head_size: size of a head.
        capacity: tokens that fit before it grows.
        like: a tensor of the device and type to use.
    """

    def __init__(
        self, layers: int, rows: int, heads: int, head_size: int, capacity: int, like: Tensor
    ) -> None:
        self.capacity = in_strides(capacity)
        shape = (2, rows, heads, self.capacity, head_size)
        self.store = [like.new_zeros(shape) for _ in range(layers)]
        self.lengths = [0] * rows
        self._prepare()

    @property
    def rows(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    def write_prompts(self, layer: int, rows: Tensor, keys_values: Tensor) -> None:
        """Stores [rows, length, 2, heads, head size] at positions 0, 1, ... of some rows."""
        length = keys_values.shape[1]
        self.store[layer][:, rows, :, :length] = keys_values.permute(2, 0, 3, 1, 4)

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Says how many of the stored tokens are real in each row."""
        self.lengths = list(lengths)
        self._prepare()

    def open(self) -> None:
        """Makes room for one more token in every row; call before `append`."""
        longest = max(self.lengths)
        if longest >= self.capacity:
            self._grow(in_strides(longest + max(CHUNK, longest // 2)))
        self.seen = in_strides(longest + 1)

    def append(self, layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one token per row, [rows, 2, heads, head size].

        Returns:
            Keys and values [rows, heads, seen, head size], with `seen` of `open`; those behind a
            row's length are to be masked.
        """
        store = self.store[layer]
        if self.common is not None:
            store.select(3, self.common).copy_(keys_values.transpose(0, 1))
        else:
            store[:, self.row_index, :, self.positions] = keys_values
        keys, values = store.narrow(3, 0, self.seen).unbind(0)
        return keys, values

    def close(self) -> None:
        """Counts the token that every layer has stored."""
        self.lengths = [length + 1 for length in self.lengths]
        if self.common is not None:
            self.common += 1
        self.positions += 1

    def select(self, rows: Sequence[int]) -> None:
        """Keeps the rows named, in that order; a row may be named several times."""
        if list(rows) == list(range(self.rows)):
            return
        device = self.store[0].device
        index = torch.tensor(list(rows), dtype=torch.int64, device=device)
        used = max((self.lengths[row] for row in rows), default=0)
        for number, store in enumerate(self.store):
            if len(rows) == store.shape[1]:  # beams change places: no new allocation
                store[:, :, :, :used] = store[:, :, :, :used].index_select(1, index)
            else:
                self.store[number] = store.index_select(1, index)
        self.set_lengths([self.lengths[row] for row in rows])

    def join(self, other: KeyValueCache) -> None:
        """Adds the rows of another cache below these."""
        capacity = max(self.capacity, other.capacity)
        self._grow(capacity)
        other._grow(capacity)
        self.store = [
            torch.cat([mine, theirs], dim=1)
            for mine, theirs in zip(self.store, other.store, strict=True)
        ]
        self.set_lengths([*self.lengths, *other.lengths])

    def _grow(self, capacity: int) -> None:
        if capacity <= self.capacity:
            return
        for number, store in enumerate(self.store):
            two, rows, heads, _, size = store.shape
            wider = store.new_zeros(two, rows, heads, capacity, size)
            wider[:, :, :, : self.capacity] = store
            self.store[number] = wider
        self.capacity = capacity

    def _prepare(self) -> None:
        device = self.store[0].device if self.store else torch.device("cpu")
        #: The length where all rows have the same one: then no masks are needed.
        self.common = self.lengths[0] if len(set(self.lengths)) == 1 else None
        self.positions = torch.tensor(self.lengths, dtype=torch.int64, device=device)
        self.row_index = torch.arange(len(self.lengths), device=device)
        self.seen = 0


class SourceMemory:
    """Keys and values of the encoder's output, computed once per source.

    Args:
        store: per layer [2, rows, heads, source, head size].
        seen: [rows, source] bool, False at padding.
    """

    def __init__(self, store: list[Tensor], seen: Tensor) -> None:
        self.store = store
        self.seen = seen
        self._widen(in_strides(seen.shape[1]))
        self._prepare()

    def select(self, rows: Sequence[int]) -> None:
        """As KeyValueCache.select."""
        if list(rows) == list(range(self.seen.shape[0])):
            return
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.seen.device)
        self.store = [store.index_select(1, index) for store in self.store]
        self.seen = self.seen.index_select(0, index)
        self._prepare()

    def join(self, other: SourceMemory) -> None:
        """Adds the rows of another memory below these."""
        length = max(self.seen.shape[1], other.seen.shape[1])
        self._widen(length)
        other._widen(length)
        self.store = [
            torch.cat([mine, theirs], dim=1)
            for mine, theirs in zip(self.store, other.store, strict=True)
        ]
        self.seen = torch.cat([self.seen, other.seen])
        self._prepare()

    def _widen(self, length: int) -> None:
        more = length - self.seen.shape[1]
        if more > 0:
            pad = torch.nn.functional.pad
            self.store = [pad(store, (0, 0, 0, more)) for store in self.store]
            self.seen = pad(self.seen, (0, more))

    def _prepare(self) -> None:
        #: What is added to scores [rows, 1, 1, source], or None where nothing is hidden.
        self.mask: Tensor | None = None
        if self.store and not bool(self.seen.all()):
            like = self.store[0]
            hidden = like.new_zeros(self.seen.shape)
            hidden.masked_fill_(~self.seen, float("-inf"))
            self.mask = hidden[:, None, None, :]
