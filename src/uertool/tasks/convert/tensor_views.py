"""Canonical tensors with the changes of a conversion, still read one at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uertool.checkpoints.formats.tensor_file import TensorInfo, ties_of
from uertool.checkpoints.reader import Checkpoint

_STREAM = "embedding.dual.stream_0_layer_norm."
_TABLE = re.compile(r"embedding\.(dual\.embedding_0\.)?(word|pos|seg)\.embedding\.weight")
_DUAL = (("embedding.dual.embedding_0.", "embedding."), ("encoder.encoder_0.", "encoder."))

_WORD = "embedding.word.embedding.weight"

#: What transformers ties to the word table.
_TWINS = (
    "tgt_embedding.word.embedding.weight",
    "target.lm.output_layer.weight",
    "target.mlm.linear_2.weight",
)


@dataclass(frozen=True)
class TensorView:
    """Canonical names with their shapes, and a way to read each.

    Attributes:
        infos: name to shape and type, in the order of the source.
        read: reads one tensor.
        release: frees the mapped pages of one tensor.
        key: equal keys mean one tensor.
    """

    infos: Mapping[str, TensorInfo]
    read: Callable[[str], Tensor]
    release: Callable[[str], None]
    key: Callable[[str], Hashable] = field(default=lambda name: name)

    def ties(self) -> dict[str, str]:
        """Alias to the first name of the same tensor."""
        return ties_of(self.infos, lambda name: (self.key(name), self.infos[name].shape))


def of_checkpoint(checkpoint: Checkpoint) -> TensorView:
    """The tensors of a checkpoint."""
    return TensorView(
        {name: checkpoint.info(name) for name in checkpoint},
        checkpoint.tensor,
        checkpoint.release,
        checkpoint.storage_key,
    )


def without(view: TensorView, names: set[str]) -> TensorView:
    """Without some names."""
    kept = {name: info for name, info in view.infos.items() if name not in names}
    return TensorView(kept, view.read, view.release, view.key)


def with_tensors(view: TensorView, made: Mapping[str, Callable[[], Tensor]]) -> TensorView:
    """With tensors that are computed, in place of any of the same name (and then its shape)."""
    infos = dict(view.infos)
    for name, make in made.items():
        if name not in infos:
            tensor = make()
            infos[name] = TensorInfo(name, tuple(tensor.shape), tensor.dtype)

    def read(name: str) -> Tensor:
        return made[name]() if name in made else view.read(name)

    def release(name: str) -> None:
        if name not in made:
            view.release(name)

    def key(name: str) -> Hashable:
        return ("made", name) if name in made else view.key(name)

    return TensorView(infos, read, release, key)


def norm_factor(size: int) -> float:
    """The factor from UER-py's layer norm, which divides by N-1, to others': sqrt((N-1)/N)."""
    return math.sqrt((size - 1) / size) if size > 1 else 1.0


def folded(view: TensorView, *, towards_uer: bool) -> TensorView:
    """Every gamma multiplied so that the other kind of layer norm computes the same.

    Args:
        view: the source.
        towards_uer: whether the output runs with UER-py's layer norm.
    """

    def read(name: str) -> Tensor:
        tensor = view.read(name)
        if not name.endswith(".gamma"):
            return tensor
        factor = norm_factor(tensor.shape[0])
        exact = tensor.double() * (1.0 / factor if towards_uer else factor)
        return exact.to(tensor.dtype)

    return TensorView(view.infos, read, view.release, view.key)


def embedding_spread(view: TensorView) -> float:
    """The usual standard deviation, over channels, of the input of the first layer norm.

    UER-py divides by s + e, others by sqrt(s^2 + E); both agree to first order for E = 2 * e * s.
    The sums of embeddings have the smallest s of a model, so e matters most there.
    """
    total = 0.0
    for name in view.infos:
        if _TABLE.fullmatch(name):
            total += float(view.read(name).float().var(1, correction=0).mean())
            view.release(name)
    return math.sqrt(total)


def scaled(view: TensorView, name: str, factor: float) -> TensorView:
    """With one tensor multiplied by a number, and no longer tied."""
    if name not in view.infos or factor == 1.0:
        return view
    return with_tensors(view, {name: lambda: view.read(name) * factor})


def stream_as_bert(view: TensorView, layers: int, feed_forward: int) -> TensorView:
    """The first stream of a siamese model as a BERT of one layer more.

    BERT has one layer norm on its embeddings, a stream has a second one. A layer whose attention
    and feed-forward are zero only normalises: its first norm, with gamma 1 and beta 0, changes
    nothing that the second would not, and the second is the stream's.
    """
    moved: dict[str, str] = {}
    for name in view.infos:
        for old, new in _DUAL:
            if name.startswith(old):
                moved[_shifted(new + name[len(old) :])] = name
    gamma = view.infos[f"{_STREAM}gamma"]
    size, dtype = gamma.shape[0], gamma.dtype

    def zeros(*shape: int) -> Callable[[], Tensor]:
        return lambda: torch.zeros(shape, dtype=dtype)

    layer = "encoder.transformer.0."
    made: dict[str, Callable[[], Tensor]] = {
        f"{layer}layer_norm_1.gamma": lambda: torch.ones(size, dtype=dtype),
        f"{layer}layer_norm_1.beta": zeros(size),
        f"{layer}layer_norm_2.gamma": lambda: view.read(f"{_STREAM}gamma"),
        f"{layer}layer_norm_2.beta": lambda: view.read(f"{_STREAM}beta"),
        f"{layer}feed_forward.linear_1.weight": zeros(feed_forward, size),
        f"{layer}feed_forward.linear_1.bias": zeros(feed_forward),
        f"{layer}feed_forward.linear_2.weight": zeros(size, feed_forward),
        f"{layer}feed_forward.linear_2.bias": zeros(size),
    }
    linears = [f"self_attn.linear_layers.{part}" for part in range(3)] + ["self_attn.final_linear"]
    for linear in linears:
        made[f"{layer}{linear}.weight"] = zeros(size, size)
        made[f"{layer}{linear}.bias"] = zeros(size)
    infos = {name: TensorInfo(name, *view.infos[raw][1:]) for name, raw in moved.items()}
    base = TensorView(
        infos,
        lambda name: view.read(moved[name]),
        lambda name: view.release(moved[name]),
        lambda name: view.key(moved[name]),
    )
    return with_tensors(base, made)


def _shifted(name: str) -> str:
    """A name of layer n as that of layer n + 1."""
    head, mark, rest = name.partition("encoder.transformer.")
    if not mark:
        return name
    number, _, tail = rest.partition(".")
    return f"{head}{mark}{int(number) + 1}.{tail}"


def are_tied(view: TensorView) -> bool:
    """Whether everything that transformers would tie holds the same numbers."""
    return all(same_tensor(view, _WORD, name) for name in _TWINS if name in view.infos)


def same_tensor(view: TensorView, one: str, other: str) -> bool:
    """Whether two tensors are one, or hold the same numbers."""
    if view.key(one) == view.key(other):
        return True
    first, second = view.infos[one], view.infos[other]
    return first[1:] == second[1:] and torch.equal(view.read(one), view.read(other))
