"""Which model a command runs, and where: the settings that every command with a model shares."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from uertool.bundled import bundled_models
from uertool.checkpoints.companions import find_companion
from uertool.checkpoints.model_folder import TOKENIZER_FILES
from uertool.config import Activation, EncoderName, MaskName, RotaryOrder
from uertool.errors import UsageError
from uertool.settings import Setting, Settings
from uertool.text.settings import TokenizerName

#: The models that run when none is named: for cloze and vectors, and for generation.
BUNDLED_MODEL = "zh-mlm-small"
BUNDLED_LM = "zh-lm-small"

#: Files next to a weight file that are read with it.
COMPANIONS = ("config.json", "tgt_vocab.txt", *TOKENIZER_FILES)

EmbeddingPart = Literal["word", "pos", "seg", "task", "sinusoidalpos", "dual"]

_model = partial(Setting, panel="Model")
_tokenizer = partial(Setting, panel="Tokenizer")
_shape = partial(Setting, panel="Model settings (each overrides the config file)", rare=True)
_device = partial(Setting, panel="Device and speed")


def model_path(default: str | None) -> Setting:
    """The declaration of the model that runs, and of the one that runs if none is named."""
    return _model(
        "A checkpoint of UER-py, a Hugging Face folder, a TensorFlow prefix, hf:owner/name, "
        "or a bundled model",
        names=("model", "m"),
        metavar="MODEL",
        default=default,
        environment="UERTOOL_MODEL",
    )


@dataclass(frozen=True)
class TokenizerSettings(Settings):
    """Which model, and which tokenizer; None means not given."""

    #: The bundled model that runs if none is named.
    bundled: ClassVar[str | None] = BUNDLED_MODEL

    load_model_path: Annotated[str | None, model_path(BUNDLED_MODEL)] = None
    vocab_path: Annotated[
        Path | None, _tokenizer("Vocabulary, one token a line", default="the one next to the model")
    ] = None
    spm_model_path: Annotated[Path | None, _tokenizer("Sentencepiece model", rare=True)] = None
    merges_path: Annotated[Path | None, _tokenizer("Merges of a byte-level BPE", rare=True)] = None
    tokenizer: Annotated[
        TokenizerName | None,
        _tokenizer("Kind of tokenizer", default="that of the model's files", rare=True),
    ] = None
    do_lower_case: Annotated[
        bool | None,
        _tokenizer(
            "Whether text is lower-cased",
            valued=True,
            default="as the model's files say, or true",
            rare=True,
        ),
    ] = None

    @property
    def reference(self) -> str:
        """The model that was named, or the bundled one.

        Raises:
            UsageError: no model was named, and none is bundled for the command.
        """
        found = self.load_model_path or self.bundled
        if found is None:
            raise UsageError("No model was named.", "Name one with `load_model_path`.")
        return found

    def files(self) -> list[str | Path | None]:
        """The files that are read for the model or its tokenizer, for the record of a run."""
        named = (self.vocab_path, self.spm_model_path, self.merges_path)
        path = Path(self.reference)
        if not path.exists():
            path = bundled_models().get(self.reference, path)
        if not path.exists():  # a TensorFlow prefix, or a name of the hub
            parts = sorted(path.parent.glob(f"{path.name}.*"))
            return [*parts, *named] if parts else [self.reference, *named]
        # A checkpoint file is read with the tokenizer and the configuration next to it.
        names = COMPANIONS if path.is_file() else ()
        return [path, *named, *filter(None, (find_companion(path, name) for name in names))]


@dataclass(frozen=True)
class ModelSettings(TokenizerSettings):
    """Which model, and UER-py's settings of its architecture; None means not given."""

    config_path: Annotated[
        Path | None,
        _model("JSON configuration with UER-py's field names", default="the one next to the model"),
    ] = None
    ignore_unexpected: Annotated[
        tuple[str, ...],
        _model(
            "Ignore tensors that the model does not have and whose names match this pattern, "
            "such as cls.species.*",
            metavar="PATTERN",
            rare=True,
        ),
    ] = ()
    lora: Annotated[
        Path | None, _model("LoRA file of TencentPretrain, merged into the weights", rare=True)
    ] = None
    lora_alpha: Annotated[
        float | None,
        _model("Alpha of the LoRA training; the file does not contain it", rare=True),
    ] = None

    embedding: Annotated[
        tuple[EmbeddingPart, ...] | None,
        _shape("Parts of the embedding", several=True),
    ] = None
    encoder: Annotated[EncoderName | None, _shape("Kind of encoder")] = None
    mask: Annotated[MaskName | None, _shape("Attention mask")] = None
    layernorm_positioning: Annotated[
        Literal["post", "pre"] | None, _shape("Layer norm after or before each block")
    ] = None
    layernorm: Annotated[Literal["normal", "t5", "rms"] | None, _shape("Kind of layer norm")] = None
    feed_forward: Annotated[
        Literal["dense", "gated"] | None, _shape("Kind of feed-forward layer")
    ] = None
    hidden_act: Annotated[Activation | None, _shape("Activation of the feed-forward layers")] = None
    heads_num: Annotated[
        int | None, _shape("Number of attention heads", min=1, names=("heads",))
    ] = None
    layers_num: Annotated[int | None, _shape("Number of layers", min=1)] = None
    hidden_size: Annotated[int | None, _shape("Hidden size", min=1)] = None
    emb_size: Annotated[int | None, _shape("Size of word embeddings", min=1)] = None
    feedforward_size: Annotated[
        int | None, _shape("Inner size of the feed-forward layers", min=1)
    ] = None
    max_seq_length: Annotated[int | None, _shape("Rows of the position table", min=1)] = None
    task_type: Annotated[int | None, _shape("Task type of the texts (ERNIE)", min=0)] = None
    max_relative_position: Annotated[
        int | None, _shape("Largest distance of NEZHA's relative positions", min=0)
    ] = None
    rotary_position_embedding: Annotated[bool | None, _shape("Rotary positions")] = None
    rotary_order: Annotated[
        RotaryOrder | None,
        _shape("Channels that are rotated in pairs: neighbours (interleaved) or halves (half)"),
    ] = None
    rope_theta: Annotated[float | None, _shape("Base of rotary angles", above=0)] = None
    local_attention: Annotated[
        int | None, _shape("Tokens that ModernBERT's local layers see", min=0)
    ] = None
    relative_attention_buckets_num: Annotated[
        int | None, _shape("Buckets of relative positions", min=1)
    ] = None
    relative_position_embedding: Annotated[bool | None, _shape("T5's relative positions")] = None
    remove_embedding_layernorm: Annotated[
        bool | None, _shape("No layer norm after the embedding")
    ] = None
    remove_attention_scale: Annotated[
        bool | None, _shape("Do not divide attention scores by the root of the head size")
    ] = None
    remove_transformer_bias: Annotated[bool | None, _shape("No biases in the transformer")] = None
    factorized_embedding_parameterization: Annotated[
        bool | None, _shape("ALBERT's factorized embedding")
    ] = None
    parameter_sharing: Annotated[
        bool | None, _shape("ALBERT's parameters shared by all layers")
    ] = None
    has_residual_attention: Annotated[
        bool | None, _shape("Add attention scores from layer to layer")
    ] = None
    bidirectional: Annotated[bool | None, _shape("Recurrent encoders read in both directions")] = (
        None
    )
    tie_weights: Annotated[
        bool | None, _shape("The output layer is the word embedding", names=("tie_weight",))
    ] = None

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
        return [*super().files(), self.config_path, self.lora]


@dataclass(frozen=True)
class DeviceSettings(Settings):
    """Where a model runs."""

    device: Annotated[
        str,
        _device(
            "auto, cpu, cuda, mps, or several, such as cuda:0,cuda:1, with a process each",
            metavar="DEVICE",
            environment="UERTOOL_DEVICE",
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        _device(
            "Number type of the computation; auto is float32, int8 needs a CPU",
            environment="UERTOOL_DTYPE",
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        _device(
            "Processor threads",
            min=1,
            default="as many as suit the model",
            rare=True,
            environment="UERTOOL_THREADS",
        ),
    ] = None

    def on(self, device: object) -> DeviceSettings:
        """The settings of a worker on one device; the threads of workers are set elsewhere."""
        return dataclasses.replace(self, device=str(device), threads=None)
