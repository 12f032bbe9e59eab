"""The encoders: transformer, recurrent, bidirectional recurrent and gated convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.models.attention import SelfAttention, scaled_bias
from uertool.models.dense import Dense
from uertool.models.feed_forward import FeedForward
from uertool.models.layout import Layout, PaddedLayout, make_layout
from uertool.models.norm import make_norm
from uertool.models.positions import RelativePositionBias


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, with the norm after (post) or before (pre) each."""

    def __init__(self, config: ModelConfig, *, first: bool = False) -> None:
        super().__init__()
        self.pre = config.layernorm_positioning == "pre"
        # With pre layer norm and no norm in the embedding, the first layer norms raw embeddings.
        near = self.pre and first and config.remove_embedding_layernorm
        self.self_attn = SelfAttention(config)
        self.layer_norm_1 = make_norm(config, config.hidden_size, near_embedding=near)
        self.feed_forward = FeedForward(config)
        self.layer_norm_2 = make_norm(config, config.hidden_size)

    def _finish(self, x: Tensor) -> Tensor:
        """The rest of the layer, from the input with what it attended to added."""
        if self.pre:
            return self.feed_forward(self.layer_norm_2(x), x)
        x = self.layer_norm_1(x)
        return self.layer_norm_2(self.feed_forward(x, x))

    def _normed(self, x: Tensor) -> Tensor:
        return self.layer_norm_1(x) if self.pre else x

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """[tokens..., hidden] to the same shape."""
        return self._finish(self.self_attn(self._normed(x), layout, x))

    def at(self, x: Tensor, layout: Layout, positions: Tensor) -> Tensor:
        """The layer's output at positions [batch, k] only: [batch, k, hidden]."""
        own = layout.select(x, positions)
        return self._finish(self.self_attn.at(self._normed(x), layout, positions, own))

    def with_scores(
        self, x: Tensor, layout: PaddedLayout, previous: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As forward, with residual attention scores in and out."""
        attended, scores = self.self_attn.with_scores(self._normed(x), layout, previous, x)
        return self._finish(attended), scores


class TransformerEncoder(nn.Module):
    """A stack of transformer layers, or one layer run `layers_num` times (ALBERT)."""

    transformer: TransformerLayer | nn.ModuleList

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.factorized_embedding_parameterization:
            self.linear = Dense(config.word_size, config.hidden_size)
        if config.parameter_sharing:
            self.transformer = TransformerLayer(config, first=True)
        else:
            self.transformer = nn.ModuleList(
                TransformerLayer(config, first=number == 0) for number in range(config.layers_num)
            )
        if config.layernorm_positioning == "pre":
            self.layer_norm = make_norm(config, config.hidden_size)
        if config.relative_position_embedding:
            self.relative_pos_emb = RelativePositionBias(
                config.heads_num,
                config.relative_attention_buckets_num,
                config.relative_attention_max_distance,
                bidirectional=True,
            )

    @property
    def layers(self) -> list[TransformerLayer]:
        """The layers in the order in which they run."""
        if isinstance(self.transformer, TransformerLayer):
            return [self.transformer] * self.config.layers_num
        return [layer for layer in self.transformer if isinstance(layer, TransformerLayer)]

    def forward(
        self,
        vectors: Tensor,
        segs: Tensor,
        wanted: Sequence[int],
        positions: Tensor | None = None,
    ) -> list[Tensor]:
        """Hidden states after the layers in `wanted`.

        Args:
            vectors: output of the embedding [batch, length, emb].
            segs: [batch, length], 0 for padding.
            wanted: layer numbers, 0 for what enters the first layer.
            positions: [batch, k]: give the last layer's states there only.

        Returns:
            One tensor [batch, length, hidden] ([batch, k, hidden]) per wanted layer, in ascending
            order of layers.
        """
        if self.config.factorized_embedding_parameterization:
            vectors = self.linear(vectors)
        bias = None
        if self.config.relative_position_embedding:
            length = segs.shape[1]
            bias = scaled_bias(self.config, self.relative_pos_emb(length, length))
            bias = bias.to(vectors.dtype)
        if self.config.has_residual_attention:
            return self._residual(vectors, segs, bias, wanted, positions)
        layout = make_layout(segs, self.config.mask, bias)
        x = layout.pack(vectors)
        found = {0: vectors} if 0 in wanted else {}
        layers = self.layers
        for number, layer in enumerate(layers, start=1):
            last = number == len(layers)
            if last and positions is not None:
                return [self._final(layer.at(x, layout, positions))]
            x = layer(x, layout)
            if last:
                x = self._final(x)
            if number in wanted:
                found[number] = layout.unpack(x)
        return [found[number] for number in sorted(found)]

    def _final(self, x: Tensor) -> Tensor:
        return self.layer_norm(x) if self.config.layernorm_positioning == "pre" else x

    def _residual(
        self,
        x: Tensor,
        segs: Tensor,
        bias: Tensor | None,
        wanted: Sequence[int],
        positions: Tensor | None,
    ) -> list[Tensor]:
        layout = PaddedLayout(segs, self.config.mask, bias)
        found = {0: x}
        scores: Tensor | None = None
        for number, layer in enumerate(self.layers, start=1):
            x, scores = layer.with_scores(x, layout, scores)
            found[number] = x
        found[self.config.layers_num] = self._final(x)
        if positions is not None:
            return [layout.select(found[self.config.layers_num], positions)]
        return [found[number] for number in sorted(wanted)]


_CELLS: Mapping[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class _PlainEncoder(nn.Module):
    """What the encoders without attention share: they give their last layer only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, vectors: Tensor) -> Tensor:
        """[batch, length, emb] to [batch, length, hidden]."""
        raise NotImplementedError

    def forward(
        self,
        vectors: Tensor,
        segs: Tensor,
        wanted: Sequence[int],
        positions: Tensor | None = None,
    ) -> list[Tensor]:
        """As TransformerEncoder.forward, for the last layer."""
        if list(wanted) != [self.config.layers_num]:
            raise UsageError(
                f"The {self.config.encoder} encoder gives its last layer only, "
                f"not layers {list(wanted)}.",
                "Leave `layers` out.",
            )
        x = self.run(vectors)
        if positions is not None:
            x = x[torch.arange(x.shape[0], device=x.device)[:, None], positions]
        return [x]


def _cell(name: str, config: ModelConfig, hidden: int, *, bidirectional: bool) -> nn.RNNBase:
    return _CELLS[name](
        config.word_size, hidden, config.layers_num, batch_first=True, bidirectional=bidirectional
    )


class RecurrentEncoder(_PlainEncoder):
    """rnn, lstm or gru. Padding is not skipped, as in UER-py."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_size // (2 if config.bidirectional else 1)
        self.rnn = _cell(config.encoder, config, hidden, bidirectional=config.bidirectional)

    def run(self, vectors: Tensor) -> Tensor:
        output: Tensor = self.rnn(vectors)[0]
        return output


class BidirectionalEncoder(_PlainEncoder):
    """birnn, bilstm or bigru: two independent stacks, one of which reads from the padded end."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        cell = config.encoder.removeprefix("bi")
        half = config.hidden_size // 2
        self.rnn_forward = _cell(cell, config, half, bidirectional=False)
        self.rnn_backward = _cell(cell, config, half, bidirectional=False)

    def run(self, vectors: Tensor) -> Tensor:
        forward = self.rnn_forward(vectors)[0]
        backward = self.rnn_backward(vectors.flip(1))[0].flip(1)
        return torch.cat([forward, backward], dim=2)


class GatedCnnEncoder(_PlainEncoder):
    """Causal gated convolutions with a residual every `block_size` layers (Dauphin et al. 2017)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        hidden, width, more = config.hidden_size, config.kernel_size, config.layers_num - 1

        def bias() -> nn.Parameter:
            return nn.Parameter(torch.empty(1, hidden, 1, 1))

        self.conv_1 = nn.Conv2d(1, hidden, (width, config.word_size))
        self.gate_1 = nn.Conv2d(1, hidden, (width, config.word_size))
        self.conv_b1, self.gate_b1 = bias(), bias()
        self.conv = nn.ModuleList(nn.Conv2d(hidden, hidden, (width, 1)) for _ in range(more))
        self.gate = nn.ModuleList(nn.Conv2d(hidden, hidden, (width, 1)) for _ in range(more))
        self.conv_b = nn.ParameterList(bias() for _ in range(more))
        self.gate_b = nn.ParameterList(bias() for _ in range(more))

    def run(self, vectors: Tensor) -> Tensor:
        if vectors.shape[0] == 1:
            # A row alone is summed in another order, and gates magnify that: a text must not
            # depend on how many others stand beside it.
            return self.run(vectors.repeat(2, 1, 1))[:1]
        before = (0, 0, self.config.kernel_size - 1, 0)  # zeros in front of the text: causal

        def pad(x: Tensor) -> Tensor:
            return nn.functional.pad(x, before)

        x = pad(vectors[:, None])
        hidden = (self.conv_1(x) + self.conv_b1) * torch.sigmoid(self.gate_1(x) + self.gate_b1)
        residual = hidden
        stages = zip(self.conv, self.gate, self.conv_b, self.gate_b, strict=True)
        for number, (conv, gate, conv_b, gate_b) in enumerate(stages, start=1):
            x = pad(hidden)
            hidden = (conv(x) + conv_b) * torch.sigmoid(gate(x) + gate_b)
            if number % self.config.block_size == 0:
                hidden = residual = hidden + residual
        return hidden[..., 0].transpose(1, 2)


#: Encoder names of UER-py and what builds them.
ENCODERS: Mapping[str, Callable[[ModelConfig], nn.Module]] = {
    "transformer": TransformerEncoder,
    "rnn": RecurrentEncoder,
    "lstm": RecurrentEncoder,
    "gru": RecurrentEncoder,
    "birnn": BidirectionalEncoder,
    "bilstm": BidirectionalEncoder,
    "bigru": BidirectionalEncoder,
    "gatedcnn": GatedCnnEncoder,
}


def make_encoder(config: ModelConfig) -> nn.Module:
    """The encoder that `config.encoder` names."""
    return ENCODERS[config.encoder](config)
