"""Numbers as text: the shortest form that reads back to the same float32."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uertool.io.float_text import rows_as_text, text_lines

ODD = np.array(
    [0.0, -0.0, 1.0, 0.1, 1e-45, -3.4028235e38, 1.17549435e-38, 16777216.0, 123456.79, 1e-5, 1e16],
    dtype=np.float32,
)


def digits(text: str) -> int:
    mantissa = text.lower().split("e")[0]
    return len(mantissa.replace("-", "").replace(".", "").strip("0"))


def test_numbers_read_back_exactly_and_are_short() -> None:
    random = np.random.default_rng(1).normal(0, 0.05, 3000).astype(np.float32)
    values = np.concatenate([ODD, random])
    texts = [text.decode() for text in rows_as_text(values[:, None])]
    read = np.array([float(text) for text in texts]).astype(np.float32)
    assert np.array_equal(read.view(np.uint32), values.view(np.uint32))
    for text, value in zip(texts, values, strict=True):
        assert digits(text) <= digits(str(value)), (text, value)


def test_rows_are_lines_with_their_names() -> None:
    block = np.array([[1.5, -2.0], [0.25, 3.0]], dtype=np.float32)
    lines = text_lines(["一", "b"], block).decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["一", "b"]
    assert [[float(part) for part in line.split(" ")[1:]] for line in lines] == block.tolist()


def test_rows_of_no_numbers_are_names_alone() -> None:
    assert list(rows_as_text(np.zeros((2, 0), dtype=np.float32))) == [b"", b""]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_any_float32_reads_back(values: list[float]) -> None:
    block = np.array([values], dtype=np.float32)
    [text] = rows_as_text(block)
    read = np.array([float(part) for part in text.split(b" ")]).astype(np.float32)
    assert np.array_equal(read.view(np.uint32), block[0].view(np.uint32))


def test_values_that_are_not_finite_are_named() -> None:
    block = np.array([[np.nan, 0.1], [-np.inf, 2.0]], dtype=np.float32)
    assert list(rows_as_text(block, b",")) == [b"nan,0.1", b"-inf,2.0"]


def test_tables_of_any_order_in_memory_are_written_row_by_row() -> None:
    block = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert list(rows_as_text(np.asfortranarray(block))) == list(rows_as_text(block))
    assert list(rows_as_text(block)) == [b"0.0 1.0 2.0", b"3.0 4.0 5.0"]
