"""The settings of `evaluate` and of `whiten tune`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from uertool.errors import SettingError, UsageError
from uertool.io.atomic import refuse_existing
from uertool.settings import Setting, Settings
from uertool.tasks.cloze.settings import ClozeSettings, LineLength, WholeWord, WordList
from uertool.tasks.features.settings import AddSep, BatchSize, FeatureSettings, SeqLength
from uertool.tasks.pictures import require_drawing
from uertool.text.settings import Encoding

_pairs = partial(Setting, panel="Pairs")
_vectors = partial(Setting, panel="Vectors")
_grid = partial(Setting, panel="Search space")


@dataclass(frozen=True)
class PairSettings(Settings):
    """Pairs of texts with a score or label, and which vectors of the texts are compared."""

    test_path: Annotated[
        str | None,
        _pairs(
            "Pairs: tab-separated values with a header line, or JSON lines (.jsonl)",
            names=("input", "i"),
            metavar="FILE",
        ),
    ] = None
    encoding: Encoding = "utf-8"
    text_columns: Annotated[
        str, _pairs("Names of the columns of the two texts, separated by a comma", metavar="A,B")
    ] = "text_a,text_b"
    score_column: Annotated[
        str | None,
        _pairs("Name of the column of scores", metavar="NAME", default="score, or else label"),
    ] = None
    pooling: Annotated[
        str, _vectors("Poolings of `extract-features`, separated by commas", metavar="A,B,...")
    ] = "first,mean,first-last-mean"
    seq_length: SeqLength = None
    batch_size: BatchSize = None
    add_sep: AddSep = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.columns) != 2:
            raise SettingError("text_columns", self.text_columns, "must be two names, as a,b")
        if not self.features():
            raise SettingError("pooling", self.pooling, "must name a pooling")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of texts."""
        return tuple(self.text_columns.split(","))

    @property
    def heads(self) -> tuple[str, ...]:
        """The output heads that are needed of the model."""
        return tuple({head for features in self.features() for head in features.heads})

    def features(self) -> list[FeatureSettings]:
        """What is computed, for each pooling."""
        names = dict.fromkeys(name.strip() for name in self.pooling.split(",") if name.strip())
        return [
            FeatureSettings(
                pooling=name,
                seq_length=self.seq_length,
                batch_size=self.batch_size,
                add_sep=self.add_sep,
            )
            for name in names
        ]


@dataclass(frozen=True)
class StsSettings(Settings):
    """The confidence interval of a correlation, and further texts to fit a whitening on."""

    fit_path: Annotated[
        tuple[str, ...],
        Setting(
            "Also fit the whitening on the texts of this file of pairs",
            panel="Whitening",
            metavar="FILE",
            rare=True,
        ),
    ] = ()

    resamples: Annotated[
        int, Setting("Bootstrap samples for the interval; 0 for none", min=0, panel="Pairs")
    ] = 1000


@dataclass(frozen=True)
class TuneSettings(Settings):
    """Which whitenings are tried, and how they are judged."""

    save_whitening: Annotated[
        Path | None,
        Setting(
            "Write the best whitening to this .safetensors file",
            names=("output", "o"),
            panel="Whitening",
            is_output=True,
        ),
    ] = None
    sizes: Annotated[
        tuple[int, ...],
        _grid("Dimensions to keep", min=1, default="32, 64, ... and all"),
    ] = ()
    betas: Annotated[tuple[float, ...], _grid("Values of beta", min=0, max=1)] = (0.0, 1.0)
    gammas: Annotated[tuple[float, ...], _grid("Values of gamma", min=0, max=1)] = (
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
    )
    folds: Annotated[
        int, Setting("Number of cross-validation folds", min=2, panel="Search space")
    ] = 5
    seed: Annotated[
        int, Setting("Seed of the division into folds", panel="Search space", rare=True)
    ] = 7
    plot: Annotated[
        Path | None,
        Setting(
            "Draw the scores of all trials, as .png, .svg or .pdf", panel="Output", is_output=True
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.betas or not self.gammas:
            raise UsageError("`betas` and `gammas` need a value each.")

    def check(self, *, overwrite: bool = False) -> None:
        """Check early that the outputs can be written.

        Raises:
            UsageError: a name with an unknown suffix.
            OutputError: one exists already.
            MissingExtraError: there is no matplotlib.
        """
        from uertool.tasks.features.whitening import check_path

        if self.save_whitening is not None:
            check_path(self.save_whitening)
            refuse_existing(self.save_whitening, overwrite)
        require_drawing(self.plot, overwrite=overwrite)


@dataclass(frozen=True)
class EveryWordSettings(Settings):
    """Which tokens are masked together, one after the other."""

    whole_word: WholeWord = False
    word_list: WordList = None
    seq_length: LineLength = None
    batch_size: BatchSize = None

    def with_words(self, words: frozenset[str]) -> ClozeSettings:
        """The settings for masking, with the words of a list."""
        return ClozeSettings(
            whole_word=self.whole_word or bool(words),
            words=words,
            seq_length=self.seq_length,
            batch_size=self.batch_size,
        )
