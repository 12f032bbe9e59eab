"""Filling a model whose linear layers and tables become 8-bit ones, each as soon as it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from uertool.io.memory import trim
from uertool.models.embeddings import Table
from uertool.models.linear import Dense
from uertool.models.packing import in_8_bits


def fill_in_8_bits(
    model: nn.Module,
    wanted: Mapping[str, Tensor],
    read: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
) -> set[str]:
    """Replace linear layers and tables of a model without tensors by filled 8-bit ones.

    Args:
        model: built on the meta device.
        wanted: its tensors by name.
        read: gives tensors for some of `wanted`, and keeps none of them.

    Returns:
        The names of the tensors that need not be filled any more.
    """
    places = [
        (max(tensor.numel() for tensor in part.parameters()), path)
        for path, part in model.named_modules()
        if isinstance(part, (Dense, Table))
    ]
    done: set[str] = set()
    # The largest come first, while the memory is still empty.
    for _, path in sorted(places, reverse=True):
        own = {name: like for name, like in wanted.items() if name.startswith(f"{path}.")}
        _replace(model, path, {name[len(path) + 1 :]: each for name, each in read(own).items()})
        trim()  # or the freed float32 tensors would stay as holes between the 8-bit ones
        done.update(own)
    return done


def _replace(model: nn.Module, path: str, tensors: Mapping[str, Tensor]) -> None:
    parent, _, name = path.rpartition(".")
    layer = model.get_submodule(path)
    layer.load_state_dict(tensors, assign=True)
    setattr(model.get_submodule(parent), name, in_8_bits(layer))
