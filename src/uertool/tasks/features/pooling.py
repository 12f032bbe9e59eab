"""Poolings: how the vectors of a line's tokens become one vector of the line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from uertool.errors import UsageError

How = Literal["first", "last", "mean", "max", "pooler"]


@dataclass(frozen=True)
class Pooling:
    """One way to make a vector of a line.

    Attributes:
        how: what is done with the tokens' vectors.
        layers: layers whose vectors are averaged first; 0 is what enters the first layer, negative
            numbers count from the last one, which alone is taken where none are named.
    """

    how: How
    layers: tuple[int, ...] = ()

    @property
    def at_one_position(self) -> bool:
        """Whether the last layer is needed at a single token only."""
        return self.how in ("first", "last", "pooler") and not self.layers


#: By name; the first four are UER-py's.
POOLINGS: Mapping[str, Pooling] = {
    "first": Pooling("first"),
    "mean": Pooling("mean"),
    "max": Pooling("max"),
    "last": Pooling("last"),
    "cls-pooler": Pooling("pooler"),
    "last4-mean": Pooling("mean", (-4, -3, -2, -1)),
    "first-last-mean": Pooling("mean", (1, -1)),
}


def find_pooling(name: str, layers: tuple[int, ...] = ()) -> Pooling:
    """The pooling of a name, with other layers if some are given.

    Raises:
        UsageError: the name is unknown, or the pooling has layers of its own.
    """
    found = POOLINGS.get(name.replace("_", "-"))
    if found is None:
        raise UsageError(f"There is no pooling {name!r}.", f"Choose one of {', '.join(POOLINGS)}.")
    if not layers:
        return found
    if found.layers or found.how == "pooler":
        raise UsageError(
            f"`pooling` {name} and `layers` were both given, but it has layers of its own.",
            "Give `layers` with first, last, mean or max.",
        )
    return Pooling(found.how, layers)


def resolve_layers(layers: tuple[int, ...], layers_num: int) -> tuple[int, ...]:
    """Layer numbers from 0 to `layers_num`, ascending, each once.

    Negative numbers that reach below the first layer are left out, so that the last four layers of
    a model of three are its three.

    Raises:
        UsageError: a layer does not exist.
    """
    wrong = [layer for layer in layers if layer > layers_num]
    if wrong:
        raise UsageError(
            f"There is no layer {wrong[0]}: the model has {layers_num}.",
            f"Choose from 0 (what enters the first layer) to {layers_num}, or from -1 downwards.",
        )
    counted = {layer if layer >= 0 else layers_num + 1 + layer for layer in layers}
    return tuple(sorted(layer for layer in counted if layer >= (0 if 0 in layers else 1)))


def pool(how: How, hidden: Tensor, lengths: Tensor) -> Tensor:
    """Vectors [batch, hidden] in float32 of token vectors [batch, length, hidden].

    Args:
        how: "first", "last", "mean" or "max".
        hidden: vectors of tokens; those from `lengths` on are padding.
        lengths: real tokens of each row [batch], at least 1.
    """
    if how == "first":
        return hidden[:, 0].float()
    rows = torch.arange(len(hidden), device=hidden.device)
    if how == "last":
        return hidden[rows, lengths - 1].float()
    real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    if how == "max":
        lowest = torch.finfo(hidden.dtype).min
        return hidden.masked_fill(~real[..., None], lowest).amax(1).float()
    weights = real.float() / lengths[:, None]
    return (weights[:, None] @ hidden.float())[:, 0]
