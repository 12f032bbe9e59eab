"""Multi-head self-attention with query, key and value in one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.models.dense import Dense, dense
from uertool.models.layout import Layout, PaddedLayout


def attention_scale(config: ModelConfig) -> float:
    """Factor on the scores: 1 / sqrt(head size), or 1 with `remove_attention_scale`."""
    return 1.0 if config.remove_attention_scale else config.head_size**-0.5


def scaled_bias(config: ModelConfig, bias: Tensor) -> Tensor:
    """A position bias as the fused kernel wants it: UER-py adds it before the scaling."""
    return bias * attention_scale(config)


class SelfAttention(nn.Module):
    """UER-py's MultiHeadedAttention of a text with itself.

    `qkv` is linear_layers.0, .1 and .2 of the checkpoint, stacked when it is loaded.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bias = not config.remove_transformer_bias
        self.heads = config.heads_num
        self.head_size = config.head_size
        self.inner = self.heads * self.head_size
        self.scale = attention_scale(config)
        self.qkv = Dense(config.hidden_size, 3 * self.inner, bias=bias)
        self.final_linear = Dense(self.inner, config.hidden_size, bias=bias)

    def heads_of(self, x: Tensor) -> Tensor:
        """[..., inner] to [..., heads, head size]."""
        return x.view(*x.shape[:-1], self.heads, self.head_size)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [..., heads, head size] of [..., hidden]."""
        q, k, v = self.qkv(x).split(self.inner, dim=-1)
        return self.heads_of(q), self.heads_of(k), self.heads_of(v)

    def forward(self, x: Tensor, layout: Layout, residual: Tensor) -> Tensor:
        """What x [tokens..., hidden] sees, added to `residual` of the same shape."""
        out = layout.attend(*self.project(x), self.scale)
        return self.final_linear.added(out.flatten(-2), residual)

    def at(self, x: Tensor, layout: Layout, positions: Tensor, residual: Tensor) -> Tensor:
        """Only what positions [batch, k] see, added to `residual` [batch, k, hidden]."""
        weight, bias = self.qkv.weight, self.qkv.bias
        q_bias, kv_bias = (None, None) if bias is None else (bias[: self.inner], bias[self.inner :])
        q = dense(layout.select(x, positions), weight[: self.inner], q_bias)
        k, v = dense(x, weight[self.inner :], kv_bias).split(self.inner, dim=-1)
        out = layout.attend_at(
            self.heads_of(q), self.heads_of(k), self.heads_of(v), positions, self.scale
        )
        return self.final_linear.added(out.flatten(-2), residual)

    def with_scores(
        self, x: Tensor, layout: PaddedLayout, previous: Tensor | None, residual: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Residual attention (He et al. 2020, RealFormer): scores add up from layer to layer.

        Args:
            x: [batch, length, hidden].
            layout: padded rows.
            residual: what the output is added to [batch, length, hidden].
            previous: scores of the layer before [batch, heads, length, length], or None.

        Returns:
            [batch, length, hidden], and this layer's scores.
        """
        q, k, v = (part.transpose(1, 2) for part in self.project(x))
        scores = q @ k.transpose(-2, -1) * self.scale
        if layout.bias is not None:
            scores = scores + layout.bias
        if layout.seen is not None:
            scores = scores + (~layout.seen).to(scores.dtype) * -10000.0
        if previous is not None:
            scores = scores + previous
        probabilities = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)
        out = (probabilities @ v).transpose(1, 2)
        return self.final_linear.added(out.flatten(-2), residual), scores
