"""Which number type would be faster on this CPU, measured on one layer during long runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.models.linear import Dense
from uertool.models.packing import in_8_bits

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel

#: Seconds after which there is advice, and the least speed-up that is worth it.
SECONDS = 10.0
_WORTH = 1.5

#: Share of a run in float32 that other types make shorter: matrix products of real text.
_SHARE = 0.65

#: Rows that are measured, at most.
_ROWS = 256


class Advice:
    """Advises once, after `SECONDS`, which number type would be faster.

    Args:
        loaded: the model that runs, None where there is none.
    """

    def __init__(self, loaded: LoadedModel | None) -> None:
        self._loaded = None
        if loaded is not None and loaded.device.type == "cpu" and loaded.dtype == torch.float32:
            self._loaded = loaded
        self._until = time.monotonic() + SECONDS

    def after(self, tokens: int) -> str | None:
        """A sentence, or None; called after every batch, with its number of tokens."""
        if self._loaded is None or time.monotonic() < self._until:
            return None
        found = faster_type(self._loaded.config, tokens)
        self._loaded = None
        if found is None:
            return None
        return (
            f"`dtype` {found[0]} would be about {found[1]:.1f} times as fast on this processor; "
            "its results differ slightly."
        )


def faster_type(config: ModelConfig, tokens: int) -> tuple[str, float] | None:
    """The number type in which a run would be fastest, and how many times as fast, if worth it.

    Args:
        config: of the model.
        tokens: of a batch.
    """
    chance = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        layer = Dense(config.hidden_size, config.feedforward_size or config.hidden_size)
        layer.requires_grad_(False).weight.normal_(generator=chance)
        assert layer.bias is not None
        layer.bias.zero_()
        x = torch.randn(max(1, min(tokens, _ROWS)), config.hidden_size, generator=chance)
        base = _seconds(layer, x)
        times: dict[str, float] = {}
        with contextlib.suppress(UsageError):
            times["int8"] = _seconds(in_8_bits(layer), x)
        times["bfloat16"] = _seconds(layer.to(torch.bfloat16), x.to(torch.bfloat16))
    gains = {name: 1 / (1 - _SHARE + _SHARE * took / base) for name, took in times.items()}
    best = max(gains, key=gains.__getitem__)
    return (best, gains[best]) if gains[best] >= _WORTH else None


def _seconds(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The shortest time of a few calls, after one that prepares kernels."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - started)
    return min(times)
