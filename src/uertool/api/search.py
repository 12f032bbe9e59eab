"""Functions that compare lines by their vectors: search and dedupe."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uertool.api.models import loading
from uertool.errors import InputError
from uertool.io.display import Report, Results
from uertool.loading.registry import LoadedModel
from uertool.loading.settings import ModelSettings
from uertool.settings import as_keywords
from uertool.tasks.features.job import FeatureJob
from uertool.tasks.search import dedupe as deduping
from uertool.tasks.search import job as searching
from uertool.tasks.search.lines import open_lines
from uertool.tasks.search.settings import (
    CorpusSettings,
    DedupeSettings,
    SearchSettings,
    SentenceSettings,
)
from uertool.text.readers import Line, as_texts


@dataclass(frozen=True, slots=True)
class Hit:
    """A line that is near a query.

    Attributes:
        cosine: of their vectors.
        line: its place in the corpus, from 0.
        text: the line.
    """

    cosine: float
    line: int
    text: str


@dataclass(frozen=True, repr=False)
class Deduplicated(Report):
    """The lines that remain.

    Attributes:
        lines: the lines that are kept, in their order.
        rows: their places in the input, from 0.
        groups: the places of duplicates of each other, the kept one first.
    """

    lines: list[str]
    rows: list[int]
    groups: list[list[int]]


@contextmanager
def _named(
    lines: str | Path | Iterable[str], settings: CorpusSettings
) -> Iterator[tuple[CorpusSettings, Path]]:
    """Settings that name lines, and a scratch folder."""
    with tempfile.TemporaryDirectory(prefix="uertool-") as folder:
        scratch = Path(folder)
        if isinstance(lines, (str, Path)):
            yield dataclasses.replace(settings, test_path=str(lines)), scratch
            return
        path = scratch / "texts.jsonl"
        records = [json.dumps({"text": text}) + "\n" for text in as_texts(lines)]
        if not records:
            raise InputError("There are no lines.")
        path.write_text("".join(records), "utf-8")
        yield dataclasses.replace(settings, test_path=str(path), field="text"), scratch


@as_keywords("test_path", "queries", "query_vectors", "index", "plot")
def _search(
    loaded: LoadedModel,
    queries: str | Path | Iterable[str],
    corpus: str | Path | Iterable[str],
    *,
    settings: SearchSettings,
    lines: CorpusSettings,
    features: SentenceSettings,
) -> Results[Results[Hit]]:
    """The lines of a corpus that are nearest to each query, by the cosine of their vectors.

    Args:
        queries: a text or several, or the `Path` of a file with one a line.
        corpus: the lines, or the path of a file with them.

    Returns:
        A list for each query, in their order, nearest first.

    Raises:
        UertoolError: a file cannot be read, or vectors do not fit the model.
    """
    job = FeatureJob(loaded, features)
    asked = [Line(number, text) for number, text in enumerate(as_texts(queries))]
    with _named(corpus, lines) as (named, scratch):
        opened = searching.open_corpus(named, scratch).encoded(lambda: job, scratch)
        found = searching.answers(asked, opened, settings, lambda: job, device=loaded.device)
        return Results(
            Results(Hit(cosine, note.line, note.text) for cosine, note in near) for _, near in found
        )


@as_keywords("test_path", "groups", "plot")
def _dedupe(
    loaded: LoadedModel,
    lines: str | Path | Iterable[str],
    *,
    settings: DedupeSettings,
    corpus: CorpusSettings,
    features: SentenceSettings,
) -> Deduplicated:
    """Leave out lines that are duplicates or near-duplicates of others.

    Args:
        lines: the lines, or the path of a file with them.

    Raises:
        UertoolError: settings contradict each other, or a file cannot be read.
    """
    deduping.check_settings(settings, corpus)
    with _named(lines, corpus) as (named, scratch):
        opened = open_lines(named, scratch)
        found = deduping.dedupe(
            opened,
            settings,
            corpus,
            lambda: FeatureJob(loaded, features),
            scratch,
            device=loaded.device,
        )
        assert found is not None  # there is a threshold
        rows = np.flatnonzero(found.are_kept).tolist()
        groups = [[row, *others.tolist()] for row, others in found.groups()]
        return Deduplicated([opened.line(row).text for row in rows], rows, groups)


search = loading(_search, ModelSettings)
dedupe = loading(_dedupe, ModelSettings)
