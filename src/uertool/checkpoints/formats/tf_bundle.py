"""TensorFlow checkpoints (Google's format): a prefix with an .index and .data files."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.formats.tensor_file import TensorFile, TensorInfo, unknown_name
from uertool.errors import CheckpointError, import_extra, listed, shown

_DATA = re.compile(r"^(?P<prefix>.+)\.data-(?P<number>\d{5})-of-(?P<total>\d{5})$")


class TensorFlowBundle(TensorFile):
    """A TensorFlow checkpoint under its own variable names, read through tensorflow."""

    format = "tf-checkpoint"

    def __init__(self, prefix: Path) -> None:
        """Open the checkpoint `prefix`, for example "chinese_L-12_H-768_A-12/bert_model.ckpt".

        Raises:
            CheckpointError: a data shard is missing, or tensorflow cannot read the files.
            MissingExtraError: tensorflow is not installed.
        """
        self.path = prefix
        self.metadata = {}
        self.skipped = {}
        _check_shards(prefix)
        tensorflow = import_tensorflow("Reading a TensorFlow checkpoint")
        try:
            self._reader = tensorflow.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
            dtypes = self._reader.get_variable_to_dtype_map()
        except Exception as error:  # tensorflow has its own tree of errors
            raise CheckpointError(
                f"{prefix} is not a readable TensorFlow checkpoint ({_first_line(error)})."
            ) from error
        self._infos: dict[str, TensorInfo] = {}
        for name in sorted(shapes):
            dtype = getattr(torch, _TORCH_NAMES.get(dtypes[name].name, dtypes[name].name), None)
            if isinstance(dtype, torch.dtype):
                self._infos[name] = TensorInfo(name, tuple(shapes[name]), dtype)
            else:
                self.skipped[name] = f"of type {dtypes[name].name}"

    def keys(self) -> list[str]:
        return list(self._infos)

    def info(self, name: str) -> TensorInfo:
        if name not in self._infos:
            raise unknown_name(self, name)
        return self._infos[name]

    def tensor(self, name: str) -> torch.Tensor:
        info = self.info(name)
        try:
            array = self._reader.get_tensor(name)
        except Exception as error:  # tensorflow has its own tree of errors
            raise CheckpointError(
                f"{self.path}: {shown(name)} cannot be read ({_first_line(error)})."
            ) from error
        if info.dtype is torch.bfloat16:  # NumPy has no such type of its own
            return torch.from_numpy(array.view("uint16").copy()).view(torch.bfloat16)
        return torch.as_tensor(array, dtype=info.dtype)

    def storage_key(self, name: str) -> Hashable:
        self.info(name)
        return name  # the format stores every variable by itself

    def damage(self) -> list[str]:
        bad = []
        for name in self._infos:
            try:
                self._reader.get_tensor(name)
            except Exception:  # tensorflow compares checksums while reading
                bad.append(name)
        return bad


_TORCH_NAMES = {"half": "float16", "double": "float64", "float": "float32"}


def prefix_of(path: Path) -> Path | None:
    """The checkpoint prefix that a path refers to, or None.

    Understood are the prefix itself, its .index, .meta or .data file, and a folder that holds one
    TensorFlow checkpoint and no other weights.
    """
    if path.is_dir():
        indexes = sorted(path.glob("*.index"))
        torch_files = [f for s in ("*.safetensors", "*.bin", "*.pt") for f in path.glob(s)]
        if len(indexes) == 1 and not torch_files:
            return indexes[0].with_suffix("")
        return None
    name = path.name
    match = _DATA.match(name)
    if match:
        prefix = path.with_name(match["prefix"])
    elif name.endswith((".index", ".meta")):
        prefix = path.with_suffix("")
    else:
        prefix = path
    if path.is_file() and prefix == path:
        return None
    has_index = prefix.with_name(prefix.name + ".index").is_file()
    has_data = bool(_shards(prefix))
    if has_index or (has_data and not path.is_file()):
        return prefix
    return prefix if match and path.is_file() else None


def import_tensorflow(purpose: str) -> Any:
    """The tensorflow module, with its logging turned off; MissingExtraError without it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    return import_extra("tensorflow", "google", purpose)


def _shards(prefix: Path) -> dict[int, int]:
    """Number and total of every data file of a prefix."""
    found = {}
    if prefix.parent.is_dir():
        for item in prefix.parent.iterdir():
            match = _DATA.match(item.name)
            if match and match["prefix"] == prefix.name:
                found[int(match["number"])] = int(match["total"])
    return found


def _check_shards(prefix: Path) -> None:
    """Raise CheckpointError for missing files before tensorflow is imported."""
    index = prefix.with_name(prefix.name + ".index")
    if not index.is_file():
        raise CheckpointError(
            f"The TensorFlow checkpoint {prefix} lacks its index, {index.name}.",
            "Its .index and .data files belong in one folder.",
        )
    found = _shards(prefix)
    total = max(found.values(), default=1)
    missing = [
        f"{prefix.name}.data-{number:05d}-of-{total:05d}"
        for number in range(min(total, 100_000))
        if found.get(number) != total
    ]
    if missing:
        raise CheckpointError(
            f"The TensorFlow checkpoint {prefix} lacks {listed(missing, 3)}.",
            "Its .index and .data files belong in one folder; download the missing ones.",
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return shown(text.splitlines()[0]) if text else type(error).__name__
