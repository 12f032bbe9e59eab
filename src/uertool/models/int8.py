"""8-bit layers: linear layers whose weights and inputs are bytes, and tables of bytes.

A weight has one scale for each output channel, an input one for each row, so that the result of a
row does not depend on the others in its batch. The products are oneDNN's, which processors with
VNNI or AMX compute in 8 bits; sums are exact integers.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from uertool.models.embeddings import Table
from uertool.models.linear import Linear

#: Channels that are quantized at a time, which bounds the memory that it takes.
CHUNK = 1024

#: Adding 1.5 * 2^23 to a float32 rounds it to an integer, which is then in the lowest bits.
ROUNDING = 1.5 * 2.0**23


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of a weight [n, size] as int8 codes [n, size] and a float32 scale [n]."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0])
    for start in range(0, len(weight), CHUNK):
        part = weight[start : start + CHUNK].detach().float()
        scale = (part.abs().amax(1) / 127.0).clamp_(min=1e-12)
        codes[start : start + CHUNK] = (part / scale[:, None]).round_().clamp_(-127, 127)
        scales[start : start + CHUNK] = scale
    return codes, scales


class Int8Linear(Linear):
    """A linear layer in 8 bits.

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
        codes, scale = quantize(weight)
        self.weight = torch.ops.onednn.qlinear_prepack(codes, None)
        # Bytes are stored with an offset. Without VNNI the kernel adds pairs of products in 16
        # bits: there half the range avoids an overflow.
        self.offset = 128 if _has_vnni() else 64
        self.scale = scale / (self.offset - 1)
        self.levels = torch.tensor(self.offset - 1.0)
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
            out = torch.empty(len(rows), len(self.scale))
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
        product = self.product(
            codes, 1.0, self.offset, self.weight, self.scale, self.no_offsets, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return torch.addcmul(self.bias, product, largest, out=out)


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
