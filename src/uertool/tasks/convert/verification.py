"""Proof of a conversion: what was written is read back, compared, and run beside the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from uertool.checkpoints.naming import KEEP, Transform, layers_upto
from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.config import ModelConfig
from uertool.errors import CheckpointError
from uertool.io.memory import free_memory, give_back
from uertool.loading.assembling import build_model, heads_in
from uertool.loading.config_resolution import resolve_config
from uertool.tasks.convert.side_by_side import (
    Outputs,
    Probe,
    largest_differences,
    make_probe,
    scale_of,
    transformers_outputs,
    uertool_outputs,
)

if TYPE_CHECKING:
    from uertool.checkpoints.architectures.base import Architecture
    from uertool.tasks.convert.job import ConversionJob

#: What is compared, in words.
SOURCE_AND_OUTPUT = "source and output, both in uertool"
OUTPUT_AND_TRANSFORMERS = "output in uertool and in transformers"

#: Two programs that compute the same differ by less than this share of the largest value.
_TOLERANCE = 1e-3

#: Bytes of a model that is worth handing back to the system at once.
_LARGE = 64 << 20

#: Settings that neither names nor shapes tell, so that weights alone need to be told them.
_UNTOLD = (
    "heads_num",
    "hidden_act",
    "mask",
    "layers_num",
    "remove_attention_scale",
    "embedding",
    "tgt_embedding",
    "max_seq_length",
    "tgt_max_seq_length",
    "has_residual_attention",
    "block_size",
)


@dataclass(frozen=True)
class Verification:
    """What reading a conversion's output back showed.

    Attributes:
        tensors: how many canonical tensors were compared, all bit for bit.
        differences: what was run beside what, and the largest absolute difference of each output.
        notes: why something was not run.
    """

    tensors: int
    differences: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()


def verify(job: ConversionJob, place: Path) -> Verification:
    """Prove that the output of a conversion, still at a partial path, is what was meant.

    Raises:
        CheckpointError: it is not.
    """
    count = verify_tensors(job, place)
    reason = _why_not_run(job)
    if reason is not None:
        return Verification(count, {}, (reason,))
    return Verification(count, *_run_both(job, place))


# -- outputs --------------------------------------------------------------------------------------


def _why_not_run(job: ConversionJob) -> str | None:
    if job.checkpoint.unmapped:
        return "Nothing was run: the source holds weights that nobody knows."
    if job.not_finite:
        return "Nothing was run: there are NaN or infinite weights."
    infos = job.view.infos.values()
    # Layers are read when they run; embeddings and heads are held.
    return _lack_of_memory(sum(i.numel for i in infos if "transformer" not in i.name) * 4)


def _lack_of_memory(size: int) -> str | None:
    free = free_memory()
    if free is None or size * 1.5 < free:
        return None
    return (
        f"Nothing was run: that takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are "
        "free. The tensors were compared all the same."
    )


def _run_both(
    job: ConversionJob, place: Path
) -> tuple[dict[str, dict[str, float]], tuple[str, ...]]:
    """The largest differences of the outputs, and notes."""
    notes: tuple[str, ...] = ()
    config, told = job.source_config, {}
    if config.encoder in ("transformer", "dual") and not config.heads_num:
        # The numbers are then not those of the model, but equal weights give equal ones.
        config, told = config.replace(heads_num=1), {"heads_num": 1}
        notes = ("The number of attention heads is not known (`heads_num`); one was assumed here.",)
    probe = make_probe(config, job.arch)
    source = _outputs(job.checkpoint, config, probe)
    name = job.arch.name if job.arch is not None else None
    with open_checkpoint(place, arch=name) as written:
        told = {**_told(job, written), **told}
        output = _outputs(written, resolve_config(written, None, told).config, probe)
    same = job.options.exact_norm and not job.options.allow_loss and job.options.dtype is None
    found = {SOURCE_AND_OUTPUT: _compared(job, source, output, SOURCE_AND_OUTPUT, must=same)}
    if job.to != "hf" or job.weights_only:
        return found, notes
    if any(planned.info.dtype is not torch.float32 for planned in job.plan.tensors):
        # Transformers maps what it need not change.
        reason = _lack_of_memory(sum(planned.info.numel for planned in job.plan.tensors) * 4)
        if reason is not None:
            return found, (reason.replace("Nothing was run", "transformers did not run it"),)
    theirs = transformers_outputs(place, job.hf_class, probe)
    if theirs is None:
        return found, ("transformers is not installed, so only uertool ran the output.",)
    what = OUTPUT_AND_TRANSFORMERS
    found[what] = _compared(job, output, theirs, what, must=True)
    return found, ()


def _outputs(checkpoint: Checkpoint, config: ModelConfig, probe: Probe) -> Outputs:
    heads = heads_in(checkpoint, config)
    cpu = torch.device("cpu")
    built = build_model(checkpoint, config, heads, cpu, torch.float32, streamed=True)
    found = uertool_outputs(built.model, probe)
    if sum(weight.nbytes for weight in built.model.parameters()) > _LARGE:
        del built
        give_back()
    return found


def _told(job: ConversionJob, written: Checkpoint) -> dict[str, Any]:
    """What an output does not say about itself."""
    if written.hf_config is not None or written.stored_config is not None:
        return {}
    if written.layout != "uer":
        assert job.arch is not None
        return job.arch.config_from_hf(job.arch.config_to_hf(job.config))
    return {name: getattr(job.config, name) for name in _UNTOLD if getattr(job.config, name)}


def _compared(
    job: ConversionJob, one: Outputs, other: Outputs, what: str, *, must: bool
) -> dict[str, float]:
    differences = largest_differences(one, other)
    scales = scale_of(one)
    wrong = [
        f"{name} by {value:.2g}"
        for name, value in differences.items()
        if not value <= _TOLERANCE * max(1.0, scales[name])
    ]
    if wrong and must:
        raise CheckpointError(
            f"The conversion of {job.checkpoint.path} to {job.target} is not right; {what}, "
            f"differ: {', '.join(wrong)}.",
            "The output was not kept. Please report this with the names of both; `no_verify` "
            "writes it all the same.",
        )
    return differences


# -- tensors --------------------------------------------------------------------------------------


def verify_tensors(job: ConversionJob, place: Path) -> int:
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
    with open_checkpoint(place, arch=name) as written:
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
            "The output was not kept. Please report this with both names.",
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
