"""Layer norms: UER-py's own, the standard one and T5's, all through torch's fused kernels.

UER-py divides by (unbiased standard deviation + 1e-6). With N channels and s the biased standard
deviation,

    (x - mean) / (s * sqrt(N / (N - 1)) + eps) = sqrt((N - 1) / N) * (x - mean) / (s + eps')
    with eps' = eps * sqrt((N - 1) / N)

so the factor sqrt((N - 1) / N) is folded into gamma when a checkpoint is loaded (`uer_gamma`) and
an ordinary layer norm with a negligible epsilon gives UER-py's numbers as long as s is far above
1e-6. Where it may not be (sums of raw embeddings, whose s is often about 0.05), `exact=True`
also multiplies by s / (s + eps'), from the 1/s that the fused kernel returns anyway.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from uertool.config import ModelConfig

#: UER-py's epsilon, added to the standard deviation.
UER_EPS = 1e-6
#: The fused kernel's epsilon in its place, added to the variance: keeps a constant row finite.
FUSED_EPS = 1e-12


def uer_factor(size: int) -> float:
    """The factor sqrt((N - 1) / N) that turns a biased norm into UER-py's unbiased one."""
    return math.sqrt((size - 1) / size)


def uer_gamma(gamma: Tensor) -> Tensor:
    """UER-py's gamma [size] with the factor folded in, computed in float64."""
    return (gamma.double() * uer_factor(gamma.numel())).to(gamma.dtype)


class LiteralUerNorm(nn.Module):
    """UER-py's layer norm as it is written, with gamma as it is stored.

    Slower than the folded one, and equal to UER-py's to the last bit: for encoders that magnify
    differences.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(size))
        self.beta = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.gamma * (x - mean) / (std + UER_EPS) + self.beta


class LayerNorm(nn.Module):
    """Layer norm over the last axis: [..., size] to [..., size].

    Args:
        size: number of channels.
        eps: added to the variance, inside the root.
        folded: whether gamma is a `uer_gamma`, so that it computes UER-py's norm.
        exact: correct for UER-py's epsilon outside the root; gamma must then be folded.
        bias: whether there is a beta.
    """

    def __init__(
        self,
        size: int,
        eps: float,
        *,
        folded: bool = False,
        exact: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.size = (size,)
        self.eps = eps
        self.folded = folded
        self.exact = exact
        self.gamma = nn.Parameter(torch.empty(size))
        self.beta = nn.Parameter(torch.empty(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if not self.exact:
            return torch.layer_norm(x, self.size, self.gamma, self.beta, self.eps)
        normed, _, inverse_std = torch.native_layer_norm(x.float(), self.size, None, None, self.eps)
        eps = UER_EPS * uer_factor(self.size[0])
        normed = normed / (1.0 + eps * inverse_std)
        scaled = normed * self.gamma
        return (scaled if self.beta is None else scaled + self.beta).to(x.dtype)


class RmsNorm(nn.Module):
    """The norm of T5 and LLaMA over the last axis: no mean, no bias, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.size = (size,)
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.size, self.weight, self.eps)


def make_norm(config: ModelConfig, size: int, *, near_embedding: bool = False) -> nn.Module:
    """The norm of transformer layers over `size` channels: T5's if `layernorm` is t5 or rms.

    Args:
        config: says which kind.
        size: number of channels.
        near_embedding: whether it reads a sum of raw embeddings, whose spread may be small.
    """
    if config.layernorm != "normal":
        return RmsNorm(size, config.norm_eps)
    return make_normal_norm(config, size, near_embedding=near_embedding)


def make_normal_norm(config: ModelConfig, size: int, *, near_embedding: bool = False) -> nn.Module:
    """The norm of embeddings and of the masked-language head, never T5's; see `make_norm`."""
    bias = not config.remove_layernorm_bias
    if config.norm == "standard":
        return LayerNorm(size, config.norm_eps, bias=bias)
    if config.encoder == "gatedcnn":
        return LiteralUerNorm(size)
    return LayerNorm(size, FUSED_EPS, folded=True, exact=near_embedding, bias=bias)
