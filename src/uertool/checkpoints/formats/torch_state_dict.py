"""The tensors that a torch file's pickle describes: names and views of storages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.formats.pickle_walk import Call, Global, Persistent, Walked
from uertool.checkpoints.formats.tensor_file import TensorInfo
from uertool.errors import CheckpointError, listed, shown

STORAGE_DTYPES: Mapping[str, torch.dtype] = {
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
class Storage:
    """The bytes of the file that hold the elements of one or more tensors."""

    key: str
    start: int
    nbytes: int


@dataclass(frozen=True)
class View:
    """A tensor as part of a storage: offset and strides in elements."""

    storage: Storage
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
FindStorage = Callable[[str, int, torch.dtype, Any], Storage]


class StateDict:
    """The names and views that a walked pickle describes, wrappers taken off."""

    def __init__(self, path: Path, walked: Walked, find: FindStorage, size: int) -> None:
        self.path = path
        self.find = find
        self.size = size
        self.views: dict[str, View] = {}
        self.metadata: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.notices: list[str] = []
        table = self.unwrap(walked.value)
        doubled = [name for name in walked.duplicates if name in table]
        if doubled:
            raise CheckpointError(
                f"{path} names {listed(doubled)} twice, so it is unclear which one holds."
            )
        others: list[str] = []
        for name, value in table.items():
            if isinstance(name, str) and not _is_text(name):
                raise CheckpointError(
                    f"{path} has a tensor named '{shown(name)}', which is not valid Unicode."
                )
            view = self.view_of(name, value)
            if view is None:
                self.skipped[str(name)] = _describe(value)
                others.append(f"{shown(name, 60)} ({self.skipped[str(name)]})")
            else:
                self.views[name] = view
        if others:
            self.notices.append(f"Entries that are not tensors were left out: {listed(others)}.")

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
                        f"({listed(inner)}), none named as a model's.",
                        f"Save the right one alone, or under one of: {', '.join(WRAPPERS)}.",
                    )
                raise CheckpointError(f"{self.path} holds no tensors.")
            others.extend(str(name) for name in value if name != key)
            trail.append(shown(key))
            value = inner[key]
        else:
            raise CheckpointError(f"{self.path} holds dictionaries nested too deep to be a model.")
        if trail:
            self.metadata["unwrapped"] = ".".join(trail)
            rest = f" (next to it: {listed(others)})" if others else ""
            self.notices.append(f"The weights were taken from {'.'.join(trail)!r}{rest}.")
            self.skipped.update(dict.fromkeys(others, "next to the weights"))
        return value

    def view_of(self, name: object, value: object) -> View | None:
        """The view that a recorded rebuild call describes, or None if it is no tensor."""
        call = _tensor_call(value)
        if call is None or not isinstance(name, str):
            return None
        function = call.function
        assert isinstance(function, Global)
        arguments = call.arguments
        if not isinstance(arguments, tuple) or len(arguments) < 4:
            raise malformed(self.path, name)
        storage, offset, shape, strides = arguments[:4]
        shape, strides = _plain_size(shape), _plain_size(strides)
        if not (are_sizes((offset,)) and are_sizes(shape) and are_sizes(strides)):
            raise malformed(self.path, name)
        if len(shape) != len(strides) or not isinstance(storage, Persistent):
            raise malformed(self.path, name)
        spot, dtype = self.locate(name, storage)
        if function.name == "_rebuild_tensor_v3":
            named = arguments[6] if len(arguments) > 6 else None
            dtype = _dtype_of(self.path, name, named)
        view = View(spot, dtype, offset, shape, strides)
        if (offset + view.extent) * dtype.itemsize > spot.nbytes:
            raise CheckpointError(
                f"{self.path} is damaged: {shown(name)} needs more bytes than are stored for it."
            )
        info = TensorInfo(name, shape, dtype)
        if not info.possible or info.nbytes > self.size:
            raise CheckpointError(
                f"{self.path}: {shown(name)} claims the shape {shown(shape)}, more elements than "
                "the file can hold."
            )
        return view

    def locate(self, name: str, storage: Persistent) -> tuple[Storage, torch.dtype]:
        identity = storage.identity
        if (
            not isinstance(identity, tuple)
            or len(identity) < 5
            or identity[0] != "storage"
            or not isinstance(identity[1], Global)
            or not isinstance(identity[2], str)
            or not are_sizes((identity[4],))
        ):
            raise malformed(self.path, name)
        kind, key, numel = identity[1].name, identity[2], identity[4]
        dtype = STORAGE_DTYPES.get(kind)
        if dtype is None:
            raise CheckpointError(
                f"{self.path}: {shown(name)} has the storage type {shown(kind)}, which is unknown."
            )
        spot = self.find(key, numel, dtype, identity[5] if len(identity) > 5 else None)
        if numel * dtype.itemsize > spot.nbytes:
            raise CheckpointError(
                f"{self.path} is damaged: {shown(name)} needs {numel * dtype.itemsize} bytes, but "
                f"{spot.nbytes} are stored."
            )
        return spot, dtype


def malformed(path: Path, name: str) -> CheckpointError:
    """The error for a tensor whose description is inconsistent."""
    return CheckpointError(f"{path} is damaged: the description of {shown(name)} is inconsistent.")


def are_sizes(values: Any) -> bool:
    """Whether all are non-negative integers below 2 ** 48."""
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


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_tensor(value: object) -> bool:
    return _tensor_call(value) is not None


def _has_tensors(value: object) -> bool:
    """Whether a dictionary holds tensors, itself or in dictionaries within it.

    Each dictionary is visited once: a hostile pickle can nest one in itself a thousand times.
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
    raise malformed(path, name)


def _describe(value: object) -> str:
    """A short description of a value in a pickle."""
    if _is_tensor(value):
        return "a tensor"
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
    return _WORDS.get(type(value), type(value).__name__)


_WORDS: Mapping[type, str] = {
    **{dict: "a dictionary", list: "a list", tuple: "a tuple", str: "a string", bytes: "bytes"},
    **{int: "an integer", float: "a number", bool: "a boolean", type(None): "nothing"},
}
