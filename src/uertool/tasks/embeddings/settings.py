"""The settings of `extract-embeddings` and `topn`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from uertool.loading.settings import BUNDLED_MODEL, model_path
from uertool.settings import Setting, Settings

_MODEL = "Model"
_OUTPUT = "Output"
_ASKED = "Search"

Plot = Annotated[
    Path | None,
    Setting("Draw the neighbours of the first 8 words, as .png, .svg or .pdf", panel=_OUTPUT),
]


@dataclass(frozen=True)
class TableSettings(Settings):
    """The model whose word embedding is read; None means not given."""

    load_model_path: Annotated[
        str | None,
        model_path(BUNDLED_MODEL),
    ] = None
    vocab_path: Annotated[Path | None, Setting("Vocabulary, one token a line", panel=_MODEL)] = None
    spm_model_path: Annotated[
        Path | None, Setting("Sentencepiece model instead of a vocabulary", panel=_MODEL)
    ] = None
    tokenizer: Annotated[
        Literal["bert", "char", "space", "bpe", "xlmroberta"] | None,
        Setting("xlmroberta: ids in fairseq's order; others make no difference", panel=_MODEL),
    ] = None

    @property
    def reference(self) -> str:
        """The model that was named, or the bundled one."""
        return self.load_model_path or BUNDLED_MODEL

    def files(self) -> list[str | Path | None]:
        """What is read, for the record of a run."""
        return [self.reference, self.vocab_path, self.spm_model_path]


@dataclass(frozen=True)
class ExportSettings(Settings):
    """Which word vectors are written, where, and in which format."""

    word_embedding_path: Annotated[
        str | None,
        Setting(
            "word2vec text, or by suffix .bin (word2vec binary), .npy (words in STEM.vocab.txt) or "
            ".safetensors; - is text to standard output",
            names=("output", "o"),
            panel=_OUTPUT,
            metavar="FILE",
        ),
    ] = None
    binary: Annotated[
        bool, Setting("word2vec's binary format, regardless of the suffix", panel=_OUTPUT)
    ] = False
    drop_unused: Annotated[
        bool,
        Setting("Leave out [unusedN], special tokens and empty entries", panel=_OUTPUT),
    ] = False
    projected: Annotated[
        bool,
        Setting("For a factorized embedding (ALBERT): vectors of the hidden size", panel=_OUTPUT),
    ] = False
    overwrite: Annotated[bool, Setting("Replace an existing output", panel=_OUTPUT)] = False


@dataclass(frozen=True)
class NeighbourSettings(Settings):
    """What `topn indep` looks for, and in which vectors."""

    vectors: Annotated[
        Path | None,
        Setting(
            "A file of word vectors instead of a model: word2vec text or binary, also .gz, or "
            "the output of extract-embeddings",
            panel=_MODEL,
            metavar="FILE",
        ),
    ] = None
    plus: Annotated[
        tuple[str, ...], Setting("Add this word to each one; may be repeated", panel=_ASKED)
    ] = ()
    minus: Annotated[
        tuple[str, ...], Setting("Subtract this word from each; may be repeated", panel=_ASKED)
    ] = ()
    topn: Annotated[int, Setting("Neighbours of each word", min=1, names=("n",), panel=_ASKED)] = 15
    by: Annotated[
        Literal["cosine", "dot", "euclidean"], Setting("Similarity measure", panel=_ASKED)
    ] = "cosine"
    plot: Plot = None


@dataclass(frozen=True)
class SubstituteSettings(Settings):
    """How substitutes of a word in its sentence are searched for."""

    topn: Annotated[int, Setting("Neighbours of each word", min=1, names=("n",), panel=_ASKED)] = 15
    seq_length: Annotated[
        int | None,
        Setting(
            "Maximum tokens per sentence",
            min=1,
            panel=_ASKED,
            default="128, or the model's positions",
        ),
    ] = None
    batch_size: Annotated[
        int, Setting("Maximum candidates per batch", min=1, panel="Device and speed")
    ] = 256
    add_special: Annotated[
        bool,
        Setting("Put [CLS] and [SEP] around sentences; UER-py does not", panel=_ASKED),
    ] = False
    occurrence: Annotated[
        int | None,
        Setting(
            "Which occurrence of a repeated word to replace, counted from 1",
            min=1,
            panel=_ASKED,
            default="the first, with a warning",
        ),
    ] = None
    cand_vocab_path: Annotated[
        Path | None,
        Setting(
            "Candidates, one a line",
            panel=_ASKED,
            metavar="FILE",
            default="the model's vocabulary",
        ),
    ] = None
    all_candidates: Annotated[
        bool,
        Setting(
            "Compare with the whole vocabulary, including ## pieces, special tokens and other "
            "scripts",
            panel=_ASKED,
        ),
    ] = False
    plot: Plot = None
