"""Cloze tests of any number of lines, as `uertool.engine.work.Work`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from uertool.engine.jobs import JobWork
from uertool.engine.work import Write
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.cloze.job import ClozeJob, ClozeSettings, ClozeSummary
from uertool.tasks.cloze.writing import writer_for


def cloze_work(
    model: ModelSettings,
    device: DeviceSettings,
    settings: ClozeSettings,
    form: str,
    suffix: str,
    column: str | None = None,
) -> JobWork[Any]:
    """The work of the command; `form`, `column`: see `writer_for`."""
    make_job = functools.partial(_load_job, model, device, settings)
    return JobWork("cloze", suffix, make_job, ClozeWriter(form, column))


def identity(settings: ClozeSettings, form: str) -> dict[str, Any]:
    """What decides the results, as JSON types."""
    plain = asdict(settings)
    plain["words"] = sorted(settings.words)
    del plain["word_list"]
    return {**plain, "form": form}


def _load_job(
    model: ModelSettings, where: DeviceSettings, settings: ClozeSettings, device: torch.device
) -> ClozeJob:
    from uertool.loading.registry import load_from_settings

    here = dataclasses.replace(where, device=str(device), threads=None)
    loaded = load_from_settings(model, here, heads=("mlm",))
    return ClozeJob(loaded, settings)


@dataclass(frozen=True)
class ClozeWriter:
    """Opens shards of cloze results; see `writer_for`."""

    form: str
    column: str | None

    @contextmanager
    def __call__(self, path: Path, block: int, job: ClozeJob) -> Iterator[Write]:
        with open(path, "w", encoding="utf-8", newline="\n") as stream:
            one = writer_for(self.form, stream, column=self.column, header=block == 0)

            def write(results: list[Any]) -> Mapping[str, int]:
                summary = ClozeSummary()
                for result in results:
                    summary.add(result)
                    one(result)
                stream.flush()
                return {"rows": len(results), **summary.counts()}

            yield write
