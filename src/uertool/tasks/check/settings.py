"""Settings of `uertool check`: what is checked, and which copies are written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from uertool.settings import Setting, Settings

_companion = partial(Setting, panel="Files that should fit")
_copy = partial(Setting, panel="Copies")


@dataclass(frozen=True)
class CompanionSettings(Settings):
    """Files that belong to a checkpoint; those that are given are compared with its tensors."""

    vocab_path: Annotated[Path | None, _companion("Compare this vocabulary")] = None
    config_path: Annotated[Path | None, _companion("Compare this configuration")] = None
    spm_model_path: Annotated[Path | None, _companion("Compare this sentencepiece model")] = None
    tgt_vocab_path: Annotated[
        Path | None, _companion("Compare this vocabulary with the decoder")
    ] = None


@dataclass(frozen=True)
class CheckSettings(CompanionSettings):
    """What is checked of a checkpoint, and which copies of it are written."""

    load_model_path: Annotated[
        str | None,
        Setting("The same as FILE", names=("model", "input_model_path", "m"), metavar="FILE"),
    ] = None
    run: Annotated[
        bool,
        Setting(
            "Load the model and run one forward pass; with an MLM or LM head, compare the "
            "perplexity of a few sentences for each possible number of attention heads"
        ),
    ] = False
    fast: Annotated[bool, Setting("Do not read the numbers (NaN, checksums)")] = False
    compare: Annotated[
        str | None,
        Setting("Show which tensors differ from those of another checkpoint", metavar="FILE"),
    ] = None
    fix: Annotated[
        Path | None,
        _copy(
            "Write a clean copy, without `module.` and with modular names, as .bin or .safetensors",
            is_output=True,
        ),
    ] = None
    to_safetensors: Annotated[
        Path | None,
        _copy("Write the tensors under their own names as .safetensors", is_output=True),
    ] = None
