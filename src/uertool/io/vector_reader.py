"""Read files of vectors block by block: .pt, .npy, .safetensors, .parquet and .jsonl."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, UertoolError, UsageError, import_extra
from uertool.io.line_bytes import open_bytes, raw_lines, read_blocks
from uertool.io.vector_writer import LOADERS, Note, Scales, scales_of

Block = npt.NDArray[np.float32]
Blocks = Iterator[tuple[Block, list[Note]]]

#: Names that a matrix of vectors may have in a file of several tensors.
_NAMES = ("vectors", "features", "embeddings", "vector", "probabilities", "logits")

#: Columns of numbers in a table that say which line a row is of, not what its vector is.
_ROW_COLUMNS = frozenset(("index", "line", "number", "row", "label", "position"))


@dataclass(frozen=True)
class VectorFile:
    """A file of vectors.

    Attributes:
        path: the file.
        tokens: whether its rows are tokens, with a position in their line.
        numbers: whether a plain list of numbers is accepted, as vectors of size 1.
        bits: whether single bits are accepted, as 1 and -1; their rows may be filled up to a
            multiple of 8 with -1.
    """

    path: Path
    tokens: bool
    _read: Callable[[Path, int], Blocks]
    numbers: bool = False
    bits: bool = False

    def blocks(self, rows: int) -> Blocks:
        """Vectors [up to `rows`, size] with what each is of; of plain matrices the row's number.

        Whole numbers are multiplied by their row's scale where the file has scales.

        Raises:
            InputError: the file is broken or holds no matrix of numbers.
            UsageError: it holds single bits.
        """
        try:
            for block, notes in self._read(self.path, rows):
                if self.numbers and block.ndim == 1:
                    block = block[:, None]
                if block.dtype == np.dtype(np.uint8):
                    block = self._signs(block)
                if block.ndim != 2 or block.shape[1] == 0:
                    raise InputError(
                        f"{self.path} has the shape {list(block.shape)}, "
                        "but rows of vectors were expected."
                    )
                yield np.ascontiguousarray(block, dtype=np.float32), notes
        except (UertoolError, GeneratorExit):
            raise
        except Exception as error:  # each library has its own for a file that is not its kind
            raise InputError(
                f"{self.path} cannot be read as a {self.path.suffix} file: {_reason(error)}.",
                "Is it complete, and of the kind that its name says?",
            ) from None

    def _signs(self, block: npt.NDArray[Any]) -> Block:
        if not self.bits:
            raise UsageError(
                f"{self.path} holds single bits, from which vectors cannot be recovered.",
                "Write the vectors with `precision` float32, float16 or int8.",
            )
        return np.where(np.unpackbits(block, axis=-1), np.float32(1), np.float32(-1))


def spread_rows(rows: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many numbers of rows, evenly spread over all of them."""
    return np.unique(np.linspace(0, rows - 1, min(most, rows)).astype(np.int64))


def sampled(
    blocks: Iterable[tuple[Block, list[Note]]], rows: int, most: int
) -> tuple[Block, list[Note]]:
    """At most so many of `rows` rows with their notes, evenly spread over all blocks."""
    chosen = spread_rows(rows, most)
    found: list[Block] = []
    notes: list[Note] = []
    start = 0
    for block, block_notes in blocks:
        here = chosen[(chosen >= start) & (chosen < start + len(block))] - start
        found.append(block[here])
        notes.extend(block_notes[place] for place in here.tolist())
        start += len(block)
    return np.concatenate(found), notes


def open_vectors(path: str | Path, *, numbers: bool = False, bits: bool = False) -> VectorFile:
    """A file of vectors; its suffix determines how it is read.

    Args:
        path: the file.
        numbers, bits: see `VectorFile`.

    Raises:
        InputError: the file does not exist.
        UsageError: an unknown suffix.
        MissingExtraError: .parquet without pyarrow.
    """
    found = Path(path)
    if not found.is_file():
        raise InputError(f"The file of vectors {path} does not exist.", "Check the path.")
    reader = READERS.get(found.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} ends in {found.suffix or 'nothing'}, which is not a format for vectors.",
            f"Known are {', '.join(READERS)}.",
        )
    first: list[Note] = []
    opened = VectorFile(found, False, reader, numbers, bits)
    for _, notes in opened.blocks(1):
        first = notes
        break
    return replace(opened, tokens=bool(first) and first[0].position is not None)


def _numbered(start: int, count: int) -> list[Note]:
    return [Note(row, "") for row in range(start, start + count)]


def _scaled(block: Any, scales: Any, path: Path) -> Any:
    """Numbers times their scales."""
    if block.dtype.kind not in "fiub":
        raise InputError(f"{path} holds {block.dtype} values, but numbers were expected.")
    return block if scales is None else block * scales[:, None]


def _npy(path: Path, rows: int) -> Blocks:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    scales = _scales(scales_of(path))
    if mapped.ndim != 2:
        yield _scaled(np.array(mapped), None, path), []
        return
    count, size = mapped.shape
    plain = mapped.flags.c_contiguous and hasattr(mapped, "offset")
    for start in range(0, count, rows):
        many = min(rows, count - start)
        if plain:  # read, not mapped: mapped pages would count as memory of this process
            offset = mapped.offset + start * size * mapped.itemsize
            block = np.fromfile(path, mapped.dtype, many * size, offset=offset).reshape(many, size)
        else:
            block = np.array(mapped[start : start + many])
        part = None if scales is None else scales[start : start + many]
        yield _scaled(block, part, path), _numbered(start, many)


def _torch(path: Path, rows: int) -> Blocks:
    import torch

    # Files of torch before 1.6 are not zip archives and cannot be mapped.
    mapped = zipfile.is_zipfile(path)
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if isinstance(found, dict):
        found = found[_chosen_name(list(found), path)]
    scales = _scales(scales_of(path))
    found = torch.as_tensor(found).detach()
    if found.ndim != 2:
        yield found.float().numpy(), []
        return
    for start in range(0, len(found), rows):
        block = found[start : start + rows]
        numbers = (block.float() if block.is_floating_point() else block).numpy()
        part = None if scales is None else scales[start : start + rows]
        yield _scaled(numbers, part, path), _numbered(start, len(block))


def _safetensors(path: Path, rows: int) -> Blocks:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = {name: None for name in file.keys() if not name.startswith("_")}
        name = _chosen_name(list(names), path)
        matrix = file.get_slice(name)
        shape = matrix.get_shape()
        columns = {c: file.get_tensor(c) for c in ("lines", "positions", "scales") if c in names}
        if len(shape) != 2:
            raise InputError(f"{path} has the shape {shape}, but rows of vectors were expected.")
        for start in range(0, shape[0], rows):
            block = matrix[start : start + rows]
            numbers = (block.float() if block.is_floating_point() else block).numpy()
            parts = {c: column[start : start + rows].numpy() for c, column in columns.items()}
            notes = _numbered(start, len(block))
            if "lines" in parts:
                notes = [Note(line, "") for line in parts["lines"].tolist()]
            if "positions" in parts:
                places = parts["positions"].tolist()
                notes = [note._replace(position=p) for note, p in zip(notes, places, strict=True)]
            yield _scaled(numbers, parts.get("scales"), path), notes


def _parquet(path: Path, rows: int) -> Blocks:
    import_extra("pyarrow", "parquet", f"Reading {path.name}")
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    kinds = {field.name: field.type for field in file.schema_arrow}
    chosen = [name for name, kind in kinds.items() if pyarrow.types.is_nested(kind)]
    is_list = bool(chosen)
    if is_list:
        chosen = [_chosen_name(chosen, path)]
    else:  # a column for each place of the vectors
        numbers = (pyarrow.types.is_floating, pyarrow.types.is_integer)
        chosen = [
            name
            for name, kind in kinds.items()
            if name not in _ROW_COLUMNS and any(is_number(kind) for is_number in numbers)
        ]
    if not chosen:
        raise InputError(f"{path} has no column of numbers.", "Write one column for each place.")
    row = 0
    for batch in file.iter_batches(batch_size=rows):
        count = batch.num_rows
        if count == 0:
            continue
        if is_list:
            column = batch.column(chosen[0])
            lengths = pyarrow.compute.list_value_length(column)
            if lengths.null_count or len(lengths.unique()) > 1:
                raise InputError(f"{path}: the lists of column {chosen[0]!r} differ in length.")
            block = column.flatten().to_numpy(zero_copy_only=False).reshape(count, -1)
        else:
            parts = [batch.column(name).to_numpy(zero_copy_only=False) for name in chosen]
            block = np.stack(parts, axis=1)
        table = {f: batch.column(f).to_pylist() for f in batch.schema.names if f not in chosen}
        scales = np.asarray(table["scale"], dtype=np.float32) if "scale" in table else None
        texts: list[Any] = table.get("token") or table.get("text") or [""] * count
        given: list[Any] = table.get("line") or [None] * count
        lines = [_line(number, row + n) for n, number in enumerate(given)]
        places = table.get("position") or [None] * count
        row += count
        notes = [
            Note(line, str(text or ""), place)
            for line, text, place in zip(lines, texts, places, strict=True)
        ]
        yield _scaled(block, scales, path), notes


def _jsonl(path: Path, rows: int) -> Blocks:
    vectors: list[Any] = []
    notes: list[Note] = []
    with open_bytes(path) as stream:
        for line in raw_lines(read_blocks(stream, str(path)), limit=None):
            if not line.data.strip():
                continue
            record = json.loads(line.data)
            if not isinstance(record, dict) or "vector" not in record:
                raise InputError(f'{path}, line {line.number + 1} has no field "vector".')
            vector = np.asarray(record["vector"], dtype=np.float32) * record.get("scale", 1.0)
            vectors.append(vector)
            text = str(record.get("token", record.get("text", "")))
            number = _line(record.get("line"), line.number)
            notes.append(Note(number, text, record.get("position")))
            if len(vectors) == rows:
                yield np.stack(vectors), notes
                vectors, notes = [], []
    if vectors:
        yield np.stack(vectors), notes


def _line(number: object, default: int) -> int:
    """The line of a row, from 0, from its number in the file, which starts at 1."""
    return number - 1 if isinstance(number, int) else default


def _scales(path: Path | None) -> Scales | None:
    return None if path is None else LOADERS[path.suffix.lower()](path)


def _reason(error: Exception) -> str:
    """What a library says about a file that is not of its kind, as a clause."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _chosen_name(names: list[str], path: Path) -> str:
    """The one name, or where there are several the one that a matrix of vectors has."""
    if len(names) == 1:
        return names[0]
    for name in _NAMES:
        if name in names:
            return name
    raise InputError(
        f"{path} holds {', '.join(sorted(names)[:6]) or 'nothing'}, but one matrix was expected.",
        'Save one matrix, or call it "vectors".',
    )


#: How files are read, by their suffix.
READERS: Mapping[str, Callable[[Path, int], Blocks]] = {
    ".npy": _npy,
    ".pt": _torch,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}


# -- as stored ------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """Rows as they are stored.

    Attributes:
        rows: numbers or bits [rows, size], mapped.
        scales: of int8 rows [rows], or None.
        lines, positions: what the rows belong to [rows], in formats that keep it, or None.
        kind: numbers of a row, their precision, and whether rows are tokens.
    """

    rows: npt.NDArray[Any]
    scales: npt.NDArray[np.float32] | None
    lines: npt.NDArray[Any] | None
    positions: npt.NDArray[Any] | None
    kind: tuple[int, str, bool]


_PRECISIONS = {"float32": "float32", "float16": "float16", "int8": "int8", "uint8": "binary"}


def stored_vectors(path: Path, scales_file: Path | None = None) -> Stored:
    """The rows of a .npy, .pt or .safetensors file that `open_sink` wrote.

    Args:
        path: the file.
        scales_file: the scales of int8 rows; by default those that belong to the file.

    Raises:
        InputError: it is no such file.
    """
    lines = positions = size = scales = None
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                size = int(file.metadata()["size"])  # bits fill up the last byte of a row
            matrix, lines = tensors["vectors"], tensors["lines"]
            scales, positions = tensors.get("scales"), tensors.get("positions")
        else:
            matrix = LOADERS[path.suffix](path)
            scales = _scales(scales_file or scales_of(path))
        precision = _PRECISIONS[str(matrix.dtype)]
        size = size or matrix.shape[1] * (8 if precision == "binary" else 1)
    except Exception as error:  # each library has its own for a file that is not its kind
        raise InputError(
            f"{path} is not a file of vectors that uertool wrote: {_reason(error)}."
        ) from None
    return Stored(matrix, scales, lines, positions, (size, precision, positions is not None))
