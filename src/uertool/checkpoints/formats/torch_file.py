"""Files of torch.save, both formats, read lazily from a memory map without unpickling.

The pickle inside is followed by `pickle_walk.walk`, which runs nothing; tensors are cut out of the
map at the places of their storages.
"""

from __future__ import annotations

import io
import itertools
import zipfile
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.formats.pickle_verdicts import Verdict, judged, refusal
from uertool.checkpoints.formats.pickle_walk import MAX_BYTES, Budget, Global, Walked, walk
from uertool.checkpoints.formats.tensor_file import (
    MappedBytes,
    TensorFile,
    TensorInfo,
    unknown_name,
)
from uertool.checkpoints.formats.torch_state_dict import (
    STORAGE_DTYPES,
    FindStorage,
    StateDict,
    Storage,
    View,
    are_sizes,
    malformed,
)
from uertool.errors import CheckpointError, listed, shown


class _TorchFile(TensorFile):
    """What both formats share: views into mapped storages, by name."""

    def __init__(self, path: Path, mapped: MappedBytes, walked: Walked, find: FindStorage) -> None:
        self.path = path
        self._mapped = mapped
        contents = StateDict(path, walked, find, len(mapped))
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

    def _view(self, name: str) -> View:
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

        def find(key: str, numel: int, dtype: torch.dtype, _: Any) -> Storage:
            item = self._entries.get(f"{root}data/{key}")
            if item is None:
                raise CheckpointError(f"{path} is damaged: its storage {shown(key)} is missing.")
            return Storage(key, item.start, item.end - item.start)

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
            budget = Budget()
            names = ("magic number", "version", "system", "state dict", "list of storages")
            for name in names:
                walked = walk(stream, budget)
                _refuse_bad_pickle(path, walked, name)
                parts.append(walked)
            end = stream.tell()
        system, contents, keys = parts[2].value, parts[3], parts[4]
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise CheckpointError(f"{path} was written on a big-endian machine.")
        sizes = _legacy_sizes(contents)
        spots = _legacy_spots(path, mapped, end, keys, sizes)

        def find(key: str, numel: int, dtype: torch.dtype, view: Any) -> Storage:
            spot = spots.get(key)
            if spot is None:
                raise CheckpointError(f"{path} is damaged: its storage {shown(key)} is missing.")
            if view is None:
                return spot
            if not (isinstance(view, tuple) and len(view) == 3 and are_sizes(view[1:])):
                raise malformed(path, f"the view of storage {shown(key)}")
            first, count = view[1] * dtype.itemsize, view[2] * dtype.itemsize
            if first + count > spot.nbytes:
                raise malformed(path, f"the view of storage {shown(key)}")
            return Storage(key, spot.start + first, count)

        super().__init__(path, mapped, contents, find)


@dataclass(frozen=True)
class _Entry:
    """The bytes of one entry of an archive."""

    start: int
    end: int
    checksum: int


def _read_archive(path: Path, mapped: MappedBytes) -> dict[str, _Entry]:
    """The place of each entry's bytes, after checking that the archive is consistent."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile raises many kinds of errors on broken archives
        raise CheckpointError(f"{path} is a broken archive ({shown(error)}).") from error
    entries: dict[str, _Entry] = {}
    for info in infos:
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise CheckpointError(
                f"{path} is not loaded: its entry '{shown(name)}' points outside the archive."
            )
        if name in entries:
            raise CheckpointError(
                f"{path} is not loaded: it has two entries named '{shown(name)}'."
            )
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(
                f"{path} is not loaded: its entry '{shown(name)}' is compressed "
                f"({info.compress_size} bytes for {info.file_size}); torch never does that.",
                "If it was packed again by hand, load and save it once with torch.",
            )
        head = mapped.buffer[info.header_offset : info.header_offset + 30]
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise CheckpointError(
                f"{path} is damaged: its entry '{shown(name)}' is not where it should be."
            )
        start = info.header_offset + 30
        start += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        end = start + info.file_size
        if end > len(mapped):
            raise CheckpointError(
                f"{path} is truncated: its entry '{shown(name)}' ends beyond the file."
            )
        entries[name] = _Entry(start, end, info.CRC)
    filled = sorted((item.start, item.end, name) for name, item in entries.items())
    filled = [item for item in filled if item[1] > item[0]]
    for before, after in itertools.pairwise(filled):
        if after[0] < before[1]:
            raise CheckpointError(
                f"{path} is not loaded: its entries {listed((before[2], after[2]))} overlap."
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
            dtype = STORAGE_DTYPES.get(identity[1].name)
            if dtype is not None and isinstance(identity[2], str) and are_sizes((identity[4],)):
                sizes[identity[2]] = (identity[4], dtype.itemsize)
    return sizes


def _legacy_spots(
    path: Path,
    mapped: MappedBytes,
    position: int,
    keys: Walked,
    sizes: Mapping[str, tuple[int, int]],
) -> dict[str, Storage]:
    """The place of each storage: they follow the pickles, each after its element count."""
    if not isinstance(keys.value, list):
        raise malformed(path, "the list of storages")
    spots: dict[str, Storage] = {}
    for key in keys.value:
        if key not in sizes:
            raise malformed(path, f"storage {shown(key)}")
        numel, itemsize = sizes[key]
        head = mapped.buffer[position : position + 8]
        if len(head) < 8:
            raise CheckpointError(f"{path} is truncated: storage {shown(key)} is missing.")
        stored = int.from_bytes(head, "little")
        if stored != numel:
            raise CheckpointError(
                f"{path} is damaged: storage {shown(key)} has {stored} elements where its list "
                f"says {numel}."
            )
        start = position + 8
        position = start + numel * itemsize
        if position > len(mapped):
            raise CheckpointError(
                f"{path} is truncated: storage {shown(key)} should end at byte {position}, "
                f"the file at {len(mapped)}."
            )
        spots[key] = Storage(key, start, numel * itemsize)
    return spots
