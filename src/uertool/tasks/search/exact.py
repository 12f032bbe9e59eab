"""Exact search: cosines of queries with all rows by matrix products, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from uertool.tasks.features.whitening import real_rows
from uertool.tasks.search.vectors import Floats, Rows

#: Queries that are compared with a block at a time; 4,096 rows give 16 million cosines, 64 MiB.
GROUP = 4096


class Found(NamedTuple):
    """The nearest rows of queries, nearest first, rows with equal cosines in their order.

    Attributes:
        cosines: [queries, topn]; -inf where there are fewer rows.
        rows: [queries, topn]; -1 where there are fewer.
    """

    cosines: Floats
    rows: npt.NDArray[np.int64]


def nearest(
    queries: Floats,
    blocks: Iterable[Rows],
    topn: int,
    *,
    own: npt.NDArray[np.int64] | None = None,
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Found:
    """The rows with the largest cosines, independently of the sizes of blocks.

    Args:
        queries: of length 1 [queries, size].
        blocks: the corpus, read once.
        topn: rows for each query.
        own: a row for each query that does not count [queries].
        device: where products are computed; None is the processor.
        on_rows: called with the number of further rows that were compared.
    """
    where = device or torch.device("cpu")
    asked = torch.from_numpy(queries).to(where)
    best = Found(
        np.full((len(queries), topn), -np.inf, dtype=np.float32),
        np.full((len(queries), topn), -1, dtype=np.int64),
    )
    start = 0
    for block in blocks:
        units = torch.from_numpy(block.units).to(where)
        zero = torch.from_numpy(np.flatnonzero(~real_rows(block.units))).to(where)
        for first in range(0, len(queries), GROUP):
            group = slice(first, first + GROUP)
            cosines = asked[group] @ units.T
            cosines[:, zero] = -torch.inf
            if own is not None:
                here = own[group] - start
                inside = np.flatnonzero((here >= 0) & (here < len(units)))
                cosines[inside, here[inside]] = -torch.inf
            _merge(Found(best.cosines[group], best.rows[group]), cosines, start)
        start += len(units)
        on_rows(len(units))
    return best


def _merge(best: Found, cosines: torch.Tensor, start: int) -> None:
    """Put the cosines of a block's rows, which begin at `start`, among the best so far."""
    topn = best.cosines.shape[1]
    # Of equals the earlier row wins, so later ones must be larger.
    enough = torch.from_numpy(best.cosines[:, -1].copy()).to(cosines.device)
    better = (cosines.amax(dim=1) > enough).nonzero()[:, 0]
    cosines = cosines[better]
    places = cosines > enough[better, None]
    if cosines.shape[1] > topn:
        places &= cosines >= cosines.topk(topn, dim=1).values[:, -1:]
    places = places.nonzero()
    query, place = places.cpu().numpy().T
    changed, counts = better.cpu().numpy(), np.bincount(query, minlength=len(better))
    query = np.concatenate([np.repeat(np.arange(len(changed)), topn), query])
    values = np.append(best.cosines[changed], cosines[places[:, 0], places[:, 1]].cpu().numpy())
    rows = np.append(best.rows[changed], place + start)
    order = np.lexsort((rows, -values, query))
    begins = np.cumsum(counts + topn) - counts - topn
    first = order[begins[:, None] + np.arange(topn)]
    best.cosines[changed], best.rows[changed] = values[first], rows[first]
