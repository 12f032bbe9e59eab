"""The settings of a conversion; everything else is read from the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from uertool.checkpoints.generations import Generation
from uertool.config import LEGACY_TARGETS, Activation
from uertool.errors import UsageError
from uertool.settings import Setting, Settings

#: What can be written: "safetensors" is UER-py's names in that format.
Target = Literal["hf", "uer", "google", "safetensors", "sentence-transformers"]

TargetWord = Literal[
    "bert", "albert", "mlm", "sp", "lm", "bilm", "cls", "seq2seq", "t5", "prefixlm", "qa",
    "token_cls", "ner",
]  # fmt: skip

#: Words of `target` that are not in UER-py's own table.
_MORE_TARGETS: Mapping[str, tuple[str, ...]] = {
    "qa": ("qa",),
    "token_cls": ("token_cls",),
    "ner": ("token_cls",),
}

_source = partial(Setting, panel="Source (only where its files do not say)")
_tokenizer = partial(Setting, panel="Tokenizer")
_sentences = partial(Setting, panel="Sentence vectors (for sentence-transformers)", rare=True)
_output = partial(Setting, panel="Output")


@dataclass(frozen=True)
class ConvertSettings(Settings):
    """Settings of a conversion."""

    arch: Annotated[
        str | None,
        _source("The architecture, if the names of tensors are ambiguous", metavar="NAME"),
    ] = None
    config_path: Annotated[
        Path | None, _source("Configuration of the source, of UER-py, Hugging Face or Google")
    ] = None
    lora: Annotated[
        Path | None, _source("LoRA file of TencentPretrain, merged into the weights", rare=True)
    ] = None
    lora_alpha: Annotated[
        float | None,
        _source("Alpha of the LoRA training; the file does not contain it", rare=True),
    ] = None
    heads_num: Annotated[
        int | None, _source("Number of attention heads", min=1, names=("heads",))
    ] = None
    hidden_act: Annotated[
        Activation | None, _source("Activation of the feed-forward layers", rare=True)
    ] = None
    assume: Annotated[
        Literal["heads=hidden/64"] | None,
        _source("Accept a guess: one attention head for every 64 channels", rare=True),
    ] = None
    layers_num: Annotated[
        int | None, _source("Encoder layers: an error if the file has another number", min=1)
    ] = None
    decoder_layers_num: Annotated[
        int | None,
        _source("Decoder layers: an error if the file has another number", min=1, rare=True),
    ] = None
    target: Annotated[
        tuple[TargetWord, ...],
        Setting("Convert only these heads; bert means mlm and sp", several=True, rare=True),
    ] = ()
    type: Annotated[
        Literal["t5", "t5-v1_1", "bert", "mlm"] | None,
        Setting("Architecture or target, as the old scripts take it"),
    ] = None
    layout: Annotated[
        Generation, Setting("Tensor names of a UER-py output; legacy is the 2021 generation")
    ] = "modular"
    exact_norm: Annotated[
        bool, Setting("Adjust gamma so that the layer norms of the output compute the same values")
    ] = False
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        Setting("Type of the weights", default="that of the source"),
    ] = None
    max_shard_size: Annotated[
        str | None,
        Setting(
            "Maximum size of a weight file in a folder, such as 5GB", metavar="SIZE", rare=True
        ),
    ] = None
    vocab_path: Annotated[Path | None, _tokenizer("The vocabulary, for the tokenizer files")] = None
    spm_model_path: Annotated[
        Path | None, _tokenizer("Sentencepiece model instead of a vocabulary", rare=True)
    ] = None
    do_lower_case: Annotated[
        bool | None,
        _tokenizer(
            "Whether the tokenizer lower-cases text",
            valued=True,
            default="as the source, or true",
            rare=True,
        ),
    ] = None
    labels: Annotated[
        tuple[str, ...],
        Setting(
            "Names of a classifier's labels, separated by commas", metavar="A,B,...", rare=True
        ),
    ] = ()
    pooling: Annotated[
        str | None,
        _sentences(
            "How the vectors of tokens become one",
            metavar="first|mean|max|last",
            default="that of the whitening, or first",
        ),
    ] = None
    whitening: Annotated[
        Path | None,
        _sentences("A saved whitening, which becomes a layer", names=("load_whitening", "w")),
    ] = None
    normalize: Annotated[
        bool | None, _sentences("Scale vectors to length 1", default="if they are whitened")
    ] = None
    add_sep: Annotated[
        bool | None,
        _sentences(
            "Whether to add [SEP] after the tokens", default="as `extract-features` of the source"
        ),
    ] = None
    verify: Annotated[bool, _output("Read the output back, compare it and run both")] = True
    verify_full: Annotated[
        bool,
        _output(
            "Also run a Hugging Face output in transformers, whose import takes seconds",
            default="only if transformers is loaded already",
            rare=True,
        ),
    ] = False
    allow_nan: Annotated[bool, _output("Accept NaN and infinite weights", rare=True)] = False
    allow_loss: Annotated[
        bool, _output("Continue if the output format cannot hold some tensors", rare=True)
    ] = False
    overwrite: Annotated[bool, _output("Replace an existing output")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type in ("t5", "t5-v1_1"):
            if self.arch not in (None, self.type):
                raise UsageError(f"`arch` is {self.arch}, but `type` is {self.type}.")
        elif self.type and self.target not in ((), (self.type,)):
            words = ",".join(self.target)
            raise UsageError(
                f"`target` is {words}, but `type` is {self.type}.", "They mean the same."
            )

    def check_for(self, to: Target) -> None:
        """Raise UsageError if settings were given that an output of this kind does not have."""
        names = ("pooling", "whitening", "normalize", "add_sep")
        given = [f"`{name}`" for name in names if getattr(self, name) is not None]
        if given and to != "sentence-transformers":
            raise UsageError(
                f"{', '.join(given)} was given, but the output has no sentence vectors.",
                "Convert with `to` sentence-transformers.",
            )

    @property
    def architecture(self) -> str | None:
        """The architecture that `arch` or `type` names."""
        return self.type if self.type in ("t5", "t5-v1_1") else self.arch

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that `target` or `type` names; empty for all of them."""
        words = self.target or ((self.type,) if self.type in ("bert", "mlm") else ())
        known = {**LEGACY_TARGETS, **_MORE_TARGETS}
        return tuple(dict.fromkeys(head for word in words for head in known[word]))

    @property
    def label_names(self) -> tuple[str, ...]:
        """The single labels."""
        return tuple(name for part in self.labels for name in part.split(","))
