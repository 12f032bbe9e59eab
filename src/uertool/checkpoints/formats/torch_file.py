"""Files of torch.save, both formats, read lazily from a memory map without unpickling.

The pickle inside is followed by `pickle_guard.walk`, which runs nothing; tensors are cut out of
the map where their storages lie.
"""

from __future__ import annotations

import io
import itertools
import zipfile
import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.formats.pickle_scan import (
    MAX_BYTES,
    Call,
    Global,
    Persistent,
    Verdict,
    Walked,
    judged,
    refusal,
    walk,
)
from uertool.checkpoints.formats.tensor_file import (
    MappedBytes,
    TensorFile,
    TensorInfo,
    unknown_name,
)
from uertool.errors import CheckpointError

_STORAGE_DTYPES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}

#: Outer keys under which training programs keep the state dict, most telling first.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "ema", "params")

_MAX_WRAPPING = 4


@dataclass(frozen=True)
class _Storage:
    """Where the elements of one or more tensors lie in the file, in bytes."""

    key: str
    start: int
    nbytes: int


@dataclass(frozen=True)
class _View:
    """A tensor as part of a storage: offset and strides in elements."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def extent(self) -> int:
        """Elements from the first to the last one that the tensor touches."""
        if 0 in self.shape:
            return 0
        pairs = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in pairs)


#: Finds the storage of a persistent id: (key, location in the pickle's words, numel, dtype).
_FindStorage = Callable[[str, int, torch.dtype, Any], _Storage]


class _TorchFile(TensorFile):
    """What both formats share: views into mapped storages, by name."""

    def __init__(self, path: Path, mapped: MappedBytes, walked: Walked, find: _FindStorage) -> None:
        self.path = path
        self._mapped = mapped
        contents = _StateDict(path, walked, find, len(mapped))
        self._views = contents.views
        self.metadata = contents.metadata
        self.skipped = contents.skipped
        self.notices = tuple(contents.notices)

    def keys(self) -> list[str]:
        return list(self._views)

    def info(self, name: str) -> TensorInfo:
        view = self._view(name)
        return TensorInfo(name, view.shape, view.dtype)

    def tensor(self, name: str) -> torch.Tensor:
        view = self._view(name)
        start = view.storage.start + view.offset * view.dtype.itemsize
        flat = self._mapped.flat(start, view.extent, view.dtype)
        if view.contiguous:
            return flat.view(view.shape)
        return flat.as_strided(view.shape, view.strides)

    def storage_key(self, name: str) -> Hashable:
        view = self._view(name)
        return (view.storage.start, view.offset, view.dtype, view.shape, view.strides)

    def release(self, name: str | None = None) -> None:
        if name is None:
            self._mapped.release(0, len(self._mapped))
            return
        view = self._view(name)
        start = view.storage.start + view.offset * view.dtype.itemsize
        self._mapped.release(start, start + view.extent * view.dtype.itemsize)

    def __contains__(self, name: object) -> bool:
        return name in self._views

    def _view(self, name: str) -> _View:
        if name not in self._views:
            raise unknown_name(self, name)
        return self._views[name]


class TorchZipFile(_TorchFile):
    """The format of torch 1.6 and later: an uncompressed zip with a pickle and raw storages."""

    format = "torch-zip"

    def __init__(self, path: Path) -> None:
        """Read the directory of the archive and the pickle; CheckpointError if either is wrong."""
        mapped = MappedBytes(path)
        self._entries = _read_archive(path, mapped)
        pickles = [name for name in self._entries if _is_data_pickle(name)]
        if len(pickles) != 1:
            raise CheckpointError(
                f"{path} holds {len(pickles)} entries named data.pkl, where a torch file has one."
            )
        root = pickles[0][: -len("data.pkl")]
        order = self._entries.get(f"{root}byteorder")
        if order is not None and mapped.buffer[order.start : order.end] == b"big":
            raise CheckpointError(
                f"{path} was written on a big-endian machine.",
                "Load and save it once with torch on a common machine.",
            )
        entry = self._entries[pickles[0]]
        if entry.end - entry.start > MAX_BYTES:
            raise CheckpointError(f"{path}: its data.pkl is too large for a state dict.")
        data = mapped.buffer[entry.start : entry.end]
        if zlib.crc32(data) != entry.checksum:
            raise CheckpointError(
                f"{path} is damaged: the checksum of its data.pkl is wrong.",
                "Download or copy it again.",
            )
        walked = walk(io.BytesIO(data))
        _refuse_bad_pickle(path, walked, "data.pkl")

        def find(key: str, numel: int, dtype: torch.dtype, _: Any) -> _Storage:
            item = self._entries.get(f"{root}data/{key}")
            if item is None:
                raise CheckpointError(f"{path} is damaged: its storage {key} is missing.")
            return _Storage(key, item.start, item.end - item.start)

        super().__init__(path, mapped, walked, find)

    def damage(self) -> list[str]:
        users: dict[int, list[str]] = {}
        for name, view in self._views.items():
            users.setdefault(view.storage.start, []).append(name)
        bad = []
        for item in self._entries.values():
            checksum = 0
            for start in range(item.start, item.end, 1 << 24):
                end = min(start + (1 << 24), item.end)
                checksum = zlib.crc32(self._mapped.buffer[start:end], checksum)
                self._mapped.release(start, end)
            if checksum != item.checksum:
                bad.extend(users.get(item.start, []))
        return bad


class TorchLegacyFile(_TorchFile):
    """The format before torch 1.6: five pickles in a row, then the storages one after another."""

    format = "torch-legacy"

    def __init__(self, path: Path) -> None:
        """Follow the pickles and locate the storages; CheckpointError if anything is wrong."""
        mapped = MappedBytes(path)
        with open(path, "rb") as stream:
            parts = []
            names = ("magic number", "version", "system", "state dict", "list of storages")
            for name in names:
                walked = walk(stream)
                _refuse_bad_pickle(path, walked, name)
                parts.append(walked)
        system, contents, keys = parts[2].value, parts[3], parts[4]
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise CheckpointError(f"{path} was written on a big-endian machine.")
        sizes = _legacy_sizes(contents)
        spots = _legacy_spots(path, mapped, keys, sizes)

        def find(key: str, numel: int, dtype: torch.dtype, view: Any) -> _Storage:
            spot = spots.get(key)
            if spot is None:
                raise CheckpointError(f"{path} is damaged: its storage {key} is missing.")
            if view is None:
                return spot
            if not (isinstance(view, tuple) and len(view) == 3 and _sizes(view[1:])):
                raise _malformed(path, f"the view of storage {key}")
            first, count = view[1] * dtype.itemsize, view[2] * dtype.itemsize
            if first + count > spot.nbytes:
                raise _malformed(path, f"the view of storage {key}")
            return _Storage(key, spot.start + first, count)

        super().__init__(path, mapped, contents, find)


class _StateDict:
    """The names and views that a walked pickle describes, wrappers taken off."""

    def __init__(self, path: Path, walked: Walked, find: _FindStorage, size: int) -> None:
        self.path = path
        self.find = find
        self.size = size
        self.views: dict[str, _View] = {}
        self.metadata: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.notices: list[str] = []
        table = self.unwrap(walked.value)
        doubled = [name for name in walked.duplicates if name in table]
        if doubled:
            raise CheckpointError(
                f"{path} names {', '.join(doubled[:5])} twice, so it is unclear which one holds."
            )
        shown: list[str] = []
        for name, value in table.items():
            view = self.view_of(name, value)
            if view is None:
                self.skipped[str(name)] = _describe(value)
                shown.append(f"{name} ({self.skipped[str(name)]})")
            else:
                self.views[name] = view
        if shown:
            rest = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
            names = ", ".join(shown[:6])
            self.notices.append(f"Entries that are no tensors were left out: {names}{rest}.")

    def unwrap(self, value: object) -> dict[Any, Any]:
        """The dictionary that holds the tensors, following outer keys such as "state_dict"."""
        trail: list[str] = []
        others: list[str] = []
        for _ in range(_MAX_WRAPPING):
            value = _without_class(value)
            if not isinstance(value, dict):
                raise CheckpointError(
                    f"{self.path} holds {_describe(value)} where a dictionary of names and "
                    "tensors is expected.",
                    "Save the weights with torch.save(model.state_dict(), path).",
                )
            if any(_is_tensor(item) for item in value.values()):
                break
            inner = {key: item for key, item in value.items() if _has_tensors(item)}
            key = next((name for name in WRAPPERS if name in inner), None)
            if key is None and len(inner) == 1:
                key = next(iter(inner))
            if key is None:
                if inner:
                    raise CheckpointError(
                        f"{self.path} holds several groups of tensors "
                        f"({', '.join(map(str, list(inner)[:6]))}), none named as a model's.",
                        f"Save the right one alone, or under one of: {', '.join(WRAPPERS)}.",
                    )
                raise CheckpointError(f"{self.path} holds no tensors.")
            others.extend(str(name) for name in value if name != key)
            trail.append(str(key))
            value = inner[key]
        else:
            raise CheckpointError(f"{self.path} holds dictionaries nested too deep to be a model.")
        if trail:
            self.metadata["unwrapped"] = ".".join(trail)
            beside = f" (beside it: {', '.join(others[:8])})" if others else ""
            self.notices.append(f"The weights were taken from {'.'.join(trail)!r}{beside}.")
            self.skipped.update(dict.fromkeys(others, "beside the weights"))
        return value

    def view_of(self, name: object, value: object) -> _View | None:
        """The view that a recorded rebuild call describes, or None if it is no tensor."""
        call = _tensor_call(value)
        if call is None or not isinstance(name, str):
            return None
        function = call.function
        assert isinstance(function, Global)
        arguments = call.arguments
        if not isinstance(arguments, tuple) or len(arguments) < 4:
            raise _malformed(self.path, name)
        storage, offset, shape, strides = arguments[:4]
        shape, strides = _plain_size(shape), _plain_size(strides)
        if not (_sizes((offset,)) and _sizes(shape) and _sizes(strides)):
            raise _malformed(self.path, name)
        if len(shape) != len(strides) or not isinstance(storage, Persistent):
            raise _malformed(self.path, name)
        spot, dtype = self.locate(name, storage)
        if function.name == "_rebuild_tensor_v3":
            named = arguments[6] if len(arguments) > 6 else None
            dtype = _dtype_of(self.path, name, named)
        view = _View(spot, dtype, offset, shape, strides)
        if (offset + view.extent) * dtype.itemsize > spot.nbytes:
            raise CheckpointError(
                f"{self.path} is damaged: {name} reaches beyond the bytes that are stored for it."
            )
        count = 1
        for length in shape:
            count *= length
        if count * dtype.itemsize > self.size:
            raise CheckpointError(
                f"{self.path}: {name} claims {count} elements, more than the file can hold."
            )
        return view

    def locate(self, name: str, storage: Persistent) -> tuple[_Storage, torch.dtype]:
        identity = storage.identity
        if (
            not isinstance(identity, tuple)
            or len(identity) < 5
            or identity[0] != "storage"
            or not isinstance(identity[1], Global)
            or not isinstance(identity[2], str)
            or not _sizes((identity[4],))
        ):
            raise _malformed(self.path, name)
        kind, key, numel = identity[1].name, identity[2], identity[4]
        dtype = _STORAGE_DTYPES.get(kind)
        if dtype is None:
            raise CheckpointError(f"{self.path}: {name} has the storage type {kind}, unknown here.")
        spot = self.find(key, numel, dtype, identity[5] if len(identity) > 5 else None)
        if numel * dtype.itemsize > spot.nbytes:
            raise CheckpointError(
                f"{self.path} is damaged: {name} should have {numel * dtype.itemsize} bytes, "
                f"but {spot.nbytes} are stored."
            )
        return spot, dtype


@dataclass(frozen=True)
class _Entry:
    """The bytes of one entry of an archive."""

    start: int
    end: int
    checksum: int


def _read_archive(path: Path, mapped: MappedBytes) -> dict[str, _Entry]:
    """Where each entry's bytes lie, after checking that nothing in the archive is crooked."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile raises many kinds of errors on broken archives
        raise CheckpointError(f"{path} is a broken archive ({error}).") from error
    entries: dict[str, _Entry] = {}
    for info in infos:
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise CheckpointError(
                f"{path} is not loaded: its entry {name!r} points outside the archive."
            )
        if name in entries:
            raise CheckpointError(f"{path} is not loaded: it has two entries named {name!r}.")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(
                f"{path} is not loaded: its entry {name!r} is compressed "
                f"({info.compress_size} bytes for {info.file_size}); torch never does that.",
                "If it was packed again by hand, load and save it once with torch.",
            )
        head = mapped.buffer[info.header_offset : info.header_offset + 30]
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise CheckpointError(
                f"{path} is damaged: its entry {name!r} is not where it should be."
            )
        start = info.header_offset + 30
        start += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        end = start + info.file_size
        if end > len(mapped):
            raise CheckpointError(f"{path} is truncated: its entry {name!r} ends beyond the file.")
        entries[name] = _Entry(start, end, info.CRC)
    filled = sorted((item.start, item.end, name) for name, item in entries.items())
    filled = [item for item in filled if item[1] > item[0]]
    for before, after in itertools.pairwise(filled):
        if after[0] < before[1]:
            raise CheckpointError(
                f"{path} is not loaded: its entries {before[2]!r} and {after[2]!r} overlap."
            )
    return entries


def _is_data_pickle(name: str) -> bool:
    return name == "data.pkl" or (name.endswith("/data.pkl") and name.count("/") == 1)


def _refuse_bad_pickle(path: Path, walked: Walked, where: str) -> None:
    """Raise unless the pickle is whole and names nothing but tensors and plain data."""
    uses = judged(walked, where)
    bad = [use for use in uses if use.verdict in (Verdict.UNKNOWN, Verdict.DANGEROUS)]
    if bad:
        raise refusal(path, bad)
    if walked.error:
        raise CheckpointError(
            f"{path} is damaged or truncated: in its {where}, {walked.error}.",
            "Download or copy it again.",
        )


def _legacy_sizes(contents: Walked) -> dict[str, tuple[int, int]]:
    """Element count and element size of every storage that the pickle refers to."""
    sizes: dict[str, tuple[int, int]] = {}
    for identity in contents.storages:
        if isinstance(identity, tuple) and len(identity) >= 5 and isinstance(identity[1], Global):
            dtype = _STORAGE_DTYPES.get(identity[1].name)
            if dtype is not None and isinstance(identity[2], str) and _sizes((identity[4],)):
                sizes[identity[2]] = (identity[4], dtype.itemsize)
    return sizes


def _legacy_spots(
    path: Path, mapped: MappedBytes, keys: Walked, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, _Storage]:
    """Where each storage lies: they follow the pickles, each behind its element count."""
    if not isinstance(keys.value, list):
        raise _malformed(path, "the list of storages")
    position = keys.end
    spots: dict[str, _Storage] = {}
    for key in keys.value:
        if key not in sizes:
            raise _malformed(path, f"storage {key}")
        numel, itemsize = sizes[key]
        head = mapped.buffer[position : position + 8]
        if len(head) < 8:
            raise CheckpointError(f"{path} is truncated: storage {key} is missing.")
        stored = int.from_bytes(head, "little")
        if stored != numel:
            raise CheckpointError(
                f"{path} is damaged: storage {key} has {stored} elements where its list "
                f"says {numel}."
            )
        start = position + 8
        position = start + numel * itemsize
        if position > len(mapped):
            raise CheckpointError(
                f"{path} is truncated: storage {key} should end at byte {position}, "
                f"the file at {len(mapped)}."
            )
        spots[key] = _Storage(key, start, numel * itemsize)
    return spots


def _malformed(path: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: the description of {name} makes no sense.")


def _sizes(values: Any) -> bool:
    """Whether all are non-negative integers of a size that can occur."""
    return isinstance(values, tuple) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 48
        for item in values
    )


def _plain_size(value: Any) -> Any:
    """The tuple inside a recorded torch.Size(...)."""
    if isinstance(value, Call) and isinstance(value.arguments, tuple) and len(value.arguments) == 1:
        return value.arguments[0]
    return value


def _without_class(value: object) -> object:
    """The items of a dictionary-like object (OrderedDict of pairs, defaultdict, Namespace)."""
    if isinstance(value, Call) and isinstance(value.function, Global):
        if str(value.function) == "collections.OrderedDict" and isinstance(value.arguments, tuple):
            pairs = value.arguments[0] if value.arguments else []
            try:
                return {pair[0]: pair[1] for pair in pairs}
            except (TypeError, IndexError, KeyError):
                return value
        if value.items is not None:
            return value.items
    return value


_TENSOR_CALLS = frozenset(
    [
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    ]
)
_PARAMETER_CALLS = frozenset(
    [
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
    ]
)


def _tensor_call(value: object) -> Call | None:
    """The innermost rebuild of a tensor, with Parameter and subclass wrappers taken off."""
    for _ in range(4):
        if not isinstance(value, Call) or not isinstance(value.arguments, tuple):
            return None
        name, arguments = str(value.function), value.arguments
        if name in _TENSOR_CALLS:
            return value
        if name in _PARAMETER_CALLS and arguments:
            value = arguments[0]
        elif name == "torch._tensor._rebuild_from_type_v2" and len(arguments) >= 3:
            value = Call(arguments[0], arguments[2])
        else:
            return None
    return None


def _is_tensor(value: object) -> bool:
    return _tensor_call(value) is not None


def _has_tensors(value: object) -> bool:
    """Whether a dictionary holds tensors, itself or in dictionaries within it.

    Each dictionary is visited once: a crooked pickle can nest one in itself a thousand times.
    """
    seen: set[int] = set()
    level = [value]
    for _ in range(_MAX_WRAPPING):
        tables = [table for table in map(_without_class, level) if isinstance(table, dict)]
        tables = [table for table in tables if id(table) not in seen]
        seen.update(map(id, tables))
        if any(_is_tensor(item) for table in tables for item in table.values()):
            return True
        level = [item for table in tables for item in table.values()]
    return False


def _dtype_of(path: Path, name: str, value: object) -> torch.dtype:
    if isinstance(value, Global) and value.module == "torch":
        dtype = getattr(torch, value.name, None)
        if isinstance(dtype, torch.dtype):
            return dtype
    raise _malformed(path, name)


def _describe(value: object) -> str:
    """A value of a pickle in a word or two."""
    if isinstance(value, Call):
        name = value.function.name if isinstance(value.function, Global) else "object"
        kinds = {"_reconstruct": "a NumPy array", "scalar": "a NumPy number"}
        if "sparse" in name:
            return "a sparse tensor"
        if "qtensor" in name:
            return "a quantized tensor"
        return kinds.get(name, f"an object of type {name}")
    if isinstance(value, Persistent):
        return "a storage"
    if isinstance(value, Global):
        return f"the name {value}"
    if _is_tensor(value):
        return "a tensor"
    words = {
        dict: "a dictionary",
        list: "a list",
        tuple: "a tuple",
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "a truth value",
        bytes: "bytes",
        type(None): "nothing",
    }
    return words.get(type(value), type(value).__name__)
