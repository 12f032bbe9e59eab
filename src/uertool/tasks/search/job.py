"""Search: the lines of a corpus that are nearest to queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from uertool.engine.batching import Ahead, windows_of
from uertool.engine.jobs import run_job
from uertool.errors import InputError, UsageError
from uertool.io.vector_writer import Note
from uertool.tasks.features.job import FeatureJob
from uertool.tasks.features.whitening import Whitening, real_rows
from uertool.tasks.search.exact import GROUP, nearest
from uertool.tasks.search.index import SavedIndex
from uertool.tasks.search.lines import LineFile, open_lines
from uertool.tasks.search.settings import CorpusSettings, SearchSettings
from uertool.tasks.search.vectors import (
    Floats,
    OnRows,
    Progress,
    Rows,
    Vectors,
    find_files,
    silent,
    unit_vectors,
    write_vectors,
)
from uertool.text.readers import Line

#: Number of vectors that are computed again to check that given ones are of this model.
_CHECKED = 3
#: The least cosine of both; int8 and float16 round.
_SAME = 0.99


@dataclass(frozen=True)
class Corpus:
    """What is searched.

    Attributes:
        vectors: a row for each line or token.
        lines: the lines, or None if only vectors are there.
    """

    vectors: Vectors
    lines: LineFile | None

    def encoded(
        self,
        make_job: Callable[[], FeatureJob],
        scratch: Path,
        on_lines: OnRows = lambda _: None,
    ) -> Corpus:
        """The same corpus; vectors that do not exist are computed into a scratch folder."""
        if self.lines is None or self.vectors.files:
            return self
        made = write_vectors(make_job(), self.lines, scratch / "vectors.npy", on_lines)
        return replace(self, vectors=replace(self.vectors, files=made.files))

    def blocks(self, size: int) -> Iterator[Rows]:
        """All rows; the next block is read while one is used.

        Raises:
            InputError: they have not this size, or there are not as many as lines.
        """
        count = 0
        with Ahead(self.vectors.blocks) as blocks:
            for block in blocks:
                check_size(size, block.units.shape[1])
                count += len(block.units)
                yield block
        self.check_count(count)

    def check_count(self, rows: int) -> None:
        """Raise InputError if rows that do not know their lines are not as many as the lines."""
        if self.lines is not None and not self.vectors.have_notes and rows != len(self.lines):
            raise InputError(
                f"There are {rows:,} vectors, but {self.lines.name} has {len(self.lines):,} lines.",
                "Extract the vectors of this file again, without `blank` skip.",
            )

    def notes_of(self, rows: Sequence[int]) -> dict[int, Note]:
        """The lines of rows: number in the whole input and text, of tokens the position too.

        Raises:
            InputError: the lines have no such number.
        """
        found = self.vectors.notes_of(rows)
        return {row: self.with_text(note) for row, note in found.items()}

    def with_text(self, note: Note) -> Note:
        """A note with the text of its line; tokens keep their own."""
        if self.lines is None:
            return note
        row = self.lines.row_of(note.line) if self.vectors.have_notes else note.line
        if not 0 <= row < len(self.lines):
            raise InputError(
                f"There is a vector of line {note.line + 1}, but {self.lines.name} has "
                f"{len(self.lines):,} lines.",
                "Name the file that the vectors were extracted from.",
            )
        line = self.lines.line(row)
        return Note(
            line.number, note.text if note.position is not None else line.text, note.position
        )


def open_corpus(settings: CorpusSettings, scratch: Path) -> Corpus:
    """The corpus that settings name; without `vectors` it has none yet, see `Corpus.encoded`.

    Args:
        settings: which corpus.
        scratch: a folder for what is not needed later.

    Raises:
        UsageError: neither lines nor vectors are named.
        InputError: something is missing, or holds nothing.
    """
    if settings.test_path is None and not settings.vectors:
        raise UsageError(
            "There is nothing to search in.",
            "Name lines with `test_path`, vectors of them with `vectors`, or both.",
        )
    vectors = given_vectors(settings)
    return Corpus(vectors, None if settings.test_path is None else open_lines(settings, scratch))


def given_vectors(settings: CorpusSettings) -> Vectors:
    """The vectors that settings name, maybe none, and the whitening."""
    whitening = None
    if settings.load_whitening is not None:
        whitening = Whitening.load(settings.load_whitening)
    return Vectors(find_files(settings.vectors) if settings.vectors else (), whitening)


def check_size(size: int, found: int) -> None:
    """Raise InputError if queries and corpus have vectors of two sizes."""
    if size != found:
        raise InputError(
            f"The queries have vectors of {size} numbers, but the corpus has vectors of {found}.",
            "Use the same model for both, and `load_whitening` if the corpus is whitened.",
        )


def check_space(job: FeatureJob, corpus: Corpus) -> None:
    """Check that given vectors are those of the model for their lines.

    Raises:
        InputError: they are not.
    """
    if not corpus.vectors.files:  # an index has them
        return
    for block in corpus.vectors.blocks():
        notes = [corpus.with_text(note) for note in block.notes[:64]]
        chosen = [
            row
            for row, note in enumerate(notes)
            if note.position is None
            and note.text.strip()
            and np.ptp(np.abs(block.units[row])) > 0  # not single bits
        ][:_CHECKED]
        if not chosen:
            return
        units = query_vectors(job, [Line(0, notes[row].text) for row in chosen], corpus.vectors)
        check_size(units.shape[1], block.units.shape[1])
        cosine = float((units * block.units[chosen]).sum(axis=1).min())
        if cosine < _SAME:
            line = notes[chosen[0]].line + 1
            raise InputError(
                f"The vectors do not come from this model and its settings: the one of line {line} "
                f"has a cosine of {cosine:.3f} with what the model gives for it.",
                "Give the `model`, `pooling`, `layers` and `load_whitening` that they were "
                "extracted with, and the same lines.",
            )
        return


def query_vectors(job: FeatureJob, queries: Sequence[Line], vectors: Vectors) -> Floats:
    """Vectors of queries [queries, size], whitened as the corpus is; blank ones are zero."""
    found = np.concatenate([result.vectors for result in run_job(job, queries)])
    return unit_vectors(vectors.whitened(found), "The vectors of the queries")


def answers(
    queries: Iterable[Line],
    corpus: Corpus,
    settings: SearchSettings,
    make_job: Callable[[], FeatureJob],
    *,
    index: SavedIndex | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[str, list[tuple[float, Note]]]]:
    """For each query its text, and cosines and lines that are nearest, nearest first.

    Args:
        queries: one without tokens finds nothing. They are not read if the settings name their
            vectors; then they have no texts.
        corpus: what is searched.
        settings: how many are wanted, and how near.
        make_job: loads the model, if it is needed.
        index: an index of the corpus that is searched instead.
        device: where products are computed.
        progress: shows how many rows were compared.

    Raises:
        InputError: vectors do not fit the model or each other, or something cannot be read.
    """
    least = -np.inf if settings.threshold is None else settings.threshold
    for names, vectors in _asked(queries, corpus, settings.query_vectors, make_job):
        size = vectors.shape[1]
        with progress(None, "Comparing", unit="rows") as advance:
            if index is not None:
                check_size(size, index.about.size)
                found = index.nearest(vectors, settings.topn)
            else:
                blocks = corpus.blocks(size)
                found = nearest(vectors, blocks, settings.topn, device=device, on_rows=advance)
        are_near = (found.rows >= 0) & (found.cosines >= least) & real_rows(vectors)[:, None]
        notes = corpus.notes_of(found.rows[are_near].tolist())
        for name, cosines, rows, are_wanted in zip(names, *found, are_near, strict=True):
            near = zip(cosines[are_wanted].tolist(), rows[are_wanted].tolist(), strict=True)
            yield name, [(cosine, notes[row]) for cosine, row in near]


def _asked(
    queries: Iterable[Line],
    corpus: Corpus,
    path: str | None,
    make_job: Callable[[], FeatureJob],
) -> Iterator[tuple[list[str], Floats]]:
    """Queries in groups: their texts and vectors of length 1."""
    if path is not None:
        for block in Vectors(find_files([path]), corpus.vectors.whitening).blocks():
            yield [note.text for note in block.notes], block.units
        return
    for window in windows_of(queries, GROUP):
        check_space(make_job(), corpus)
        yield [line.text for line in window], query_vectors(make_job(), window, corpus.vectors)
