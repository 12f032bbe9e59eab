"""Encoders: recurrent, bidirectional recurrent, gated convolution, and a table of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.models.transformer import TransformerEncoder

_CELLS: Mapping[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class _PlainEncoder(nn.Module):
    """Base of the encoders without attention: they return their last layer only."""

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
                f"The {self.config.encoder} encoder returns its last layer only, "
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
    """Recurrent encoder: rnn, lstm or gru. Padding is not skipped, as in UER-py."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_size // (2 if config.bidirectional else 1)
        self.rnn = _cell(config.encoder, config, hidden, bidirectional=config.bidirectional)

    def run(self, vectors: Tensor) -> Tensor:
        output: Tensor = self.rnn(vectors)[0]
        return output


class BidirectionalEncoder(_PlainEncoder):
    """Bidirectional encoder: birnn, bilstm or bigru.

    Two independent stacks, one of which reads from the padded end.
    """

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
    """Causal gated convolutions, a residual every `block_size` layers (Dauphin et al. 2017)."""

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
            # A single row is summed in another order, and gates magnify that: a text's numbers
            # must not depend on the number of others in its batch.
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


#: UER-py's names of encoders, and their classes.
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
