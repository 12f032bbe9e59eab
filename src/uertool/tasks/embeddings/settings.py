"""What `extract-embeddings` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from uertool.loading.settings import BUNDLED_MODEL
from uertool.settings import Setting, Settings

_MODEL = "Model"
_OUTPUT = "Output"


@dataclass(frozen=True)
class TableSettings(Settings):
    """The model whose word embedding is read; None means not given."""

    load_model_path: Annotated[
        str | None,
        Setting(
            "A checkpoint of UER-py, a Hugging Face folder, a TensorFlow prefix, hf:owner/name, "
            "or a bundled model",
            names=("model", "m"),
            panel=_MODEL,
            metavar="MODEL",
            default=BUNDLED_MODEL,
        ),
    ] = None
    vocab_path: Annotated[Path | None, Setting("Vocabulary, one token a line", panel=_MODEL)] = None
    spm_model_path: Annotated[
        Path | None, Setting("Sentencepiece model in place of a vocabulary", panel=_MODEL)
    ] = None
    tokenizer: Annotated[
        Literal["bert", "char", "space", "bpe", "xlmroberta"] | None,
        Setting("xlmroberta: ids in fairseq's order; others make no difference", panel=_MODEL),
    ] = None


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
        bool, Setting("word2vec's binary format, whatever the suffix", panel=_OUTPUT)
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
