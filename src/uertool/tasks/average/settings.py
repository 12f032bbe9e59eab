"""Settings of `uertool average`: which checkpoints are merged, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from uertool.errors import SettingError, UsageError
from uertool.settings import Setting, Settings

Method = Literal["mean", "slerp", "ties", "dare"]

#: The share of every task vector that a method keeps by default.
DENSITIES = {"ties": 0.2, "dare": 0.5}

_choice = partial(Setting, panel="Which checkpoints")
_merging = partial(Setting, panel="Merging fine-tuned models")


@dataclass(frozen=True)
class MergeSettings(Settings):
    """How checkpoints of one model are merged."""

    weights: Annotated[
        tuple[float, ...] | None,
        Setting(
            "One weight for each checkpoint; weights are divided by their sum",
            several=True,
            default="equal weights",
        ),
    ] = None
    unify: Annotated[
        bool, Setting("Compare tensors by meaning, so that generations of names may be mixed")
    ] = False
    method: Annotated[Method, _merging("Merging method")] = "mean"
    base: Annotated[
        str | None,
        _merging("The model that the others were trained from (ties, dare)", metavar="MODEL"),
    ] = None
    fraction: Annotated[
        float,
        _merging("Position of slerp between the first model (0) and the second (1)", min=0, max=1),
    ] = 0.5
    density: Annotated[
        float | None,
        _merging(
            "Share of the changes to keep", above=0, max=1, default="0.2 for ties, 0.5 for dare"
        ),
    ] = None
    scale: Annotated[float, _merging("Factor on the merged changes (lambda)")] = 1.0
    seed: Annotated[int, _merging("Seed of the changes that dare drops")] = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_base = self.method in DENSITIES
        if needs_base and self.base is None:
            raise UsageError(
                f"`method` {self.method} needs `base`, the model that the others were trained from."
            )
        if self.base is not None and not needs_base:
            raise UsageError(f"`base` is for the methods ties and dare, not for {self.method}.")
        if self.weights is None:
            return
        if self.method == "slerp":
            raise UsageError("`method` slerp takes `fraction`, not `weights`.")
        if not all(map(math.isfinite, self.weights)) or abs(sum(self.weights)) < 1e-12:
            raise SettingError(
                "weights", list(self.weights), "must be finite and not have the sum zero"
            )


@dataclass(frozen=True)
class AverageSettings(MergeSettings):
    """Which checkpoints are merged, how, and where the result is written."""

    model_list_path: Annotated[
        tuple[str, ...],
        Setting("The same as MODELS", several=True, metavar="MODEL"),
    ] = ()
    output_model_path: Annotated[
        str | None,
        Setting(
            "Output: a .bin or .safetensors file, or a folder",
            names=("output", "o"),
            metavar="PATH",
        ),
    ] = None
    ema: Annotated[
        float | None,
        Setting("Exponential moving average by training step with this decay, such as 0.9"),
    ] = None
    last: Annotated[
        int | None,
        _choice("Take the last N checkpoints of a training folder, by step", min=1, metavar="N"),
    ] = None
    greedy: Annotated[bool, _choice("Keep a checkpoint only if the score improves")] = False
    score_command: Annotated[
        str | None,
        _choice(
            "Command that prints the score of the checkpoint whose path replaces {}",
            metavar="COMMAND",
        ),
    ] = None
    lower_is_better: Annotated[bool, _choice("The score is a loss")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_model_path is None:
            raise UsageError("There is no output.", "Name a file with `output_model_path`.")
        if self.greedy != (self.score_command is not None):
            raise UsageError("`greedy` and `score_command` go together; one of them is missing.")
        if self.ema is not None and self.weights is not None:
            raise UsageError(
                "`weights` and `ema` both set the weights of the checkpoints.", "Give one of them."
            )
        plain = self.weights is None and self.ema is None and self.method == "mean"
        if self.greedy and not plain:
            raise UsageError("`greedy` takes plain means: no `weights`, `ema` or `method`.")
