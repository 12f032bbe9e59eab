"""Linear layers with plain weights.

Other linear layers have the same methods, so that they can replace these after a model is loaded
(`uertool.models.packing`).

torch multiplies float32 on CPUs with MKL, which leaves the wide registers of many processors
unused; oneDNN, which torch includes, does not (measured on an AMD EPYC with AVX-512: 2.1 times as
fast from 8 rows on). It also sums every row in the same order for any number of rows, so that the
numbers of a text do not depend on its batch; only a single row is summed differently, and is
therefore duplicated.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from uertool.config import Activation

# oneDNN, and torch's layer above it, compile a kernel for every number of rows that they meet and
# keep 1,024 of each: with batches of any size that grew to 600 MB. The layers of a model share
# theirs, so few are needed at a time. Read when they are first used; a user's own value stays.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")

#: "native" keeps the type of the weights, "int8" rounds them to 8 bits.
Precision = Literal["native", "int8"]


def gelu_fast(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hugging Face calls it gelu_new)."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.requires_grad:
        return functional.gelu(x, approximate="tanh")
    # (1 + tanh y) / 2 = sigmoid(2 y): on CPUs torch's sigmoid takes less than half of the time.
    y = torch.addcmul(x, x * x, x, value=0.044715)
    return y.mul_(math.sqrt(8 / math.pi)).sigmoid_().mul_(x)


def identity(x: Tensor) -> Tensor:
    """No activation."""
    return x


#: UER-py's names of activations and their functions.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_fast": gelu_fast,
    "relu": functional.relu,
    "silu": functional.silu,
    "linear": identity,
    "tanh": torch.tanh,
}

#: Activations that oneDNN applies within the product: its name and algorithm.
FUSED: Mapping[str, tuple[str, str]] = {
    "gelu": ("gelu", "none"),
    "gelu_fast": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
    "linear": ("none", ""),
}


class Linear(nn.Module):
    """A linear layer x W^T + b, [..., in] to [..., out], and what usually follows it."""

    #: Rows that are best taken through several layers at a time; None for all.
    chunk: int | None = None

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """Compute activation(x W^T + b)."""
        return ACTIVATIONS[activation](self(x))

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """Compute x W^T + b + residual, with residual [..., out]."""
        total: Tensor = self(x) + residual
        return total

    def rows(self, x: Tensor, start: int, end: int) -> Tensor:
        """Output channels start to end only: [..., in] to [..., end - start]."""
        part: Tensor = self(x)[..., start:end]
        return part


class Dense(Linear):
    """A linear layer with plain weights, through oneDNN on CPUs.

    Its parameters are not initialized: they come from a checkpoint.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return dense(x, self.weight, self.bias, activation=activation)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        return dense(x, self.weight, self.bias, residual=residual)

    def rows(self, x: Tensor, start: int, end: int) -> Tensor:
        bias = None if self.bias is None else self.bias[start:end]
        return dense(x, self.weight[start:end], bias)


def dense(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: Activation = "linear",
    residual: Tensor | None = None,
) -> Tensor:
    """Compute activation(x W^T + b) + residual.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out] or None.
        activation: UER-py's name.
        residual: [..., out] or None; without an activation.
    """
    if _by_onednn(x, weight):
        return onednn(x, weight, bias, activation, residual)
    out = ACTIVATIONS[activation](functional.linear(x, weight, bias))
    return out if residual is None else out + residual


def onednn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    residual: Tensor | None,
    pair: bool = True,
) -> Tensor:
    """As `dense`, by oneDNN's kernel. `pair`: duplicate a single row, see the module's text."""
    shape = x.shape
    single = pair and x.numel() == shape[-1]
    if single:
        x = torch.cat([x.reshape(1, -1)] * 2)
        residual = None if residual is None else torch.cat([residual.reshape(1, -1)] * 2)
    product, add = kernels()
    if residual is not None:
        out: Tensor = add(x, residual, weight, bias, "add")
    else:
        name, algorithm = FUSED.get(activation, ("none", ""))
        out = product(x, weight, bias, name, [], algorithm)
        if activation not in FUSED:
            out = ACTIVATIONS[activation](out)
    return out[:1].view(*shape[:-1], -1) if single else out


@functools.cache
def kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The product of oneDNN with an activation, and with something added.

    Raises:
        AttributeError, RuntimeError: this build of torch has no oneDNN.
    """
    product = torch.ops.mkldnn._linear_pointwise
    return product.default, product.binary


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's kernel can be used for these tensors; it computes no gradients."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and not (weight.requires_grad and torch.is_grad_enabled())
        and has_kernel(weight.dtype)
    )


@functools.cache
def has_kernel(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor have oneDNN's kernel for a type."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    one = torch.ones(2, 2, dtype=dtype)
    try:
        onednn(one, one, None, "gelu_fast", None)
        onednn(one, one, one[0], "linear", one)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True
