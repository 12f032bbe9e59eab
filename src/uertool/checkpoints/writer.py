"""Writing weights tensor by tensor: safetensors or torch files, whole or in shards, atomically.

Both formats are written by hand, so that one tensor is held in memory at a time: the libraries of
either want all of them at once.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import pickle
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import torch

from uertool.checkpoints.formats.safetensors_file import DTYPES
from uertool.checkpoints.formats.tensor_file import TIED, TensorInfo
from uertool.checkpoints.formats.torch_state_dict import STORAGE_DTYPES
from uertool.errors import OutputError, listed, shown
from uertool.io.atomic import atomic_path, refuse_existing

Format = Literal["torch", "safetensors"]
Ties = Literal["copy", "alias"]

FORMATS: Mapping[str, Format] = {
    ".safetensors": "safetensors",
    ".bin": "torch",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
}

_CODES: Mapping[torch.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}
_CHUNK = 8 << 20
_ALIGNMENT = 64
_UNITS: Mapping[str, int] = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}

#: torch's storage classes by element type; other types are stored as untyped bytes.
_STORAGES: Mapping[torch.dtype, str] = {
    dtype: name for name, dtype in STORAGE_DTYPES.items() if name != "UntypedStorage"
}


def save_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]] | Mapping[str, torch.Tensor],
    path: str | Path,
    *,
    format: Format | None = None,
    metadata: Mapping[str, str] | None = None,
    infos: Sequence[TensorInfo] | None = None,
    tied: Mapping[str, str] | None = None,
    ties: Ties = "copy",
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write tensors under their names; nothing is left behind if that fails.

    Args:
        tensors: names and tensors; an iterator is consumed one tensor at a time.
        path: the file; with shards, the name from which theirs are made.
        format: "torch" or "safetensors"; by default the suffix of `path` decides.
        metadata: strings for the header of a safetensors file ("format": "pt" is added).
        infos: names, shapes and types of all that an iterator will yield, in its order. With it
            safetensors is written straight to its place; without it an iterator's bytes pass
            through a temporary file next to the target, since the header comes first.
        tied: alias to kept name, for tensors that are one. In a mapping or sequence, tensors that
            share their memory are recognised by themselves. The alias may be yielded or not.
        ties: how safetensors stores an alias. "copy" stores it a second time, which every program
            reads, and notes the tie in the metadata; "alias" stores the kept name alone and notes
            the other, as safetensors.torch.save_model does. Torch files always share one storage.
        max_shard_size: the most bytes of one file, as a number or "5GB"; larger outputs become
            NAME-00001-of-0000N files with an index; each tensor is in one of them.
        overwrite: whether existing files may be replaced.
        check: called with the finished file under its partial name; if it raises, the target stays
            as it was. Shards are not checked like this.

    Returns:
        The files written, an index last.

    Raises:
        OutputError: the target exists, cannot be written, or has an unknown suffix.
    """
    target = Path(path)
    chosen = format or _format_of(target)
    pairs: Iterable[tuple[str, torch.Tensor]]
    known = dict(tied or {})
    if isinstance(tensors, (Mapping, list, tuple)):
        pairs = list(tensors.items() if isinstance(tensors, Mapping) else tensors)
        known = {**_shared(pairs), **known}
        infos = [TensorInfo(name, tuple(t.shape), t.dtype) for name, t in pairs]
    else:
        pairs = tensors
    limit = _bytes_of(max_shard_size) if max_shard_size is not None else None
    job = _Job(target, chosen, dict(metadata or {}), _ends(known, infos), ties, overwrite)
    if limit is None:
        with atomic_path(target, overwrite=overwrite) as partial:
            job.write(partial, pairs, infos)
            if check is not None:
                check(partial)
        return [target]
    if infos is None:
        raise AssertionError("shards need to know the sizes of what is to come: give infos")
    return _write_shards(job, pairs, infos, limit)


@dataclass(frozen=True)
class _Job:
    """What all files of one call to `save_tensors` share."""

    target: Path
    form: Format
    metadata: dict[str, str]
    tied: dict[str, str]
    ties: Ties
    overwrite: bool

    def write(
        self,
        path: Path,
        pairs: Iterable[tuple[str, torch.Tensor]],
        infos: Sequence[TensorInfo] | None,
    ) -> None:
        """Fill the file `path`, a partial one of the target's folder."""
        with open(path, "wb") as stream:
            if self.form == "torch":
                _write_torch(stream, self.target, pairs, self.tied)
            elif infos is not None:
                self._write_safetensors(stream, pairs, infos)
            else:
                self._spool_safetensors(stream, path.parent, pairs)

    def _header(self, infos: Sequence[TensorInfo]) -> tuple[bytes, dict[str, int]]:
        """The header of a safetensors file, and the offset of each tensor's first byte.

        Larger element types come first, so that every tensor is aligned in a memory map.
        """
        notes = {"format": "pt", **self.metadata}
        names = {info.name for info in infos}
        tied = {alias: kept for alias, kept in self.tied.items() if kept in names}
        if self.ties == "alias":
            notes.update(tied)
        if tied:
            notes[TIED] = json.dumps(tied, ensure_ascii=False, sort_keys=True)
        table: dict[str, Any] = {"__metadata__": notes}
        offsets: dict[str, int] = {}
        position = 0
        for info in sorted(infos, key=lambda item: -item.dtype.itemsize):
            if info.dtype not in _CODES:
                raise OutputError(
                    f"{shown(info.name)} has the type {info.dtype}, which safetensors cannot hold."
                )
            end = position + info.nbytes
            table[info.name] = {
                "dtype": _CODES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [position, end],
            }
            offsets[info.name] = position
            position = end
        text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head = len(text).to_bytes(8, "little") + text
        return head, {name: len(head) + offset for name, offset in offsets.items()}

    def stored(self, name: str) -> bool:
        """Whether a tensor gets bytes of its own."""
        return name not in self.tied or (self.form == "safetensors" and self.ties == "copy")

    def _write_safetensors(
        self,
        stream: IO[bytes],
        pairs: Iterable[tuple[str, torch.Tensor]],
        infos: Sequence[TensorInfo],
    ) -> None:
        kept = [info for info in infos if self.stored(info.name)]
        expected = {info.name: info for info in kept}
        _refuse_duplicates(self.target, [info.name for info in infos])
        head, offsets = self._header(kept)
        stream.write(head)
        left = set(expected)
        for name, tensor in pairs:
            if not self.stored(name):
                continue
            info = expected.get(name)
            if name not in left or info is None or info[1:] != (tuple(tensor.shape), tensor.dtype):
                raise AssertionError(f"{name} was not announced like this")
            left.remove(name)
            stream.seek(offsets[name])
            _write_bytes(stream, tensor)
        if left:
            raise AssertionError(f"announced tensors were not written: {sorted(left)[:5]}")

    def _spool_safetensors(
        self, stream: IO[bytes], folder: Path, pairs: Iterable[tuple[str, torch.Tensor]]
    ) -> None:
        """Write the bytes to a temporary file first, because the header needs all sizes."""
        infos: list[TensorInfo] = []
        with tempfile.TemporaryFile(dir=folder) as aside:
            starts: dict[str, int] = {}
            left_out: set[str] = set()
            for name, tensor in pairs:
                if not self.stored(name):
                    left_out.add(self.tied[name])
                else:
                    infos.append(TensorInfo(name, tuple(tensor.shape), tensor.dtype))
                    starts[name] = aside.tell()
                    _write_bytes(aside, tensor)
            if left_out - set(starts):
                raise AssertionError(f"tied to what never came: {sorted(left_out - set(starts))}")
            _refuse_duplicates(self.target, [info.name for info in infos])
            head, offsets = self._header(infos)
            stream.write(head)
            for info in infos:
                aside.seek(starts[info.name])
                stream.seek(offsets[info.name])
                _copy(aside, stream, info.nbytes)


def _ends(tied: Mapping[str, str], infos: Sequence[TensorInfo] | None) -> dict[str, str]:
    """Alias to the name that is kept in the end; ties to names that will not come are dropped."""
    names = None if infos is None else {info.name for info in infos}
    known: dict[str, str] = {}
    for alias in tied:
        chain: dict[str, None] = {}
        kept = alias
        while kept in tied and kept not in known and kept not in chain:
            chain[kept] = None
            kept = tied[kept]
        kept = known.get(kept, kept)
        known.update(dict.fromkeys(chain, kept))
    return {
        alias: kept
        for alias, kept in known.items()
        if alias != kept and (names is None or kept in names)
    }


def is_weight_file(path: Path) -> bool:
    """Whether a path has the suffix of a weight file: model.bin, model.bin-1000."""
    return _suffix_of(path) in FORMATS


def _suffix_of(path: Path) -> str:
    # UER-py appends the training step behind the suffix.
    return re.sub(r"-\d+$", "", path.suffix)


def _format_of(path: Path) -> Format:
    if not is_weight_file(path):
        raise OutputError(
            f"The output {path} has the suffix {path.suffix!r}, which is not a format of weights.",
            f"Use one of: {', '.join(FORMATS)}.",
        )
    return FORMATS[_suffix_of(path)]


def _bytes_of(size: int | str) -> int:
    """A size in bytes from a number or a text such as "5GB" or "500 MB"."""
    text = str(size).strip().upper().replace("IB", "B")
    digits = text.rstrip("KMGB ")
    unit = text[len(digits) :].strip() or "B"
    unit = unit if unit.endswith("B") else unit + "B"
    try:
        value = float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0
    if not 0 < value < float("inf"):
        raise OutputError(f"Invalid shard size: {size!r} (for example 5GB or 500MB).")
    return int(value)


def _shared(pairs: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Alias to first name, for tensors that are the same view of the same memory."""
    first: dict[tuple[Any, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in pairs:
        if tensor.numel() == 0:
            continue
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if key in first:
            tied[name] = first[key]
        else:
            first[key] = name
    return tied


def _refuse_duplicates(path: Path, names: Sequence[str]) -> None:
    double = sorted(name for name, count in Counter(names).items() if count > 1)
    if double:
        raise OutputError(f"The output {path} would hold {listed(double)} twice.")


def _write_bytes(stream: IO[bytes], tensor: torch.Tensor) -> int:
    """Write the elements of a tensor, row-major and little-endian; returns their bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel() == 0:
        return 0
    raw = memoryview(flat.view(torch.uint8).numpy().data)
    for start in range(0, len(raw), _CHUNK):
        stream.write(raw[start : start + _CHUNK])
    return len(raw)


def _copy(source: IO[bytes], target: IO[bytes], count: int) -> None:
    while count:
        chunk = source.read(min(count, _CHUNK))
        target.write(chunk)
        count -= len(chunk)


class _StorageStub:
    """Represents a storage while data.pkl is pickled."""

    def __init__(self, key: str, kind: type, numel: int) -> None:
        self.key, self.kind, self.numel = key, kind, numel


class _TensorStub:
    """Represents a tensor: pickles as the call that torch.load makes to rebuild it."""

    def __init__(self, storage: _StorageStub, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.storage, self.shape, self.dtype = storage, shape, dtype

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        from collections import OrderedDict

        strides: list[int] = []
        step = 1
        for size in reversed(self.shape):
            strides.insert(0, step)
            step *= max(size, 1)
        view: tuple[Any, ...] = (self.storage, 0, self.shape, tuple(strides), False, OrderedDict())
        if self.dtype in _STORAGES:
            return torch._utils._rebuild_tensor_v2, view
        return torch._utils._rebuild_tensor_v3, (*view, self.dtype)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _StorageStub):
            return ("storage", obj.kind, obj.key, "cpu", obj.numel)
        return None


def _write_torch(
    stream: IO[bytes],
    path: Path,
    pairs: Iterable[tuple[str, torch.Tensor]],
    tied: Mapping[str, str],
) -> None:
    """Write what torch.load reads: storages as they come, the pickle that describes them last."""
    root = "archive"
    written: dict[str, _TensorStub] = {}  # by the kept name of a tie
    order: list[str] = []
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, tensor in pairs:
            order.append(name)
            kept = tied.get(name, name)
            if kept in written:
                continue
            number = str(len(written))
            kind: Any = torch.UntypedStorage
            numel = tensor.numel() * tensor.dtype.itemsize
            if tensor.dtype in _STORAGES:
                kind, numel = getattr(torch, _STORAGES[tensor.dtype]), tensor.numel()
            stub = _StorageStub(number, kind, numel)
            written[kept] = _TensorStub(stub, tuple(tensor.shape), tensor.dtype)
            with _aligned(archive, f"{root}/data/{number}", tensor.nbytes) as entry:
                _write_bytes(entry, tensor)
        _refuse_duplicates(path, order)
        came = set(order)
        order.extend(alias for alias in tied if alias not in came and tied[alias] in written)
        text = io.BytesIO()
        _Pickler(text, protocol=2).dump({name: written[tied.get(name, name)] for name in order})
        small = {"data.pkl": text.getvalue(), "byteorder": b"little", "version": b"3\n"}
        for name, content in small.items():
            with _aligned(archive, f"{root}/{name}", len(content)) as entry:
                entry.write(content)


@contextlib.contextmanager
def _aligned(archive: zipfile.ZipFile, name: str, size: int) -> Iterator[IO[bytes]]:
    """An entry with its bytes at a multiple of 64, as in torch's own files.

    A padding field before the bytes does that, so that memory maps are aligned.
    """
    large = size >= 1 << 30
    info = zipfile.ZipInfo(name)  # with zipfile's fixed date: the same input gives the same bytes
    info.file_size = size
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(name.encode()) + (20 if large else 0) + 4
    info.extra = b"FB" + (-begin % _ALIGNMENT).to_bytes(2, "little")
    info.extra += b"Z" * (-begin % _ALIGNMENT)
    with archive.open(info, "w", force_zip64=large) as entry:
        yield entry


def _write_shards(
    job: _Job,
    pairs: Iterable[tuple[str, torch.Tensor]],
    infos: Sequence[TensorInfo],
    limit: int,
) -> list[Path]:
    """Write one file if all fits, otherwise shards and an index, all renamed at the very end."""
    own = [info for info in infos if job.stored(info.name)]
    total = sum(info.nbytes for info in own)
    if total <= limit:
        with atomic_path(job.target, overwrite=job.overwrite) as partial:
            job.write(partial, pairs, infos)
        return [job.target]
    groups = _groups(own, limit)
    stem, suffix, folder = job.target.stem, job.target.suffix, job.target.parent
    paths = [
        folder / f"{stem}-{number:05d}-of-{len(groups):05d}{suffix}"
        for number in range(1, len(groups) + 1)
    ]
    index = folder / f"{job.target.name}.index.json"
    for item in (*paths, index, job.target):
        refuse_existing(item, job.overwrite)
    places = {
        info.name: path.name for path, group in zip(paths, groups, strict=True) for info in group
    }
    if job.form == "torch":
        places.update((alias, places[kept]) for alias, kept in job.tied.items())
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    source = ((name, tensor) for name, tensor in pairs if job.stored(name))
    with contextlib.ExitStack() as stack:
        # Entered first, the index is renamed last: until then nothing looks complete.
        page = stack.enter_context(atomic_path(index, overwrite=job.overwrite))
        page.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for path, group in zip(paths, groups, strict=True):
            partial = stack.enter_context(atomic_path(path, overwrite=job.overwrite))
            job.write(partial, itertools.islice(source, len(group)), group)
    # An old single file would be found before the new shards.
    job.target.unlink(missing_ok=True)
    return [*paths, index]


def _groups(infos: Sequence[TensorInfo], limit: int) -> list[list[TensorInfo]]:
    """Tensors in their order, cut before the one that would exceed `limit` bytes."""
    groups: list[list[TensorInfo]] = [[]]
    filled = 0
    for info in infos:
        if groups[-1] and filled + info.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(info)
        filled += info.nbytes
    return groups
