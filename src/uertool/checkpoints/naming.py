"""Rules that pair canonical names with names elsewhere, readable in both directions.

A `Rule` is one row of an architecture's table: canonical (modular UER-py) names, the Hugging Face
and TensorFlow names of the same numbers, and the reversible transform between them. A `WeightMap`
is an ordered set of rules. There is no second table for the way back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from uertool.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Side = Literal["hf", "tf"]
Derived = Callable[[Mapping[str, Any]], "Tensor"]


@dataclass(frozen=True)
class Transform:
    """A pair of functions between canonical tensors and one tensor elsewhere.

    Attributes:
        label: what it does on the way out, in a few words, for the table of a dry run.
        out: canonical tensors, in the order of the rule's names, to the tensor elsewhere.
        back: the tensor elsewhere to canonical tensors.
        carried: the part of a canonical tensor that survives the way out and back; rows that the
            other side has no place for are left out of it.
        twins: whether the canonical tensors that come back are one and the same.
    """

    label: str
    out: Callable[[Sequence[Tensor]], Tensor]
    back: Callable[[Tensor], tuple[Tensor, ...]]
    carried: Callable[[Tensor], Tensor] = field(default=lambda tensor: tensor)
    twins: bool = False


def _cat(parts: Iterable[Tensor]) -> Tensor:
    import torch

    joined = list(parts)
    if joined[0].is_meta:
        # Only the shape is needed. torch.cat on the meta device gives it too, but imports half
        # of torch's compiler first, which takes longer than opening a large checkpoint.
        return joined[0].new_empty(sum(map(len, joined)), *joined[0].shape[1:])
    return torch.cat(joined)


def _zeros_before(tensor: Tensor, rows: int) -> Tensor:
    return _cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])


def _thirds(tensor: Tensor, dim: int) -> tuple[Tensor, ...]:
    size = tensor.shape[dim] // 3
    return tuple(tensor.narrow(dim, size * part, size) for part in range(3))


KEEP = Transform("", lambda parts: parts[0], lambda tensor: (tensor,))

TRANSPOSE = Transform("transposed", lambda parts: parts[0].t(), lambda tensor: (tensor.t(),))

#: Three matrices [out, in] as one Conv1D weight [in, 3 * out], as GPT-2 has them.
JOIN3_TRANSPOSED = Transform(
    "query, key, value joined and transposed",
    lambda parts: _cat(parts).t(),
    lambda tensor: tuple(part.t() for part in _thirds(tensor, 1)),
)

#: Three vectors as one.
JOIN3 = Transform("query, key, value joined", _cat, lambda tensor: _thirds(tensor, 0))

#: The two matrices of a gated feed-forward layer as one.
JOIN2 = Transform("gate and inner layer joined", _cat, lambda tensor: tensor.tensor_split(2, 0))

#: UER-py's segment table has a first row for padding that no other library has.
DROP_PAD_ROW = Transform(
    "first row (padding) dropped",
    lambda parts: parts[0][1:],
    lambda tensor: (_zeros_before(tensor, 1),),
    lambda tensor: tensor[1:],
)

#: BART keeps two unused rows in front of its positions.
OFFSET2 = Transform(
    "two zero rows put in front",
    lambda parts: _zeros_before(parts[0], 2),
    lambda tensor: (tensor[2:],),
)

#: A vector with a leading axis of one.
LEADING_AXIS = Transform(
    "leading axis added", lambda parts: parts[0][None], lambda tensor: (tensor.reshape(-1),)
)

#: Both streams of a siamese model share one tensor in the other format.
BOTH_STREAMS = Transform(
    "first of two equal streams",
    lambda parts: parts[0],
    lambda tensor: (tensor, tensor),
    twins=True,
)

#: The same, with the padding row of the segment table.
BOTH_STREAMS_PAD_ROW = Transform(
    "first of two equal streams, first row (padding) dropped",
    lambda parts: parts[0][1:],
    lambda tensor: (_zeros_before(tensor, 1),) * 2,
    lambda tensor: tensor[1:],
    twins=True,
)


def fillers(rows: int) -> Transform:
    """RoBERTa's positions start after `rows` unused rows; UER-py's table is as long, unshifted.

    The last `rows` rows of UER-py's table have no place in the other one.
    """

    def back(tensor: Tensor) -> tuple[Tensor, ...]:
        zeros = tensor.new_zeros(rows, *tensor.shape[1:])
        return (_cat([tensor[rows:], zeros]),)

    def carried(tensor: Tensor) -> Tensor:
        return tensor[: tensor.shape[0] - rows]

    def out(parts: Sequence[Tensor]) -> Tensor:
        return _zeros_before(carried(parts[0]), rows)

    return Transform(f"shifted by {rows} unused rows", out, back, carried)


#: XLM-R has one segment row. UER-py's texts use row 1, its converter moves row 2.
XLMR_SEGMENT = Transform(
    "row 1 kept",
    lambda parts: parts[0][1:2],
    lambda tensor: (_cat([tensor.new_zeros(1, tensor.shape[1]), tensor[:1], tensor[:1]]),),
    lambda tensor: tensor[1:2],
)

XLMR_SEGMENT_SCRIPT = Transform(
    "row 2 kept, as UER-py's converter does",
    lambda parts: parts[0][2:3],
    lambda tensor: (_zeros_before(tensor[:1], 2),),
    lambda tensor: tensor[2:3],
)


def paired_rows(size: int) -> Transform:
    """Rows of every head from neighbouring pairs to halves, for rotary positions.

    TencentPretrain and Meta turn rows 2j and 2j + 1 of a head together, Hugging Face rows j and
    j + size / 2.

    Args:
        size: rows of a head; 0 if they are unknown, and then tensors can only be looked at.
    """

    def moved(tensor: Tensor, *parts: int) -> Tensor:
        if tensor.is_meta:
            if size and (size % 2 or tensor.shape[0] % size):
                raise RuntimeError("rows that do not form whole heads")
            return tensor
        if not size:
            raise ConfigError(
                "The number of attention heads is unknown, so rows of query and key cannot be put "
                "in order.",
                "Put the model's config.json next to the weights, name it with `config_path`, or "
                "set `heads_num`.",
            )
        split = tensor.reshape(-1, *parts, *tensor.shape[1:])
        return split.transpose(1, 2).reshape(tensor.shape)

    return Transform(
        "rows of each head from pairs to halves",
        lambda parts: moved(parts[0], size // 2, 2),
        lambda tensor: (moved(tensor, 2, size // 2),),
    )


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        uer: canonical name or names; `{i}` is the layer.
        hf: Hugging Face's name; further ones are written as copies and accepted in its place.
        tf: name in Google's TensorFlow checkpoints.
        how: transform towards Hugging Face.
        tf_how: transform towards TensorFlow.
        accept: more Hugging Face spellings that are read; only whole folders get them, because
            transformers asks for them and UER-py's converters do not write them.
        untied: the one of several Hugging Face names that counts where config.json says that
            words are not tied.
        tied: canonical name of the tensor that is used when the other side does not store this one.
        tie_if: canonical name that must be there for `tied` to hold.
        tied_by_config: whether `tied` holds only where config.json says tie_word_embeddings.
        optional: whether a complete model may lack it.
        script: transform of UER-py's converter where that differs from the right one.
        derived: makes the canonical tensor from config.json where the file does not store it.
    """

    uer: tuple[str, ...]
    hf: tuple[str, ...] = ()
    tf: str = ""
    how: Transform = KEEP
    tf_how: Transform = KEEP
    accept: tuple[str, ...] = ()
    untied: str = ""
    tied: str = ""
    tie_if: str = ""
    tied_by_config: bool = False
    optional: bool = False
    script: Transform | None = None
    derived: Derived | None = None

    def names(self, side: Side) -> tuple[str, ...]:
        """Names on the other side; the first is the one that counts."""
        return self.hf if side == "hf" else ((self.tf,) if self.tf else ())

    def transform(self, side: Side, *, as_script: bool = False) -> Transform:
        """The transform towards `side`; `as_script` for UER-py's own where it differs."""
        if side == "tf":
            return self.tf_how
        return self.script if as_script and self.script else self.how

    @property
    def per_layer(self) -> bool:
        """Whether the rule holds once per layer."""
        return "{i}" in self.uer[0]


def rule(uer: str | tuple[str, ...], hf: str | tuple[str, ...] = (), **more: Any) -> Rule:
    """A Rule from single names or tuples; `more` are its other fields."""
    names = (uer,) if isinstance(uer, str) else uer
    others = ((hf,) if hf else ()) if isinstance(hf, str) else hf
    return Rule(names, others, **more)


def dense(uer: str, hf: str, *, tf: str = "", how: Transform = KEEP) -> list[Rule]:
    """Weight and bias of a linear layer; TensorFlow keeps kernels [in, out]."""
    return [
        rule(
            f"{uer}.weight",
            f"{hf}.weight" if hf else "",
            tf=f"{tf}/kernel" if tf else "",
            how=how,
            tf_how=TRANSPOSE,
        ),
        rule(f"{uer}.bias", f"{hf}.bias" if hf else "", tf=f"{tf}/bias" if tf else ""),
    ]


def norm(uer: str, hf: str, *, tf: str = "") -> list[Rule]:
    """Gamma and beta of a layer norm, which Hugging Face calls weight and bias."""
    return [
        rule(f"{uer}.gamma", f"{hf}.weight" if hf else "", tf=f"{tf}/gamma" if tf else ""),
        rule(f"{uer}.beta", f"{hf}.bias" if hf else "", tf=f"{tf}/beta" if tf else ""),
    ]


def prefixed(
    rows: Iterable[tuple[Callable[..., list[Rule]], str, str, str]], uer: str, hf: str, tf: str
) -> tuple[Rule, ...]:
    """The rules of a table of `dense` and `norm` rows, with a prefix for each column of names."""
    return tuple(
        made
        for make, own, theirs, google in rows
        for made in make(uer + own, hf + theirs, tf=tf + google)
    )


def renamed(rules: Iterable[Rule], **renames: tuple[str, str]) -> tuple[Rule, ...]:
    """Rules with a prefix of their `uer` or `hf` names replaced, for tables alike but for that.

    `renames` gives the old and new prefix of a column, for example hf=("bert.", "roberta.").
    """

    def moved(name: str, column: str) -> str:
        old, new = renames.get(column, ("", ""))
        return new + name[len(old) :] if old and name.startswith(old) else name

    changed = []
    for row in rules:
        values = {key: getattr(row, key) for key in row.__dataclass_fields__}
        values["uer"] = tuple(moved(name, "uer") for name in row.uer)
        values["hf"] = tuple(moved(name, "hf") for name in row.hf)
        values["accept"] = tuple(moved(name, "hf") for name in row.accept)
        values["untied"] = moved(row.untied, "hf")
        changed.append(Rule(**values))
    return tuple(changed)


@dataclass(frozen=True)
class Place:
    """A rule at one layer (or -1 for rules without layers)."""

    rule: Rule
    layer: int

    def _filled(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name.replace("{i}", str(self.layer)) for name in names)

    @property
    def uer(self) -> tuple[str, ...]:
        """Canonical names."""
        return self._filled(self.rule.uer)

    def names(self, side: Side, *, whole: bool = False) -> tuple[str, ...]:
        """Names on the other side that are written, `whole` for those of a whole folder."""
        return self.readable(side) if whole else self._filled(self.rule.names(side))

    def readable(self, side: Side) -> tuple[str, ...]:
        """Names on the other side under which the tensor may be found."""
        more = self.rule.accept if side == "hf" else ()
        return self._filled((*self.rule.names(side), *more))


class WeightMap:
    """An ordered set of rules, used in both directions."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)

    def places(self, layers: int) -> Iterator[Place]:
        """Every rule at every layer, in the order of the table, layer by layer."""
        block: list[Rule] = []
        for row in self.rules:
            if row.per_layer:
                block.append(row)
                continue
            yield from _layered(block, layers)
            block = []
            yield Place(row, -1)
        yield from _layered(block, layers)

    def readable(self, side: Side, layers: int) -> dict[str, Place]:
        """Name on the other side to place."""
        return {name: place for place in self.places(layers) for name in place.readable(side)}

    def canonical(self, layers: int) -> dict[str, Place]:
        """Canonical name to place."""
        return {name: place for place in self.places(layers) for name in place.uer}


def _layered(block: Sequence[Rule], layers: int) -> Iterator[Place]:
    for layer in range(layers):
        for row in block:
            yield Place(row, layer)


_NUMBER = re.compile(r"(?<![^._/])(?:layer_)?(\d+)(?![^./])")


def layers_upto(names: Iterable[str]) -> int:
    """One more than the largest number that is a part of any name.

    It bounds the layers to look for, and is itself bounded by the number of names, since layers
    without gaps cannot be more than that.
    """
    count = largest = 0
    for name in names:
        count += 1
        for found in _NUMBER.findall(name):
            if len(found) < 7:
                largest = max(largest, int(found) + 1)
    return min(largest, count)


def shapes_out(
    transform: Transform, shapes: Sequence[Sequence[int]], dtype: torch.dtype
) -> tuple[int, ...]:
    """Shape elsewhere of canonical tensors, without their numbers."""
    import torch

    parts = [torch.empty(tuple(shape), dtype=dtype, device="meta") for shape in shapes]
    return tuple(transform.out(parts).shape)


def shapes_back(
    transform: Transform, shape: Sequence[int], dtype: torch.dtype
) -> tuple[tuple[int, ...], ...]:
    """Canonical shapes of a tensor elsewhere, without its numbers."""
    import torch

    tensor = torch.empty(tuple(shape), dtype=dtype, device="meta")
    return tuple(tuple(part.shape) for part in transform.back(tensor))
