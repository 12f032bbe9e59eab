"""The settings of a conversion; everything else is read from the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uertool.checkpoints.generations import Generation
from uertool.config import LEGACY_TARGETS
from uertool.errors import UsageError

Target = Literal["hf", "uer", "google", "safetensors"]


@dataclass(frozen=True)
class ConversionOptions:
    """Settings of a conversion.

    Attributes:
        arch: the architecture, where names alone do not tell.
        heads: keep these heads only ("mlm", "sp", "cls", "qa", "token_cls", "lm").
        layout: generation of UER-py's names in the output.
        layers_num: expected encoder layers; a contradiction is an error.
        decoder_layers_num: expected decoder layers.
        exact_norm: change gamma so that the layer norms of the output compute the same.
        dtype: element type of the output, by default that of the source.
        max_shard_size: the most bytes of one file in a Hugging Face folder.
        config_path: a configuration of the source with the words of UER-py, Hugging Face or Google.
        heads_num: attention heads of the source.
        hidden_act: activation of the source.
        assume: HEADS_BY_SIZE accepts a guessed number of attention heads.
        vocab_path: the vocabulary, copied next to the output.
        spm_model_path: a sentencepiece model, in place of a vocabulary.
        do_lower_case: whether the tokenizer lower-cases.
        labels: names of a classifier's labels.
        verify: read the output back and compare.
        allow_nan: accept NaN and infinite weights.
        allow_loss: go on where something has no place in the output.
        overwrite: replace an existing output.
    """

    arch: str | None = None
    heads: tuple[str, ...] = ()
    layout: Generation = "modular"
    layers_num: int | None = None
    decoder_layers_num: int | None = None
    exact_norm: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    max_shard_size: int | str | None = None
    config_path: Path | None = None
    heads_num: int | None = None
    hidden_act: str | None = None
    assume: str | None = None
    vocab_path: Path | None = None
    spm_model_path: Path | None = None
    do_lower_case: bool = True
    labels: tuple[str, ...] = ()
    verify: bool = True
    allow_nan: bool = False
    allow_loss: bool = False
    overwrite: bool = False


def heads_of_word(word: str) -> tuple[str, ...]:
    """Heads for the words of --target or --type: bert, albert, mlm, sp, lm, cls, qa, token_cls.

    Several are separated by commas.

    Raises:
        UsageError: there is no such word.
    """
    known = {**LEGACY_TARGETS, "qa": ("qa",), "token_cls": ("token_cls",), "ner": ("token_cls",)}
    heads: list[str] = []
    for part in word.split(","):
        if part not in known:
            raise UsageError(f"unknown target: {part!r} (known: {', '.join(known)}).")
        heads.extend(known[part])
    return tuple(dict.fromkeys(heads))
