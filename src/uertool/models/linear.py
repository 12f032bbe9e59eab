"""Linear layers laid out for repeated small products: packed once, then used at every step.

A step of generation multiplies a few rows by every weight of the model, so it is bound by how fast
the weights stream from memory. oneDNN reads weights in a blocked order at about twice the speed of
a plain matrix-vector product; with int8 there is a quarter of the bytes to read.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from uertool.config import Activation
from uertool.models.dense import ACTIVATIONS, FUSED

Precision = Literal["native", "int8"]


class Linear(Protocol):
    """A linear layer [rows, in] -> [rows, out] with the usual things that follow it."""

    def __call__(self, x: Tensor) -> Tensor:
        """The product x W^T + b."""

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """activation(x W^T + b)."""

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """The sum x W^T + b + other, with other [rows, out]."""


class PlainLinear:
    """torch's own product, for GPUs and for machines without oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return ACTIVATIONS[activation](self(x))

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x) + other


class PackedLinear:
    """oneDNN's product with the weight in the order that its kernel reads.

    Raises:
        RuntimeError: this build or processor cannot pack the weight.
    """

    #: Rows that the layout is chosen for; other numbers of rows work too.
    rows = 16

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        # A constant, so that the layout of a weight does not depend on what ran before it.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), self.rows)
        self.bias = bias
        self.product: Callable[..., Any] = torch.ops.mkldnn._linear_pointwise.default
        self.sum: Callable[..., Any] = torch.ops.mkldnn._linear_pointwise.binary
        self.lone = False
        self.lone = self._rounds_one_row_otherwise(weight)

    def _rounds_one_row_otherwise(self, weight: Tensor) -> bool:
        """Whether a row alone is summed in another order than a row in company.

        oneDNN may share one long sum between threads. Such a layer is given two equal rows, so
        that a text does not depend on how many others are generated beside it.
        """
        numbers = torch.Generator().manual_seed(0)
        x = torch.randn(2, weight.shape[1], generator=numbers).to(weight.dtype)
        return not torch.equal(self(x[:1]), self(x)[:1])

    def __call__(self, x: Tensor) -> Tensor:
        if self.lone and x.shape[0] == 1:
            return self(x.repeat(2, 1))[:1]
        out: Tensor = self.product(x, self.weight, self.bias, "none", [], "")
        return out

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        fused = FUSED.get(activation)
        if fused is None:
            return ACTIVATIONS[activation](self(x))
        if self.lone and x.shape[0] == 1:
            return self.activated(x.repeat(2, 1), activation)[:1]
        out: Tensor = self.product(x, self.weight, self.bias, fused[0], [], fused[1])
        return out

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        if self.lone and x.shape[0] == 1:
            return self.added(x.repeat(2, 1), other.repeat(2, 1))[:1]
        out: Tensor = self.sum(x, other, self.weight, self.bias, "add")
        return out


class Int8Linear:
    """8-bit integers: one scale per output channel of the weight and one per row of the input.

    Rows are divided by their largest magnitude first, so that one fixed input scale serves all of
    them and a row's result does not depend on its neighbours in the batch.

    Raises:
        RuntimeError: this build has no int8 kernels.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.float()
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
        self.bias = None if bias is None else bias.float()
        # Without VNNI the kernel adds pairs of products in 16 bits: half the range avoids overflow.
        self.levels = 127.0 if _has_vnni() else 63.0
        self.product: Callable[..., Any] = (
            torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        )
        self(torch.zeros(1, weight.shape[1]))

    def __call__(self, x: Tensor) -> Tensor:
        out, largest = self._scaled(x)
        return out * largest if self.bias is None else torch.addcmul(self.bias, out, largest)

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        return ACTIVATIONS[activation](self(x))

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x) + other

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Ten times as fast as the norm of the same meaning.
        largest = x.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        out: Tensor = self.product(x / largest, 1.0 / self.levels, 128, self.weight)
        return out, largest


def _has_vnni() -> bool:
    """Whether the processor multiplies bytes straight into 32 bits."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return supported is not None and bool(supported())


def make_linear(weight: Tensor, bias: Tensor | None, precision: Precision = "native") -> Linear:
    """The fastest layer that computes x W^T + b where the weight lives.

    Args:
        weight: [out, in].
        bias: [out] or None.
        precision: "native" keeps the weight's type, "int8" rounds it to 8 bits (CPU only).

    Raises:
        RuntimeError: int8 was asked for and cannot be had.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach()
    if precision == "int8":
        return Int8Linear(weight, bias)
    if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16):
        try:
            return PackedLinear(weight, bias)
        except (RuntimeError, AttributeError, NotImplementedError):
            return PlainLinear(weight, bias)
    return PlainLinear(weight, bias)
