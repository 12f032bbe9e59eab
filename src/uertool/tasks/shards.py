"""Folders of shards, as runs on a cluster write them, and parts of an input: joined, or checked."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uertool.engine.inputs.sources import file_size
from uertool.engine.storage.folder import damage
from uertool.engine.storage.joining import join
from uertool.engine.storage.manifest import ERRORS, FORMAT, MANIFEST, RECORDS
from uertool.engine.storage.shards import Shards
from uertool.engine.storage.store import Store
from uertool.errors import InputError, UsageError, counted
from uertool.io.atomic import atomic_bytes, atomic_path, refuse_existing
from uertool.io.display import Report
from uertool.io.vector_reader import stored_vectors
from uertool.io.vector_writer import Note, open_sink

_ROWS = 4096

OnBytes = Callable[[int], None]


def open_folder(path: str) -> tuple[Store, dict[str, Any]]:
    """A folder of shards and its manifest.

    Raises:
        InputError: it is none, or the run that writes it is not finished.
        MissingExtraError: a URI, and pyarrow is not installed.
    """
    store = Store(path)
    data = store.read(MANIFEST)
    if data is None:
        if store.sizes(RECORDS):
            raise InputError(
                f"The run that writes {path} is not finished.",
                "Run the same command again to continue it.",
            )
        raise InputError(
            f"{path} is not a folder of shards: it lacks {MANIFEST}.", "Check the path."
        )
    try:
        manifest = json.loads(data)
        known = manifest["format"] == FORMAT
        _ = [entry["sha256"] for entry in _files(manifest)], manifest["rows"], manifest["suffix"]
    except (ValueError, KeyError, TypeError, RecursionError):
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


@dataclass(repr=False)
class ShardsReport(Report):
    """The result of a check.

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


def verify(
    path: str, *, inputs: bool = False, quick: bool = False, on_bytes: OnBytes | None = None
) -> ShardsReport:
    """Compare a folder of shards with its manifest: files, sizes, digests, numbers of lines.

    Args:
        path: the folder.
        inputs: also check that the input files are still there and as long as they were.
        quick: leave out the digests, for which every byte is read.
        on_bytes: called with how many more bytes are read.

    Raises:
        InputError: there is no manifest to compare with.
    """
    store, manifest = open_folder(path)
    there = store.sizes()
    found = ShardsReport(
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
        found.problems.append(
            f"the shards have {counted(following, 'line')} and not {manifest['lines']:,}"
        )
    for entry in _files(manifest):
        wrong = damage(store, entry, there, digest=not quick, on_bytes=on_bytes)
        found.problems.extend([] if wrong is None else [wrong])
    known = {entry["name"] for entry in _files(manifest)}
    found.problems.extend(
        f"{name} is not in the manifest"
        for name in sorted(there)
        if name.startswith("part-") and name not in known
    )
    lines = (store.read(ERRORS) or b"").count(b"\n")
    if lines != manifest["errors"]:
        found.problems.append(f"{ERRORS} has {counted(lines, 'line')} and not {manifest['errors']}")
    if inputs:
        for entry in manifest["input"]:
            size = file_size(entry["path"])
            if size != entry["bytes"]:
                now = (
                    "is gone"
                    if size is None
                    else f"has {counted(size, 'byte')} and not {entry['bytes']}"
                )
                found.problems.append(f"the input {entry['path']} {now}")
    return found


# -- joining --------------------------------------------------------------------------------------


def merge(
    path: str, output: str, *, overwrite: bool = False, on_bytes: OnBytes | None = None
) -> dict[str, Any]:
    """Join the shards of a folder into the file that one machine would have written.

    Memory holds one piece of one shard, except for .pt: its single tensor is put together first.

    Args:
        path: the folder.
        output: a file of the same format, or "-" for text and JSON lines to standard output.
        overwrite: whether an existing file may be replaced.
        on_bytes: called with how many more bytes of shards are done.

    Returns:
        The manifest.

    Raises:
        InputError: a shard is missing, or is not as the manifest says.
        UsageError: the output has the suffix of another format.
        OutputError: the output exists or cannot be written.
    """
    store, manifest = open_folder(path)
    _check_suffix(output, manifest["suffix"])
    refuse_existing(output, overwrite)
    there = store.sizes()
    for entry in _files(manifest):
        wrong = damage(store, entry, there, digest=False)
        if wrong is not None:
            raise InputError(
                f"{wrong}, in {path}.",
                "See all with: uertool shards verify; the command that wrote it repairs it.",
            )
    shards = Shards(store, manifest["suffix"], manifest["shards"], on_bytes or (lambda _: None))
    join(shards, output, overwrite=overwrite)
    return manifest


def _check_suffix(output: str, suffix: str) -> None:
    if output != "-" and Path(output).suffix.lower() != suffix:
        wanted = Path(output).with_suffix(suffix).name
        raise UsageError(
            f"The shards are {suffix}, so they cannot become {Path(output).name}.",
            f"Name it {wanted}, for example.",
        )


# -- parts of an input ----------------------------------------------------------------------------


def merge_parts(paths: Sequence[str], output: str, *, overwrite: bool = False) -> int:
    """Join what runs with `shard` 1/n to n/n wrote, in the order of the lines.

    Files of JSON lines, .safetensors and .parquet know the lines of their rows. In .npy and .pt the
    i-th of n parts has the rows i, i + n, i + 2n and so on, so every line must have a row.

    Args:
        paths: the parts, in their order.
        output: a file of the same format; "-" for JSON lines to standard output.
        overwrite: whether an existing file may be replaced.

    Returns:
        The number of rows.

    Raises:
        UsageError: a format that does not know its lines.
        InputError: parts do not fit together.
    """
    suffix = Path(paths[0]).suffix.lower()
    _check_suffix(output, suffix)
    if suffix not in _PARTS:
        raise UsageError(
            f"Parts of {suffix or 'text'} cannot be joined: they do not know their lines.",
            f"Known are {', '.join(_PARTS)}.",
        )
    for path in paths:
        if Path(path).suffix.lower() != suffix or not Path(path).is_file():
            raise InputError(f"{path} is not a file of {suffix}, as {paths[0]} is.")
    refuse_existing(output, overwrite)
    return _PARTS[suffix]([Path(path) for path in paths], output, overwrite)


def _merge_json(paths: Sequence[Path], output: str, overwrite: bool) -> int:
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("rb")) for path in paths]
        sink = stack.enter_context(atomic_bytes(output, overwrite=overwrite))
        rows = 0
        for _, _, line in heapq.merge(*map(_numbered, streams, range(len(streams)))):
            sink.write(line)
            rows += 1
    return rows


def _numbered(stream: Any, part: int) -> Iterator[tuple[int, int, bytes]]:
    """Lines with their numbers, and a number that keeps the order of equal ones."""
    last = 0
    for place, line in enumerate(stream):
        try:
            number = json.loads(line)["line"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f'{stream.name}, line {place + 1} is not a JSON object with the field "line".'
            ) from None
        if not isinstance(number, int) or number < last:
            raise InputError(f"{stream.name}, line {place + 1} is out of order.")
        last = number
        yield number, part, line


def _merge_vectors(paths: Sequence[Path], output: str, overwrite: bool) -> int:
    """Rows as they are stored, sorted by their lines."""
    parts = [stored_vectors(path) for path in paths]
    first = parts[0]
    lines = []
    for number, part in enumerate(parts):
        if part.kind != first.kind:
            raise InputError(f"{paths[number]} has rows of another kind than {paths[0]}.")
        if part.lines is None and not 0 <= len(parts[0].rows) - len(part.rows) <= 1:
            raise InputError(
                f"{paths[number]} has {counted(len(part.rows), 'row')} and {paths[0]} "
                f"{len(first.rows):,}, "
                "so they are not parts of one input."
            )
        own = np.arange(len(part.rows)) * len(parts) + number
        lines.append(own if part.lines is None else part.lines)
    every = np.concatenate(lines)
    owner = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    place = np.concatenate([np.arange(len(part.rows)) for part in parts])
    order = np.argsort(every, kind="stable")
    size, precision, tokens = first.kind
    with open_sink(output, size, precision=precision, tokens=tokens, overwrite=overwrite) as sink:
        for start in range(0, len(order), _ROWS):
            chosen = order[start : start + _ROWS]
            rows = np.stack([parts[owner[n]].rows[place[n]] for n in chosen])
            scales = None
            if first.scales is not None:
                found = [parts[owner[n]].scales for n in chosen]
                pairs = zip(found, place[chosen], strict=True)
                scales = np.array([s[p] for s, p in pairs if s is not None], dtype=np.float32)
            notes = [
                Note(int(every[n]), "", _position(parts[owner[n]], int(place[n]))) for n in chosen
            ]
            sink.write_stored(rows, scales, notes)
    return len(order)


def _position(part: Any, row: int) -> int | None:
    return None if part.positions is None else int(part.positions[row])


def _merge_parquet(paths: Sequence[Path], output: str, overwrite: bool) -> int:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.concat_tables([parquet.read_table(path) for path in paths])
    keys = [("line", "ascending")]
    keys += [("position", "ascending")] if "position" in table.column_names else []
    with atomic_path(output, overwrite=overwrite) as partial:
        parquet.write_table(table.sort_by(keys), partial, use_dictionary=False, compression="zstd")
    return int(table.num_rows)


_PARTS: Mapping[str, Callable[[Sequence[Path], str, bool], int]] = {
    ".jsonl": _merge_json,
    ".npy": _merge_vectors,
    ".pt": _merge_vectors,
    ".safetensors": _merge_vectors,
    ".parquet": _merge_parquet,
}
