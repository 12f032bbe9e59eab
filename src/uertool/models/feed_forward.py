"""Feed-forward layers, dense and gated, and the activations by their UER-py names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from uertool.models.config import ModelConfig


def gelu_fast(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hugging Face calls it gelu_new)."""
    return functional.gelu(x, approximate="tanh")


def linear(x: Tensor) -> Tensor:
    """No activation."""
    return x


#: UER-py's names and what they compute.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_fast": gelu_fast,
    "relu": functional.relu,
    "silu": functional.silu,
    "linear": linear,
    "tanh": torch.tanh,
}


class FeedForward(nn.Module):
    """Two linear layers with an activation between: [..., hidden] to [..., hidden].

    With `feed_forward="gated"` the inner layer is multiplied by an activated gate
    (Shazeer 2020, arXiv 2002.05202).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bias = not config.remove_transformer_bias
        self.activation = ACTIVATIONS[config.hidden_act]
        self.linear_gate = (
            nn.Linear(config.hidden_size, config.feedforward_size, bias=bias)
            if config.feed_forward == "gated"
            else None
        )
        self.linear_1 = nn.Linear(config.hidden_size, config.feedforward_size, bias=bias)
        self.linear_2 = nn.Linear(config.feedforward_size, config.hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear_gate is None:
            return self.linear_2(self.activation(self.linear_1(x)))
        return self.linear_2(self.activation(self.linear_gate(x)) * self.linear_1(x))
