"""Architectures with names in other libraries, one file each; a new one needs a file and a row."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping

from uertool.checkpoints.architectures.base import Architecture
from uertool.errors import UsageError

#: Word for `arch`, module and attribute, in the order in which candidates are named.
_REGISTERED: Mapping[str, tuple[str, str]] = {
    "bert": ("bert_family.bert", "ARCHITECTURE"),
    "xlm-roberta": ("bert_family.xlm_roberta", "ARCHITECTURE"),
    "albert": ("bert_family.albert", "ARCHITECTURE"),
    "gpt2": ("gpt2", "ARCHITECTURE"),
    "t5": ("t5", "ARCHITECTURE"),
    "t5-v1_1": ("t5", "ARCHITECTURE_V1_1"),
    "bart": ("bart", "ARCHITECTURE"),
    "pegasus": ("pegasus", "ARCHITECTURE"),
    "sbert": ("bert_family.sbert", "ARCHITECTURE"),
    "ernie": ("bert_family.ernie", "ARCHITECTURE"),
    "electra": ("bert_family.electra", "ARCHITECTURE"),
    "nezha": ("bert_family.nezha", "ARCHITECTURE"),
    "roformer": ("bert_family.roformer", "ARCHITECTURE"),
    "modernbert": ("modernbert", "ARCHITECTURE"),
    "llama": ("llama", "ARCHITECTURE"),
    "qwen2": ("qwen2", "ARCHITECTURE"),
    "qwen3": ("qwen3", "ARCHITECTURE"),
}

NAMES: tuple[str, ...] = tuple(_REGISTERED)

#: Other spellings.
ALIASES: Mapping[str, str] = {
    "roberta": "xlm-roberta",
    "xlmroberta": "xlm-roberta",
    "xlm_roberta": "xlm-roberta",
    "t5v1.1": "t5-v1_1",
    "t5-v1.1": "t5-v1_1",
    "gpt-2": "gpt2",
}


#: One in this many names of a signature may be missing from what still counts as near to it.
_NEAR = 3


@functools.cache
def _load(name: str) -> Architecture:
    module, attribute = _REGISTERED[name]
    found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    assert isinstance(found, Architecture)
    return found


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        UsageError: the name is unknown; the message lists the known ones.
    """
    known = ALIASES.get(name, name)
    if known not in _REGISTERED:
        raise UsageError(f"Unknown architecture: {name!r}.", f"Known ones are: {', '.join(NAMES)}.")
    return _load(known)


def all_architectures() -> tuple[Architecture, ...]:
    """Every registered architecture."""
    return tuple(_load(name) for name in NAMES)


def nearest_architecture(names: set[str]) -> str | None:
    """A sentence about the architecture that canonical names nearly match.

    None if they match none nearly.
    """
    found = []
    for arch in all_architectures():
        lacking = sorted(set(arch.signature.has) - names)
        if len(lacking) * _NEAR <= len(arch.signature.has) and names.isdisjoint(
            arch.signature.lacks
        ):
            found.append((len(lacking), arch.name, lacking))
    if not found:
        return None
    _, name, lacking = min(found)
    return f"it is nearest to {name}, but lacks {', '.join(lacking)}."
