"""The settings of `vocab build`, `vocab diff` and `vocab adapt`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from uertool.errors import SettingError, UsageError
from uertool.settings import Setting, Settings
from uertool.text.settings import Encoding, TokenizerName

_counted = partial(Setting, panel="Counted vocabularies")
_trained = partial(Setting, panel="Trained subword vocabularies")
_corpus = partial(Setting, panel="On a corpus")
_rows = partial(Setting, panel="Rows of new words")
_tokenizer = partial(Setting, panel="The old tokenizer, which splits new words into pieces")
_decoder = partial(Setting, panel="A decoder with a vocabulary of its own")

#: How rows of new words are made.
Init = Literal["mean-of-pieces", "normal", "zero", "similar"]

#: Words that `vocab diff` and `vocab adapt` can list.
DIFF_LISTS = ("only_1", "only_2", "common", "moved", "duplicates")
ADAPT_LISTS = ("composed", "drawn", "zero", "renamed", "dropped")


@dataclass(frozen=True)
class BuildSettings(Settings):
    """How a vocabulary is made of a corpus."""

    corpus_path: Annotated[
        tuple[str, ...],
        Setting(
            "The same as CORPUS",
            names=("corpus",),
            several=True,
            metavar="FILE",
        ),
    ] = ()
    encoding: Encoding = "utf-8"
    output_path: Annotated[
        str | None,
        Setting(
            "The vocabulary file; - is standard output",
            names=("vocab_path", "o"),
            metavar="FILE",
            is_output=True,
        ),
    ] = None
    delimiter: Annotated[
        Literal["char", "space"] | None,
        _counted("Count characters (char) or words (space)", default="char"),
    ] = None
    tokenizer: Annotated[
        Literal["char", "space"] | None, _counted("The name of `delimiter` in UER-py (2021)")
    ] = None
    workers_num: Annotated[int, _counted("Number of processes", min=1)] = 1
    max_size: Annotated[int | None, _counted("Maximum entries, including reserved ones", min=1)] = (
        None
    )
    coverage: Annotated[
        float | None,
        _counted(
            "Keep the most frequent tokens that cover this share of the corpus, such as 0.9995",
            above=0,
            max=1,
        ),
    ] = None
    counts: Annotated[
        str | None,
        _counted("Also write every token and its count here", metavar="FILE", is_output=True),
    ] = None
    max_types: Annotated[
        int,
        _counted(
            "Maximum distinct tokens of the corpus; each takes about 300 bytes of memory", min=1
        ),
    ] = 10_000_000
    model: Annotated[
        Literal["wordpiece", "bpe", "unigram"] | None,
        _trained("Train subwords instead of counting"),
    ] = None
    vocab_size: Annotated[
        int | None, _trained("Number of entries, including reserved ones", min=1)
    ] = None
    do_lower_case: Annotated[
        bool, _trained("Whether wordpiece lower-cases and strips accents", valued=True)
    ] = True
    min_count: Annotated[
        int,
        Setting("Leave out tokens (with `model`: pairs of pieces) that occur less often", min=1),
    ] = 1
    normalization: Annotated[
        Literal["NFC", "NFKC", "nfc", "nfkc"] | None,
        Setting("Convert the text to this Unicode normal form first", metavar="NFC|NFKC"),
    ] = None
    reserved_vocab_path: Annotated[
        Path | None, Setting("Tokens to begin with, one a line", default="UER-py's reserved tokens")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delimiter and self.tokenizer and self.delimiter != self.tokenizer:
            raise UsageError(
                f"`delimiter` {self.delimiter} and `tokenizer` {self.tokenizer} contradict each "
                "other.",
                "They are two names of one option.",
            )
        if self.model is None:
            if self.vocab_size is not None:
                raise UsageError(
                    "`vocab_size` belongs to a trained vocabulary.",
                    "Give `model` too, or `max_size` for a counted one.",
                )
            return
        if self.vocab_size is None:
            raise UsageError(
                f"`model` {self.model} needs `vocab_size`.", "For example: `vocab_size` 21128."
            )
        names = ("delimiter", "tokenizer", "max_size", "coverage", "counts")
        wrong = [f"`{name}`" for name in names if getattr(self, name) is not None]
        if wrong:
            raise UsageError(
                f"{', '.join(wrong)} cannot be combined with `model`: a trained vocabulary is not "
                "counted.",
                "Leave out one or the other.",
            )

    @property
    def unit(self) -> Literal["char", "space"]:
        """What is counted: characters, or words between white space."""
        return self.delimiter or self.tokenizer or "char"

    @property
    def form(self) -> Literal["NFC", "NFKC"] | None:
        """The normal form of the text; None leaves it as it is."""
        if self.normalization is None:
            return None
        return "NFC" if self.normalization.upper() == "NFC" else "NFKC"


@dataclass(frozen=True)
class DiffSettings(Settings):
    """Which vocabularies are compared, and on which corpus."""

    vocab_1: Annotated[Path | None, Setting("The first vocabulary", metavar="FILE")] = None
    vocab_2: Annotated[Path | None, Setting("The second vocabulary", metavar="FILE")] = None
    encoding: Encoding = "utf-8"
    list: Annotated[
        tuple[str, ...],
        Setting(f"Also list these tokens: {', '.join(DIFF_LISTS)}", metavar="WHAT"),
    ] = ()
    corpus_path: Annotated[
        tuple[str, ...],
        _corpus(
            "Text on which the coverage of both is measured",
            names=("corpus",),
            several=True,
            metavar="FILE",
        ),
    ] = ()
    delimiter: Annotated[
        Literal["char", "space"], _corpus("Measure the coverage of characters or words")
    ] = "char"
    tokenizer: Annotated[
        Literal["bert", "char", "space"], _corpus("Tokenizer for the [UNK] rate")
    ] = "bert"
    do_lower_case: Annotated[
        bool, _corpus("Whether the tokenizer bert lower-cases text", valued=True)
    ] = True
    workers_num: Annotated[int, _corpus("Number of processes", min=1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lists(self.list, DIFF_LISTS)
        if "-" in self.corpus_path:
            raise UsageError(
                "The corpus is read more than once, so it cannot be standard input.",
                "Name a file.",
            )

    @property
    def lists(self) -> tuple[str, ...]:
        """The words to list, by the names in `DIFF_LISTS`."""
        return tuple(name.replace("-", "_") for name in self.list)


@dataclass(frozen=True)
class AdaptSettings(Settings):
    """Which model gets which vocabulary, and how its new rows are made."""

    old_model_path: Annotated[
        str | None,
        Setting(
            "A checkpoint of UER-py, or a Hugging Face file or folder",
            names=("load_model_path", "model", "m"),
            metavar="MODEL",
        ),
    ] = None
    old_vocab_path: Annotated[
        Path | None,
        Setting("Vocabulary of the model", default="the one next to it or in its folder"),
    ] = None
    new_vocab_path: Annotated[
        Path | None,
        Setting("The new vocabulary: a file, or a folder with a tokenizer", metavar="PATH"),
    ] = None
    new_model_path: Annotated[
        Path | None,
        Setting(
            "The output: a .bin or .safetensors file, or a folder if the model is one",
            names=("output", "o"),
            metavar="PATH",
        ),
    ] = None
    old_spm_model_path: Annotated[
        Path | None, Setting("Sentencepiece model as the old vocabulary")
    ] = None
    new_spm_model_path: Annotated[
        Path | None, Setting("Sentencepiece model as the new vocabulary")
    ] = None
    init: Annotated[Init, _rows("How rows of new words are made")] = "mean-of-pieces"
    similar_path: Annotated[
        Path | None,
        _rows(
            "For `init` similar: word2vec file with the vectors of old and new words",
            names=("word_vectors_path",),
        ),
    ] = None
    # WECHSEL's number of neighbours and temperature (Minixhofer et al. 2022, arXiv 2112.06598).
    neighbours: Annotated[
        int, _rows("For `init` similar: number of nearest old words that a row is made of", min=1)
    ] = 10
    temperature: Annotated[
        float,
        _rows(
            "For `init` similar: temperature of the softmax over the cosines of these words",
            above=0,
        ),
    ] = 0.1
    seed: Annotated[int, _rows("Seed of rows that are drawn at random")] = 7
    tokenizer: Annotated[
        TokenizerName,
        _tokenizer("Kind of the old tokenizer"),
    ] = "bert"
    merges_path: Annotated[Path | None, _tokenizer("Merges of the old tokenizer, if it is bpe")] = (
        None
    )
    do_lower_case: Annotated[
        bool, _tokenizer("Whether the old tokenizer lower-cases text (bert)", valued=True)
    ] = True
    old_tgt_vocab_path: Annotated[Path | None, _decoder("Vocabulary of the decoder")] = None
    new_tgt_vocab_path: Annotated[Path | None, _decoder("New vocabulary of the decoder")] = None
    arch: Annotated[
        str | None,
        Setting("The architecture, if the names of tensors are ambiguous", metavar="NAME"),
    ] = None
    dry_run: Annotated[bool, Setting("Show what would change; write nothing")] = False
    list: Annotated[
        tuple[str, ...],
        Setting(f"Also list these words: {', '.join(ADAPT_LISTS)}", metavar="WHAT"),
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lists(self.list, ADAPT_LISTS)
        if self.old_model_path is None:
            raise UsageError("No model was named.", "Name one with `old_model_path`.")
        if self.new_model_path is None and not self.dry_run:
            raise UsageError("There is no output.", "Name a file with `new_model_path`.")
        new = (self.new_vocab_path, self.new_spm_model_path, self.new_tgt_vocab_path)
        if not any(new):
            raise UsageError("No new vocabulary was named.", "Name one with `new_vocab_path`.")
        if (self.old_tgt_vocab_path is None) != (self.new_tgt_vocab_path is None):
            raise UsageError("`old_tgt_vocab_path` and `new_tgt_vocab_path` go together.")
        for which in ("old", "new"):
            names = (f"{which}_vocab_path", f"{which}_spm_model_path")
            if all(getattr(self, name) for name in names):
                raise UsageError(
                    f"`{names[0]}` and `{names[1]}` were both given.", "Give one of them."
                )
        if (self.init == "similar") != (self.similar_path is not None):
            raise UsageError(
                "`init` similar needs a word2vec file, and only that method does.",
                "Name it with `similar_path`.",
            )

    def files(self) -> Sequence[str | Path | None]:
        """What is read, for the record of a run."""
        names = [field.name for field in dataclasses.fields(self) if field.name.endswith("_path")]
        return [getattr(self, name) for name in names if name != "new_model_path"]

    @property
    def lists(self) -> tuple[str, ...]:
        """The words to list, by the names in `ADAPT_LISTS`."""
        return tuple(name.replace("-", "_") for name in self.list)


def _check_lists(names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name.replace("-", "_") not in known:
            raise SettingError("list", name, f"must be one of {', '.join(known)}")
