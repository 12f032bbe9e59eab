"""Linear layers that replace plain ones after a model is loaded: packed, or in 8 bits.

All of them compute [..., in] to [..., out] and have the same methods.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from uertool.config import Activation
from uertool.errors import UsageError
from uertool.models.embeddings import Table
from uertool.models.int8 import Int8Linear, Int8Table
from uertool.models.linear import FUSED, Dense, Linear, Precision, has_kernel, kernels, onednn


class PackedLinear(Linear):
    """oneDNN's product with the weight in the order in which its kernel reads it.

    A step of generation multiplies a few rows by every weight of the model, so it is bound by how
    fast the weights stream from memory. Blocked weights are read at about twice the speed of a
    plain matrix-vector product. With many rows the kernel need not order the weight at every
    call, which takes 4 to 12% of the time of an encoder of base size.

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
        self.product, self.sum = kernels()
        self.pair = False
        # oneDNN may share one long sum between threads: only then a single row must be duplicated.
        # What is subtracted makes differences visible that rounding to the type would hide.
        numbers = torch.Generator().manual_seed(0)
        x = torch.randn(2, weight.shape[1], generator=numbers).to(weight.dtype)
        found = self(x)
        self.pair = not torch.equal(self.added(x[:1], -found[:1]), self.added(x, -found)[:1])

    def forward(self, x: Tensor) -> Tensor:
        return self.activated(x, "linear")

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        if self.pair or activation not in FUSED:
            return onednn(x, self.weight, self.bias, activation, None, self.pair)
        name, algorithm = FUSED[activation]
        out: Tensor = self.product(x, self.weight, self.bias, name, [], algorithm)
        return out

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        if self.pair:
            return onednn(x, self.weight, self.bias, "linear", residual)
        out: Tensor = self.sum(x, residual, self.weight, self.bias, "add")
        return out


def in_8_bits(part: nn.Module) -> nn.Module:
    """The 8-bit form of a linear layer or a table.

    Raises:
        UsageError: this build of torch or this processor has no 8-bit kernels.
    """
    if isinstance(part, Table):
        return Int8Table(part)
    assert isinstance(part, Dense)
    try:
        return Int8Linear(part.weight, part.bias)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise UsageError(
            "This build of torch has no 8-bit kernels for this processor.",
            "Set `dtype` to bfloat16 or float32.",
        ) from error


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
        UsageError: int8 is not available.
    """
    if isinstance(module, Dense):
        weight = module.weight
        if precision == "int8":
            layer = in_8_bits(module)
        elif weight.device.type == "cpu" and has_kernel(weight.dtype):
            try:
                layer = PackedLinear(weight, module.bias)
            except RuntimeError:
                return module
        else:
            return module
        if release:
            module.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
        return layer
    if not any(isinstance(part, Dense) for part in module.modules()):
        return module
    twin = copy.copy(module)
    twin._modules = {
        name: None if child is None else packed(child, precision, release=release)
        for name, child in module._modules.items()
    }
    # torch finds parts by a slow function unless they are plain attributes as well; a step of
    # generation asks for about a hundred.
    twin.__dict__.update(twin._modules)
    return twin
