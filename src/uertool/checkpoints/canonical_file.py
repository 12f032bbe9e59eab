"""A checkpoint of any naming as a tensor file with canonical names."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

from uertool.checkpoints.formats.tensor_file import TensorFile, TensorInfo
from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.errors import CheckpointError, counted, listed

#: Canonical names of the word table; of a siamese model that of its first side.
WORD_TABLES = (
    "embedding.word.embedding.weight",
    "embedding.dual.embedding_0.word.embedding.weight",
)
TARGET_WORD_TABLES = ("tgt_embedding.word.embedding.weight",)


def word_table(checkpoint: Checkpoint, names: Sequence[str] = WORD_TABLES) -> str | None:
    """The canonical name of a checkpoint's word table, or None if it has none."""
    return next(filter(checkpoint.has, names), None)


class CanonicalFile(TensorFile):
    """A checkpoint under its canonical names.

    Raises:
        CheckpointError: it cannot be read, or has names that are not understood.
    """

    def __init__(self, path: Path) -> None:
        self.checkpoint = open_checkpoint(path)
        self.path = path
        self.format = self.checkpoint.format
        self.metadata = dict(self.checkpoint.metadata)
        self.skipped = {}
        unknown = list(self.checkpoint.unmapped)
        if unknown:
            self.close()
            raise CheckpointError(
                f"{path} has {counted(len(unknown), 'tensor')} with unknown names: "
                f"{listed(unknown)}."
            )

    def keys(self) -> list[str]:
        return self.checkpoint.keys()

    def info(self, name: str) -> TensorInfo:
        return self.checkpoint.info(name)._replace(name=name)

    def tensor(self, name: str) -> torch.Tensor:
        return self.checkpoint.tensor(name)

    def storage_key(self, name: str) -> Hashable:
        return self.checkpoint.storage_key(name)

    def release(self, name: str | None = None) -> None:
        if name is None:
            self.checkpoint.file.release()
        else:
            self.checkpoint.release(name)

    def close(self) -> None:
        self.checkpoint.close()
