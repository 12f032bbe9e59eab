"""Which model a command runs, and where: the settings that every command with a model shares."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from uertool.bundled import bundled_models
from uertool.checkpoints.companions import find_companion
from uertool.config import Activation, EncoderName, MaskName
from uertool.settings import Setting, Settings

#: The model that runs when none is named.
BUNDLED_MODEL = "zh-mlm-small"

EmbeddingPart = Literal["word", "pos", "seg", "sinusoidalpos", "dual"]

_MODEL = "Model"
_TOKENIZER = "Tokenizer"
_SHAPE = "Model settings (each overrides the config file; seldom needed)"


@dataclass(frozen=True)
class ModelSettings(Settings):
    """Which model, and UER-py's settings of its architecture; None means not given."""

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
    config_path: Annotated[
        Path | None, Setting("JSON configuration with UER-py's field names", panel=_MODEL)
    ] = None
    ignore_unexpected: Annotated[
        tuple[str, ...],
        Setting(
            "Ignore tensors that the model does not have and whose names match this pattern, "
            "such as cls.species.*",
            panel=_MODEL,
            metavar="PATTERN",
        ),
    ] = ()
    vocab_path: Annotated[
        Path | None, Setting("Vocabulary, one token a line", panel=_TOKENIZER)
    ] = None
    spm_model_path: Annotated[Path | None, Setting("Sentencepiece model", panel=_TOKENIZER)] = None
    merges_path: Annotated[Path | None, Setting("Merges of a byte-level BPE", panel=_TOKENIZER)] = (
        None
    )
    tokenizer: Annotated[
        Literal["bert", "char", "space", "bpe", "xlmroberta"] | None,
        Setting("Kind of tokenizer", panel=_TOKENIZER),
    ] = None
    do_lower_case: Annotated[
        bool | None,
        Setting("Whether text is lower-cased", panel=_TOKENIZER, valued=True),
    ] = None

    embedding: Annotated[
        tuple[EmbeddingPart, ...] | None,
        Setting("Parts of the embedding, as `word pos seg`", panel=_SHAPE, several=True),
    ] = None
    encoder: Annotated[EncoderName | None, Setting("Kind of encoder", panel=_SHAPE)] = None
    mask: Annotated[MaskName | None, Setting("Attention mask", panel=_SHAPE)] = None
    layernorm_positioning: Annotated[
        Literal["post", "pre"] | None,
        Setting("Layer norm after or before each block", panel=_SHAPE),
    ] = None
    layernorm: Annotated[
        Literal["normal", "t5"] | None, Setting("Kind of layer norm", panel=_SHAPE)
    ] = None
    feed_forward: Annotated[
        Literal["dense", "gated"] | None, Setting("Kind of feed-forward layer", panel=_SHAPE)
    ] = None
    hidden_act: Annotated[
        Activation | None, Setting("Activation of the feed-forward layers", panel=_SHAPE)
    ] = None
    heads_num: Annotated[
        int | None,
        Setting("Number of attention heads", min=1, names=("heads",), panel=_SHAPE),
    ] = None
    layers_num: Annotated[int | None, Setting("Number of layers", min=1, panel=_SHAPE)] = None
    hidden_size: Annotated[int | None, Setting("Hidden size", min=1, panel=_SHAPE)] = None
    emb_size: Annotated[int | None, Setting("Size of word embeddings", min=1, panel=_SHAPE)] = None
    feedforward_size: Annotated[
        int | None, Setting("Inner size of the feed-forward layers", min=1, panel=_SHAPE)
    ] = None
    max_seq_length: Annotated[
        int | None, Setting("Rows of the position table", min=1, panel=_SHAPE)
    ] = None
    relative_attention_buckets_num: Annotated[
        int | None, Setting("Buckets of relative positions", min=1, panel=_SHAPE)
    ] = None
    relative_position_embedding: Annotated[
        bool | None, Setting("T5's relative positions", panel=_SHAPE)
    ] = None
    remove_embedding_layernorm: Annotated[
        bool | None, Setting("No layer norm after the embedding", panel=_SHAPE)
    ] = None
    remove_attention_scale: Annotated[
        bool | None,
        Setting("Do not divide attention scores by the root of the head size", panel=_SHAPE),
    ] = None
    remove_transformer_bias: Annotated[
        bool | None, Setting("No biases in the transformer", panel=_SHAPE)
    ] = None
    factorized_embedding_parameterization: Annotated[
        bool | None, Setting("ALBERT's factorized embedding", panel=_SHAPE)
    ] = None
    parameter_sharing: Annotated[
        bool | None, Setting("ALBERT's parameters shared by all layers", panel=_SHAPE)
    ] = None
    has_residual_attention: Annotated[
        bool | None, Setting("Add attention scores from layer to layer", panel=_SHAPE)
    ] = None
    bidirectional: Annotated[
        bool | None, Setting("Recurrent encoders read in both directions", panel=_SHAPE)
    ] = None
    tie_weights: Annotated[
        bool | None,
        Setting("The output layer is the word embedding", names=("tie_weight",), panel=_SHAPE),
    ] = None

    @property
    def reference(self) -> str:
        """The model that was named, or the bundled one."""
        return self.load_model_path or BUNDLED_MODEL

    def overrides(self) -> dict[str, Any]:
        """The settings that were given, apart from files, as `load_model` takes them."""
        files = {"load_model_path", "config_path", "vocab_path", "tokenizer", "ignore_unexpected"}
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name not in files and (value := getattr(self, field.name)) is not None
        }

    def files(self) -> list[str | Path | None]:
        """The files that are read for the model, for the record of a run."""
        named = (self.config_path, self.vocab_path, self.spm_model_path, self.merges_path)
        path = Path(self.reference)
        if not path.exists():
            path = bundled_models().get(self.reference, path)
        if not path.exists():  # a TensorFlow prefix, or a name of the hub
            parts = sorted(path.parent.glob(f"{path.name}.*"))
            return [*parts, *named] if parts else [self.reference, *named]
        # A checkpoint file is read with the vocabulary and the configuration next to it.
        names = ("vocab.txt", "config.json") if path.is_file() else ()
        return [path, *named, *filter(None, (find_companion(path, name) for name in names))]


@dataclass(frozen=True)
class DeviceSettings(Settings):
    """Where a model runs."""

    device: Annotated[
        str, Setting("auto, cpu, cuda, cuda:0,cuda:1 or mps", panel="Device and speed")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Setting(
            "Type of numbers to compute in; auto is float32, int8 is for generation on a CPU",
            panel="Device and speed",
        ),
    ] = "auto"
    threads: Annotated[
        int | None, Setting("Processor threads", min=1, panel="Device and speed")
    ] = None

    def on(self, device: object) -> DeviceSettings:
        """The settings of a worker on one device; the threads of workers are set elsewhere."""
        return dataclasses.replace(self, device=str(device), threads=None)
