"""Multi-head attention: of a text to itself, and of a target to its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.models.layout import Layout
from uertool.models.linear import Dense
from uertool.models.norm import RmsNorm
from uertool.models.rotary import rotate
from uertool.models.scores import attend, attend_exactly

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
        biased = self.biased or config.attention_output_bias
        self.final_linear = Dense(self.inner, config.hidden_size, bias=biased)

    def split(self, x: Tensor, *parts: int) -> Tensor:
        """[..., channels] to [..., *parts, head size]; -1 in `parts` is as many heads as fit."""
        return x.unflatten(-1, (*parts, self.head_size))


class SelfAttention(_Attention):
    """UER-py's MultiHeadedAttention of a text to itself.

    `qkv` is linear_layers.0, .1 and .2 of the checkpoint, stacked when it is loaded. Groups of
    query heads may share a head of keys and values (Ainslie et al. 2023, arXiv 2305.13245), and
    queries and keys may have a norm and rotary positions.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.channels = self.inner + 2 * config.kv_heads * self.head_size
        self.qkv = Dense(config.hidden_size, self.channels, bias=self.biased or config.qkv_bias)
        self.query_norm = self.key_norm = None
        if config.qk_norm:
            self.query_norm = RmsNorm(self.head_size, config.norm_eps)
            self.key_norm = RmsNorm(self.head_size, config.norm_eps)
        self.rotary_order = config.rotary_order
        self.rotary_value = config.rotary_value

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
            q, keys_values = self.qkv(x).tensor_split((self.inner,), -1)
        else:
            q = self.qkv.rows(layout.select(x, positions), 0, self.inner)
            keys_values = self.qkv.rows(x, self.inner, self.channels)
        q, keys_values = self.split(q, -1), self.split(keys_values, 2, -1)
        keys = keys_values.select(-3, 0)
        if self.query_norm is not None and self.key_norm is not None:
            q = self.query_norm(q)
            keys.copy_(self.key_norm(keys))
        if layout.turns is not None:
            turns = layout.turns
            rotate(keys, turns, self.rotary_order)
            if self.rotary_value:
                rotate(keys_values.select(-3, 1), turns, self.rotary_order)
            if positions is not None:
                turns = layout.select(turns, positions)
            rotate(q, turns, self.rotary_order)
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
        return self.split(self.key_value(source), 2, -1).permute(2, 0, 3, 1, 4).contiguous()

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, residual: Tensor) -> Tensor:
        """Attention of whole targets or of one token per row, added to `residual`.

        Args:
            x: [batch, target, hidden] or, in a step of generation, [batch, hidden].
            memory: keys and values of the source, see `memory`.
            mask: which source positions are visible, see `attend`.
            residual: as x.
        """
        q, (keys, values) = self.split(self.query(x), -1), memory.unbind(0)
        if x.dim() == 2:
            out = attend_exactly(q.unsqueeze(2), keys, values, mask, scale=self.scale).squeeze(2)
        else:
            out = attend(q.transpose(1, 2), keys, values, mask, scale=self.scale).transpose(1, 2)
        return self.final_linear.added(out.flatten(-2), residual)
