"""Steps of generation as CUDA graphs.

On a GPU a step of generation is some hundred kernels of a few microseconds each, and starting them
one by one from Python takes several times as long as running them. A graph starts them at once. It
fixes which tensors they read and write, so the batch must keep its shape while a graph is used:
rows that end keep their places until enough of them are free.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from uertool.models.cache import KeyValueCache

#: Plain steps before a graph is recorded, which takes as long as two of them.
WAIT = 2

#: The share of a batch that may be free before the other rows move together.
MOST_FREE = 0.25

#: Computes the next step of a batch: ids [rows] to logits [rows, vocab].
Step = Callable[[Tensor], Tensor]


def uses_graphs(device: torch.device) -> bool:
    """Whether steps are recorded on a device."""
    return device.type == "cuda"


def record(step: Step, ids: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Record a step without running it.

    Returns:
        The logits that `ids` lead to, once the function that is also returned has run.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step(ids)
    return logits, graph.replay


class Places:
    """Which rows of a cache are texts in progress, and the recorded step of all rows.

    Args:
        cache: of the texts; only this class moves its rows from now on.
    """

    def __init__(self, cache: KeyValueCache) -> None:
        self.cache = cache
        self.version = cache.version
        self.waited = 0
        self.replay: Callable[[], None] | None = None
        self.ids: Tensor  # what the recorded step reads
        self._use(range(cache.rows))

    def _use(self, rows: Sequence[int]) -> None:
        self.used = list(rows)
        self.index = torch.tensor(self.used, device=self.cache.positions.device)

    def select(self, texts: Sequence[int]) -> None:
        """Keep the given texts, in that order; a text may be given several times."""
        rows = [self.used[text] for text in texts]
        in_order = all(one < other for one, other in itertools.pairwise(rows))
        if in_order and len(rows) >= (1 - MOST_FREE) * self.cache.rows:
            self.cache.forget(set(self.used) - set(rows))
            self._use(rows)
        else:
            self.cache.select(rows)
            self._use(range(self.cache.rows))

    def join(self, other: Places) -> None:
        """Append the texts of another cache."""
        for each in (self, other):
            each.cache.select(each.used)
        self.cache.join(other.cache)
        self._use(range(self.cache.rows))

    def run(self, step: Step, ids: Tensor) -> Tensor:
        """The logits [texts, vocab] after one more token of every text, ids [texts]."""
        cache = self.cache
        partly = len(self.used) < cache.rows
        if partly:
            ids = ids.new_zeros(cache.rows).index_copy_(0, self.index, ids)
        cache.make_room()
        if self.version != cache.version:
            self.version, self.waited, self.replay = cache.version, 0, None
        if self.replay is not None:
            self.ids.copy_(ids)
            cache.count()
            self.replay()
        elif self.waited < WAIT:
            self.waited += 1
            self.logits = step(ids)
        else:
            cache.fix()
            self.ids = ids.clone()
            self.logits, self.replay = record(step, self.ids)
            self.replay()
        return self.logits.index_select(0, self.index) if partly else self.logits
