"""Folders of shards, as distributed runs write them: put together into one file, or checked."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.engine.actor import RECORDS
from uertool.engine.inputs import file_size
from uertool.engine.manifest import ERRORS, FORMAT, MANIFEST
from uertool.engine.spool import Note
from uertool.engine.store import Store, require_pyarrow
from uertool.errors import InputError, UsageError
from uertool.io.atomic import atomic_path, refuse_existing
from uertool.io.vector_writer import Sink, open_sink

_CHUNK = 1 << 20
_ROWS = 4096

OnBytes = Callable[[int], None]


def open_folder(path: str) -> tuple[Store, dict[str, Any]]:
    """A folder of shards and its manifest.

    Raises:
        InputError: it is none, or the run that writes it is not finished.
        MissingExtraError: pyarrow is not installed.
    """
    require_pyarrow()
    store = Store(path)
    data = store.read(MANIFEST)
    if data is None:
        if store.sizes(RECORDS):
            raise InputError(
                f"The run that writes {path} is not finished.",
                "The same command again goes on with what is not done.",
            )
        raise InputError(f"{path} is no folder of shards: it lacks {MANIFEST}.", "Check the path.")
    try:
        manifest = json.loads(data)
        known = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path}/{MANIFEST} is not the manifest of a folder of shards.")
    return store, manifest


def total_bytes(manifest: Mapping[str, Any]) -> int:
    """Bytes of all shards."""
    return sum(int(entry["bytes"]) for entry in _files(manifest))


def _files(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for shard in manifest["shards"]:
        yield from shard["files"]


# -- checking -------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What a check found.

    Attributes:
        shards, lines, rows, bytes, errors: as the manifest has them.
        problems: everything that is not as it should be, in sentences.
    """

    shards: int
    lines: int
    rows: int
    bytes: int
    errors: int
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON types."""
        return asdict(self)


def verify(
    path: str, *, inputs: bool = False, quick: bool = False, on_bytes: OnBytes | None = None
) -> Verdict:
    """Compare a folder of shards with its manifest: files, sizes, digests, numbers of lines.

    Args:
        path: the folder.
        inputs: also see that the input files are still there and as long as they were.
        quick: leave out the digests, for which every byte is read.
        on_bytes: told how many more bytes are read.

    Raises:
        InputError: there is no manifest to compare with.
    """
    store, manifest = open_folder(path)
    there = store.sizes()
    found = Verdict(
        len(manifest["shards"]),
        manifest["lines"],
        manifest["rows"],
        total_bytes(manifest),
        manifest["errors"],
    )
    following = 0
    for number, shard in enumerate(manifest["shards"]):
        if shard["shard"] != number or (shard["lines"] and shard["first"] != following):
            found.problems.append(f"shard {number} does not go on where the one before it ends")
        following += shard["lines"]
    if following != manifest["lines"]:
        found.problems.append(f"the shards have {following} lines and not {manifest['lines']}")
    for entry in _files(manifest):
        found.problems.extend(_wrong(store, entry, there, quick, on_bytes))
    known = {entry["name"] for entry in _files(manifest)}
    found.problems.extend(
        f"{name} is not in the manifest"
        for name in sorted(there)
        if name.startswith("part-") and name not in known
    )
    lines = (store.read(ERRORS) or b"").count(b"\n")
    if lines != manifest["errors"]:
        found.problems.append(f"{ERRORS} has {lines} lines and not {manifest['errors']}")
    if inputs:
        for entry in manifest["input"]:
            size = file_size(entry["path"])
            if size != entry["bytes"]:
                now = "is gone" if size is None else f"has {size} bytes and not {entry['bytes']}"
                found.problems.append(f"the input {entry['path']} {now}")
    return found


def _wrong(
    store: Store,
    entry: Mapping[str, Any],
    there: Mapping[str, int],
    quick: bool,
    on_bytes: OnBytes | None,
) -> Iterator[str]:
    name = entry["name"]
    if name not in there:
        yield f"{name} is missing"
    elif there[name] != entry["bytes"]:
        yield f"{name} has {there[name]} bytes and not {entry['bytes']}"
    elif not quick:
        digest = hashlib.sha256()
        with store.open(name) as stream:
            while chunk := bytes(stream.read(_CHUNK)):
                digest.update(chunk)
                if on_bytes is not None:
                    on_bytes(len(chunk))
        if digest.hexdigest() != entry["sha256"]:
            yield f"{name} was changed: its digest is not that of the manifest"


# -- putting together -----------------------------------------------------------------------------


def merge(
    path: str, output: str, *, overwrite: bool = False, on_bytes: OnBytes | None = None
) -> dict[str, Any]:
    """Put the shards of a folder together into the file that one machine would have written.

    Memory holds one piece of one shard, except for .pt, whose single tensor is put together first.

    Args:
        path: the folder.
        output: a file of the same format, or "-" for text and JSON lines to standard output.
        overwrite: whether an existing file may be replaced.
        on_bytes: told how many more bytes of shards are done.

    Returns:
        The manifest.

    Raises:
        InputError: a shard is missing or has another size than the manifest says.
        UsageError: the output's name says another format.
        OutputError: the output exists or cannot be written.
    """
    store, manifest = open_folder(path)
    suffix = manifest["suffix"]
    join = _JOINS.get(suffix, _join_text)
    if output == "-" and join is not _join_text:
        raise UsageError(
            f"Shards of {suffix} cannot go to standard output.", "Name a file for them."
        )
    if output != "-" and Path(output).suffix.lower() != suffix:
        wanted = Path(output).with_suffix(suffix).name
        raise UsageError(
            f"The shards are {suffix}, so they cannot become {Path(output).name}.",
            f"Name it {wanted}, for example.",
        )
    refuse_existing(output, overwrite)
    there = store.sizes()
    for entry in _files(manifest):
        for problem in _wrong(store, entry, there, True, None):
            raise InputError(
                f"{problem}, in {path}.", "See all with: uertool shards verify; run it again."
            )
    names = [
        [entry["name"] for entry in shard["files"]]
        for shard in manifest["shards"]
        if shard["files"]
    ]
    join(_Joining(store, names, output, overwrite, on_bytes or (lambda _: None)))
    return manifest


@dataclass(frozen=True)
class _Joining:
    """What is put together, and where."""

    store: Store
    names: Sequence[Sequence[str]]  # of each shard: its file, and further ones beside it
    output: str
    overwrite: bool
    on_bytes: OnBytes

    def main(self) -> list[str]:
        """The shards' own files, in order."""
        return [next(n for n in names if ".scales." not in n) for names in self.names]

    def scales(self) -> list[str]:
        """The files of int8 scales beside them, if there are any."""
        return [name for names in self.names for name in names if ".scales." in name]


def _join_text(job: _Joining) -> None:
    with ExitStack() as stack:
        if job.output == "-":
            sys.stdout.flush()
            sink: IO[bytes] = sys.stdout.buffer
        else:
            partial = stack.enter_context(atomic_path(job.output, overwrite=job.overwrite))
            sink = stack.enter_context(open(partial, "wb"))
        for name in job.main():
            with job.store.open(name) as stream:
                _copy(stream, sink, job.on_bytes)


def _copy(source: Any, sink: IO[bytes], on_bytes: OnBytes) -> None:
    while chunk := bytes(source.read(_CHUNK)):
        sink.write(chunk)
        on_bytes(len(chunk))


def _join_vectors(job: _Joining) -> None:
    """Rows as they are stored through the sink that wrote the shards."""
    with ExitStack() as stack:
        sink: Sink | None = None
        first: tuple[int, str, bool] | None = None
        scales = iter(job.scales())
        for name in job.main():
            beside = next(scales, None)
            with _local(job.store, name) as path, _local(job.store, beside) as scales_file:
                for part in _stored(path, scales_file):
                    if sink is None or first is None:
                        first = part.kind
                        sink = stack.enter_context(
                            open_sink(
                                job.output,
                                first[0],
                                precision=first[1],
                                tokens=first[2],
                                overwrite=job.overwrite,
                            )
                        )
                    if part.kind != first:
                        raise InputError(
                            f"{name} has rows of another kind than those before it: "
                            f"{part.kind[0]} numbers in {part.kind[1]}."
                        )
                    sink.write_stored(part.rows, part.scales, part.notes)
            job.on_bytes(job.store.size(name))


class _Part(NamedTuple):
    """Some rows of a shard: what `Sink.write_stored` takes, and (size, precision, tokens)."""

    rows: npt.NDArray[Any]
    scales: npt.NDArray[np.float32] | None
    notes: list[Note]
    kind: tuple[int, str, bool]


_PRECISIONS = {"float32": "float32", "float16": "float16", "int8": "int8", "uint8": "binary"}


def _stored(path: Path, scales_file: Path | None) -> Iterator[_Part]:
    """The rows of a shard in blocks; at least one, so that an empty shard tells its kind."""
    lines = positions = size = None
    if path.suffix == ".npy":
        matrix = np.load(path, mmap_mode="r")
        scales = None if scales_file is None else np.load(scales_file)
    elif path.suffix == ".pt":
        matrix = torch.load(path, weights_only=True, mmap=True).numpy()
        scales = None if scales_file is None else torch.load(scales_file, weights_only=True).numpy()
    else:
        with open_tensor_file(path) as file:
            tensors = {name: file.tensor(name).numpy().copy() for name in file.keys()}
            size = int(file.metadata["size"])  # bits fill up the last byte of a row
        matrix, lines = tensors["vectors"], tensors["lines"]
        scales, positions = tensors.get("scales"), tensors.get("positions")
    precision = _PRECISIONS[str(matrix.dtype)]
    if size is None:
        size = matrix.shape[1] * (8 if precision == "binary" else 1)
    for start in range(0, max(len(matrix), 1), _ROWS):
        here = slice(start, start + _ROWS)
        rows = np.ascontiguousarray(matrix[here])
        part_scales = None if scales is None else scales[here]
        yield _Part(
            rows,
            part_scales,
            _notes(len(rows), lines, positions, start),
            (size, precision, positions is not None),
        )


def _notes(
    count: int, lines: npt.NDArray[Any] | None, positions: npt.NDArray[Any] | None, start: int
) -> list[Note]:
    if lines is None:
        return [Note(0, "")] * count  # formats that keep none
    here = slice(start, start + count)
    if positions is None:
        return [Note(int(line), "") for line in lines[here]]
    pairs = zip(lines[here], positions[here], strict=True)
    return [Note(int(line), "", int(position)) for line, position in pairs]


@contextmanager
def _local(store: Store, name: str | None) -> Iterator[Any]:
    """A file of the store as one of this machine, copied where it is elsewhere."""
    if name is None:
        yield None
    elif store.is_local:
        yield store.local_path / name
    else:
        with store.folder() as folder:
            with store.open(name) as source, open(folder / name, "wb") as sink:
                _copy(source, sink, lambda _: None)
            yield folder / name


def _join_parquet(job: _Joining) -> None:
    from pyarrow import parquet

    with ExitStack() as stack:
        partial = stack.enter_context(atomic_path(job.output, overwrite=job.overwrite))
        writer: Any = None
        for name in job.main():
            source = stack.enter_context(job.store.open(name))
            file = parquet.ParquetFile(source)
            if writer is None:
                writer = stack.enter_context(
                    parquet.ParquetWriter(
                        partial, file.schema_arrow, use_dictionary=False, compression="zstd"
                    )
                )
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))
            job.on_bytes(source.size())


_JOINS: Mapping[str, Callable[[_Joining], None]] = {
    ".npy": _join_vectors,
    ".pt": _join_vectors,
    ".safetensors": _join_vectors,
    ".parquet": _join_parquet,
}
