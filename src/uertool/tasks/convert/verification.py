"""Verification of a conversion: the output is read back, compared, and run next to the source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from uertool.checkpoints.naming import KEEP, Transform, layers_upto
from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.config import ModelConfig
from uertool.errors import CheckpointError
from uertool.io.memory import free_memory, trim
from uertool.loading.assembling import build_model, heads_in
from uertool.loading.config_resolution import resolve_config
from uertool.loading.config_values import fields_from_uer
from uertool.tasks.check.head_evidence import SENTENCES
from uertool.tasks.convert.plan import ConversionPlan
from uertool.tasks.convert.results import Verification
from uertool.tasks.convert.sentence_modules import (
    LEAST_COSINE,
    require_same,
    sentence_transformers_vectors,
    written_vectors,
)
from uertool.tasks.convert.side_by_side import (
    Outputs,
    Probe,
    make_probe,
    transformers_outputs,
    uertool_outputs,
)

#: What is compared, in words.
SOURCE_AND_OUTPUT = "source and output, both in uertool"
OUTPUT_AND_TRANSFORMERS = "output in uertool and in transformers"

_HIDDEN = "hidden states"

#: Two programs that compute the same differ by less than this share of the largest value.
_TOLERANCE = 1e-3

#: Bytes of a model that is worth handing back to the system at once; numbers in a large tensor.
_LARGE = 64 << 20


def verify(plan: ConversionPlan, place: Path, *, finite: bool = True) -> Verification:
    """Verify that the output of a conversion, still at a temporary path, is right.

    Args:
        plan: what was written.
        place: where it is.
        finite: whether all weights are finite.

    Raises:
        CheckpointError: it is not.
    """
    count = verify_tensors(plan, place)
    reason = _why_not_run(plan, finite)
    if reason is not None:
        return Verification(count, {}, (reason,))
    return _run_both(plan, place, count)


# -- outputs --------------------------------------------------------------------------------------


def _why_not_run(plan: ConversionPlan, finite: bool) -> str | None:
    if plan.checkpoint.unmapped:
        return "Nothing was run: the source holds weights with unknown names."
    if not finite:
        return "Nothing was run: there are NaN or infinite weights."
    infos = plan.view.infos.values()
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


def _run_both(plan: ConversionPlan, place: Path, count: int) -> Verification:
    """Compare the outputs of both models; `count` tensors were compared before."""
    notes: tuple[str, ...] = ()
    config, heads = plan.source_config, {}
    if config.encoder in ("transformer", "dual") and "heads_num" in plan.guesses:
        # The numbers are then not those of the model, but equal weights give equal ones.
        heads = {"heads_num": config.heads_num or 1}
        config = config.replace(**heads)
        notes = (
            "The number of attention heads is unknown (see `heads_num`); it was assumed to compare "
            "the outputs.",
        )
    probe = make_probe(config, plan.arch)
    source = _outputs(plan.checkpoint, config, probe)
    name = plan.arch.name if plan.arch is not None else None
    with open_checkpoint(place, arch=name) as written:
        settings = {**_settings(plan, written), **heads}
        output = _outputs(written, resolve_config(written, None, settings).config, probe)
    if plan.sentences is not None:  # nothing else of them is used
        source, output = ({_HIDDEN: run[_HIDDEN]} for run in (source, output))
    options = plan.options
    lossy = plan.lossy or options.allow_loss or options.dtype is not None
    same = options.exact_norm and not lossy
    found = {SOURCE_AND_OUTPUT: _compared(plan, source, output, SOURCE_AND_OUTPUT, must=same)}
    cosine = _cosine(plan, place, source, output, probe)
    if plan.sentences is not None and options.verify_full:
        there = sentence_transformers_vectors(place, SENTENCES)
        said = "sentence-transformers is not installed: it did not run the output."
        if there is not None:
            require_same(plan.sentences.encoded(place, SENTENCES), there, plan.target)
            said = f"sentence-transformers gives the same vectors of {len(SENTENCES)} sentences."
        notes = (*notes, said)
    in_transformers = options.verify_full or "transformers" in sys.modules
    if plan.to != "hf" or plan.weights_only or not in_transformers:
        return Verification(count, found, notes, cosine)
    if any(planned.info.dtype is not torch.float32 for planned in plan.tensors.tensors):
        # transformers maps what it need not change.
        reason = _lack_of_memory(sum(planned.info.numel for planned in plan.tensors.tensors) * 4)
        if reason is not None:
            notes = (*notes, reason.replace("Nothing was run", "transformers did not run it"))
            return Verification(count, found, notes, cosine)
    theirs = transformers_outputs(place, plan.hf_class, probe)
    if theirs is None:
        notes = (
            *notes,
            f"transformers with {plan.hf_class} is not installed, so only uertool ran the output.",
        )
        return Verification(count, found, notes, cosine)
    what = OUTPUT_AND_TRANSFORMERS
    found[what] = _compared(plan, output, theirs, what, must=True)
    return Verification(count, found, notes, cosine)


def _cosine(
    plan: ConversionPlan, place: Path, source: Outputs, output: Outputs, probe: Probe
) -> float | None:
    """The smallest cosine of the sentence vectors of a probe, None for an output without them."""
    if plan.sentences is None:
        return None
    lengths = probe.real.sum(1)
    before, after = (
        pad_sequence(list(torch.split(run[_HIDDEN], lengths.tolist())), batch_first=True)
        for run in (source, output)
    )
    expected = plan.sentences.vectors(before, lengths)
    least = 0.0 if plan.options.allow_loss or plan.options.dtype else LEAST_COSINE
    return require_same(expected, written_vectors(place, after, lengths), plan.target, least)


def _outputs(checkpoint: Checkpoint, config: ModelConfig, probe: Probe) -> Outputs:
    heads = heads_in(checkpoint, config)
    cpu = torch.device("cpu")
    built = build_model(checkpoint, config, heads, cpu, _run_type(checkpoint), streamed=True)
    found = uertool_outputs(built.model, probe)
    if sum(weight.nbytes for weight in built.model.parameters()) > _LARGE:
        # A model with hooks is freed with the next garbage collection, which takes a while.
        for weight in built.model.parameters():
            weight.data = weight.new_empty(0)
        trim()
    return found


def _run_type(checkpoint: Checkpoint) -> torch.dtype:
    """The type to run a model in: 16 bits for one of billions of weights that has no more."""
    infos = [checkpoint.info(name) for name in checkpoint]
    halves = all(info.dtype.itemsize <= 2 for info in infos)
    large = max((info.numel for info in infos), default=0) > _LARGE
    return torch.bfloat16 if halves and large else torch.float32


def _settings(plan: ConversionPlan, written: Checkpoint) -> dict[str, Any]:
    """What an output does not say about itself: the content of the files next to it."""
    if written.hf_config is not None or written.stored_config is not None:
        return {}
    if written.layout == "uer":
        return {**fields_from_uer(plan.uer_config(), plan.target), "norm": plan.norm_of_output}
    assert plan.arch is not None
    return plan.arch.config_from_hf(plan.arch.config_to_hf(plan.config))


def _compared(
    plan: ConversionPlan, one: Outputs, other: Outputs, what: str, *, must: bool
) -> dict[str, float]:
    """The largest difference of every output that both have; an error if they `must` agree."""
    differences = {n: float((one[n] - other[n]).abs().max()) for n in one if n in other}
    wrong = [
        f"{name} by {value:.2g}"
        for name, value in differences.items()
        if not value <= _TOLERANCE * max(1.0, float(one[name].abs().max()))
    ]
    if wrong and must:
        source = plan.source_config
        if plan.side is None and source.norm == "standard" and source.norm_eps > 1e-12:
            raise CheckpointError(
                f"The layer norms of {plan.checkpoint.path} cannot become UER-py's: their epsilon "
                f"{source.norm_eps:g} matters, and {what}, differ: {', '.join(wrong)}.",
                "Leave `exact_norm` out; a .safetensors keeps the layer norm.",
            )
        raise CheckpointError(
            f"The conversion of {plan.checkpoint.path} to {plan.target} is not right; {what}, "
            f"differ: {', '.join(wrong)}.",
            "The output was not kept. Please report this with the names of both; `no_verify` "
            "writes it all the same.",
        )
    return differences


# -- tensors --------------------------------------------------------------------------------------


def verify_tensors(plan: ConversionPlan, place: Path) -> int:
    """Compare the output with its source under canonical names, bit for bit.

    Rows that the output has no place for are left out of the comparison.

    Returns:
        The number of tensors compared.

    Raises:
        CheckpointError: names are missing or numbers differ; the message names them all.
    """
    name = plan.arch.name if plan.arch is not None else None
    places = _transforms(plan)
    faults: list[str] = []
    left_over = set(plan.tensors.left_over)
    expected = [name for name in plan.view.infos if name not in left_over]
    with open_checkpoint(place, arch=name) as written:
        for name in expected:
            if not written.has(name):
                faults.append(f"{name} is missing")
                continue
            carried = places.get(name, KEEP).carried
            if not _equal(carried(plan.view.read(name)), carried(written.tensor(name))):
                faults.append(f"{name} differs")
            plan.view.release(name)
            written.release(name)
    lost = {one for one, _ in plan.tensors.must_be_tied}
    faults = [fault for fault in faults if fault.split(" ")[0] not in lost]
    if faults:
        raise CheckpointError(
            f"{plan.target} is not what {plan.checkpoint.path} holds: {'; '.join(faults[:8])}"
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


def _transforms(plan: ConversionPlan) -> Mapping[str, Transform]:
    """Canonical name to the transform of the output's table; none for UER-py's names."""
    side = plan.side
    if plan.arch is None or side is None:
        return {}
    places = plan.arch.weight_map().canonical(layers_upto(plan.view.infos))
    return {
        name: place.rule.transform(side, as_script=not plan.options.exact_norm)
        for name, place in places.items()
    }
