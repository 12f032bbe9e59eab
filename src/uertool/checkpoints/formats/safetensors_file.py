"""The safetensors format: a JSON header, then the bytes of every tensor.

Specification: https://github.com/huggingface/safetensors (section "Format"): eight bytes of header
length (little-endian), the header, the data; offsets count from the first byte of the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.formats.tensor_file import (
    TIED,
    MappedBytes,
    TensorFile,
    TensorInfo,
    unknown_name,
)
from uertool.errors import CheckpointError, InputError, shown
from uertool.io.small_files import parse_json

MAX_HEADER = 100_000_000  # the limit of the specification

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    # torch has this one since 2.7.
    **({"F8_E8M0": torch.float8_e8m0fnu} if hasattr(torch, "float8_e8m0fnu") else {}),
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


class SafetensorsFile(TensorFile):
    """One .safetensors file, mapped; aliases in its metadata are names like any other."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        """Read and check the header; CheckpointError if it does not describe the file."""
        self.path = path
        self._mapped = MappedBytes(path)
        self.skipped = {}
        header, begin = _read_header(path, self._mapped)
        self.metadata = _metadata_of(path, header)
        self._entries: dict[str, tuple[TensorInfo, int, int]] = {}
        for name, entry in header.items():
            self._entries[name] = _check_entry(path, name, entry, begin)
        _check_layout(path, self._entries, begin, len(self._mapped))
        self._kept: dict[str, str] = {}
        for alias, kept in _tied_names(self.metadata, set(self._entries)).items():
            if alias in self._entries:
                if self._entries[alias][0][1:] != self._entries[kept][0][1:]:
                    continue  # stored twice, but not as the note says
                self._kept[alias] = kept
            else:
                info, start, end = self._entries[kept]
                self._entries[alias] = (info._replace(name=alias), start, end)

    def keys(self) -> list[str]:
        return list(self._entries)

    def info(self, name: str) -> TensorInfo:
        return self._entry(name)[0]

    def tensor(self, name: str) -> torch.Tensor:
        info, start, _ = self._entry(name)
        return self._mapped.flat(start, info.numel, info.dtype).view(info.shape)

    def storage_key(self, name: str) -> Hashable:
        _, start, end = self._entry(self._kept.get(name, name))
        # Empty tensors share an offset with their neighbours, but nothing else.
        return (start, end) if end > start else (start, end, name)

    def release(self, name: str | None = None) -> None:
        if name is None:
            self._mapped.release(0, len(self._mapped))
        else:
            _, start, end = self._entry(name)
            self._mapped.release(start, end)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def _entry(self, name: str) -> tuple[TensorInfo, int, int]:
        if name not in self._entries:
            raise unknown_name(self, name)
        return self._entries[name]


def _read_header(path: Path, mapped: MappedBytes) -> tuple[dict[str, Any], int]:
    """The header, and the offset of the first byte of data."""
    if len(mapped) < 8:
        raise CheckpointError(f"{path} is truncated: a safetensors file has at least 8 bytes.")
    length = int.from_bytes(mapped.buffer[:8], "little")
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{path} is not a valid safetensors file: its header claims {length} bytes, "
            f"more than the allowed {MAX_HEADER}."
        )
    if 8 + length > len(mapped):
        raise CheckpointError(
            f"{path} is truncated or damaged: its header claims {length} bytes, "
            f"the file has {len(mapped)}.",
            "Download or copy it again.",
        )
    name = f"{path} is not a valid safetensors file: its header"

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        items = dict(pairs)
        if len(items) != len(pairs):
            twice = next(
                key for key, count in Counter(key for key, _ in pairs).items() if count > 1
            )
            raise CheckpointError(f"{path} names '{shown(twice)}' twice in its header.")
        return items

    header = parse_json(mapped.buffer[8 : 8 + length], name, error=CheckpointError, pairs=unique)
    if not isinstance(header, dict):
        raise CheckpointError(f"{name} is not a JSON object.")
    return header, 8 + length


def _metadata_of(path: Path, header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            f"{path} is not a valid safetensors file: its __metadata__ is not a table of strings."
        )
    return metadata


def _check_entry(path: Path, name: str, entry: Any, begin: int) -> tuple[TensorInfo, int, int]:
    """Info, first byte and end of a tensor, from an entry that makes sense."""
    if not isinstance(entry, dict):
        raise _bad(path, name, "its description is not a JSON object")
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise _bad(path, name, f"its type '{shown(kind)}' is not supported")
    if not isinstance(shape, list) or not _counts(shape):
        raise _bad(path, name, f"its shape {shown(shape)} is not a list of sizes")
    if not isinstance(offsets, list) or not _counts(offsets) or len(offsets) != 2:
        raise _bad(path, name, f"its data_offsets {shown(offsets)} are not a pair of positions")
    info = TensorInfo(name, tuple(shape), dtype)
    if not info.possible:
        raise _bad(path, name, f"its shape {shown(shape)} has too many elements")
    start, end = offsets
    if end - start != info.nbytes:
        raise _bad(
            path, name, f"its shape and type take {info.nbytes} bytes, its offsets {end - start}"
        )
    return info, begin + start, begin + end


def _counts(values: list[Any]) -> bool:
    return len(values) <= 64 and all(type(item) is int and 0 <= item < 1 << 48 for item in values)


def _check_layout(
    path: Path, entries: Mapping[str, tuple[TensorInfo, int, int]], begin: int, size: int
) -> None:
    """The tensors must fill the data exactly: no overlap, no hole, nothing beyond the end."""
    position, before = begin, "the header"
    for name, (_, start, end) in sorted(entries.items(), key=lambda item: item[1][1:]):
        if end > size:
            raise CheckpointError(
                f"{path} is truncated: {shown(name)} should end at byte {end}, the file at {size}.",
                "Download or copy it again.",
            )
        if start < position:
            raise _bad(path, name, f"it overlaps with {shown(before)}")
        if start > position:
            raise _bad(path, name, f"{start - position} bytes before it belong to no tensor")
        position, before = end, name
    if position != size:
        raise CheckpointError(
            f"{path} is not a valid safetensors file: {size - position} bytes at its end belong to "
            "no tensor."
        )


def _tied_names(metadata: Mapping[str, str], stored: set[str]) -> dict[str, str]:
    """Alias to stored name, as uertool notes them, or one by one as safetensors.torch does."""
    ties = {a: k for a, k in metadata.items() if k in stored and a not in stored}
    try:
        noted = parse_json(metadata.get(TIED, "{}"), "The note of tied names")
    except InputError:
        return ties
    if isinstance(noted, dict):
        ties.update({a: k for a, k in noted.items() if isinstance(k, str) and k in stored})
    return ties


def _bad(path: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a valid safetensors file: {shown(name)}: {what}.")
