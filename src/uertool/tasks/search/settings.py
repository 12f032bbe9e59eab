"""The settings of `search` and `dedupe`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from uertool.settings import Setting, Settings
from uertool.tasks.features.settings import Blank, FeatureSettings
from uertool.text.settings import InputSettings

_CORPUS = "Corpus"
_SEARCH = "Search"
_OUTPUT = "Output"


@dataclass(frozen=True)
class CorpusSettings(InputSettings):
    """The lines to work on, and vectors of them that exist already."""

    test_path: Annotated[
        str | None,
        Setting(
            "The corpus, one text a line, also .gz; - is standard input",
            names=("corpus", "input", "i"),
            panel=_CORPUS,
            metavar="FILE",
        ),
    ] = None
    vectors: Annotated[
        tuple[str, ...],
        Setting(
            "Vectors of the lines, as extract-features writes them: a file, a folder of shards or "
            "a glob; may be repeated",
            panel=_CORPUS,
            metavar="PATH",
            default="computed with the model",
        ),
    ] = ()
    load_whitening: Annotated[
        Path | None,
        Setting(
            "Whiten all vectors; vectors that have the whitening's output size are not whitened "
            "again",
            names=("whitening", "w"),
            panel=_CORPUS,
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
        str | None,
        Setting("Queries, one a line; - is standard input", panel=_SEARCH, metavar="FILE"),
    ] = None
    query_vectors: Annotated[
        str | None,
        Setting(
            "Vectors of the queries instead of texts", panel=_SEARCH, metavar="PATH", rare=True
        ),
    ] = None
    topn: Annotated[int, Setting("Results for each query", min=1, names=("n",), panel=_SEARCH)] = 10
    threshold: Annotated[
        float | None,
        Setting("Leave out results with a smaller cosine", min=-1, max=1, panel=_SEARCH, rare=True),
    ] = None
    index: Annotated[
        Path | None,
        Setting(
            "Folder of an approximate index of the corpus; it is built if it is missing",
            panel=_SEARCH,
            metavar="FOLDER",
        ),
    ] = None
    plot: Annotated[
        Path | None,
        Setting("Draw the results of the first 8 queries, as .png, .svg or .pdf", panel=_OUTPUT),
    ] = None


@dataclass(frozen=True)
class DedupeSettings(Settings):
    """Which lines are duplicates, and which of them is kept."""

    threshold: Annotated[
        float | None,
        Setting("Lines with at least this cosine are duplicates", min=-1, max=1, panel=_SEARCH),
    ] = None
    only_exact: Annotated[
        bool, Setting("Find equal lines only, without vectors", panel=_SEARCH)
    ] = False
    keep: Annotated[
        Literal["first", "longest"], Setting("Which line of a group is kept", panel=_SEARCH)
    ] = "first"
    groups: Annotated[
        Path | None,
        Setting("Write the groups of duplicates here, as JSON lines", panel=_OUTPUT),
    ] = None
    plot: Annotated[
        Path | None,
        Setting(
            "Draw the cosines of nearest lines, to choose a threshold, as .png, .svg "
            "or .pdf; without `threshold` nothing else is done",
            panel=_OUTPUT,
        ),
    ] = None
