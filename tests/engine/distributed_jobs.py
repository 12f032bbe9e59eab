"""Jobs that tests of the distributed engine send to workers, which import them from here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.conftest import FIXTURES
from uertool.engine.batching import Batch, Encoded, Limits
from uertool.errors import InputError
from uertool.loading.registry import load_model
from uertool.tasks.features.job import FeatureJob, FeatureSettings
from uertool.text.readers import Line

FOLDER = FIXTURES / "bert-modular"
SETTINGS = FeatureSettings(pooling="mean", seq_length=16)


def feature_job(pids: str | None, device: torch.device) -> FeatureJob:
    """A small model; the process that holds it leaves its number in the folder `pids`."""
    if pids is not None:
        Path(pids, str(os.getpid())).touch()
    loaded = load_model(
        str(FOLDER / "model.bin"),
        vocab=FOLDER / "vocab.txt",
        config=FOLDER / "config.json",
        device=str(device),
    )
    return FeatureJob(loaded, SETTINGS)


class LengthJob:
    """The length of every line, except for lines that it cannot do."""

    limits = Limits(tokens=512)

    def encode(self, items: list[Line]) -> list[Encoded]:
        if any("unreadable" in line.text for line in items):
            raise InputError("It cannot be read.")
        return [Encoded(line.number, [1] * len(line.text), payload=line) for line in items]

    def step(self, batch: Batch) -> Sequence[int]:
        for item in batch.items:
            if "poison" in item.payload.text:
                raise ValueError("poison")
            if "deadly" in item.payload.text:
                os.kill(os.getpid(), 9)
            if "leaving" in item.payload.text:
                os._exit(3)
            if "large" in item.payload.text and len(batch) > 1:
                raise MemoryError
        return [len(item.ids) for item in batch.items]

    def empty(self, item: Encoded) -> int:
        return 0


def length_job(device: torch.device) -> LengthJob:
    del device
    return LengthJob()


class FaultyJob(LengthJob):
    """A job that can do nothing at all."""

    def step(self, batch: Batch) -> Sequence[int]:
        raise ValueError("a fault of the job")


def faulty_job(device: torch.device) -> FaultyJob:
    del device
    return FaultyJob()


@contextmanager
def length_writer(path: Path, block: int, job: Any) -> Any:
    """Lengths, one a line."""
    with open(path, "w", encoding="utf-8") as stream:

        def write(results: list[int]) -> Mapping[str, int]:
            stream.writelines(f"{length}\n" for length in results)
            stream.flush()
            return {"rows": len(results)}

        yield write


def rows(folder: Path) -> Any:
    """The rows of all .npy shards of a folder."""
    return np.concatenate([np.load(path) for path in sorted(folder.glob("part-*.npy"))])


class PidJob(LengthJob):
    """The number of the process that works on a line; it leaves a file of that name, too."""

    def __init__(self) -> None:
        if folder := os.environ.get("UERTOOL_TEST_PIDS"):
            Path(folder, str(os.getpid())).touch()

    def step(self, batch: Batch) -> Sequence[int]:
        return [os.getpid()] * len(batch)

    def empty(self, item: Encoded) -> int:
        return os.getpid()


def pid_job(device: torch.device) -> PidJob:
    del device
    return PidJob()


def missing_job(device: torch.device) -> LengthJob:
    raise InputError("There is no model.")
