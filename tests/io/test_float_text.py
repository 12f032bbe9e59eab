"""Numbers as text: the shortest form that reads back to the same float32."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uertool.io.float_text import join_rows, text_blocks, text_lines

ODD = np.array(
    [0.0, -0.0, 1.0, 0.1, 1e-45, -3.4028235e38, 1.17549435e-38, 16777216.0, 123456.79, 1e-5, 1e16],
    dtype=np.float32,
)


@pytest.fixture(params=["with pyarrow", "without"])
def arrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "pyarrow", None)


def digits(text: str) -> int:
    mantissa = text.lower().split("e")[0]
    return len(mantissa.replace("-", "").replace(".", "").strip("0"))


@pytest.mark.usefixtures("arrow")
def test_numbers_read_back_exactly_and_are_short() -> None:
    random = np.random.default_rng(1).normal(0, 0.05, 3000).astype(np.float32)
    values = np.concatenate([ODD, random])
    texts = join_rows(values[:, None])
    read = np.array([float(text) for text in texts]).astype(np.float32)
    assert np.array_equal(read.view(np.uint32), values.view(np.uint32))
    for text, value in zip(texts, values, strict=True):
        assert digits(text) <= digits(str(value)), (text, value)


@pytest.mark.usefixtures("arrow")
def test_rows_are_lines_with_their_names() -> None:
    block = np.array([[1.5, -2.0], [0.25, 3.0]], dtype=np.float32)
    lines = text_lines(["一", "b"], block).decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["一", "b"]
    assert [[float(part) for part in line.split(" ")[1:]] for line in lines] == block.tolist()


@pytest.mark.usefixtures("arrow")
def test_blocks_come_in_order_whatever_the_threads() -> None:
    def blocks() -> Iterator[tuple[list[str], np.ndarray]]:
        for number in range(20):
            yield [f"w{number}"], np.full((1, 3), number, dtype=np.float32)

    found = b"".join(text_blocks(blocks(), threads=3)).decode().splitlines()
    assert [line.split(" ")[0] for line in found] == [f"w{number}" for number in range(20)]


def test_rows_of_no_numbers_are_names_alone() -> None:
    assert join_rows(np.zeros((2, 0), dtype=np.float32)) == ["", ""]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_any_float32_reads_back(values: list[float]) -> None:
    block = np.array([values], dtype=np.float32)
    read = np.array([float(part) for part in join_rows(block)[0].split(" ")]).astype(np.float32)
    assert np.array_equal(read.view(np.uint32), block[0].view(np.uint32))
