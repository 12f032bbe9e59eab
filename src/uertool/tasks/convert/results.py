"""What a conversion reports: the mapping of its tensors and the results of its verification."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uertool.io.display import Report


@dataclass(frozen=True)
class MappingRow:
    """One tensor of the output, for the table of a dry run."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[str, ...]
    change: str


@dataclass(frozen=True)
class Verification:
    """What reading a conversion's output back showed.

    Attributes:
        tensors: how many canonical tensors were compared, all bit for bit.
        differences: what was compared with what, and the largest absolute difference of each
            output of the models.
        cosine: the smallest cosine of sentence vectors of source and output, None without them.
        notes: why something was not run.
    """

    tensors: int
    differences: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()
    cosine: float | None = None


@dataclass(frozen=True, repr=False)
class ConversionReport(Report):
    """What a conversion did, or would do.

    Attributes:
        source: the input.
        target: the output.
        direction: for example "uer (legacy) to hf".
        architecture: or None for what only UER-py has.
        heads: that are in the output.
        hf_class: Hugging Face's class of the output, or "".
        rows: every tensor of the output.
        left_over: canonical names without a place in the output.
        dropped: raw names known to carry nothing.
        notes: sentences about what was decided or lost.
        norm: what was done about the layer norms.
        files: written files.
        verification: the result of reading back; None without verification.
        seconds: wall time.
    """

    source: Path
    target: Path
    direction: str
    architecture: str | None
    heads: tuple[str, ...]
    hf_class: str
    rows: tuple[MappingRow, ...]
    left_over: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    norm: str
    files: tuple[Path, ...] = ()
    verification: Verification | None = None
    seconds: float = 0.0

    def _shown(self) -> list[tuple[str, Any]]:
        shown = ("source", "target", "direction", "architecture", "heads", "norm", "notes")
        found = [(name, value) for name in shown if (value := getattr(self, name))]
        if self.verification is not None:
            found.append(("verified", f"{self.verification.tensors} tensors, bit for bit"))
            for what, differences in self.verification.differences.items():
                largest = max(differences.values(), default=0.0)
                found.append((what, f"largest difference {largest:.2g}"))
        return [(name, str(value) if isinstance(value, Path) else value) for name, value in found]

    def to_json(self, *, rows: bool = False) -> dict[str, Any]:
        """The report as JSON types; `rows` with the whole mapping."""
        values = dataclasses.asdict(self)
        values["source"], values["target"] = str(self.source), str(self.target)
        values["files"] = [str(file) for file in self.files]
        values["tensors"] = len(self.rows)
        if not rows:
            del values["rows"]
        return values
