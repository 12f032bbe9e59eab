"""Files of vectors: what is written reads back, in every format, and by other libraries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from uertool.errors import InputError, MissingExtraError, OutputError, UsageError
from uertool.io.vector_reader import open_vectors
from uertool.io.vector_writer import (
    FORMATS,
    PRECISIONS,
    Note,
    check_output,
    open_sink,
    quantize,
    scales_path,
)

ROWS = np.random.default_rng(5).normal(size=(7, 12)).astype(np.float32)
LINES = [Note(number * 2, f"第{number}行 \"'\n") for number in range(7)]
TOKENS = [Note(number // 2, f"字{number}", number % 2) for number in range(7)]


def write(path: Path, *, notes: list[Note] = LINES, precision: str = "float32") -> None:
    tokens = notes is TOKENS
    with open_sink(path, 12, precision=precision, tokens=tokens) as sink:
        sink.write(ROWS[:4], notes[:4])
        sink.write(ROWS[4:], notes[4:])


@pytest.mark.parametrize("suffix", sorted(FORMATS))
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("notes", [LINES, TOKENS], ids=["lines", "tokens"])
def test_what_is_written_reads_back(
    tmp_path: Path, suffix: str, precision: str, notes: list[Note]
) -> None:
    path = tmp_path / f"v{suffix}"
    write(path, notes=notes, precision=precision)
    blocks = list(open_vectors(path).blocks(3))
    found = np.concatenate([block for block, _ in blocks])
    tolerance = {"float32": 0.0, "float16": 2e-3, "int8": np.abs(ROWS).max() / 127}[precision]
    np.testing.assert_allclose(found, ROWS, atol=tolerance)
    read = [note for _, part in blocks for note in part]
    if suffix in (".parquet", ".jsonl"):
        assert read == notes
    elif suffix == ".safetensors":
        assert [(n.line, n.position) for n in read] == [(n.line, n.position) for n in notes]


def test_other_libraries_read_the_files(tmp_path: Path) -> None:
    from pyarrow.parquet import read_table
    from safetensors.numpy import load_file

    for suffix in FORMATS:
        write(tmp_path / f"v{suffix}")
    assert np.array_equal(np.load(tmp_path / "v.npy"), ROWS)
    assert np.load(tmp_path / "v.npy", mmap_mode="r").flags.c_contiguous
    found = torch.load(tmp_path / "v.pt", weights_only=True)
    assert torch.equal(found, torch.from_numpy(ROWS))
    tensors = load_file(tmp_path / "v.safetensors")
    assert np.array_equal(tensors["vectors"], ROWS)
    assert tensors["lines"].tolist() == [note.line for note in LINES]
    table = read_table(tmp_path / "v.parquet")
    assert table.column_names == ["line", "text", "vector"]
    assert np.array_equal(np.array(table.column("vector").to_pylist(), np.float32), ROWS)
    records = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text("utf-8").splitlines()]
    assert np.array_equal(np.array([r["vector"] for r in records], np.float32), ROWS)
    assert [r["text"] for r in records] == [note.text for note in LINES]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_tensors_of_odd_length_stay_aligned(tmp_path: Path, rows: int) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "v.safetensors"
    with open_sink(path, 3, precision="int8") as sink:
        sink.write(ROWS[:rows, :3], LINES[:rows])
    tensors = load_file(path)
    assert tensors["vectors"].shape == (rows, 3)
    assert tensors["scales"].shape == tensors["lines"].shape == (rows,)


def test_int8_keeps_directions_and_scales() -> None:
    stored, scales = quantize(ROWS, "int8")
    assert stored.dtype == np.int8
    assert np.abs(stored).max(axis=1).tolist() == [127] * 7
    back = stored * scales[:, None]
    cosines = (back * ROWS).sum(1) / np.linalg.norm(back, axis=1) / np.linalg.norm(ROWS, axis=1)
    assert cosines.min() > 0.9995
    nothing, scale = quantize(np.zeros((1, 4), np.float32), "int8")
    assert not nothing.any()
    assert scale.tolist() == [0.0]


def test_binary_keeps_signs_as_packed_bits(tmp_path: Path) -> None:
    write(tmp_path / "v.npy", precision="binary")
    bits = np.unpackbits(np.load(tmp_path / "v.npy"), axis=1)[:, :12]
    assert np.array_equal(bits, ROWS > 0)
    with pytest.raises(UsageError, match="single bits"):
        list(open_vectors(tmp_path / "v.npy").blocks(2))


def test_scales_have_their_own_file_if_the_format_has_no_place_for_them(tmp_path: Path) -> None:
    write(tmp_path / "v.npy", precision="int8")
    assert scales_path(tmp_path / "v.npy").name == "v.scales.npy"
    scales = np.load(tmp_path / "v.scales.npy")
    np.testing.assert_allclose(scales, np.abs(ROWS).max(1) / 127, rtol=1e-6)


def test_what_float16_cannot_hold_is_an_error() -> None:
    with pytest.raises(InputError, match="too large for float16"):
        quantize(np.array([[1e6]], np.float32), "float16")


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    with pytest.raises(RuntimeError, match="stop"), open_sink(path, 12) as sink:
        sink.write(ROWS, LINES)
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_names_and_precisions_are_checked_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"\.csv"):
        check_output("a.csv")
    with pytest.raises(UsageError, match="int4"):
        check_output("a.npy", "int4")
    for precision in PRECISIONS:
        check_output("-", precision)
    write(tmp_path / "v.npy")
    with pytest.raises(OutputError, match="exists"):
        write(tmp_path / "v.npy")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"uertool\[parquet\]"):
        check_output("a.parquet")


# -- files of others ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_file_that_only_looks_like_scales_is_left_alone(tmp_path: Path, suffix: str) -> None:
    """Whoever called a file of his own x.scales.npy keeps it, whatever is written to x.npy."""
    other = tmp_path / f"x.scales{suffix}"
    other.write_bytes(b"mine")
    rows = np.ones((3, 4), dtype=np.float32)
    for overwrite in (False, True):
        with open_sink(tmp_path / f"x{suffix}", 4, overwrite=overwrite) as sink:
            sink.write(rows, [Note(n, "") for n in range(3)])
    assert other.read_bytes() == b"mine"
    found = np.concatenate([b for b, _ in open_vectors(tmp_path / f"x{suffix}").blocks(9)])
    assert np.array_equal(found, rows)
    with (
        pytest.raises(OutputError, match="does not belong to it"),
        open_sink(tmp_path / f"x{suffix}", 4, precision="int8", overwrite=True),
    ):
        pass
    assert other.read_bytes() == b"mine"
