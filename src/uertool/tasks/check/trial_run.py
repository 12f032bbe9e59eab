"""One forward pass of a checkpoint and of every head it has: does it load, and does it run?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uertool.checkpoints.reader import open_checkpoint
from uertool.models.model import UerModel

_LENGTH = 16


@dataclass(frozen=True)
class TrialRun:
    """What a forward pass gave.

    Attributes:
        device: where it ran.
        dtype: the type it computed in.
        outputs: what was computed ("hidden", "mlm", ...) to its shape.
        not_finite: those that hold NaN or infinite values.
        load_seconds: reading the file and building the model.
        run_seconds: the forward pass, the first on this device.
    """

    device: str
    dtype: str
    outputs: Mapping[str, tuple[int, ...]]
    not_finite: tuple[str, ...] = field(default=())
    load_seconds: float = 0.0
    run_seconds: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether every output is finite."""
        return not self.not_finite

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "not_finite": list(self.not_finite),
            "finite": self.finite,
            "load_seconds": round(self.load_seconds, 3),
            "run_seconds": round(self.run_seconds, 3),
        }


def trial_run(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    config: str | Path | None = None,
    arch: str | None = None,
) -> TrialRun:
    """Load the model as a command would, with every head, and run it once; no vocabulary is needed.

    Args:
        path: the checkpoint.
        device: "auto", "cpu", "cuda", ...
        dtype: "auto", "float32", "bfloat16" or "float16".
        config: a configuration; by default the one beside the checkpoint.
        arch: the architecture, where names do not tell.

    Raises:
        CheckpointError: it cannot be read or is not whole.
        ConfigError: the configuration contradicts the tensors, or a value cannot be told.
        UsageError: there is no such device.
    """
    from uertool.loading.assembling import build_model, heads_in
    from uertool.loading.config_resolution import resolve_config
    from uertool.loading.device import resolve_device, resolve_dtype

    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    start = time.perf_counter()
    with open_checkpoint(path, arch=arch) as checkpoint:
        resolved = resolve_config(checkpoint, config).config
        heads = heads_in(checkpoint, resolved)
        model = build_model(checkpoint, resolved, heads, place, kind).model
        loaded = time.perf_counter()
        length = min(_LENGTH, resolved.max_seq_length)
        ids = torch.arange(length, device=place)[None] % resolved.vocab_size
        with torch.inference_mode():
            outputs = _outputs(model, ids)
        bad = tuple(name for name, out in outputs.items() if not bool(torch.isfinite(out).all()))
        done = time.perf_counter()
    return TrialRun(
        device=str(place),
        dtype=str(kind).removeprefix("torch."),
        outputs={name: tuple(out.shape) for name, out in outputs.items()},
        not_finite=bad,
        load_seconds=loaded - start,
        run_seconds=done - loaded,
    )


def _outputs(model: UerModel, ids: Tensor) -> dict[str, Tensor]:
    """The hidden states, and what every head makes of them."""
    segs = torch.ones_like(ids)
    hidden = model.encode(ids, segs)
    assert isinstance(hidden, Tensor)
    found = {"hidden": hidden}
    first = hidden[:, 0]
    if model.decoder is not None:
        rows = model.config.tgt_vocab_size or model.config.vocab_size
        hidden = found["decoder"] = model.decode(ids, segs, ids % rows)
    heads: tuple[tuple[str, Any, Callable[[Any], Tensor]], ...] = (
        ("mlm", model.mlm, lambda head: head(found["hidden"])),
        ("lm", model.lm, lambda head: head(hidden)),
        ("pooler", model.pooler, lambda head: head(first)),
        ("sp", model.sp, lambda head: head(first)),
        ("cls", model.classifier, lambda head: head(first)),
        ("token_cls", model.token_classifier, lambda head: head(found["hidden"])),
        ("qa", model.qa, lambda head: head(found["hidden"])),
        ("siamese", model.siamese, lambda head: head(first, first)),
    )
    for name, head, run in heads:
        if head is not None:
            found[name] = run(head)
    return found
