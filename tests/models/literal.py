"""UER-py's transformer written out formula by formula: slow, padded, and easy to check by eye."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from uertool.config import ModelConfig

Tensors = dict[str, Tensor]


def layer_norm(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    """Unbiased standard deviation, epsilon outside the root; T5's norm where it has a weight."""
    if f"{name}.weight" in tensors:
        return tensors[f"{name}.weight"] * x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    return tensors[f"{name}.gamma"] * (x - mean) / (std + 1e-6) + tensors[f"{name}.beta"]


def linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    return functional.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def additive_mask(segs: Tensor, kind: str) -> Tensor:
    """[batch, 1, length, length] with 0 where a query sees a key and -10000 elsewhere."""
    batch, length = segs.shape
    lower = torch.tril(torch.ones(length, length)).expand(batch, 1, length, length)
    real = (segs > 0)[:, None, None, :].float().expand(batch, 1, length, length)
    if kind == "fully_visible":
        seen = real
    elif kind == "causal":
        seen = lower
    else:
        first = (segs == 1)[:, None, None, :].float().expand(batch, 1, length, length)
        seen = (first + real + lower >= 2).float()
    return (1.0 - seen) * -10000.0


def activation(x: Tensor, name: str) -> Tensor:
    return {
        "gelu": lambda: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        "gelu_fast": lambda: (
            0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        ),
        "relu": lambda: x.clamp(min=0),
        "silu": lambda: x * torch.sigmoid(x),
        "linear": lambda: x,
        "tanh": lambda: torch.tanh(x),
    }[name]()


def hidden_states(tensors: Tensors, config: ModelConfig, ids: Tensor, segs: Tensor) -> list[Tensor]:
    """What enters the first layer, and what each layer gives; the last one after its norm."""
    x = torch.zeros(())
    tables = {"word": ids, "pos": torch.arange(ids.shape[1]).expand_as(ids), "seg": segs}
    for part in config.embedding:
        x = x + tensors[f"embedding.{part}.embedding.weight"][tables[part]]
    if not config.remove_embedding_layernorm:
        x = layer_norm(x, tensors, "embedding.layer_norm")
    if config.factorized_embedding_parameterization:
        x = linear(x, tensors, "encoder.linear")
    mask = additive_mask(segs, config.mask)
    previous: Tensor | None = None
    found = [x]
    for number in range(config.layers_num):
        layer = "encoder.transformer" + ("" if config.parameter_sharing else f".{number}")
        pre = config.layernorm_positioning == "pre"
        inner = layer_norm(x, tensors, f"{layer}.layer_norm_1") if pre else x
        attended, previous = attention(inner, tensors, layer, config, mask, previous)
        x = x + attended
        if not pre:
            x = layer_norm(x, tensors, f"{layer}.layer_norm_1")
        inner = layer_norm(x, tensors, f"{layer}.layer_norm_2") if pre else x
        x = x + feed_forward(inner, tensors, f"{layer}.feed_forward", config)
        if not pre:
            x = layer_norm(x, tensors, f"{layer}.layer_norm_2")
        found.append(x)
    if config.layernorm_positioning == "pre":
        found[-1] = layer_norm(x, tensors, "encoder.layer_norm")
    return found


def mlm_scores(tensors: Tensors, config: ModelConfig, hidden: Tensor) -> Tensor:
    """The masked-language head on hidden states [..., hidden]: [..., vocab]."""
    inner = activation(linear(hidden, tensors, "target.mlm.linear_1"), config.hidden_act)
    return linear(
        layer_norm(inner, tensors, "target.mlm.layer_norm"), tensors, "target.mlm.linear_2"
    )


def attention(
    x: Tensor,
    tensors: Tensors,
    layer: str,
    config: ModelConfig,
    mask: Tensor,
    previous: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    batch, length, _ = x.shape
    heads, size = config.heads_num, config.head_size
    q, k, v = (
        linear(x, tensors, f"{layer}.self_attn.linear_layers.{part}")
        .view(batch, length, heads, size)
        .transpose(1, 2)
        for part in range(3)
    )
    scores = q @ k.transpose(-2, -1)
    if not config.remove_attention_scale:
        scores = scores / math.sqrt(size)
    scores = scores + mask
    if config.has_residual_attention:
        scores = scores if previous is None else scores + previous
        previous = scores
    out = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, length, heads * size)
    return linear(out, tensors, f"{layer}.self_attn.final_linear"), previous


def feed_forward(x: Tensor, tensors: Tensors, name: str, config: ModelConfig) -> Tensor:
    inner = linear(x, tensors, f"{name}.linear_1")
    if config.feed_forward == "gated":
        gate = activation(linear(x, tensors, f"{name}.linear_gate"), config.hidden_act)
        return linear(gate * inner, tensors, f"{name}.linear_2")
    return linear(activation(inner, config.hidden_act), tensors, f"{name}.linear_2")
