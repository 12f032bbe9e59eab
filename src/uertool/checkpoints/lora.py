"""LoRA files of TencentPretrain: low-rank changes of weights, merged when a tensor is read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import TensorInfo
from uertool.checkpoints.generations import is_uer_name, to_canonical
from uertool.checkpoints.spelling import unwrapped
from uertool.errors import CheckpointError, UsageError, listed, shown

_MARKS = (".lora_A", ".lora_B")


class Lora:
    """The changes of a LoRA file (Hu et al. 2021, arXiv 2106.09685): W + B A alpha / r.

    TencentPretrain stores A [r, in] and B [out, r] of query and value; r is the length of A, and
    alpha is not in the file.

    Args:
        path: the file.
        alpha: what the LoRA was trained with.

    Raises:
        CheckpointError: it is not a LoRA of TencentPretrain, or its matrices do not fit each other.
    """

    def __init__(self, path: Path, alpha: float) -> None:
        self.path = path
        self.alpha = alpha
        self.file = open_tensor_file(path)
        try:
            names, _ = unwrapped(path, self.file.keys())
            self._pairs = self._find_pairs(names)
        except BaseException:
            self.file.close()
            raise

    def _find_pairs(self, names: dict[str, str]) -> dict[str, tuple[str, str]]:
        """Canonical name of the changed weight to the raw names of A and B."""
        other = [name for name in names if not name.endswith(_MARKS)]
        if other or not names:
            raise CheckpointError(
                f"{self.path} is not a LoRA of TencentPretrain: it has {listed(other)}.",
                "A LoRA holds names that end in lora_A and lora_B only.",
            )
        pairs = {}
        for stem in dict.fromkeys(name[: -len(_MARKS[0])] for name in names):
            canonical = f"{to_canonical(stem)}.weight"
            if not is_uer_name(canonical):
                raise CheckpointError(f"{self.path} changes an unknown tensor, '{shown(stem)}'.")
            absent = [stem + mark for mark in _MARKS if stem + mark not in names]
            if absent:
                raise CheckpointError(f"{self.path} lacks {absent[0]}.")
            pairs[canonical] = (names[stem + _MARKS[0]], names[stem + _MARKS[1]])
        return pairs

    def changes(self, name: str) -> bool:
        """Whether a canonical name is changed."""
        return name in self._pairs

    def require_fit(self, weights: dict[str, TensorInfo], model: Path) -> None:
        """Raise CheckpointError where the file is of another model.

        Args:
            weights: canonical names and shapes of the model.
            model: its path.
        """
        for name, (a, b) in self._pairs.items():
            first, second = self.file.info(a).shape, self.file.info(b).shape
            if len(first) != 2 or len(second) != 2 or first[0] != second[1] or not first[0]:
                raise CheckpointError(
                    f"{self.path}: A and B of {name} do not have the same rank; their shapes are "
                    f"{first} and {second}."
                )
            if name not in weights or weights[name].shape != (second[0], first[1]):
                there = weights[name].shape if name in weights else "no such tensor"
                raise CheckpointError(
                    f"{self.path} is a LoRA of another model: it changes {name} "
                    f"{(second[0], first[1])}, and {model} has {there}.",
                    "Name the model that the LoRA was trained on.",
                )

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """A weight with its change, computed in float32, in the type of the weight."""
        a, b = (self.file.tensor(raw).float() for raw in self._pairs[name])
        change = (b @ a) * (self.alpha / a.shape[0])
        return (weight.float() + change).to(weight.dtype)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class LoraChoice(NamedTuple):
    """A LoRA file and its alpha, as a user gives them."""

    path: Path
    alpha: float

    @classmethod
    def of(cls, path: str | Path | None, alpha: float | None) -> LoraChoice | None:
        """The choice that two settings make; None without a LoRA.

        Raises:
            UsageError: one of them is missing.
        """
        if path is None and alpha is None:
            return None
        if path is None:
            raise UsageError("`lora_alpha` was given without `lora`.", "Name the file with `lora`.")
        if alpha is None:
            raise UsageError(
                f"`lora` {path} needs `lora_alpha`, which TencentPretrain does not store.",
                "Give the value that it was trained with; TencentPretrain's default is 16.",
            )
        return cls(Path(path), alpha)
