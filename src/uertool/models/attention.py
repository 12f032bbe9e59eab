"""Multi-head attention: of a text to itself, and of a target to its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.models.layout import Layout, attend, attend_exactly
from uertool.models.linear import Dense

if TYPE_CHECKING:
    from uertool.models.cache import LayerCache


def attention_scale(config: ModelConfig) -> float:
    """Factor on the scores: 1 / sqrt(head size), or 1 with `remove_attention_scale`."""
    return 1.0 if config.remove_attention_scale else config.head_size**-0.5


class _Attention(nn.Module):
    """Heads of attention and the linear layer after them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads_num
        self.head_size = config.head_size
        self.inner = self.heads * self.head_size
        self.scale = attention_scale(config)
        self.biased = not config.remove_transformer_bias
        self.final_linear = Dense(self.inner, config.hidden_size, bias=self.biased)

    def split(self, x: Tensor, parts: int) -> Tensor:
        """[..., parts * inner] to [..., parts, heads, head size]."""
        return x.view(*x.shape[:-1], parts, self.heads, self.head_size)


class SelfAttention(_Attention):
    """UER-py's MultiHeadedAttention of a text to itself.

    `qkv` is linear_layers.0, .1 and .2 of the checkpoint, stacked when it is loaded.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.qkv = Dense(config.hidden_size, 3 * self.inner, bias=self.biased)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        residual: Tensor,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Attention of x [tokens..., hidden], added to `residual`.

        Args:
            x: the text.
            layout: its layout in memory.
            residual: [tokens..., hidden], or [batch, k, hidden] with `positions`.
            positions: [batch, k]: compute the output there only.
            cache: keys and values of the tokens before, in generation; see Layout.attend.
        """
        if positions is None:
            parts = self.split(self.qkv(x), 3)
            q, keys_values = parts.select(-3, 0), parts.narrow(-3, 1, 2)
        else:
            chosen = self.qkv.rows(layout.select(x, positions), 0, self.inner)
            q = self.split(chosen, 1).select(-3, 0)
            keys_values = self.split(self.qkv.rows(x, self.inner, 3 * self.inner), 2)
        out = layout.attend(q, keys_values, self.scale, positions, cache)
        return self.final_linear.added(out.flatten(-2), residual)


class ContextAttention(_Attention):
    """Attention of a target to its source.

    `query` is linear_layers.0 of the checkpoint; `key_value` is .1 and .2, stacked when it is
    loaded.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.query = Dense(config.hidden_size, self.inner, bias=self.biased)
        self.key_value = Dense(config.hidden_size, 2 * self.inner, bias=self.biased)

    def memory(self, source: Tensor) -> Tensor:
        """Keys and values [2, batch, heads, source, head size] of [batch, source, hidden]."""
        return self.split(self.key_value(source), 2).permute(2, 0, 3, 1, 4).contiguous()

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, residual: Tensor) -> Tensor:
        """Attention of whole targets or of one token per row, added to `residual`.

        Args:
            x: [batch, target, hidden] or, in a step of generation, [batch, hidden].
            memory: keys and values of the source, see `memory`.
            mask: which source positions are visible, see `attend`.
            residual: as x.
        """
        q, (keys, values) = self.split(self.query(x), 1).squeeze(-3), memory.unbind(0)
        if x.dim() == 2:
            out = attend_exactly(q.unsqueeze(2), keys, values, mask, scale=self.scale).squeeze(2)
        else:
            out = attend(q.transpose(1, 2), keys, values, mask, scale=self.scale).transpose(1, 2)
        return self.final_linear.added(out.flatten(-2), residual)
