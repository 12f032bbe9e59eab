"""Plans: which tensor goes out under which name, from which canonical ones, before any is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import Architecture, Head
from uertool.checkpoints.formats.tensor_file import TensorInfo
from uertool.checkpoints.generations import Generation, to_legacy
from uertool.checkpoints.naming import KEEP, Side, Transform, layers_upto, shapes_out

if TYPE_CHECKING:
    from uertool.config import ModelConfig

#: Heads in the order in which they decide what a model is for.
_PRIORITY = ("cls", "token_cls", "qa", "lm", "mlm", "rtd", "sp", "pooler")


@dataclass(frozen=True)
class Planned:
    """One tensor to be written.

    Attributes:
        name: its name in the output.
        sources: canonical names, in the order in which the transform wants them.
        transform: what happens to them.
        info: shape and type of the result.
    """

    name: str
    sources: tuple[str, ...]
    transform: Transform
    info: TensorInfo


@dataclass(frozen=True)
class Plan:
    """What a conversion will write.

    Attributes:
        tensors: in the order of the output.
        left_over: canonical names that have no place in the output.
        must_be_tied: pairs of canonical names; the output has a place for the second only, so
            nothing is lost only if both hold the same numbers.
        heads: names of the heads that go along.
    """

    tensors: tuple[Planned, ...]
    left_over: tuple[str, ...] = ()
    must_be_tied: tuple[tuple[str, str], ...] = ()
    heads: tuple[str, ...] = ()


def fitting_heads(arch: Architecture, heads: Iterable[str]) -> tuple[Head, ...]:
    """The heads that one model can have together.

    All of them if there is a class for that set, otherwise the one that decides most.
    """
    there = {head.name: head for head in arch.heads}
    names = [name for name in _PRIORITY if name in set(heads) and name in there]
    body = [name for name in names if name != "pooler"]
    if "+".join(sorted(body)) in arch.classes:
        return tuple(there[name] for name in names)
    for name in body:
        if name in arch.classes:
            return (there[name],)
    return ()


def plan_out(
    infos: Mapping[str, TensorInfo],
    arch: Architecture,
    heads: Iterable[str],
    side: Side,
    *,
    as_script: bool = False,
    whole: bool = False,
    hf_config: Mapping[str, Any] | None = None,
    config: ModelConfig | None = None,
) -> Plan:
    """Plan an output with Hugging Face's or Google's names.

    Args:
        infos: canonical names, shapes and types of what there is.
        arch: the architecture to write.
        heads: names of the heads that are there.
        side: "hf" or "tf".
        as_script: use UER-py's converter's transform where it differs from the right one.
        whole: also write the names that a folder for transformers needs.
        hf_config: config.json that decides about rules which depend on one.
        config: the model, from which a whole folder's further tensors are computed.
    """
    chosen = fitting_heads(arch, heads)
    if side == "hf" and all(head.name == "pooler" for head in chosen):
        arch = arch.with_base("")
        chosen = fitting_heads(arch, heads)
    elif whole:  # transformers reports a pooler next to another head as unexpected
        chosen = tuple(head for head in chosen if head.name != "pooler")
    planned: list[Planned] = []
    tied: list[tuple[str, str]] = []
    used: set[str] = set()
    for place in arch.weight_map(chosen, hf_config).places(layers_upto(infos)):
        if not all(name in infos for name in place.uer):
            continue
        names = place.names(side, whole=whole)
        if not names:
            if place.rule.tied:
                tied.append((place.uer[0], place.rule.tied))
                used.update(place.uer)
            continue
        used.update(place.uer)
        transform = place.rule.transform(side, as_script=as_script)
        parts = [infos[name] for name in place.uer]
        shape = (
            parts[0].shape
            if transform is KEEP
            else shapes_out(transform, [part.shape for part in parts], parts[0].dtype)
        )
        for name in names:
            info = TensorInfo(name, shape, parts[0].dtype)
            planned.append(Planned(name, place.uer, transform, info))
    if whole and config is not None:
        dtype = next(iter(infos.values())).dtype
        for name, table in arch.computed(config).items():
            info = TensorInfo(arch.base + name, tuple(table.shape), dtype)
            made = table.to(dtype)
            how = Transform("computed", lambda _, made=made: made, lambda _: ())  # type: ignore[misc]
            planned.append(Planned(info.name, (), how, info))
    left = tuple(name for name in infos if name not in used)
    return Plan(tuple(planned), left, tuple(tied), tuple(head.name for head in chosen))


def plan_uer(
    infos: Mapping[str, TensorInfo],
    generation: Generation,
    *,
    pair_head: str = "nsp",
) -> Plan:
    """Plan an output with UER-py's names of one generation.

    Args:
        infos: canonical names, shapes and types of what there is.
        generation: "legacy" or "modular".
        pair_head: what the 2021 generation calls the sentence-pair head.
    """
    planned = []
    for name, info in infos.items():
        spelled = to_legacy(name, pair_head=pair_head) if generation == "legacy" else name
        planned.append(Planned(spelled, (name,), KEEP, TensorInfo(spelled, *info[1:])))
    return Plan(tuple(planned))
