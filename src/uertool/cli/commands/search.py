"""`uertool search`: similar lines by the vectors of a model."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from uertool.cli import console, run_record
from uertool.cli.console import counted
from uertool.cli.options import OutputSettings, lines_of, report_model, source_of, with_settings
from uertool.cli.render.search import HEADER, WRITERS, Answer, bars_of
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.settings import Setting
from uertool.tasks.search.settings import CorpusSettings, SearchSettings, SentenceSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.features.job import FeatureJob
    from uertool.tasks.search.index import SavedIndex
    from uertool.tasks.search.job import Corpus
    from uertool.tasks.search.vectors import Floats
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
        """The format that was asked for, or that fits where the results go."""
        screen: Literal["table", "tsv"] = "table" if console.out_is_terminal() else "tsv"
        chosen = self.form_for(self.format, shown=screen, stored="tsv")
        if chosen == "table" and self.to_file:
            raise UsageError(
                "A table is for a terminal, but `prediction_path` names a file.",
                "Use `format` tsv or jsonl.",
            )
        return chosen


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

        loaded = load_from_settings(self.model, self.device, heads=self.features.heads)
        report_model(loaded)
        job = FeatureJob(loaded, self.features)
        if self.whitening is not None:
            self._compare(self.whitening)
        return job

    def _compare(self, path: Path) -> None:
        from uertool.tasks.features.whitening import Whitening
        from uertool.tasks.features.work import space_of

        fitted = Whitening.load(path).about
        mine = space_of(self.model, self.features)
        apart = [
            f"{name} {fitted[name]} and not {value}"
            for name, value in mine.items()
            if fitted.get(name, value) != value
        ]
        if apart:
            console.warn(f"{path} was fitted on other vectors: {', '.join(apart)}.")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the vectors."""
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
    named = InputSettings(settings.queries, encoding=corpus.encoding)
    lines = functools.partial(lines_of, named, texts, "query")

    from uertool.loading.device import resolve_devices, set_threads

    set_threads(device.threads)
    where = resolve_devices(device.device)[0]
    with tempfile.TemporaryDirectory(prefix="uertool-") as scratch:
        opened, index = _opened(settings, corpus, encoder, Path(scratch), output.overwrite)
        from uertool.tasks.pictures import MOST_GROUPS, bars
        from uertool.tasks.search import job

        drawn: list[Answer] = []
        asked = found = 0
        started = time.perf_counter()
        with output.opened(lambda: asked) as stream:
            for names, vectors in _queries(lines, settings, encoder, opened):
                with console.progress(None, "Comparing", unit="rows") as advance:
                    near = job.search(
                        vectors, opened, settings, index=index, device=where, on_rows=advance
                    )
                notes = opened.notes_of([row for some in near for _, row in some])
                if form == "tsv" and not asked:
                    stream.write(HEADER)
                for name, some in zip(names, near, strict=True):
                    asked += 1
                    found += len(some)
                    answer = Answer(asked, name, [(cosine, notes[row]) for cosine, row in some])
                    WRITERS[form](answer, stream)
                    if settings.plot is not None and asked <= MOST_GROUPS:
                        drawn.append(answer)
        seconds = time.perf_counter() - started
    if settings.plot is not None:
        for remark in bars(settings.plot, list(map(bars_of, drawn)), overwrite=output.overwrite):
            console.warn(remark)
    console.note(f"{_counted_queries(asked)}, {counted(found, 'result')} ({seconds:.2f} s)")
    if output.save_run and output.prediction_path is not None:
        inputs = [*model.files(), corpus.test_path, *corpus.vectors, settings.queries]
        run_record.write(
            output.prediction_path,
            inputs=[*inputs, settings.query_vectors, corpus.load_whitening],
            results={"queries": asked, "found": found},
        )


def _counted_queries(count: int) -> str:
    return "1 query" if count == 1 else f"{count:,} queries"


def _check(settings: SearchSettings, corpus: CorpusSettings, texts: Sequence[str] | None) -> None:
    """Refuse what contradicts itself before anything is loaded."""
    if settings.query_vectors is not None:
        if texts or settings.queries:
            raise UsageError(
                "Queries were given as texts and as vectors.",
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
            raise UsageError("An index of standard input could not be used again.", "Name a file.")


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

    path, index, identity = settings.index, None, {}
    if path is not None:
        identity = _identity(corpus, encoder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            index = SavedIndex(path)
            other = difference(index.about.identity, identity)
            if other is not None and not overwrite:
                raise UsageError(
                    f"The index {path} was built of other vectors: {other}.",
                    "Name another folder, or give `overwrite` to build it again.",
                )
            index = None if other is not None else index
    with console.progress(None, "Encoding") as advance:
        opened = open_corpus(
            corpus, scratch, lambda: encoder.job, computes=index is None, on_lines=advance
        )
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
    """What the vectors of an index are made of: their files, or lines and model."""
    from uertool.io.atomic import sha256_of
    from uertool.io.encodings import encoding_named
    from uertool.tasks.search.vectors import find_files

    known: dict[str, Any] = {}
    if corpus.vectors:
        known["vectors"] = [_state(path) for path in find_files(corpus.vectors)]
    elif corpus.test_path is not None:
        known |= {"lines": _state(Path(corpus.test_path)), **encoder.identity}
        known |= {"column": corpus.column, "field": corpus.field}
        known["encoding"] = encoding_named(corpus.encoding)
    if corpus.load_whitening is not None:
        known["whitening"] = sha256_of(corpus.load_whitening)
    found: dict[str, Any] = json.loads(json.dumps(known))
    return found


def _state(path: Path) -> list[Any]:
    """Name, size and time of a file."""
    from uertool.errors import InputError

    if not path.is_file():
        raise InputError(f"The input {path} does not exist.", "Check the path.")
    state = path.stat()
    return [path.name, state.st_size, state.st_mtime_ns]


def _queries(
    lines: Callable[[], Iterator[Line]],
    settings: SearchSettings,
    encoder: Encoder,
    corpus: Corpus,
) -> Iterator[tuple[list[str], Floats]]:
    """Queries in groups: their texts and vectors of length 1."""
    from uertool.engine.batching import windows_of
    from uertool.tasks.search.exact import GROUP
    from uertool.tasks.search.job import check_space, query_vectors
    from uertool.tasks.search.vectors import Vectors, find_files

    if settings.query_vectors is not None:
        files = find_files([settings.query_vectors])
        for block in Vectors(files, corpus.vectors.whitening).blocks():
            yield [note.text for note in block.notes], block.units
        return
    for window in windows_of(lines(), GROUP):
        check_space(encoder.job, corpus)
        yield [line.text for line in window], query_vectors(encoder.job, window, corpus.vectors)
