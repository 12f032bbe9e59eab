"""Linear layers: plain weights for batches, and packed or 8-bit weights for generation.

All of them compute [..., in] to [..., out] and have the same methods, so one can replace another
after a model is loaded (`packed`).

torch multiplies float32 on CPUs with MKL, which leaves the wide registers of many processors
unused; oneDNN, which torch includes, does not (measured on an AMD EPYC with AVX-512: 2.1 times as
fast from 8 rows on). It also sums every row in the same order for any number of rows, so that the
numbers of a text do not depend on its batch; only a single row is summed differently, and is
therefore duplicated.
"""

from __future__ import annotations

import copy
import functools
import os
import warnings
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
    return functional.gelu(x, approximate="tanh")


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
    "tanh": ("tanh", ""),
    "linear": ("none", ""),
}


class Linear(nn.Module):
    """A linear layer x W^T + b, [..., in] to [..., out], and what usually follows it."""

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
        return _onednn(x, weight, bias, activation, residual)
    out = ACTIVATIONS[activation](functional.linear(x, weight, bias))
    return out if residual is None else out + residual


def _onednn(
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
        x = x.reshape(1, -1).repeat(2, 1)
        residual = None if residual is None else residual.reshape(1, -1).repeat(2, 1)
    product, add = _kernels()
    if residual is not None:
        out: Tensor = add(x, residual, weight, bias, "add")
    else:
        name, algorithm = FUSED.get(activation, ("none", ""))
        out = product(x, weight, bias, name, [], algorithm)
        if activation not in FUSED:
            out = ACTIVATIONS[activation](out)
    return out[:1].view(*shape[:-1], -1) if single else out


@functools.cache
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
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
        _onednn(one, one, None, "gelu_fast", None)
        _onednn(one, one, one[0], "linear", one)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


# -- for generation -------------------------------------------------------------------------------


class PackedLinear(Linear):
    """oneDNN's product with the weight in the order in which its kernel reads it.

    A step of generation multiplies a few rows by every weight of the model, so it is bound by how
    fast the weights stream from memory. Blocked weights are read at about twice the speed of a
    plain matrix-vector product.

    Args:
        weight: [out, in], on the CPU.
        bias: [out] or None.

    Raises:
        RuntimeError: this build or processor cannot pack the weight.
    """

    #: Rows that the order is chosen for; other numbers of rows work too. A constant, so that the
    #: order does not depend on what ran before.
    expected_rows = 16

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self.weight = reorder(weight.detach().contiguous(), self.expected_rows)
        self.bias = None if bias is None else bias.detach()
        self.pair = False
        # oneDNN may share one long sum between threads: only then a single row must be duplicated.
        numbers = torch.Generator().manual_seed(0)
        x = torch.randn(2, weight.shape[1], generator=numbers).to(weight.dtype)
        self.pair = not torch.equal(self(x[:1]), self(x)[:1])

    def forward(self, x: Tensor) -> Tensor:
        return _onednn(x, self.weight, self.bias, "linear", None, self.pair)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return _onednn(x, self.weight, self.bias, activation, None, self.pair)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        return _onednn(x, self.weight, self.bias, "linear", residual, self.pair)


class Int8Linear(Linear):
    """8-bit weights: one scale per output channel of the weight and one per row of the input.

    There is a quarter of the bytes of float32 to read. Rows are divided by their largest magnitude
    first, so that one fixed input scale serves all of them and a row's result does not depend on
    the others in the batch.

    Args:
        weight: [out, in], on the CPU.
        bias: [out] or None.

    Raises:
        RuntimeError: this build has no int8 kernels.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = (weight.abs().amax(1) / 127.0).clamp(min=1e-12)
        codes = torch.round(weight / scale[:, None]).clamp(-127, 127).to(torch.int8)
        with warnings.catch_warnings():
            # torch plans to drop its quantized tensors; where they are gone, this raises.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(
                codes, scale.double(), torch.zeros(len(scale), dtype=torch.int64), 0
            )
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            self.weight = torch.ops.quantized.linear_prepack(quantized, None)
        finally:
            torch.backends.quantized.engine = engine
        self.bias = None if bias is None else bias.detach().float()
        # Without VNNI the kernel adds pairs of products in 16 bits: half the range avoids overflow.
        self.levels = 127.0 if _has_vnni() else 63.0
        self.product: Callable[..., Any] = (
            torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        )
        self(torch.zeros(1, weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        # Ten times as fast as the norm of the same meaning.
        largest = x.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        out: Tensor = self.product(x / largest, 1.0 / self.levels, 128, self.weight)
        return out * largest if self.bias is None else torch.addcmul(self.bias, out, largest)


def _has_vnni() -> bool:
    """Whether the processor multiplies bytes straight into 32 bits."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return supported is not None and bool(supported())


def packed_layer(layer: Dense, precision: Precision) -> Linear:
    """The fastest layer for few rows that computes what `layer` does; `layer` itself if it is.

    Raises:
        RuntimeError, AttributeError: int8 was asked for and is not available.
    """
    weight = layer.weight
    if precision == "int8":
        return Int8Linear(weight, layer.bias)
    if weight.device.type == "cpu" and has_kernel(weight.dtype):
        return PackedLinear(weight, layer.bias)
    return layer


def packed(
    module: nn.Module, precision: Precision = "native", *, release: bool = False
) -> nn.Module:
    """A module that shares everything with another, except that its Dense layers are packed.

    Args:
        module: any module; it is not changed unless `release` is set.
        precision: of the packed layers; int8 on CPUs only.
        release: free the plain weights of each layer as soon as it is packed, so that they are
            never held twice. The original module can then compute nothing more.

    Raises:
        RuntimeError, AttributeError: int8 was asked for and is not available.
    """
    if isinstance(module, Dense):
        layer = packed_layer(module, precision)
        if release and layer is not module:
            module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)
        return layer
    if not any(isinstance(part, Dense) for part in module.modules()):
        return module
    twin = copy.copy(module)
    twin._modules = {
        name: None if child is None else packed(child, precision, release=release)
        for name, child in module._modules.items()
    }
    return twin
