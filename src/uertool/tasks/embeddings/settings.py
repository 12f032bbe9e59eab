"""The settings of `extract-embeddings` and `topn`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from uertool.loading.settings import BUNDLED_MODEL, model_path
from uertool.settings import Setting, Settings
from uertool.text.settings import TokenizerName

_model = partial(Setting, panel="Model")
_output = partial(Setting, panel="Output")
_asked = partial(Setting, panel="Search")

Plot = Annotated[
    Path | None,
    _output("Draw the neighbours of the first 8 words, as .png, .svg or .pdf", is_output=True),
]


@dataclass(frozen=True)
class TableSettings(Settings):
    """The model whose word embedding is read; None means not given."""

    load_model_path: Annotated[str | None, model_path(BUNDLED_MODEL)] = None
    vocab_path: Annotated[Path | None, _model("Vocabulary, one token a line")] = None
    spm_model_path: Annotated[
        Path | None, _model("Sentencepiece model instead of a vocabulary")
    ] = None
    tokenizer: Annotated[
        TokenizerName | None,
        _model("xlmroberta: ids in fairseq's order; others make no difference"),
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
        _output(
            "word2vec text, or by suffix .bin (word2vec binary), .npy (words in STEM.vocab.txt) or "
            ".safetensors; - is text to standard output",
            names=("output", "o"),
            metavar="FILE",
        ),
    ] = None
    binary: Annotated[bool, _output("word2vec's binary format, regardless of the suffix")] = False
    drop_unused: Annotated[
        bool, _output("Leave out [unusedN], special tokens and empty entries")
    ] = False
    projected: Annotated[
        bool, _output("For a factorized embedding (ALBERT): vectors of the hidden size")
    ] = False
    overwrite: Annotated[bool, _output("Replace an existing output")] = False


@dataclass(frozen=True)
class NeighbourSettings(Settings):
    """What `topn indep` looks for, and in which vectors."""

    vectors: Annotated[
        Path | None,
        _model(
            "A file of word vectors instead of a model: word2vec text or binary, also .gz, or "
            "the output of `extract-embeddings`",
            metavar="FILE",
        ),
    ] = None
    plus: Annotated[
        tuple[str, ...], _asked("Add the vector of this word to each", metavar="WORD")
    ] = ()
    minus: Annotated[
        tuple[str, ...], _asked("Subtract the vector of this word from each", metavar="WORD")
    ] = ()
    topn: Annotated[int, _asked("Neighbours of each word", min=1, names=("n",))] = 15
    by: Annotated[Literal["cosine", "dot", "euclidean"], _asked("Similarity measure")] = "cosine"
    plot: Plot = None


@dataclass(frozen=True)
class SubstituteSettings(Settings):
    """How substitutes of a word in its sentence are searched for."""

    topn: Annotated[int, _asked("Neighbours of each word", min=1, names=("n",))] = 15
    seq_length: Annotated[
        int | None,
        _asked("Maximum tokens per sentence", min=1, default="128, or the model's positions"),
    ] = None
    batch_size: Annotated[
        int | None,
        Setting(
            "Maximum candidates per batch",
            min=1,
            panel="Device and speed",
            default="as many as fit the device",
        ),
    ] = None
    add_special: Annotated[
        bool, _asked("Put [CLS] and [SEP] around sentences; UER-py does not")
    ] = False
    occurrence: Annotated[
        int | None,
        _asked(
            "Which occurrence of a repeated word to replace, counted from 1",
            min=1,
            default="the first, with a warning",
        ),
    ] = None
    cand_vocab_path: Annotated[
        Path | None,
        _asked("Candidates, one a line", metavar="FILE", default="the model's vocabulary"),
    ] = None
    all_candidates: Annotated[
        bool,
        _asked(
            "Compare with the whole vocabulary, including ## pieces, special tokens and other "
            "scripts"
        ),
    ] = False
    plot: Plot = None
