"""The settings of `search` and `dedupe`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from uertool.settings import Setting, Settings
from uertool.tasks.features.settings import Blank, FeatureSettings
from uertool.text.settings import InputSettings

_corpus = partial(Setting, panel="Corpus")
_search = partial(Setting, panel="Search")
_output = partial(Setting, panel="Output")


@dataclass(frozen=True)
class CorpusSettings(InputSettings):
    """The lines to work on, and vectors of them that exist already."""

    test_path: Annotated[
        str | None,
        _corpus(
            "The corpus, one text a line, also .gz; - is standard input",
            names=("corpus", "input", "i"),
            metavar="FILE",
        ),
    ] = None
    vectors: Annotated[
        tuple[str, ...],
        _corpus(
            "Vectors of the lines, as extract-features writes them: a file, a folder of shards or "
            "a glob",
            metavar="PATH",
            default="computed with the model",
        ),
    ] = ()
    load_whitening: Annotated[
        Path | None,
        _corpus(
            "Whiten all vectors; vectors that have the whitening's output size are not whitened "
            "again",
            names=("whitening", "w"),
        ),
    ] = None
    # Rows must match lines, so these options of other commands do not exist here.
    shard: str | None = None
    skip_bad: bool = False

    def files(self) -> list[str | Path | None]:
        """What is read, for the record of a run."""
        return [self.test_path, *self.vectors, self.load_whitening]


@dataclass(frozen=True)
class SentenceSettings(FeatureSettings):
    """How the vector of a line is computed: always one for each line."""

    tokens: bool = False
    blank: Blank = "zero"


@dataclass(frozen=True)
class SearchSettings(Settings):
    """What is searched for, and how."""

    queries: Annotated[
        str | None, _search("Queries, one a line; - is standard input", metavar="FILE")
    ] = None
    query_vectors: Annotated[
        str | None, _search("Vectors of the queries instead of texts", metavar="PATH", rare=True)
    ] = None
    topn: Annotated[int, _search("Results for each query", min=1, names=("n",))] = 10
    threshold: Annotated[
        float | None, _search("Leave out results with a smaller cosine", min=-1, max=1, rare=True)
    ] = None
    index: Annotated[
        Path | None,
        _search(
            "Folder of an approximate index of the corpus; it is built if it is missing",
            metavar="FOLDER",
            is_output=True,
        ),
    ] = None
    plot: Annotated[
        Path | None,
        _output("Draw the results of the first 8 queries, as .png, .svg or .pdf", is_output=True),
    ] = None


@dataclass(frozen=True)
class DedupeSettings(Settings):
    """Which lines are duplicates, and which of them is kept."""

    threshold: Annotated[
        float | None, _search("Cosine from which on lines are duplicates", min=-1, max=1)
    ] = None
    only_exact: Annotated[bool, _search("Find equal lines only, without vectors")] = False
    keep: Annotated[Literal["first", "longest"], _search("Which line of a group is kept")] = "first"
    groups: Annotated[
        Path | None, _output("Write the groups of duplicates here, as JSON lines", is_output=True)
    ] = None
    plot: Annotated[
        Path | None,
        _output(
            "Draw the cosines of nearest lines, to choose a threshold, as .png, .svg "
            "or .pdf; without `threshold` nothing else is done",
            is_output=True,
        ),
    ] = None
