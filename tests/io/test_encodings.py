"""Text that is not UTF-8: read as it is asked for, or an error that says what it seems to be."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uertool.errors import InputError, SettingError
from uertool.io.encodings import as_lines_of_bytes, encoding_named, has_byte_lines
from uertool.io.line_bytes import LINE_LIMIT
from uertool.text.readers import BadLine, read_lines

SIMPLIFIED = "今天天气很好，我们去公园玩。\n这家酒店的服务不错，下次还会来。\n"
TRADITIONAL = "今天天氣很好，我們去公園玩。\n這家酒店的服務不錯，下次還會來。\n"


def texts(data: bytes, encoding: str = "utf-8") -> list[str]:
    return [line.text for line in read_lines(io.BytesIO(data), encoding=encoding)]


@pytest.mark.parametrize("encoding", ["gb18030", "GBK", "gb2312", "utf_16", "utf-16-le", "utf-32"])
def test_text_is_read_in_the_encoding_that_is_asked_for(encoding: str) -> None:
    data = SIMPLIFIED.encode(encoding)
    assert texts(data, encoding) == SIMPLIFIED.splitlines()
    assert texts(gzip.compress(data), encoding) == SIMPLIFIED.splitlines()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_needs_no_option(encoding: str) -> None:
    assert texts(TRADITIONAL.encode(encoding)) == TRADITIONAL.splitlines()


@given(
    lines=st.lists(st.text(st.characters(codec="gb18030", exclude_characters="\r\n\ufeff"))),
    encoding=st.sampled_from(["gb18030", "utf-16", "utf-16-be", "utf-32-le"]),
    size=st.integers(1, 9),
)
def test_blocks_of_any_size_give_the_same_text(lines: list[str], encoding: str, size: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode(encoding)
    blocks = (data[start : start + size] for start in range(0, len(data), size))
    found = b"".join(as_lines_of_bytes(blocks, encoding, "the text"))
    read = found.decode(encoding if has_byte_lines(encoding) else "utf-8")
    assert read == "".join(f"{line}\n" for line in lines)
    assert texts(data, encoding) == lines


def test_a_long_line_is_cut_between_two_characters() -> None:
    data = ("天" * LINE_LIMIT).encode("gb18030")
    (line,) = read_lines(io.BytesIO(data), encoding="gb18030")
    assert line.cut
    assert set(line.text) == {"天"}
    assert LINE_LIMIT // 2 - 4 <= len(line.text) <= LINE_LIMIT // 2


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (SIMPLIFIED.encode("gb18030"), "It looks like gb18030 text; give `encoding` gb18030."),
        ("酒店的服务很好\n".encode("gb18030"), "It looks like gb18030 text"),
        (TRADITIONAL.encode("big5"), "It looks like big5 text; give `encoding` big5."),
        (b"\xe9" + SIMPLIFIED.encode("utf-16-le"), "binary"),
        ("天气很好，\n".encode("utf-16-le") * 4, "It looks like utf-16-le text"),
        (b"\xff\x00\x01\x00\x00\xfe" * 9, "The file is binary, not text"),
    ],
)
def test_the_error_says_what_the_text_seems_to_be(tmp_path: Path, data: bytes, hint: str) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match="invalid UTF-8") as error:
        list(read_lines(path))
    assert hint in (error.value.hint or "")


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, 4)))
    with pytest.raises(InputError) as error:
        list(read_lines(tmp_path / "v.npy"))
    assert error.value.hint == "The file is a NumPy array, not text; name a text file."


def test_bad_lines_of_other_encodings_are_reported_one_by_one() -> None:
    bad: list[BadLine] = []
    data = "天气\n".encode("gb18030") + b"\xff\n" + "很好".encode("gb18030")
    found = list(read_lines(io.BytesIO(data), encoding="gbk", on_bad=bad.append))
    assert [line.text for line in found] == ["天气", "很好"]
    assert [(one.number, one.offset) for one in bad] == [(1, 5)]
    assert bad[0].reason == "invalid gb18030, 0xff at byte 0 of the line"


def test_a_torn_text_and_a_mark_that_contradicts_are_errors() -> None:
    with pytest.raises(InputError, match="is not utf-16 text: truncated data"):
        texts("今天".encode("utf-16")[:-1])
    with pytest.raises(InputError, match="mark of utf-16, but `encoding` is gb18030"):
        texts("今天".encode("utf-16"), "gb18030")


def test_an_unknown_encoding_is_a_usage_error() -> None:
    for name in ("klingon", "base64", "", "a\0b"):
        with pytest.raises(SettingError, match="must name a text encoding"):
            encoding_named(name)
