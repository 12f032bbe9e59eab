"""Rows of vectors into files: .pt, .npy, .safetensors, .parquet and .jsonl.

A sink takes blocks of rows in order, and its file appears when all are written. Memory holds one
block, except for .pt: its single tensor is put together at the end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, OutputError, UsageError, import_extra
from uertool.io.atomic import atomic_bytes
from uertool.io.float_text import rows_as_text

Precision = Literal["float32", "float16", "int8", "binary"]
Rows = npt.NDArray[Any]
Scales = npt.NDArray[np.float32]

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8", "binary")

#: Bytes of the header of a .npy file, written when the number of rows is known.
_NPY_HEADER = 128

_DTYPES: Mapping[str, Any] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "binary": np.dtype("u1"),
}
_SAFETENSORS = {"float32": "F32", "float16": "F16", "int8": "I8", "binary": "U8"}
#: Room for the header of a safetensors file: a few short entries with the largest of numbers.
_SAFETENSORS_HEADER = 4096


class Note(NamedTuple):
    """What a row belongs to.

    Attributes:
        line: number of the input line, counted from 0.
        text: the line, or the token.
        position: place of the token in its line, or None for a vector of the whole line.
    """

    line: int
    text: str
    position: int | None = None


def quantize(vectors: npt.NDArray[np.float32], precision: str) -> tuple[Rows, Scales | None]:
    """Rows [n, size] as they are stored, and the scale [n] of each row for int8.

    float16 rounds. int8 divides each row by its scale, its largest magnitude / 127, and rounds:
    a row times its scale is the vector again, and cosines need no scales at all. Because every
    row has its own, rows that are made later, one by one, are stored alike. binary keeps the signs,
    eight to a byte, first one in the highest bit [n, ceil(size / 8)], as `numpy.packbits` does and
    as binary indexes read it: 1 for above zero.

    Raises:
        InputError: a value is too large for float16.
    """
    if precision == "int8":
        scales = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype(np.float32)
        safe = np.where(scales > 0, scales, np.float32(1))
        return np.rint(vectors / safe[:, None]).clip(-127, 127).astype(np.int8), scales
    if precision == "binary":
        return np.packbits(vectors > 0, axis=1), None
    if precision == "float16":
        with np.errstate(over="ignore"):
            halves = vectors.astype("<f2")
        if not np.isfinite(halves).all() and np.isfinite(vectors).all():
            raise InputError(
                f"A value of {np.abs(vectors).max():.6g} is too large for float16.",
                "Give `precision` float32.",
            )
        return halves, None
    return np.ascontiguousarray(vectors, dtype="<f4"), None


def stored_size(size: int, precision: str) -> int:
    """Numbers (bytes, for binary) of a stored row."""
    return -(-size // 8) if precision == "binary" else size


class Sink:
    """A file that takes rows, in one of the formats.

    Args:
        path: the name that the file gets.
        size: numbers in a row.
        precision: how they are stored, see `quantize`.
        tokens: whether rows are tokens, not lines.
        stream: the file, which is seekable where the format has a `header`.
    """

    #: Bytes at the start of the file that are written at the end.
    header = 0

    def __init__(
        self, path: Path, size: int, precision: str, tokens: bool, stream: IO[bytes]
    ) -> None:
        self.path = path
        self.size = size
        self.precision = precision
        self.tokens = tokens
        self.stream = stream
        self.rows = 0
        self.stream.write(b" " * self.header)

    def write(self, vectors: npt.NDArray[np.float32], notes: list[Note]) -> None:
        """Add rows [n, size] and what each is of."""
        self.write_stored(*quantize(vectors, self.precision), notes)

    def write_stored(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        """Add rows as `quantize` gave them."""
        self._add(rows, scales, notes)
        self.rows += len(rows)

    def _add(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Write what comes after the last row."""
        self.stream.flush()


class _Matrix(Sink):
    """A matrix alone; the scales of int8 rows go to a second file `<stem>.scales<suffix>`."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.scales: list[Scales] = []

    def _add(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        if scales is not None:
            self.scales.append(scales)

    def _save_scales(self, save: Callable[[IO[bytes], Scales], object]) -> None:
        if self.precision == "int8":
            with atomic_bytes(scales_path(self.path), overwrite=True) as stream:
                save(stream, _joined(self.scales))


class _Npy(_Matrix):
    """A matrix [rows, size] and scales [rows] as `numpy.load` reads them."""

    header = _NPY_HEADER

    def _add(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        super()._add(rows, scales, notes)
        self.stream.write(rows.tobytes())

    def finish(self) -> None:
        shape = (self.rows, stored_size(self.size, self.precision))
        self.stream.seek(0)
        self.stream.write(_npy_header(shape, _DTYPES[self.precision].str, _NPY_HEADER))
        self._save_scales(np.save)


class _Torch(_Matrix):
    """A tensor [rows, size] and scales [rows] as `torch.load` reads them."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.blocks: list[Rows] = []

    def _add(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        super()._add(rows, scales, notes)
        self.blocks.append(rows)

    def finish(self) -> None:
        shape = (0, stored_size(self.size, self.precision))
        blocks = self.blocks or [np.zeros(shape, _DTYPES[self.precision])]
        import torch

        def save(stream: IO[bytes], rows: Rows) -> None:
            torch.save(torch.from_numpy(rows), stream)

        save(self.stream, np.concatenate(blocks))
        self._save_scales(save)


class _Safetensors(Sink):
    """`vectors` [rows, size], `lines` [rows], and where they apply `positions` and `scales`."""

    header = _SAFETENSORS_HEADER

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.columns: dict[str, list[npt.NDArray[Any]]] = {"lines": []}
        if self.tokens:
            self.columns["positions"] = []
        if self.precision == "int8":
            self.columns["scales"] = []

    def _add(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        self.stream.write(rows.tobytes())
        self.columns["lines"].append(np.array([note.line for note in notes], dtype="<i8"))
        if self.tokens:
            places = np.array([note.position for note in notes], dtype="<i8")
            self.columns["positions"].append(places)
        if scales is not None:
            self.columns["scales"].append(scales)

    def finish(self) -> None:
        end = self.stream.tell() - _SAFETENSORS_HEADER
        shape = [self.rows, stored_size(self.size, self.precision)]
        entries: dict[str, Any] = {
            "__metadata__": {"format": "pt", "precision": self.precision, "size": str(self.size)},
            "vectors": _entry(_SAFETENSORS[self.precision], shape, 0, end),
        }
        self.stream.write(b"\0" * (-end % 8))  # the next tensor begins at a multiple of its size
        end += -end % 8
        if end != entries["vectors"]["data_offsets"][1]:
            # The format knows no gaps: the filling belongs to a tensor of its own.
            start = entries["vectors"]["data_offsets"][1]
            entries["_alignment"] = _entry("U8", [end - start], start, end)
        for name, parts in self.columns.items():
            column = _joined(parts, "<f4" if name == "scales" else "<i8")
            self.stream.write(column.tobytes())
            code = "F32" if name == "scales" else "I64"
            entries[name] = _entry(code, [self.rows], end, end + column.nbytes)
            end += column.nbytes
        header = json.dumps(entries, separators=(",", ":")).encode()
        room = _SAFETENSORS_HEADER - 8
        assert len(header) <= room, len(header)
        self.stream.seek(0)
        self.stream.write(struct.pack("<Q", room) + header.ljust(room))


def _entry(code: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": code, "shape": shape, "data_offsets": [start, end]}


class _Jsonl(Sink):
    """One object a line: line, text (or position and token), vector, and for int8 the scale."""

    def _add(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        texts = (
            [row.decode() for row in rows_as_text(rows, b",")]
            if self.precision == "float32"
            else [",".join(map(str, row)) for row in rows.tolist()]
            if self.precision != "float16"
            else [b",".join(row).decode() for row in rows.astype("S").tolist()]
        )
        lines: list[str] = []
        for number, (note, text) in enumerate(zip(notes, texts, strict=True)):
            record: dict[str, Any] = {"line": note.line + 1}
            if self.tokens:
                record["position"] = note.position
            record["token" if self.tokens else "text"] = note.text
            if scales is not None:
                record["scale"] = float(str(scales[number]))
            start = json.dumps(record, ensure_ascii=False)[:-1]
            lines.append(f'{start}, "vector": [{text}]}}\n')
        self.stream.write("".join(lines).encode("utf-8", "surrogatepass"))


class _Parquet(Sink):
    """A table with the columns line, text (or position and token), vector and, for int8, scale."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        import pyarrow
        import pyarrow.parquet

        self.arrow = pyarrow
        numbers = pyarrow.from_numpy_dtype(_DTYPES[self.precision])
        self.vector = pyarrow.list_(numbers, stored_size(self.size, self.precision))
        columns: list[tuple[str, Any]] = [("line", pyarrow.int64())]
        if self.tokens:
            columns.append(("position", pyarrow.int64()))
        columns.append(("token" if self.tokens else "text", pyarrow.string()))
        columns.append(("vector", self.vector))
        if self.precision == "int8":
            columns.append(("scale", pyarrow.float32()))
        self.schema = pyarrow.schema(columns)
        self.writer = pyarrow.parquet.ParquetWriter(
            self.stream, self.schema, use_dictionary=False, compression="zstd"
        )

    def _add(self, rows: Rows, scales: Scales | None, notes: list[Note]) -> None:
        columns: dict[str, Any] = {
            "line": [note.line + 1 for note in notes],
            "position": [note.position for note in notes],
            "text": [note.text for note in notes],
            "token": [note.text for note in notes],
            "scale": scales,
            "vector": self.arrow.FixedSizeListArray.from_arrays(
                self.arrow.array(rows.reshape(-1)), type=self.vector
            ),
        }
        chosen = [self.arrow.array(columns[f.name], type=f.type) for f in self.schema]
        self.writer.write_table(self.arrow.Table.from_arrays(chosen, schema=self.schema))

    def finish(self) -> None:
        self.writer.close()


#: What writes a file, by its suffix.
FORMATS: Mapping[str, type[Sink]] = {
    ".pt": _Torch,
    ".npy": _Npy,
    ".safetensors": _Safetensors,
    ".jsonl": _Jsonl,
    ".parquet": _Parquet,
}


def check_output(path: str | Path, precision: str = "float32") -> None:
    """See early that a file of this name and precision can be written.

    Raises:
        UsageError: an unknown suffix or precision.
        MissingExtraError: .parquet without pyarrow.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"There is no precision {precision!r}.", f"Choose one of {', '.join(PRECISIONS)}."
        )
    if str(path) == "-":
        return
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"The output {path} ends in {suffix or 'nothing'}, which is not a format for vectors.",
            f"Choose a name that ends in {', '.join(FORMATS)}.",
        )
    if suffix == ".parquet":
        import_extra("pyarrow", "parquet", "Writing .parquet files")


@contextmanager
def open_sink(
    path: str | Path,
    size: int,
    *,
    precision: str = "float32",
    tokens: bool = False,
    overwrite: bool = False,
) -> Iterator[Sink]:
    """A sink for rows of `size` numbers; the file appears when the block ends well.

    Args:
        path: its suffix is the format; "-" writes JSON lines to standard output.
        size: numbers in a row.
        precision: how they are stored, see `quantize`.
        tokens: rows are tokens, so their notes have positions.
        overwrite: whether an existing file may be replaced.

    Raises:
        UsageError, MissingExtraError: see `check_output`.
        OutputError: the file exists already or cannot be written.
    """
    check_output(path, precision)
    old_scales = None if str(path) == "-" else _claim_scales(Path(path), precision)
    form = _Jsonl if str(path) == "-" else FORMATS[Path(path).suffix.lower()]
    with atomic_bytes(path, overwrite=overwrite) as stream:
        sink = form(Path(path), size, precision, tokens, stream)
        yield sink
        sink.finish()
    if old_scales is not None and precision != "int8":
        old_scales.unlink(missing_ok=True)


def scales_path(path: Path) -> Path:
    """Where the scales of int8 rows are, for formats that have no place for them."""
    return path.with_name(f"{path.stem}.scales{path.suffix}")


def scales_of(path: str | Path) -> Path | None:
    """The scales that belong to the rows of a .npy or .pt file, or None.

    A file of that name belongs to the rows if these are int8, and there is a float32 for each row.
    """
    load = LOADERS.get(Path(path).suffix.lower())
    found = scales_path(Path(path))
    if load is None or not found.is_file() or not Path(path).is_file():
        return None
    try:
        rows, scales = load(Path(path)), load(found)
    except Exception:  # in any case, these are not rows with scales
        return None
    fits = rows.dtype == np.int8 and scales.dtype == np.float32
    return found if fits and scales.shape == rows.shape[:1] else None


def _load_torch(path: Path) -> Rows:
    import torch

    rows: Rows = torch.load(path, map_location="cpu", weights_only=True, mmap=True).numpy()
    return rows


#: Arrays of files, mapped, by the suffixes of files that hold one array.
LOADERS: Mapping[str, Callable[[Path], Rows]] = {
    ".npy": lambda path: np.load(path, mmap_mode="r", allow_pickle=False),
    ".pt": _load_torch,
}


def _claim_scales(path: Path, precision: str) -> Path | None:
    """The scales of the rows that are replaced, if there are any.

    Raises:
        OutputError: new scales would replace a file that does not belong to the rows.
    """
    old = scales_of(path)
    new = scales_path(path)
    if precision == "int8" and old is None and path.suffix.lower() in LOADERS and new.exists():
        raise OutputError(
            f"The scales of {path} go to {new}, which exists already and does not belong to it.",
            "Choose another name for the output, or move that file.",
        )
    return old


def _joined(parts: list[npt.NDArray[Any]], descr: str = "<f4") -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=descr)


def _npy_header(shape: tuple[int, ...], descr: str, length: int) -> bytes:
    """The header of a .npy file (format 1.0), filled up with blanks to `length` bytes.

    Source: numpy.lib.format. The length must be a multiple of 64.
    """
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    room = length - 10
    assert len(text) < room, text
    return (
        b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + (text.ljust(room - 1) + "\n").encode()
    )
