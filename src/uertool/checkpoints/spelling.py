"""Names of tensors without the prefixes of programs, and as a table spells them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from uertool.checkpoints.architectures import all_architectures
from uertool.checkpoints.architectures.base import Architecture
from uertool.checkpoints.generations import is_uer_name, to_canonical
from uertool.checkpoints.naming import Place
from uertool.errors import CheckpointError, shown

#: Prefixes that programs put in front of every name: DataParallel, torch.compile, Lightning, PEFT.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "base_model.")

#: Layers that a file may number beyond the number of its tensors, as a part of a model does.
_LAYERS = 1000

#: Further prefixes of the body of a Hugging Face model, in addition to those of architectures.
_BASES = ("", "model.", "encoder.", "base_model.", "auto_model.", "0.auto_model.")

#: How Hugging Face spelled layer norms until 2019.
_OLD_NORMS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


def unwrapped(path: Path, names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Names without the prefixes of wrappers to raw names, and the prefixes that were removed.

    Raises:
        CheckpointError: there are no names, or one with the number of a layer that cannot be.
    """
    found = {name: name for name in names}
    if not found:
        raise CheckpointError(f"{path} holds no tensors.")
    most = max(len(found), _LAYERS)
    for name in found:
        for part in name.replace("/layer_", "/").replace("/", ".").split("."):
            if part.isdecimal() and (len(part) > 9 or int(part) >= most):
                raise CheckpointError(
                    f"{path} has a tensor named '{shown(name)}', but it holds only "
                    f"{len(found)} tensors, so it cannot have that many layers."
                )
    removed: list[str] = []
    while prefix := _wrapper_of(found):
        found = {name.removeprefix(prefix): raw for name, raw in found.items()}
        removed.append(prefix)
    return found, tuple(removed)


def _wrapper_of(names: Mapping[str, str]) -> str | None:
    """The prefix that wraps nearly every name, if there is one."""
    for prefix in _WRAPPERS:
        inner = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        if len(inner) * 10 < len(names) * 9 or not names.keys().isdisjoint(inner):
            continue
        if prefix in _WRAPPERS[:2] or looks_uer(inner):
            return prefix
        # Hugging Face uses the last two as well: they are wrappers if another prefix follows.
        wrapped = (*_WRAPPERS[:3], *_own_bases())
        if sum(name.startswith(wrapped) for name in inner) * 2 > len(inner):
            return prefix
    return None


@functools.cache
def _own_bases() -> tuple[str, ...]:
    """The prefixes of bodies in the architectures' own tables."""
    return tuple({arch.base: None for arch in all_architectures() if arch.base})


def looks_google(names: Iterable[str]) -> bool:
    """Whether there are names of Google's BERT or ALBERT."""
    return any(name.startswith("bert/embeddings/") for name in names)


def looks_uer(names: Collection[str]) -> bool:
    """Whether more than half of the names are UER-py's; other libraries have far fewer."""
    known = sum(is_uer_name(to_canonical(name)) for name in names)
    return known * 2 > len(names)


def modern_name(name: str) -> str:
    """A Hugging Face name with the spelling of layer norms since 2019."""
    for old, new in _OLD_NORMS:
        if name.endswith(old):
            return name[: -len(old)] + new
    return name


def without_bases(names: Iterable[str]) -> dict[str, list[str]]:
    """Each name without the prefixes under which the body of a model may be found."""
    bases = dict.fromkeys((*_BASES, *_own_bases()))
    return {name: [name[len(base) :] for base in bases if name.startswith(base)] for name in names}


def fitted(
    arch: Architecture,
    modern: Mapping[str, str],
    rests: Mapping[str, list[str]],
    layers: int,
) -> dict[str, str]:
    """Names as the architecture's table spells them, where it has them, to raw names."""
    table = arch.weight_map().readable("hf", layers)
    found: dict[str, str] = {}
    for name, raw in modern.items():
        spelled = _spelled(name, rests[name], arch.base, table)
        if spelled is not None and spelled not in found:
            found[spelled] = raw
    return found


def _spelled(name: str, rests: list[str], base: str, table: Mapping[str, Place]) -> str | None:
    if name in table:
        return name
    for rest in rests:
        if base + rest in table:
            return base + rest
        if rest in table:
            return rest
    return None
