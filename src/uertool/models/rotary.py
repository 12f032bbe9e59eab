"""Rotary position embedding: pairs of channels turned by angles that grow with the position.

After Su et al. 2021 (RoFormer, arXiv 2104.09864). Queries and keys are turned, so that their
product depends on the distance of two tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from uertool.config import ModelConfig, RopeScaling, RotaryOrder

#: Frequencies [..., pairs] for texts of `length` tokens, and a factor on queries and keys.
Scaled = tuple[Tensor, float]


class Rotary:
    """The turns of a model, by position.

    Args:
        size: channels of a head, an even number.
        theta: pair j of a token at position p is turned by p * theta^(-2j / size).
        scaling: how the frequencies are changed for longer texts.
        order: which channels are a pair, see `rotate`.
    """

    def __init__(
        self,
        size: int,
        theta: float,
        scaling: RopeScaling | None = None,
        order: RotaryOrder = "interleaved",
    ) -> None:
        self.size = size
        self.theta = theta
        self.scaling = scaling
        self.order = order

    @classmethod
    def of(cls, config: ModelConfig) -> Rotary | None:
        """The rotary embedding that a configuration describes, or None."""
        if not config.rotary_position_embedding or config.relative_position_embedding:
            return None
        return cls(config.head_size, config.rope_theta, config.rope_scaling, config.rotary_order)

    def __call__(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """The turns [..., pairs], complex numbers, of tokens at positions [...].

        Args:
            positions: positions of tokens in their texts, from 0.
            lengths: the lengths of their texts, of the same shape or one that is broadcast.
                Only the "dynamic" scaling depends on them.
        """
        plain = frequencies(self.size, self.theta, positions.device)
        kind = "" if self.scaling is None else self.scaling.rope_type
        scaled, factor = (
            (plain, 1.0)
            if self.scaling is None
            else _SCALINGS[kind](self, self.scaling, plain, lengths)
        )
        angles = positions[..., None].float() * scaled
        return torch.polar(torch.full_like(angles, factor), angles)


def frequencies(size: int, theta: float | Tensor, device: torch.device | None = None) -> Tensor:
    """theta^(-2j / size) [..., size / 2], computed in float32; theta may be a tensor [..., 1]."""
    exponents = torch.arange(0, size, 2, device=device).float() / size
    return 1.0 / (theta**exponents)


def rotate(x: Tensor, turns: Tensor, order: RotaryOrder) -> None:
    """Turn the channels of heads in place.

    Args:
        x: [tokens..., heads, size].
        turns: [tokens..., size / 2], see `Rotary`.
        order: "interleaved": channels 2j and 2j + 1 are a pair, as in RoFormer, Meta's LLaMA and
            TencentPretrain; "half": channels j and j + size / 2, as in Hugging Face's LLaMA.
    """
    turns = turns[..., None, :]
    if order == "half":
        real, imaginary = x.chunk(2, -1)
        turned = torch.complex(real.float(), imaginary.float()) * turns
        real.copy_(turned.real)
        imaginary.copy_(turned.imag)
    elif x.dtype == torch.float32:
        torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(turns)
    else:  # there are no complex numbers of 16-bit ones
        turned = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turns
        x.copy_(torch.view_as_real(turned).flatten(-2))


# -- scaling --------------------------------------------------------------------------------------


def _linear(rotary: Rotary, scaling: RopeScaling, plain: Tensor, lengths: Tensor) -> Scaled:
    """Positions divided by the factor (Chen et al. 2023, arXiv 2306.15595)."""
    return plain / scaling.factor, 1.0


def _dynamic(rotary: Rotary, scaling: RopeScaling, plain: Tensor, lengths: Tensor) -> Scaled:
    """A larger theta for texts beyond the original length, as in transformers' "dynamic"."""
    original = scaling.original_max_position_embeddings
    ratio = lengths.clamp(min=original)[..., None].float() / original
    grown = scaling.factor * ratio - (scaling.factor - 1.0)
    theta = rotary.theta * grown ** (rotary.size / (rotary.size - 2))
    return frequencies(rotary.size, theta, plain.device), 1.0


def _llama3(rotary: Rotary, scaling: RopeScaling, plain: Tensor, lengths: Tensor) -> Scaled:
    """Llama 3.1's: slow turns are divided by the factor, fast ones kept, and those between mixed.

    The number of turns in the original length decides what is fast or slow.
    """
    turns = scaling.original_max_position_embeddings * plain / (2.0 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1.0 - kept) * plain / scaling.factor + kept * plain, 1.0


def _yarn(rotary: Rotary, scaling: RopeScaling, plain: Tensor, lengths: Tensor) -> Scaled:
    """YaRN (Peng et al. 2023, arXiv 2309.00071), and its factor on queries and keys."""
    size = rotary.size

    def pair_of(turns: float) -> float:
        """The pair that makes this many turns in the original length."""
        wave = scaling.original_max_position_embeddings / (turns * 2.0 * math.pi)
        return size * math.log(wave) / (2.0 * math.log(rotary.theta))

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    pairs = torch.arange(size // 2, device=plain.device).float()
    kept = 1.0 - ((pairs - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
    mixed = (1.0 - kept) * plain / scaling.factor + kept * plain
    return mixed, _yarn_factor(scaling)


def _yarn_factor(scaling: RopeScaling) -> float:
    def grown(weight: float) -> float:
        factor = scaling.factor
        return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.attention_factor:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
    return grown(1.0)


_SCALINGS: Mapping[str, Callable[[Rotary, RopeScaling, Tensor, Tensor], Scaled]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
