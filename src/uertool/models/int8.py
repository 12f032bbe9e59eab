"""8-bit layers: linear layers whose weights and inputs are bytes, and tables of bytes.

A weight has one scale for each output channel, an input one for each row, so that the result of a
row does not depend on the others in its batch. The products are oneDNN's, which processors with
VNNI or AMX compute in 8 bits; sums are exact integers.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from uertool.models.embeddings import Table
from uertool.models.linear import Linear

#: Numbers that are quantized at a time: few, so that what is between two operations stays in the
#: caches, and torch's threads need not wait for each other after every one.
CHUNK = 1 << 15

#: A weight is rounded finer if rounding loses more than this share of a usual channel. Normal
#: distributions lose half as much; layers with a few large input channels, such as those that read
#: positions from the embedding, lose several times as much.
ROUGH = 0.02

#: Adding 1.5 * 2^23 to a float32 rounds it to an integer, which is then in the lowest bits.
ROUNDING = 1.5 * 2.0**23


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of a weight [n, size] as int8 codes [n, size] and a float32 scale [n]."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0])
    count = max(1, CHUNK // weight.shape[1])
    parts = (each.split(count) for each in (weight, codes, scales))
    for rows, code, scale in zip(*parts, strict=True):
        part = rows.detach().float()
        torch.div(part.abs().amax(1), 127.0, out=scale).clamp_(min=1e-12)
        code.copy_((part / scale[:, None]).add_(ROUNDING).view(torch.int32))
    return codes, scales


def lost(weight: Tensor, scale: Tensor) -> float:
    """The share of a usual input channel of a weight [out, in] that rounding to scale [out] loses.

    A number is off by up to half of its scale, so the root of its mean square is scale / sqrt(12).
    """
    channels = torch.linalg.vector_norm(weight, dim=0, dtype=torch.float32)
    return float(scale.norm() / math.sqrt(12) / channels.median())


class Int8Linear(Linear):
    """A linear layer in 8 bits, or in twice 8 bits where 8 are too rough for its weight.

    Args:
        weight: [out, in], on the CPU.
        bias: [out] or None.

    Raises:
        RuntimeError, AttributeError: this build or processor has no 8-bit kernels.
    """

    #: The results between two products stay in the caches for this many rows.
    chunk: int = 256

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        if platform.machine().lower() not in ("x86_64", "amd64"):
            raise RuntimeError("oneDNN multiplies bytes at speed on x86-64 processors only")
        weight = weight.detach()
        codes, scale = quantize(weight)
        rounded = [(codes, scale)]
        if lost(weight, scale) > ROUGH:
            rounded.append(quantize(weight - codes * scale[:, None]))
        # Bytes are stored with an offset. Without VNNI the kernel adds pairs of products in 16
        # bits: there half the range avoids an overflow.
        self.offset = 128 if _has_vnni() else 64
        prepack, most = torch.ops.onednn.qlinear_prepack, self.offset - 1
        #: Packed codes and their scales; the weight is the sum of what these stand for.
        self.parts = [(prepack(codes, None), scale / most) for codes, scale in rounded]
        self.levels = torch.tensor(float(most))
        # As long as a row, because torch is slower with single numbers.
        self.rounding = torch.full((weight.shape[1],), ROUNDING + self.offset)
        self.no_offsets = torch.zeros(len(scale), dtype=torch.int64)
        self.bias = torch.zeros(len(scale)) if bias is None else bias.detach().float()
        self.product: Callable[..., Any] = torch.ops.onednn.qlinear_pointwise.default
        self(torch.zeros(1, weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        if len(rows) <= self.chunk:
            out = self._part(rows)
        else:
            out = torch.empty(len(rows), len(self.bias))
            parts = rows.split(self.chunk), out.split(self.chunk)
            for part, target in zip(*parts, strict=True):
                self._part(part, target)
        return out.view(*x.shape[:-1], -1).to(x.dtype)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)

    def _part(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute x W^T + b for some rows [rows, in], in float32."""
        # The codes of a row of zeros are arbitrary; they are multiplied by its zero scale.
        largest = x.abs().amax(1, keepdim=True)
        rounded = torch.addcmul(self.rounding, x, torch.div(self.levels, largest))
        codes = rounded.view(torch.int32).to(torch.uint8)
        product, *more = (self._product(codes, *part) for part in self.parts)
        for each in more:
            product += each
        return torch.addcmul(self.bias, product, largest, out=out)

    def _product(self, codes: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        product: Tensor = self.product(
            codes, 1.0, self.offset, weight, scale, self.no_offsets, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product


class Int8Table(Table):
    """A table of vectors in 8 bits, with a scale for each row."""

    def __init__(self, table: Table) -> None:
        nn.Module.__init__(self)
        self.dtype = table.embedding.weight.dtype
        codes, scale = quantize(table.embedding.weight)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(scale[:, None], requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        codes = functional.embedding(ids, self.codes)
        return functional.embedding(ids, self.scale).mul(codes).to(self.dtype)

    def vectors(self) -> Tensor:
        return (self.scale * self.codes).to(self.dtype)


def _has_vnni() -> bool:
    """Whether the processor multiplies bytes straight into 32 bits."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return supported is not None and bool(supported())
