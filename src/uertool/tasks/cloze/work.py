"""Cloze tests of any number of lines, as `uertool.engine.work.Work`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uertool.engine.jobs import JobWork, load_job
from uertool.engine.work import Write
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.cloze.job import ClozeJob
from uertool.tasks.cloze.results import ClozeResult, ClozeSummary
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.tasks.cloze.writing import writer_for
from uertool.text.segmentation import segmenter
from uertool.text.tables import is_csv


def cloze_work(
    model: ModelSettings,
    device: DeviceSettings,
    settings: ClozeSettings,
    form: str,
    suffix: str,
    column: str | None = None,
) -> JobWork[ClozeResult]:
    """The work of the command; `form`, `column`: see `writer_for`."""
    make = functools.partial(ClozeJob, settings=settings)
    make_job = functools.partial(load_job, model, device, ("mlm",), make)
    return JobWork("cloze", suffix, make_job, functools.partial(_open_writer, form, column))


def identity(settings: ClozeSettings, form: str) -> dict[str, Any]:
    """What decides the results, as JSON types."""
    plain = asdict(settings)
    plain["words"] = sorted(settings.words)
    del plain["word_list"]
    if settings.whole_word:
        plain["segmenter"] = segmenter()
    return {**plain, "form": form}


@contextmanager
def _open_writer(
    form: str, column: str | None, path: Path, block: int, job: ClozeJob
) -> Iterator[Write]:
    """Open a shard of results."""
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        one = writer_for(form, stream, column=column, header=block == 0, commas=is_csv(path.name))

        def write(results: list[ClozeResult]) -> Mapping[str, int]:
            summary = ClozeSummary()
            for result in results:
                summary.add(result)
                one(result)
            stream.flush()
            return {"rows": len(results), **summary.counts()}

        yield write
