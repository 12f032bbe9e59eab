"""float32 numbers as text, in the shortest form that reads back to the same float32.

pyarrow writes them several times faster than numpy (both print the shortest digits, though not
always in the same layout: 1e-5 and 0.00001), so it is used where it is installed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]

#: Rows that are written as text at a time; some megabytes.
ROWS = 1024


def join_rows(vectors: Block, separator: str = " ") -> list[str]:
    """Every row [size] of `vectors` [rows, size] as numbers with `separator` between them."""
    return [row.decode("ascii") for row in _joined(vectors, separator)]


def text_lines(names: Sequence[str], vectors: Block) -> bytes:
    """Lines `name number number ...`, in UTF-8, one for each row."""
    rows = _joined(vectors, " ")
    lines = [b"%b %b\n" % (name.encode(), row) for name, row in zip(names, rows, strict=True)]
    return b"".join(lines)


def text_blocks(blocks: Iterable[tuple[Sequence[str], Block]], threads: int = 2) -> Iterator[bytes]:
    """`text_lines` of many blocks, made in threads and given in order.

    As few blocks as there are threads are held at a time.
    """
    return _ordered(lambda block: text_lines(*block), blocks, threads)


def _ordered(
    work: Callable[[tuple[Sequence[str], Block]], bytes],
    blocks: Iterable[tuple[Sequence[str], Block]],
    threads: int,
) -> Iterator[bytes]:
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[bytes]] = deque()
        for block in blocks:
            if len(pending) > threads:
                yield pending.popleft().result()
            pending.append(pool.submit(work, block))
        while pending:
            yield pending.popleft().result()


def _joined(vectors: Block, separator: str) -> list[bytes]:
    values = np.ascontiguousarray(vectors, dtype=np.float32)
    if values.shape[1] == 0:
        return [b""] * len(values)
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError:
        return _joined_by_numpy(values, separator)
    numbers = pyarrow.compute.cast(pyarrow.array(values.reshape(-1)), pyarrow.string())
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    rows = pyarrow.ListArray.from_arrays(pyarrow.array(ends), numbers)
    joined = pyarrow.compute.binary_join(rows, separator)
    # Slicing the buffer is much faster than asking arrow for one string after the other.
    _, offsets, data = joined.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32)[: len(values) + 1].tolist()
    text = data.to_pybytes()
    return [text[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]


def _joined_by_numpy(values: Block, separator: str) -> list[bytes]:
    between = separator.encode()
    return [between.join(row) for row in values.astype("S").tolist()]
