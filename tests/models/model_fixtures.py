"""Reference checkpoints as loaded models, and checkpoints changed for a test."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from tests.conftest import FIXTURES
from uertool.loading.registry import LoadedModel, load_model


def files_of(folder: Path) -> dict[str, Any]:
    """What a user would name in addition to the checkpoint of a reference case."""
    named: dict[str, Any] = {"vocab": folder / "vocab.txt", "config": folder / "config.json"}
    if (folder / "tokenizer.model").exists():
        del named["vocab"]
        named["spm_model_path"] = folder / "tokenizer.model"
    if (folder / "tgt_vocab.txt").exists():
        named["tgt_vocab"] = folder / "tgt_vocab.txt"
    if folder.name.startswith("word-"):
        named["tokenizer"] = "space"
    return named


@functools.cache
def load_fixture(folder: Path) -> LoadedModel:
    """The model of a reference case, loaded once for all tests of a process."""
    return load_model(folder / "model.bin", device="cpu", **files_of(folder))


def weights(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a reference case by their raw names."""
    return dict(torch.load(FIXTURES / name / "model.bin", weights_only=True))


def saved(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    """A torch file of tensors."""
    torch.save(tensors, path)
    return path
