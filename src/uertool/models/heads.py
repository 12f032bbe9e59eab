"""Output heads: masked words, replaced words, next words, pairs, labels and answer spans."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uertool.config import Activation, ModelConfig
from uertool.models.linear import Dense
from uertool.models.norm import make_normal_norm


class MlmHead(nn.Module):
    """Masked-language head: logits of masked words, [..., hidden] to [..., vocab]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        factorized = config.factorized_embedding_parameterization
        size = config.word_size if factorized else config.hidden_size
        self.activation: Activation = config.mlm_act or config.hidden_act
        self.linear_1 = Dense(config.hidden_size, size, bias=not config.remove_mlm_bias)
        self.layer_norm = make_normal_norm(config, size)
        self.linear_2 = Dense(size, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.linear_1.activated(hidden, self.activation)
        return self.linear_2(self.layer_norm(inner))


class RtdHead(nn.Module):
    """ELECTRA's discriminator: a logit above 0 for replaced tokens, [..., hidden] to [...]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation: Activation = config.hidden_act
        self.linear_1 = Dense(config.hidden_size, config.hidden_size)
        self.linear_2 = Dense(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear_2(self.linear_1.activated(hidden, self.activation)).squeeze(-1)


class LmHead(nn.Module):
    """Language-model head: logits of next words, [..., hidden] to [..., vocab]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        decoder = config.decoder is not None
        vocab = (config.tgt_vocab_size if decoder else 0) or config.vocab_size
        self.vocab_size = vocab
        self.output_layer = Dense(config.hidden_size, vocab, bias=config.has_lmtarget_bias)
        self.scale = config.lm_scale

    def forward(self, hidden: Tensor) -> Tensor:
        if self.scale != 1.0:
            hidden = hidden * self.scale
        return self.output_layer(hidden)


class Pooler(nn.Module):
    """BERT's pooler: tanh of a linear layer on the first token, [batch, hidden] to the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear_1 = Dense(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return self.linear_1.activated(first, "tanh")


class PooledHead(nn.Module):
    """Sequence classifier with a pooler: logits of labels, [batch, hidden] to [batch, labels]."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.linear_1 = Dense(config.hidden_size, config.hidden_size)
        self.linear_2 = Dense(config.hidden_size, labels)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.linear_2(self.linear_1.activated(pooled, "tanh"))


class TokenHead(nn.Module):
    """Token classifier: logits of labels for every token, [..., hidden] to [..., labels]."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.output_layer = Dense(config.hidden_size, labels)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output_layer(hidden)


class SiameseHead(nn.Module):
    """Siamese classifier: logits of labels for a pair of texts, from [u, v, |u - v|, u * v]."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.classifier = Dense(4 * config.hidden_size, labels)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Vectors [batch, hidden] of the two texts to [batch, labels]."""
        both = torch.cat([first, second, (first - second).abs(), first * second], dim=-1)
        return self.classifier(both)
