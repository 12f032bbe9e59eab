"""What a conversion may be told, and what it reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from uertool.checkpoints.generations import Generation
from uertool.tasks.convert.verification import Verification

Target = Literal["hf", "uer", "google", "safetensors"]

#: Hugging Face shards above this size by default.
MAX_SHARD_SIZE = "50GB"

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

WORD = "embedding.word.embedding.weight"


@dataclass(frozen=True)
class ConversionOptions:
    """What a conversion may be told; everything else is found in the files.

    Attributes:
        arch: the architecture, where names alone do not tell.
        heads: keep these heads only ("mlm", "sp", "cls", "qa", "token_cls", "lm").
        layout: generation of UER-py's names in the output.
        layers_num: expected encoder layers; a contradiction is an error.
        decoder_layers_num: expected decoder layers.
        exact_norm: fold what differs between the layer norms into gamma.
        dtype: element type of the output, by default that of the source.
        max_shard_size: the most bytes of one file in a Hugging Face folder.
        config_path: a configuration of the source, in UER-py's, Hugging Face's or Google's words.
        settings: single values of the source's configuration, by ModelConfig's names.
        vocab_path: the vocabulary, copied beside the output.
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
    dtype: str | None = None
    max_shard_size: int | str | None = None
    config_path: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    vocab_path: Path | None = None
    spm_model_path: Path | None = None
    do_lower_case: bool = True
    labels: tuple[str, ...] = ()
    verify: bool = True
    allow_nan: bool = False
    allow_loss: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class MappingRow:
    """One line of the table of a dry run."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[str, ...]
    change: str


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did, or would do.

    Attributes:
        source: the input.
        target: the output.
        direction: for example "uer (legacy) to hf".
        architecture: or None for what only UER-py has.
        heads: that went along.
        hf_class: Hugging Face's class of the output, or "".
        rows: every tensor of the output.
        left_over: canonical names without a place in the output.
        dropped: raw names known to carry nothing.
        notes: sentences about what was decided or lost.
        norm: what was done about the layer norms.
        files: written files.
        verification: what reading back showed, None if it was not asked for.
        seconds: wall time.
    """

    source: Path
    target: Path
    direction: str
    architecture: str | None
    heads: tuple[str, ...]
    hf_class: str
    rows: tuple[MappingRow, ...]
    left_over: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    norm: str
    files: tuple[Path, ...] = ()
    verification: Verification | None = None
    seconds: float = 0.0

    def to_json(self, *, rows: bool = False) -> dict[str, Any]:
        """The report as JSON types; `rows` with the whole mapping."""
        values = dataclasses.asdict(self)
        values["source"], values["target"] = str(self.source), str(self.target)
        values["files"] = [str(file) for file in self.files]
        values["tensors"] = len(self.rows)
        if not rows:
            del values["rows"]
        return values
