"""Shards put together into the one file that they are parts of; every digest is verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from uertool.engine.storage.shards import Shards
from uertool.errors import InputError, UsageError
from uertool.io.atomic import atomic_bytes, atomic_path
from uertool.io.vector_reader import Stored, stored_vectors
from uertool.io.vector_writer import Note, Sink, open_sink, scales_of

_ROWS = 4096


def join(shards: Shards, output: str | Path, *, overwrite: bool = False) -> None:
    """Put shards together into the file that one process would have written.

    Memory holds one piece of one shard, except for .pt, whose single tensor is put together first.
    A single shard on the same disk is moved.

    Args:
        shards: what to put together.
        output: a file of the same format, or "-" for text and JSON lines to standard output.
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: a shard is not as it was written.
        UsageError: the format cannot go to standard output.
        OutputError: the output exists or cannot be written.
    """
    how = _JOINS.get(shards.suffix, _join_text)
    if str(output) == "-" and how is not _join_text:
        raise UsageError(
            f"Shards of {shards.suffix} cannot go to standard output.", "Name a file for them."
        )
    how(shards, output, overwrite)


def move_single(shards: Shards, output: str | Path, *, overwrite: bool = False) -> bool:
    """Whether there was only one file, on the same disk, which now is the output."""
    target = Path(os.path.realpath(output))
    files = shards.files()
    if shards.files(f".scales{shards.suffix}"):
        return False
    local = shards.store.is_local and target.parent == shards.store.local_path.parent
    if not local or len(files) != 1 or (target.exists() and not target.is_file()):
        return False
    scales = scales_of(output)
    with shards.file(files[0]) as path, atomic_path(output, overwrite=overwrite) as partial:
        os.replace(path, partial)
    if scales is not None:
        scales.unlink(missing_ok=True)  # of the rows that were replaced
    return True


def _join_text(shards: Shards, output: str | Path, overwrite: bool) -> None:
    with atomic_bytes(output, overwrite=overwrite) as sink:
        for chunk in shards.chunks():
            sink.write(chunk)


def _join_vectors(shards: Shards, output: str | Path, overwrite: bool) -> None:
    """Rows as they are stored, through the sink that wrote the shards."""
    with ExitStack() as stack:
        sink: Sink | None = None
        first: tuple[int, str, bool] | None = None
        beside_of = iter(shards.files(f".scales{shards.suffix}"))
        for entry in shards.files():
            with ExitStack() as opened:
                path = opened.enter_context(shards.file(entry))
                beside = next(beside_of, None)
                other = None if beside is None else opened.enter_context(shards.file(beside))
                part = stored_vectors(path, other)
                if sink is None or first is None:
                    first = part.kind
                    size, precision, tokens = first
                    opening = open_sink(
                        output, size, precision=precision, tokens=tokens, overwrite=overwrite
                    )
                    sink = stack.enter_context(opening)
                if part.kind != first:
                    raise InputError(
                        f"{entry['name']} has rows of another kind than those before it: "
                        f"{part.kind[0]} numbers in {part.kind[1]}."
                    )
                for start in range(0, len(part.rows), _ROWS):
                    here = slice(start, start + _ROWS)
                    rows = np.ascontiguousarray(part.rows[here])
                    scales = None if part.scales is None else part.scales[here]
                    sink.write_stored(rows, scales, _notes(part, here, len(rows)))
            shards.on_bytes(entry["bytes"])


def _notes(part: Stored, here: slice, count: int) -> list[Note]:
    if part.lines is None:
        return [Note(0, "")] * count  # formats that keep none
    lines = part.lines[here].tolist()
    if part.positions is None:
        return [Note(line, "") for line in lines]
    places = part.positions[here].tolist()
    return [Note(line, "", place) for line, place in zip(lines, places, strict=True)]


def _join_parquet(shards: Shards, output: str | Path, overwrite: bool) -> None:
    from pyarrow import parquet

    with ExitStack() as stack:
        partial = stack.enter_context(atomic_path(output, overwrite=overwrite))
        writer: Any = None
        for entry in shards.files():
            with shards.file(entry) as path, parquet.ParquetFile(path) as file:
                if writer is None:
                    opening = parquet.ParquetWriter(
                        partial, file.schema_arrow, use_dictionary=False, compression="zstd"
                    )
                    writer = stack.enter_context(opening)
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))
            shards.on_bytes(entry["bytes"])


_JOINS: Mapping[str, Callable[[Shards, str | Path, bool], None]] = {
    ".npy": _join_vectors,
    ".pt": _join_vectors,
    ".safetensors": _join_vectors,
    ".parquet": _join_parquet,
}
