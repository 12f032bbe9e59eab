"""The transformer decoder: causal self-attention, attention to the encoder's output, feed-forward.

This is the plain form over whole sequences, used for teacher forcing and to hold the weights;
`uertool.models.incremental` runs the same layers one token at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.models.attend import attend
from uertool.models.attention import SelfAttention, scaled_bias
from uertool.models.dense import dense
from uertool.models.feed_forward import FeedForward
from uertool.models.layout import Layout, PaddedLayout
from uertool.models.norm import make_norm
from uertool.models.positions import RelativePositionBias


class ContextAttention(SelfAttention):
    """Attention of the target to the source.

    `qkv` holds linear_layers.0, .1 and .2 of the checkpoint stacked, as in SelfAttention; here the
    query rows read the target and the others the source.
    """

    def query(self, x: Tensor) -> Tensor:
        """[..., hidden] of the target to [..., heads, head size]."""
        bias = None if self.qkv.bias is None else self.qkv.bias[: self.inner]
        return self.heads_of(dense(x, self.qkv.weight[: self.inner], bias))

    def memory(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., heads, head size] of the encoder's output [..., hidden]."""
        bias = None if self.qkv.bias is None else self.qkv.bias[self.inner :]
        both = dense(source, self.qkv.weight[self.inner :], bias)
        keys, values = both.split(self.inner, dim=-1)
        return self.heads_of(keys), self.heads_of(values)

    def read(self, x: Tensor, source: Tensor, seen: Tensor, residual: Tensor) -> Tensor:
        """What targets [batch, target, hidden] gather from sources [batch, source, hidden].

        Args:
            x: the target side.
            source: the encoder's output.
            seen: [batch, source] bool, False at padding.
            residual: what it is added to [batch, target, hidden].
        """
        keys, values = self.memory(source)
        out = attend(
            self.query(x).transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            seen[:, None, None, :],
            scale=self.scale,
        )
        return self.final_linear.added(out.transpose(1, 2).flatten(-2), residual)


class DecoderLayer(nn.Module):
    """Self-attention, context attention and feed-forward, the norm after or before each."""

    def __init__(self, config: ModelConfig, *, first: bool = False) -> None:
        super().__init__()
        self.pre = config.layernorm_positioning == "pre"
        # With pre layer norm and no norm in the embedding, the first layer norms raw embeddings.
        near = self.pre and first and config.remove_embedding_layernorm
        self.self_attn = SelfAttention(config)
        self.layer_norm_1 = make_norm(config, config.hidden_size, near_embedding=near)
        self.context_attn = ContextAttention(config)
        self.layer_norm_2 = make_norm(config, config.hidden_size)
        self.feed_forward = FeedForward(config)
        self.layer_norm_3 = make_norm(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, source: Tensor, seen: Tensor) -> Tensor:
        """[batch, target, hidden] to the same shape; see ContextAttention.read."""
        if self.pre:
            x = self.self_attn(self.layer_norm_1(x), layout, x)
            x = self.context_attn.read(self.layer_norm_2(x), source, seen, x)
            return self.feed_forward(self.layer_norm_3(x), x)
        x = self.layer_norm_1(self.self_attn(x, layout, x))
        x = self.layer_norm_2(self.context_attn.read(x, source, seen, x))
        return self.layer_norm_3(self.feed_forward(x, x))


class TransformerDecoder(nn.Module):
    """A stack of decoder layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer_decoder = nn.ModuleList(
            DecoderLayer(config, first=number == 0) for number in range(config.decoder_layers_num)
        )
        if config.layernorm_positioning == "pre":
            self.layer_norm = make_norm(config, config.hidden_size)
        if config.relative_position_embedding:
            self.self_pos_emb = RelativePositionBias(
                config.heads_num,
                config.relative_attention_buckets_num,
                config.relative_attention_max_distance,
                bidirectional=False,
            )

    @property
    def layers(self) -> list[DecoderLayer]:
        """The layers in the order in which they run."""
        return [layer for layer in self.transformer_decoder if isinstance(layer, DecoderLayer)]

    def forward(self, vectors: Tensor, source: Tensor, seen: Tensor) -> Tensor:
        """Hidden states of whole targets.

        Args:
            vectors: output of the target embedding [batch, target, hidden].
            source: the encoder's output [batch, source, hidden].
            seen: [batch, source] bool, False where the source is padding, see `memory_seen`.

        Returns:
            [batch, target, hidden], after the final norm where there is one.
        """
        length = vectors.shape[1]
        bias = None
        if self.config.relative_position_embedding:
            bias = scaled_bias(self.config, self.self_pos_emb(length, length)).to(vectors.dtype)
        segs = torch.ones(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
        layout = PaddedLayout(segs, "causal", bias)
        for layer in self.layers:
            vectors = layer(vectors, layout, source, seen)
        return self.layer_norm(vectors) if self.config.layernorm_positioning == "pre" else vectors


def memory_seen(config: ModelConfig, ids: Tensor, segs: Tensor) -> Tensor:
    """Which source positions the decoder may read, [batch, source] bool.

    UER-py hides every source token whose id is 0, which is [PAD] in its vocabularies. Other
    families give id 0 to a real token (BART's <s>), so there only padding is hidden.
    """
    seen = segs > 0
    if config.norm == "uer":
        seen = seen & (ids != 0)
        # A source of nothing else must not divide zero by zero; UER-py then reads it all alike.
        seen = seen | (~seen.any(1, keepdim=True) & (segs > 0))
    return seen
