"""A folder with weights in one file or in shards with an index, and with config.json."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from uertool.checkpoints.formats.tensor_file import TensorFile, TensorInfo, unknown_name
from uertool.checkpoints.formats.weight_file import open_weight_file
from uertool.errors import CheckpointError, counted, listed, shown
from uertool.io.small_files import read_json_object

#: Weight files by the names that Hugging Face gives them, in the order it looks for them.
STANDARD_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

#: Files of torch.save next to the weights that hold no weights.
_NOT_WEIGHTS = frozenset(
    ["training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt"]
)

_OTHER_FRAMEWORKS: Mapping[str, str] = {
    "tf_model.h5": "TensorFlow (tf_model.h5)",
    "flax_model.msgpack": "Flax (flax_model.msgpack)",
    "rust_model.ot": "Rust (rust_model.ot)",
    "adapter_model.safetensors": "an adapter (adapter_model.safetensors), not a whole model",
    "adapter_model.bin": "an adapter (adapter_model.bin), not a whole model",
}


class HuggingFaceFolder(TensorFile):
    """The weight files of a folder as one mapping; shards are opened when they are first needed."""

    format = "hf-folder"

    def __init__(self, path: Path, weights: Path) -> None:
        """Use the weight file or index `weights` of the folder `path`."""
        self.path = path
        self.weights = weights
        self.hf_config = _read_config(path)
        self._open: dict[Path, TensorFile] = {}
        if weights.name.endswith(".index.json"):
            self._place = _read_index(weights)
            notices = self._check_shards()
        else:
            inner = self._file(weights)
            self._place = dict.fromkeys(inner.keys(), weights)
            notices = []
        files = [self._open[shard] for shard in dict.fromkeys(self._place.values())]
        self.metadata = {key: text for file in files for key, text in file.metadata.items()}
        self.skipped = {key: kind for file in files for key, kind in file.skipped.items()}
        self.notices = (*notices, *(notice for file in files for notice in file.notices))

    @classmethod
    def from_index(cls, index: Path) -> HuggingFaceFolder:
        """Open the shards that an index file names."""
        return cls(index.parent, index)

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in the order of their first tensor."""
        return tuple(dict.fromkeys(self._place.values()))

    def keys(self) -> list[str]:
        return list(self._place)

    def info(self, name: str) -> TensorInfo:
        return self._holder(name).info(name)

    def tensor(self, name: str) -> torch.Tensor:
        return self._holder(name).tensor(name)

    def storage_key(self, name: str) -> Hashable:
        return (str(self._place.get(name)), self._holder(name).storage_key(name))

    def release(self, name: str | None = None) -> None:
        if name is not None:
            self._holder(name).release(name)
            return
        for file in self._open.values():
            file.release()

    def damage(self) -> list[str]:
        return [name for shard in self.files for name in self._file(shard).damage()]

    def close(self) -> None:
        for file in self._open.values():
            file.close()

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def _file(self, path: Path) -> TensorFile:
        if path not in self._open:
            self._open[path] = open_weight_file(path)
        return self._open[path]

    def _holder(self, name: str) -> TensorFile:
        if name not in self._place:
            raise unknown_name(self, name)
        return self._file(self._place[name])

    def _check_shards(self) -> list[str]:
        """Open every shard and compare what it holds with what the index says."""
        shards = dict.fromkeys(self._place.values())
        absent = sorted(shard.name for shard in shards if not shard.exists())
        if absent:
            raise CheckpointError(
                f"{self.weights} names {counted(len(shards), 'shard')}, but some are not in the "
                f"folder: {listed(absent)}.",
                "Download the missing files into the same folder.",
            )
        held = {shard: set(self._file(shard).keys()) for shard in shards}
        notices = self._mixed_types(held)
        missing = [f"{name} ({s.name})" for name, s in self._place.items() if name not in held[s]]
        if missing:
            raise CheckpointError(
                f"{self.weights} names {counted(len(missing), 'tensor')} missing from the shards: "
                f"{listed(missing)}."
            )
        homes: dict[str, Path] = {}
        for shard, names in held.items():
            for name in names:
                if name in homes and name not in self._place:
                    raise CheckpointError(
                        f"{homes[name].name} and {shard.name} both hold {shown(name)}, and "
                        f"{self.weights.name} does not say which one holds."
                    )
                homes[name] = shard
        extra = sorted(name for name in homes if name not in self._place)
        if not extra:
            return notices
        known = {self.storage_key(name) for name in self._place}
        self._place.update((name, homes[name]) for name in extra)
        extra = [name for name in extra if self.storage_key(name) not in known]
        if not extra:
            return notices  # other names of tensors that the index names
        return [
            *notices,
            f"{counted(len(extra), 'tensor')} in the shards but not in the index: {listed(extra)}.",
        ]

    def _mixed_types(self, shards: Iterable[Path]) -> list[str]:
        """A sentence about shards of different number types, as mixed downloads have them."""
        found: dict[str, list[str]] = {}
        for shard in shards:
            file = self._file(shard)
            types = {str(file.info(name).dtype).removeprefix("torch.") for name in file}
            found.setdefault(" and ".join(sorted(types)), []).append(shard.name)
        if len(found) < 2:
            return []
        each = "; ".join(f"{types} in {listed(names)}" for types, names in found.items())
        return [f"The shards of {self.path} have different number types: {each}."]


def open_folder(path: Path) -> TensorFile:
    """Open the weights of a folder.

    Raises:
        CheckpointError: the folder has no weights, or several files without a standard name.
    """
    for name in STANDARD_NAMES:
        if (path / name).exists():
            return HuggingFaceFolder(path, path / name)
    indexes = sorted(item for item in path.glob("*.index.json") if is_index(item))
    if len(indexes) == 1:
        return HuggingFaceFolder(path, indexes[0])
    found = sorted(
        item
        for item in path.iterdir()
        if item.suffix in _SUFFIXES
        and item.is_file()
        and item.name not in _NOT_WEIGHTS
        and item.name not in _OTHER_FRAMEWORKS
    )
    if len(found) == 1:
        return HuggingFaceFolder(path, found[0])
    if found:
        raise CheckpointError(
            f"{path} holds {len(found)} weight files ({listed(file.name for file in found)}), "
            "but none with a standard name such as model.safetensors.",
            "Name one of the files instead of the folder.",
        )
    raise _no_weights(path)


def is_index(path: Path) -> bool:
    """Whether a JSON file maps tensor names to shard files."""
    try:
        return isinstance(read_json_object(path, error=CheckpointError).get("weight_map"), dict)
    except CheckpointError:
        return False


def _no_weights(path: Path) -> CheckpointError:
    if (path / "data.pkl").exists() or list(path.glob("*/data.pkl")):
        return CheckpointError(
            f"{path} is a torch checkpoint that was unpacked like an archive.",
            "Use the original file; if it is lost, pack the folder again with: "
            "zip -0 -r model.bin FOLDER",
        )
    for name, what in _OTHER_FRAMEWORKS.items():
        if (path / name).exists():
            return CheckpointError(
                f"{path} holds only the weights of {what}.",
                "Get the same model with model.safetensors or pytorch_model.bin.",
            )
    names = sorted(item.name for item in path.iterdir())[:8]
    return CheckpointError(
        f"{path} is a folder without weights: there is no model.safetensors, pytorch_model.bin "
        "or other .safetensors, .bin or .pt file in it.",
        f"It holds: {', '.join(names)}." if names else "It is empty.",
    )


def _read_config(path: Path) -> dict[str, Any] | None:
    file = path / "config.json"
    return read_json_object(file, error=CheckpointError) if file.is_file() else None


def _read_index(path: Path) -> dict[str, Path]:
    """Tensor name to shard path; every shard must be in the folder of the index."""
    mapping = read_json_object(path, what="index", error=CheckpointError).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"{path} has no weight_map, so it is not an index of shards.")
    places: dict[str, Path] = {}
    for name, file in mapping.items():
        if not isinstance(file, str) or not file or "\0" in file:
            raise CheckpointError(f"{path} gives {shown(name)} no file name, but '{shown(file)}'.")
        pure = PurePosixPath(file.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in file or not pure.parts:
            raise CheckpointError(
                f"{path} is not loaded: it names '{shown(file)}', which is outside its folder."
            )
        if pure.name.endswith(".index.json"):
            raise CheckpointError(f"{path} names another index, '{shown(file)}', as a shard.")
        places[name] = path.parent / pure
    return places
