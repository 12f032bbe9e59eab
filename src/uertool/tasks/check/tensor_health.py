"""What is wrong with the numbers of a checkpoint, and how two checkpoints differ."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

from uertool.checkpoints.formats.tensor_file import TensorFile

#: Elements looked at together: 8 MB of float32.
BLOCK = 1 << 21

Progress = Callable[[str, int, int], None]


@dataclass
class Health:
    """Names of tensors with unusual values.

    Attributes:
        not_finite: name to the number of NaN and infinite values.
        all_zero: tensors of nothing but zeros.
        constant: tensors of one value other than zero, except normal ones (see `expected`).
        twins: groups of equal content that are not stored as one.
        tied: groups that are stored as one.
    """

    not_finite: dict[str, int] = field(default_factory=dict)
    all_zero: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    twins: list[tuple[str, ...]] = field(default_factory=list)
    tied: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class TensorDifference:
    """How a tensor differs between two checkpoints.

    Attributes:
        name: the tensor.
        status: "equal", "differs", "shape", "type", "only in the first" or "only in the second".
        largest: largest absolute difference, where both can be compared.
        mean: mean absolute difference.
        cosine: cosine of the two as vectors; NaN where one of them is zero.
        first: shape and type in the first checkpoint, or None.
        second: the same in the second.
    """

    name: str
    status: Literal["equal", "differs", "shape", "type", "only in the first", "only in the second"]
    largest: float = 0.0
    mean: float = 0.0
    cosine: float = math.nan
    first: str | None = None
    second: str | None = None


def examine(file: TensorFile, progress: Progress | None = None) -> Health:
    """Read every tensor once, in blocks, and report unusual values."""
    health = Health()
    stored: dict[object, list[str]] = {}
    content: dict[tuple[object, ...], list[str]] = {}
    names = file.keys()
    for number, name in enumerate(names):
        if progress:
            progress(name, number, len(names))
        key = file.storage_key(name)
        if key in stored:
            stored[key].append(name)
            continue
        stored[key] = [name]
        found = _Look()
        for block in _blocks(file, name):
            found.see(block)
        found.judge(name, health)
        info = file.info(name)
        if info.numel > 1 and not found.constant:
            content.setdefault((info.shape, info.dtype, found.digest.digest()), []).append(name)
    health.tied = [tuple(group) for group in stored.values() if len(group) > 1]
    health.twins = [tuple(group) for group in content.values() if len(group) > 1]
    return health


def compare(
    first: TensorFile, second: TensorFile, progress: Progress | None = None
) -> Iterator[TensorDifference]:
    """Every tensor of either checkpoint, in the order of the first, with how it differs."""
    ours, theirs = set(first.keys()), set(second.keys())
    names = first.keys() + [name for name in second.keys() if name not in ours]  # noqa: SIM118
    for number, name in enumerate(names):
        if progress:
            progress(name, number, len(names))
        if name not in theirs:
            yield TensorDifference(name, "only in the first", first=_words(first, name))
        elif name not in ours:
            yield TensorDifference(name, "only in the second", second=_words(second, name))
        else:
            yield _difference(first, second, name)


class _Look:
    """What one tensor's blocks have shown so far."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.bad = 0
        self.first: float | None = None
        self.constant = True
        self.ndim = 0

    def see(self, block: torch.Tensor) -> None:
        if len(block) == 0:
            return
        self.digest.update(block.contiguous().view(torch.uint8).numpy().data)
        if block.dtype.is_floating_point:
            self.bad += count_not_finite(block)
        if self.first is None:
            self.first = float(block[0].real)
        if self.constant:
            self.constant = bool((block == block[0]).all())

    def judge(self, name: str, health: Health) -> None:
        if self.bad:
            health.not_finite[name] = self.bad
        if self.first is None or not self.constant:
            return
        if self.first == 0:
            health.all_zero.append(name)
        elif self.first != 1:  # fresh layer norms are ones
            health.constant.append(name)


def count_not_finite(values: torch.Tensor) -> int:
    """How many values are NaN or infinite."""
    if values.dtype.is_floating_point and values.dtype.itemsize == 1:
        values = values.float()  # torch does not compute with float8 types
    # One of them makes the sum NaN or infinite too; summing is cheaper than testing each.
    if math.isfinite(float(values.sum())):
        return 0
    return int((~torch.isfinite(values)).sum())


def _blocks(file: TensorFile, name: str) -> Iterator[torch.Tensor]:
    """The elements of a tensor in vectors, giving the pages back."""
    flat = file.tensor(name).reshape(-1)
    for start in range(0, len(flat), BLOCK):
        yield flat[start : start + BLOCK]
        file.release(name)


def _difference(first: TensorFile, second: TensorFile, name: str) -> TensorDifference:
    one, other = first.info(name), second.info(name)
    words = _words(first, name), _words(second, name)
    if one.shape != other.shape:
        return TensorDifference(name, "shape", math.nan, math.nan, math.nan, *words)
    largest = total = dot = length = other_length = 0.0
    for a, b in zip(_blocks(first, name), _blocks(second, name), strict=True):
        x, y = a.double(), b.double()
        gap = (x - y).abs()
        # NaN in both places is no difference, in one it is.
        gap = torch.where(x.isnan() & y.isnan() | (x == y), 0.0, gap)
        largest = max(largest, float(gap.nan_to_num(nan=math.inf).max()))
        total += float(gap.sum())
        dot += float(x @ y)
        length += float(x @ x)
        other_length += float(y @ y)
    scale = math.sqrt(length) * math.sqrt(other_length)
    cosine = dot / scale if scale > 0 else math.nan
    mean = total / one.numel if one.numel else 0.0
    if one.dtype != other.dtype:
        return TensorDifference(name, "type", largest, mean, cosine, *words)
    status: Literal["equal", "differs"] = "equal" if largest == 0 else "differs"
    return TensorDifference(name, status, largest, mean, cosine, *words)


def _words(file: TensorFile, name: str) -> str:
    info = file.info(name)
    shape = "x".join(map(str, info.shape)) or "one number"
    return f"{shape} {str(info.dtype).removeprefix('torch.')}"
