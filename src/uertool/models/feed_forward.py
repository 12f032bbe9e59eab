"""Feed-forward layers, dense and gated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uertool.config import Activation, ModelConfig
from uertool.models.linear import Dense


class FeedForward(nn.Module):
    """Two linear layers with an activation between: [..., hidden] to [..., hidden].

    With `feed_forward="gated"` the inner layer is multiplied by an activated gate
    (Shazeer 2020, arXiv 2002.05202).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bias = not config.remove_transformer_bias
        self.activation: Activation = config.hidden_act
        self.linear_gate = (
            Dense(config.hidden_size, config.feedforward_size, bias=bias)
            if config.feed_forward == "gated"
            else None
        )
        self.linear_1 = Dense(config.hidden_size, config.feedforward_size, bias=bias)
        self.linear_2 = Dense(config.feedforward_size, config.hidden_size, bias=bias)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output added to `residual`, which has the shape of x."""
        size = self.linear_1.chunk
        if size is None or x.numel() <= size * x.shape[-1]:
            return self._rows(x, residual)
        parts = x.flatten(0, -2).split(size), residual.flatten(0, -2).split(size)
        out = torch.cat([self._rows(*part) for part in zip(*parts, strict=True)])
        return out.view(residual.shape)

    def _rows(self, x: Tensor, residual: Tensor) -> Tensor:
        if self.linear_gate is None:
            inner = self.linear_1.activated(x, self.activation)
        else:
            inner = self.linear_gate.activated(x, self.activation) * self.linear_1(x)
        return self.linear_2.added(inner, residual)
