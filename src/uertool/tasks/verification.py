"""Proof of a conversion: what was written is read back, compared, and run beside the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from uertool.checkpoints.naming import KEEP, Transform, layers_upto
from uertool.checkpoints.reader import open_checkpoint
from uertool.errors import CheckpointError

if TYPE_CHECKING:
    from uertool.checkpoints.architectures.base import Architecture
    from uertool.tasks.conversion_job import ConversionJob


@dataclass(frozen=True)
class Verification:
    """What reading a conversion's output back showed.

    Attributes:
        tensors: how many canonical tensors were compared, all bit for bit.
        differences: what was run beside what, and the largest absolute difference of outputs.
        notes: why something was not run.
    """

    tensors: int
    differences: Mapping[str, float]
    notes: tuple[str, ...] = ()


def verify_tensors(job: ConversionJob) -> int:
    """Compare the output with its source under canonical names, bit for bit.

    Rows that the output has no place for are left out of the comparison.

    Returns:
        The number of tensors compared.

    Raises:
        CheckpointError: names are missing or numbers differ; the message names them all.
    """
    name = job.arch.name if job.arch is not None else None
    places = _transforms(job)
    faults: list[str] = []
    left_over = set(job.plan.left_over)
    expected = [name for name in job.view.infos if name not in left_over]
    with open_checkpoint(job.target, arch=name) as written:
        for name in expected:
            if not written.has(name):
                faults.append(f"{name} is missing")
                continue
            carried = places.get(name, KEEP).carried
            if not _equal(carried(job.view.read(name)), carried(written.tensor(name))):
                faults.append(f"{name} differs")
            job.view.release(name)
            written.release(name)
    lost = {one for one, _ in job.plan.must_be_tied}
    faults = [fault for fault in faults if fault.split(" ")[0] not in lost]
    if faults:
        raise CheckpointError(
            f"{job.target} is not what {job.checkpoint.path} holds: {'; '.join(faults[:8])}"
            f"{' and more' if len(faults) > 8 else ''}.",
            "The output was removed. Please report this with both names.",
        )
    return len(expected)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bitwise, so that NaN equals itself and 0 is not -0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if torch.equal(one, other):
        return True
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds[one.element_size()]
    return torch.equal(one.contiguous().view(kind), other.contiguous().view(kind))


def _transforms(job: ConversionJob) -> Mapping[str, Transform]:
    """Canonical name to the transform of the output's table; none for UER-py's names."""
    arch: Architecture | None = job.arch
    if arch is None or job.to not in ("hf", "google"):
        return {}
    places = arch.weight_map().canonical(layers_upto(job.view.infos))
    what = "hf" if job.to == "hf" else "tf"
    return {
        name: place.rule.transform(what, as_script=job.as_script)  # type: ignore[arg-type]
        for name, place in places.items()
    }
