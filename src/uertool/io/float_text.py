"""float32 numbers as text, in the shortest form that reads back to the same float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]

#: Rows that are written as text at a time; some megabytes.
ROWS = 1024


def rows_as_text(vectors: Block, separator: bytes = b" ") -> Iterator[bytes]:
    """Every row [size] of `vectors` [rows, size] as numbers with `separator` between them."""
    values = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(values).all():  # JSON cannot represent them
        yield from map(separator.join, values.astype("S").tolist())
        return
    import orjson

    for row in values:
        text = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        yield text if separator == b"," else text.replace(b",", separator)


def text_lines(names: Sequence[str], vectors: Block) -> bytes:
    """Lines `name number number ...`, in UTF-8, one for each row."""
    rows = zip(names, rows_as_text(vectors), strict=True)
    return b"".join(b"%b %b\n" % (name.encode(), row) for name, row in rows)
