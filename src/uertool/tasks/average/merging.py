"""The arithmetic of merging one tensor of several models, block by block in float64.

Every method is a `Merger`: given the same block of every model it returns the merged block.
Spherical interpolation looks at a whole tensor first, TIES at all tensors.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

#: Yields the blocks of one tensor: float64 vectors, one per model (the base first, if any).
Blocks = Callable[[], Iterator[list[torch.Tensor]]]

#: Vectors closer than this in direction are interpolated on a line (sin of the angle is near 0).
_PARALLEL = 0.9995


class Merger(ABC):
    """A way to merge models; in the blocks of a method with a base model, the base comes first."""

    def start(self, name: str, blocks: Blocks) -> None:  # noqa: B027 (few methods need it)
        """Get ready for the blocks of one tensor, which will then be merged in their order."""

    @abstractmethod
    def merge(self, block: list[torch.Tensor]) -> torch.Tensor:
        """The merged block, float64."""


@dataclass
class Mean(Merger):
    """The weighted sum; weights that sum to one give the mean. There is one weight per model."""

    weights: Sequence[float]

    def merge(self, block: list[torch.Tensor]) -> torch.Tensor:
        """Sum of weight times block."""
        total = block[0] * self.weights[0]
        for part, weight in zip(block[1:], self.weights[1:], strict=True):
            total.add_(part, alpha=weight)
        return total


@dataclass
class Slerp(Merger):
    """Spherical interpolation between two tensors taken as vectors (Shoemake 1985).

    With the angle W between them, at the fraction t:
    sin((1 - t) W) / sin(W) * a + sin(t W) / sin(W) * b.
    Nearly parallel tensors, and those of length zero, are interpolated on a line. The fraction is
    that of the way from the first to the second model.
    """

    fraction: float
    weights: tuple[float, float] = field(init=False)

    def start(self, name: str, blocks: Blocks) -> None:
        """Measure the angle between the two whole tensors."""
        dot = first = second = 0.0
        for one, other in blocks():
            dot += float(one @ other)
            first += float(one @ one)
            second += float(other @ other)
        self.weights = slerp_weights(dot, first, second, self.fraction)

    def merge(self, block: list[torch.Tensor]) -> torch.Tensor:
        """The two blocks times the two factors of this tensor."""
        one, other = block
        return one * self.weights[0] + other * self.weights[1]


def slerp_weights(dot: float, first: float, second: float, t: float) -> tuple[float, float]:
    """The factors of two vectors with this product and these squared lengths."""
    lengths = math.sqrt(first) * math.sqrt(second)
    if not lengths > 0:
        return 1 - t, t
    cosine = min(1.0, max(-1.0, dot / lengths))
    if abs(cosine) > _PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


@dataclass
class Ties(Merger):
    """TIES merging: trim, elect signs, merge what agrees (Yadav et al. 2023, arXiv 2306.01708).

    With task vectors d_i = model_i - base: in each d_i only the `density` share of the values that
    is largest in magnitude stays, over the whole model; the sign of every parameter is that of
    sum_i w_i d_i; the merged task vector is the weighted mean of the values that have this sign;
    the result is base + scale * merged. There is one weight per model without the base; `scale` is
    the paper's lambda.
    """

    weights: Sequence[float]
    density: float
    scale: float

    def __post_init__(self) -> None:
        self._selects = [_Select() for _ in self.weights]

    def survey(self, blocks: Blocks) -> None:
        """Count magnitudes, from which the threshold of every model follows."""
        for base, *models in blocks():
            for select, model in zip(self._selects, models, strict=True):
                select.add((model - base).abs().float())

    def next_round(self) -> bool:
        """Whether another survey of all tensors is needed to narrow the thresholds down."""
        open_ones = [select for select in self._selects if select.narrow(self.density)]
        return bool(open_ones)

    def merge(self, block: list[torch.Tensor]) -> torch.Tensor:
        """Base plus what the trimmed task vectors agree on."""
        base, *models = block
        deltas = []
        for select, model in zip(self._selects, models, strict=True):
            delta = model - base
            deltas.append(delta.masked_fill_(delta.abs().float() < select.threshold, 0.0))
        elected = torch.zeros_like(base)
        for delta, weight in zip(deltas, self.weights, strict=True):
            elected.add_(delta, alpha=weight)
        elected.sign_()
        total, share = torch.zeros_like(base), torch.zeros_like(base)
        for delta, weight in zip(deltas, self.weights, strict=True):
            agrees = (delta.sign() == elected) & (delta != 0)
            total.add_(delta * agrees, alpha=weight)
            share.add_(agrees, alpha=weight)
        merged = torch.where(share != 0, total / share.masked_fill(share == 0, 1.0), 0.0)
        return base + self.scale * merged


@dataclass
class Dare(Merger):
    """DARE merging: drop at random and rescale (Yu et al. 2023, arXiv 2311.03099).

    With task vectors d_i = model_i - base, each value of d_i is kept with probability `density`
    (the paper's 1 - p) and divided by it; the result is base + scale * sum_i w_i d_i. There is one
    weight per model without the base; `seed` decides which values are dropped.
    """

    weights: Sequence[float]
    density: float
    scale: float
    seed: int
    _chance: list[torch.Generator] = field(init=False, default_factory=list)

    def start(self, name: str, blocks: Blocks) -> None:
        """Seed one generator per model from seed and name, so that the order does not matter."""
        self._chance = []
        for number in range(len(self.weights)):
            digest = hashlib.sha256(f"{self.seed}\0{number}\0{name}".encode()).digest()
            # manual_seed takes 64 bits, of which the top one is a sign.
            chance = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            self._chance.append(chance)

    def merge(self, block: list[torch.Tensor]) -> torch.Tensor:
        """Base plus the thinned task vectors."""
        base, *models = block
        total = torch.zeros_like(base)
        for chance, model, weight in zip(self._chance, models, self.weights, strict=True):
            kept = torch.rand(len(base), generator=chance) < self.density
            total.add_((model - base) * kept, alpha=weight / self.density)
        return base + self.scale * total


class _Select:
    """Finds the k-th largest of many non-negative float32 values in two passes and 1 MB.

    The bits of a non-negative float grow with its value, so a histogram of the upper 16 bits
    finds the bin of the k-th value, one of the lower 16 bits within that bin the value.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(1 << 16, dtype=torch.int64)
        self.upper: int | None = None
        self.total = 0
        self.rank = 0
        self.threshold = 0.0
        self.done = False

    def add(self, values: torch.Tensor) -> None:
        """Count the values of one more block."""
        # A NaN counts as infinite, so that its bits stay in their place.
        bits = values.nan_to_num(nan=math.inf, posinf=math.inf).view(torch.int32)
        upper = bits >> 16
        if self.upper is None:
            self.total += len(values)
            counted = upper
        else:
            counted = bits[upper == self.upper] & 0xFFFF
        self.counts += torch.bincount(counted, minlength=1 << 16)

    def narrow(self, share: float) -> bool:
        """Use what was counted; True if the values have to be counted once more."""
        if self.done:
            return False
        if self.upper is None:
            self.rank = int(self.total * share)
            if self.rank == 0:
                self.threshold, self.done = math.inf, True
                return False
        found, before = self._bin()
        if self.upper is None:
            self.upper, self.rank = found, self.rank - before
            self.counts.zero_()
            return True
        bits = torch.tensor((self.upper << 16) | found, dtype=torch.int32)
        self.threshold, self.done = float(bits.view(torch.float32)), True
        return False

    def _bin(self) -> tuple[int, int]:
        """The bin of the value of the sought rank from above, and how many are above that bin."""
        above = self.counts.flip(0).cumsum(0)
        place = int(torch.searchsorted(above, self.rank))
        before = int(above[place - 1]) if place else 0
        return len(self.counts) - 1 - place, before
