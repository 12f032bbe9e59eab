"""One forward pass of a checkpoint and of every head it has: does it load, and does it run?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.config import ModelConfig
from uertool.errors import UertoolError
from uertool.loading.assembling import build_model, heads_in
from uertool.loading.assumptions import unknown_heads
from uertool.loading.config_resolution import resolve_config
from uertool.loading.device import resolve_device, resolve_dtype
from uertool.loading.settings import DeviceSettings
from uertool.loading.tokenizers import TokenizerFiles, TokenizerFinder
from uertool.models.outputs import all_outputs
from uertool.tasks.check.head_evidence import best_heads, head_perplexities
from uertool.tasks.check.settings import CompanionSettings
from uertool.text.tokenizers.base import Tokenizer

_LENGTH = 16


@dataclass(frozen=True)
class TrialRun:
    """The result of a forward pass.

    Attributes:
        device: where it ran.
        dtype: the type it computed in.
        outputs: the shape of each output ("hidden", "mlm", ...).
        not_finite: outputs that hold NaN or infinite values.
        load_seconds: reading the file and building the model.
        run_seconds: the forward pass, the first on this device.
        heads: the number of attention heads; 0 if it is unknown, and nothing was run.
        perplexities: by number of attention heads, see `head_perplexities`.
    """

    device: str
    dtype: str
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    not_finite: tuple[str, ...] = ()
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    heads: int = 0
    perplexities: Mapping[int, float] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            **asdict(self),
            "finite": not self.not_finite,
            "load_seconds": round(self.load_seconds, 3),
            "run_seconds": round(self.run_seconds, 3),
            "perplexities": {str(heads): value for heads, value in self.perplexities.items()},
        }


def trial_run(
    path: str | Path, device: DeviceSettings, companions: CompanionSettings | None = None
) -> TrialRun:
    """Load the model as a command would, with every head, and run it once.

    Args:
        path: the checkpoint.
        device: where it runs.
        companions: its configuration and vocabulary; by default those next to the checkpoint.
            Without a vocabulary there are no perplexities.

    Raises:
        CheckpointError: it cannot be read or is incomplete.
        ConfigError: the configuration contradicts the tensors, or a value is unknown and the
            perplexities do not show it either.
        UsageError: there is no such device.
    """
    companions = companions or CompanionSettings()
    place = resolve_device(device.device)
    kind = resolve_dtype(device.dtype, place)
    with open_checkpoint(path) as checkpoint:
        config = resolve_config(checkpoint, companions.config_path, complete=False).config
        tokenizer = _tokenizer(checkpoint, config, companions)
        perplexities = {}
        if tokenizer is not None:
            perplexities = head_perplexities(checkpoint, config, tokenizer, place)
        run = TrialRun(str(place), str(kind).removeprefix("torch."), perplexities=perplexities)
        if config.sources.get("heads_num") == "unknown":
            if best_heads(perplexities, 0) is None:
                raise unknown_heads(checkpoint)
            return run
        start = time.perf_counter()
        model = build_model(checkpoint, config, heads_in(checkpoint, config), place, kind).model
        loaded = time.perf_counter()
        length = min(_LENGTH, config.max_seq_length)
        ids = torch.arange(length, device=place)[None] % config.vocab_size
        with torch.inference_mode():
            targets = ids % (config.tgt_vocab_size or config.vocab_size)
            outputs = all_outputs(model, ids, torch.ones_like(ids), targets)
        bad = tuple(name for name, out in outputs.items() if not bool(torch.isfinite(out).all()))
        done = time.perf_counter()
    return replace(
        run,
        outputs={name: tuple(out.shape) for name, out in outputs.items()},
        not_finite=bad,
        load_seconds=loaded - start,
        run_seconds=done - loaded,
        heads=config.heads_num,
    )


def _tokenizer(
    checkpoint: Checkpoint, config: ModelConfig, companions: CompanionSettings
) -> Tokenizer | None:
    """The tokenizer of the model, or None if there is no vocabulary that fits."""
    named = TokenizerFiles(companions.vocab_path, spm_model_path=companions.spm_model_path)
    try:
        return TokenizerFinder(checkpoint, config, named).source()
    except UertoolError:
        return None
