"""The settings of `cloze`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from uertool.errors import SettingError, UsageError
from uertool.settings import Setting, Settings

#: In which order the masks of one place are filled.
Order = Literal["left-to-right", "most-certain"]

#: Guesses for a mask, and how many of the best tokens a variant is drawn from.
DEFAULT_GUESSES = 10
DEFAULT_DRAWN_FROM = 100

#: Targets of pre-training that include a masked language model.
_MLM_TARGETS = frozenset({"bert", "mlm", "albert"})

_asked = partial(Setting, panel="Cloze test")
_masks = partial(Setting, panel="What is masked (in lines without [MASK])")


# Settings that `evaluate cloze` shares.
WholeWord = Annotated[bool, _masks("Mask all tokens of a word together")]
WordList = Annotated[
    Path | None,
    _masks(
        "For `whole_word`: a file of words, one a line; the longest match is used, and jieba "
        "segments what is between matches"
    ),
]
LineLength = Annotated[
    int | None,
    _asked(
        "Maximum tokens per line, including special tokens; longer lines are truncated",
        min=1,
        default="128, or the model's positions",
    ),
]


@dataclass(frozen=True)
class ClozeSettings(Settings):
    """The settings of a cloze test.

    Attributes:
        words: with `whole_word`, words that come before those of the segmentation; on the command
            line they are read from the file `word_list`.
    """

    topn: Annotated[
        int | None,
        _asked(
            "Guesses for each mask; with `augment`, draw from this many of the best",
            min=1,
            names=("n",),
            default="10; with `augment` 100",
        ),
    ] = None
    targets: Annotated[
        tuple[str, ...],
        _asked(
            "Score these words in place of the masks, separated by commas; adjacent masks count "
            "as one",
            metavar="A,B,...",
        ),
    ] = ()
    fill_order: Annotated[
        Order, _asked("Order in which the tokens of a longer word are filled", rare=True)
    ] = "left-to-right"
    augment: Annotated[int | None, _asked("Write N variants of every line", min=1, metavar="N")] = (
        None
    )
    keep_original: Annotated[
        bool, _asked("With `augment`: write the line itself before its variants")
    ] = False
    temperature: Annotated[
        float,
        _asked("Temperature of variants; below 1 prefers probable tokens", above=0, rare=True),
    ] = 1.0
    target: Annotated[
        str | None,
        _asked(
            "The training target, as in UER-py",
            metavar="bert|mlm|albert",
            default="detected from the file",
            rare=True,
        ),
    ] = None
    mask_word: Annotated[
        str | None, _masks("Mask this word wherever it occurs", metavar="WORD")
    ] = None
    mask_ratio: Annotated[float | None, _masks("Mask this share of the tokens", above=0, max=1)] = (
        None
    )
    whole_word: WholeWord = False
    word_list: WordList = None
    seq_length: LineLength = None
    batch_size: Annotated[
        int | None, Setting("Maximum lines per batch", min=1, panel="Device and speed")
    ] = 64
    words: frozenset[str] = frozenset()
    seed: Annotated[int, _asked("Seed of random choices")] = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is not None and not _MLM_TARGETS & set(self.target.split(",")):
            raise SettingError("target", self.target, "must be bert, mlm or albert for cloze tests")
        if self.temperature == float("inf"):
            raise SettingError("temperature", self.temperature, "must be finite")
        if self.augment and self.targets:
            raise UsageError(
                "`augment` and `targets` were both given.", "Draw variants, or score given words."
            )
        if self.keep_original and not self.augment:
            raise UsageError("`keep_original` belongs to `augment`.", "Give `augment` too.")
        if not all(word.strip() for word in self.targets):
            raise UsageError("One of the words of `targets` is empty.")
        if self.mask_word is not None and self.mask_ratio is not None:
            raise UsageError(
                "`mask_word` and `mask_ratio` were both given.", "Mask a word, or a share."
            )
        if self.mask_word is not None and not self.mask_word.strip():
            raise SettingError("mask_word", self.mask_word, "must not be empty")

    @property
    def best(self) -> int:
        """`topn`, or its default."""
        return self.topn or (DEFAULT_DRAWN_FROM if self.augment else DEFAULT_GUESSES)


@dataclass(frozen=True)
class DialogueSettings(Settings):
    """Another way for the command to get its texts."""

    interactive: Annotated[
        bool, Setting("Ask for texts one at a time", panel="Input", rare=True)
    ] = False
