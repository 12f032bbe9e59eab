"""`uertool search`: similar lines by the vectors of a model."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import (
    OutputSettings,
    lines_of,
    report_empty,
    report_model,
    source_of,
    with_settings,
)
from uertool.cli.render.search import HEADER, WRITERS, Answer, bars_of
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.settings import Setting
from uertool.tasks.search.settings import CorpusSettings, SearchSettings, SentenceSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    import torch

    from uertool.tasks.features.job import FeatureJob
    from uertool.tasks.search.index import SavedIndex
    from uertool.tasks.search.job import Corpus
    from uertool.text.readers import Line


@dataclass(frozen=True)
class SearchOutput(OutputSettings):
    """Where results of a search are written."""

    format: Annotated[
        Literal["auto", "table", "tsv", "jsonl"],
        Setting("auto is a table on a terminal, otherwise tab-separated", panel="Output"),
    ] = "auto"

    @property
    def form(self) -> str:
        """See `ResultSettings.form`: table, tsv or jsonl."""
        return self.form_with_table(self.format, "tsv")


@dataclass(frozen=True)
class Encoder:
    """The model that makes vectors, loaded when the first are needed."""

    model: ModelSettings
    device: DeviceSettings
    features: SentenceSettings
    whitening: Path | None

    @functools.cached_property
    def job(self) -> FeatureJob:
        """The loaded model."""
        from uertool.loading.registry import load_from_settings
        from uertool.tasks.features.job import FeatureJob
        from uertool.tasks.features.whitening import Whitening
        from uertool.tasks.features.work import differences, space_of

        loaded = load_from_settings(self.model, self.device, heads=self.features.heads)
        report_model(loaded)
        job = FeatureJob(loaded, self.features)
        if self.whitening is not None:
            about = space_of(self.model, self.features)
            console.warn(*differences(self.whitening, Whitening.load(self.whitening), about))
        return job

    def compared_on(self) -> torch.device:
        """Where products are computed; sets the number of threads."""
        from uertool.loading.device import resolve_devices, set_threads

        set_threads(self.device.threads)
        return resolve_devices(self.device.device)[0]

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the vectors."""
        from uertool.engine.ordering import model_identity

        settings = dataclasses.asdict(self.features)
        del settings["batch_size"]
        known = model_identity(self.model, digests=False)
        return {**known, "settings": settings, "dtype": self.device.dtype}


@with_settings
def search(
    texts: Annotated[list[str] | None, typer.Argument(help="Queries, each a text.")] = None,
    *,
    settings: SearchSettings,
    corpus: CorpusSettings,
    features: SentenceSettings,
    model: ModelSettings,
    device: DeviceSettings,
    output: SearchOutput,
) -> None:
    r"""The lines of a corpus that are nearest to queries, by the cosine of their vectors.

        uertool search "房间很干净" --corpus reviews.txt --pooling mean

        uertool search --queries queries.txt --corpus reviews.txt \
            --vectors reviews.npy --index reviews.index -o found.jsonl

    Vectors of the corpus are computed, or read with --vectors. Every row is compared, unless
    --index names an index, which is built once and used again.
    """
    form = output.form
    output.apply()
    if settings.plot is not None:
        from uertool.tasks.pictures import require_drawing

        require_drawing(settings.plot, overwrite=output.overwrite)
    _check(settings, corpus, texts)
    encoder = Encoder(model, device, features, corpus.load_whitening)
    lines: Iterator[Line] = iter(())
    if settings.query_vectors is None:
        named = InputSettings(settings.queries, encoding=corpus.encoding)
        lines = lines_of(named, texts, "query")
    where = encoder.compared_on()
    with tempfile.TemporaryDirectory(prefix="uertool-") as scratch:
        opened, index = _opened(settings, corpus, encoder, Path(scratch), output.overwrite)
        from uertool.tasks.pictures import MOST_GROUPS, bars
        from uertool.tasks.search.job import answers

        drawn: list[Answer] = []
        asked = found = 0
        started = time.perf_counter()
        near = answers(
            lines,
            opened,
            settings,
            lambda: encoder.job,
            index=index,
            device=where,
            progress=console.progress,
        )
        with output.opened(lambda: asked) as stream:
            for asked, pair in enumerate(near, 1):
                if form == "tsv" and asked == 1:
                    stream.write(HEADER)
                answer = Answer(asked, *pair)
                found += len(answer.near)
                WRITERS[form](answer, stream)
                if settings.plot is not None and asked <= MOST_GROUPS:
                    drawn.append(answer)
        seconds = time.perf_counter() - started
    if settings.plot is not None:
        console.warn(*bars(settings.plot, list(map(bars_of, drawn)), overwrite=output.overwrite))
    console.note(
        f"{counted(asked, 'query', 'queries')}, {counted(found, 'result')} ({seconds:.2f} s)"
    )
    report_empty(asked)
    inputs = [*model.files(), *corpus.files(), settings.queries, settings.query_vectors]
    output.record(output.prediction_path, inputs, results={"queries": asked, "found": found})


def _check(settings: SearchSettings, corpus: CorpusSettings, texts: Sequence[str] | None) -> None:
    """Refuse contradictory settings before anything is loaded."""
    if settings.query_vectors is not None:
        if texts or settings.queries:
            raise UsageError(
                "Queries were given both as texts and as vectors.",
                "Give texts, `queries` or `query_vectors`.",
            )
    elif texts and settings.queries:
        raise UsageError(
            "Queries were given on the command line and in a file.", "Give one of the two."
        )
    elif source_of(InputSettings(settings.queries), texts, "query") == "-" == corpus.test_path:
        raise UsageError(
            "Queries and corpus cannot both come from standard input.", "Name a file for one."
        )
    if settings.index is not None:
        from uertool.tasks.search.index import require_usearch

        require_usearch()
        if corpus.test_path == "-":
            raise UsageError("An index of standard input cannot be reused.", "Name a file.")


def _opened(
    settings: SearchSettings,
    corpus: CorpusSettings,
    encoder: Encoder,
    scratch: Path,
    overwrite: bool,
) -> tuple[Corpus, SavedIndex | None]:
    """The corpus, and the index if one is to be used; it is built if it is missing."""
    from uertool.tasks.search.index import SavedIndex, build, difference
    from uertool.tasks.search.job import open_corpus

    opened = open_corpus(corpus, scratch)
    path, index, identity = settings.index, None, {}
    if path is not None:
        identity = _identity(corpus, encoder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            index = SavedIndex(path)
            other = difference(index.about.identity, identity)
            if other is not None and not overwrite:
                raise UsageError(
                    f"The index {path} was built from other vectors: {other}.",
                    "Name another folder, or give `overwrite` to build it again.",
                )
            index = None if other is not None else index
    if index is None:
        with console.progress(None, "Encoding") as advance:
            opened = opened.encoded(lambda: encoder.job, scratch, advance)
    if path is not None and index is None:
        import torch

        started = time.perf_counter()
        with console.progress(None, "Indexing", unit="rows") as advance:
            about = build(
                path,
                opened.vectors,
                identity,
                threads=torch.get_num_threads(),
                overwrite=overwrite,
                on_rows=advance,
            )
        console.note(
            f"index of {counted(about.rows - about.zero, 'vector')} of {about.size} in {path}, "
            f"built in {time.perf_counter() - started:.1f} s; it finds {about.recall:.1%} of the "
            "10 nearest rows"
        )
        index = SavedIndex(path)
    if index is not None:
        opened.check_count(index.about.rows)
    return opened, index


def _identity(corpus: CorpusSettings, encoder: Encoder) -> dict[str, Any]:
    """What determines the vectors of an index: their files, or lines and model."""
    from uertool.engine.ordering import state_of
    from uertool.io.atomic import sha256_of
    from uertool.io.encodings import encoding_named
    from uertool.tasks.search.vectors import find_files

    known: dict[str, Any] = {}
    if corpus.vectors:
        known["vectors"] = [[path.name, *state_of(path)] for path in find_files(corpus.vectors)]
    elif corpus.test_path is not None:
        path = Path(corpus.test_path)
        known |= {"lines": [path.name, *state_of(path)], **encoder.identity}
        known |= {"column": corpus.column, "field": corpus.field}
        known["encoding"] = encoding_named(corpus.encoding)
    if corpus.load_whitening is not None:
        known["whitening"] = sha256_of(corpus.load_whitening)
    found: dict[str, Any] = json.loads(json.dumps(known))
    return found
