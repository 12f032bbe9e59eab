"""Linear layers for batches, on CPUs through oneDNN's kernel.

torch multiplies float32 on CPUs with MKL, which leaves the wide registers of many processors
unused; oneDNN, which torch brings along, does not (measured on an AMD EPYC with AVX-512: 2.1 times
as fast from 8 rows on). It also sums every row in the same order however many rows there are, so
that a text's numbers do not depend on the batch it is in; only a row alone is summed otherwise, and
is therefore given company.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from uertool.config import Activation

# oneDNN, and torch's layer above it, compile a kernel for every number of rows that they meet and
# keep 1,024 of each: with batches of any size that grew to 600 MB. The layers of a model share
# theirs, so few are needed at a time. Read when they are first used; a user's own value stays.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")


def gelu_fast(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hugging Face calls it gelu_new)."""
    return functional.gelu(x, approximate="tanh")


def linear(x: Tensor) -> Tensor:
    """No activation."""
    return x


#: UER-py's names and what they compute.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_fast": gelu_fast,
    "relu": functional.relu,
    "silu": functional.silu,
    "linear": linear,
    "tanh": torch.tanh,
}

#: Activations that oneDNN applies within the product: its name and algorithm.
FUSED: Mapping[str, tuple[str, str]] = {
    "gelu": ("gelu", "none"),
    "gelu_fast": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "tanh": ("tanh", ""),
    "linear": ("none", ""),
}


def dense(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: Activation = "linear",
    residual: Tensor | None = None,
) -> Tensor:
    """activation(x W^T + b) + residual.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out] or None.
        activation: UER-py's name.
        residual: [..., out] or None; without an activation.
    """
    if not _by_onednn(x, weight):
        out = ACTIVATIONS[activation](functional.linear(x, weight, bias))
        return out if residual is None else out + residual
    shape = x.shape[:-1]
    rows = x.reshape(-1, x.shape[-1])
    lone = rows.shape[0] == 1
    if lone:
        rows = rows.expand(2, -1).contiguous()
    if residual is not None:
        other = residual.reshape(-1, weight.shape[0])
        if lone:
            other = other.expand(2, -1).contiguous()
        out = torch.ops.mkldnn._linear_pointwise.binary(rows, other, weight, bias, "add")
    elif activation in FUSED:
        name, algorithm = FUSED[activation]
        out = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, name, [], algorithm)
    else:
        out = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        out = ACTIVATIONS[activation](out)
    return (out[:1] if lone else out).view(*shape, weight.shape[0])


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's kernel serves these tensors, which have no gradients to give it."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and not (weight.requires_grad and torch.is_grad_enabled())
        and _has_kernel(weight.dtype)
    )


@functools.cache
def _has_kernel(dtype: torch.dtype) -> bool:
    """Whether this build and processor have the kernel for a type; tried once."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    one = torch.ones(2, 2, dtype=dtype)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: torch.ops.mkldnn._linear_pointwise(one, one, None, "gelu", [], "tanh"),
        lambda: torch.ops.mkldnn._linear_pointwise.binary(one, one, one, one[0], "add"),
    )
    try:
        for call in calls:
            call()
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


class Dense(nn.Linear):
    """A linear layer [..., in] to [..., out], see `dense`."""

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """activation(x W^T + b)."""
        return dense(x, self.weight, self.bias, activation=activation)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """Give x W^T + b + residual."""
        return dense(x, self.weight, self.bias, residual=residual)
