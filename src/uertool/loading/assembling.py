"""build_model: the tensors of a checkpoint in a UerModel, strictly and without a second copy.

The model is built without memory (on the meta device) and gets its tensors one by one. Query, key
and value are stacked, and UER-py's layer norm is folded (see `uertool.models.norm`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from uertool.checkpoints.reader import Checkpoint
from uertool.config import ModelConfig
from uertool.errors import CheckpointError, listed
from uertool.loading.rounding import fill_in_8_bits
from uertool.models.embeddings import Embedding
from uertool.models.heads import LmHead, MlmHead
from uertool.models.model import UerModel
from uertool.models.norm import LayerNorm, uer_gamma
from uertool.models.positions import sinusoid_legacy, sinusoid_modular
from uertool.models.transformer import TransformerLayer

_WORD = "embedding.word.embedding.weight"

#: Rows that are copied at a time.
BLOCK = 4096

#: Head -> the names that show it, any of them; and its name in messages.
HEADS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "mlm": (("target.mlm.linear_1.weight",), "a masked-language head"),
    "rtd": (("target.rtd.linear_1.weight",), "a replaced-token head"),
    "lm": (("target.lm.output_layer.weight",), "a language-model output layer"),
    "sp": (("target.sp.linear_2.weight",), "a sentence-pair head"),
    "cls": (("output_layer_2.weight",), "a classifier"),
    "token_cls": (("output_layer.weight",), "a token classifier"),
    "qa": (("output_layer.weight",), "a question-answering head"),
    "siamese": (("classifier.weight",), "a siamese classifier"),
    "pooler": (("target.sp.linear_1.weight", "output_layer_1.weight"), "a pooler"),
}

#: Prefix of a parameter in UerModel -> prefix of its name in checkpoints.
_PREFIXES = (
    ("mlm.", "target.mlm."),
    ("rtd.", "target.rtd."),
    ("lm.", "target.lm."),
    ("sp.", "target.sp."),
    ("classifier.linear_1.", "output_layer_1."),
    ("classifier.linear_2.", "output_layer_2."),
    ("token_classifier.", ""),
    ("qa.", ""),
    ("siamese.", ""),
    ("decoder.transformer.", "decoder.transformer_decoder."),
    ("decoder.relative_pos_emb.", "decoder.self_pos_emb."),
)

#: Part of a parameter's name in UerModel -> the linear layers of the checkpoint stacked in it.
_STACKED = ((".qkv.", (0, 1, 2)), (".query.", (0,)), (".key_value.", (1, 2)))

#: Prefixes of heads and decoders, which need not be loaded.
_OPTIONAL = ("target.", "output_layer", "classifier.", "decoder.", "tgt_embedding.")

#: Head -> a command that can use it.
_FITTING = (
    ("mlm", "uertool cloze"),
    ("lm", "uertool generate"),
    ("", "uertool extract-features"),
)


def heads_in(checkpoint: Checkpoint, config: ModelConfig) -> tuple[str, ...]:
    """The heads that a checkpoint can fill."""
    found = [
        head
        for head, (marks, _) in HEADS.items()
        if head not in ("token_cls", "qa") and any(checkpoint.has(mark) for mark in marks)
    ]
    found.extend(head for head in ("token_cls", "qa") if head in config.target)
    if config.tie_weights and "lm" not in found and config.decoder is not None:
        found.append("lm")
    return tuple(found)


@dataclass(frozen=True)
class Built:
    """A model and what was not loaded.

    Attributes:
        model: in evaluation mode, on its device, without gradients.
        left_out: canonical names that no part of the model needs.
    """

    model: UerModel
    left_out: tuple[str, ...]


def build_model(
    checkpoint: Checkpoint,
    config: ModelConfig,
    heads: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    *,
    streamed: bool = False,
) -> Built:
    """The model that a checkpoint holds.

    Args:
        checkpoint: canonical names and tensors.
        config: see `resolve_config`.
        heads: the heads to load; all of them must be there.
        device: where its tensors go.
        dtype: their type. torch.int8 rounds linear layers and tables to 8 bits, each as it is read,
            and keeps the rest in float32; not together with `streamed`.
        streamed: read the embedding, every layer and the heads for words when they run and free
            them afterwards, so that a model may be larger than the memory. The checkpoint must
            stay open.

    Raises:
        CheckpointError: names are missing, unexpected or clash, shapes do not fit; all at once.
        UsageError: int8 is not available here.
    """
    require_heads(checkpoint, config, heads)
    with torch.device("meta"), _NoInitialisation():
        model = UerModel(config, heads, _label_counts(checkpoint))
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sources = {name: _sources(checkpoint, config, name) for name in wanted}
    left_out = _check(checkpoint, wanted, sources)
    folded = {
        f"{name}.gamma"
        for name, module in model.named_modules()
        if isinstance(module, LayerNorm) and module.folded
    }
    later: set[str] = set()
    filler = _Filler(checkpoint, config, device, number_type(dtype), folded)
    if streamed:
        later = _stream(model, filler.passing(), wanted, sources)
    elif dtype == torch.int8:
        later = fill_in_8_bits(model, wanted, lambda own: filler.passing().fill(own, sources))
    now = {name: tensor for name, tensor in wanted.items() if name not in later}
    state = filler.fill(now, sources)
    model.load_state_dict(state, strict=not later, assign=True)
    model.requires_grad_(False)
    return Built(model.eval(), left_out)


def number_type(dtype: torch.dtype) -> torch.dtype:
    """The type of what a model in `dtype` computes outside of its 8-bit layers."""
    return torch.float32 if dtype == torch.int8 else dtype


class _NoInitialisation(TorchFunctionMode):
    """Skips the functions of torch.nn.init: every parameter gets its tensor from the checkpoint.

    They cost time, on the meta device as well, where they import torch._dynamo and sympy.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _stream(
    model: UerModel,
    filler: _Filler,
    wanted: Mapping[str, Tensor],
    sources: Mapping[str, tuple[str, ...]],
) -> set[str]:
    """Make parts read their tensors when they run; returns the names of these tensors."""
    streamed: set[str] = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, (Embedding, TransformerLayer, LmHead, MlmHead)):
            continue
        own = {name: like for name, like in wanted.items() if name.startswith(f"{prefix}.")}
        streamed.update(own)
        _stream_layer(module, len(prefix) + 1, filler, own, sources)
    return streamed


def _stream_layer(
    module: nn.Module,
    cut: int,
    filler: _Filler,
    own: Mapping[str, Tensor],
    sources: Mapping[str, tuple[str, ...]],
) -> None:
    """Make one layer read its tensors when it runs; `cut` characters of their names are its own."""

    def assign(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        layer.load_state_dict({name[cut:]: one for name, one in tensors.items()}, assign=True)

    def fetch(layer: nn.Module, _: object) -> None:
        found = filler.fill(own, sources)
        filler.done.clear()
        assign(layer, found)

    def drop(layer: nn.Module, *_: object) -> None:
        assign(layer, own)

    module.register_forward_pre_hook(fetch)
    module.register_forward_hook(drop)


def require_heads(checkpoint: Checkpoint, config: ModelConfig, heads: Iterable[str]) -> None:
    """Raise CheckpointError, naming the heads that there are, if one is missing."""
    there = heads_in(checkpoint, config)
    for head in heads:
        if head in there or (head == "lm" and config.tie_weights):
            continue
        marks, words = HEADS[head]
        owned = [HEADS[name][1] for name in there if name != "pooler"]
        has = " and ".join(owned) if owned else "no head"
        command = next(c for name, c in _FITTING if not name or name in there)
        raise CheckpointError(
            f"{checkpoint.path} has no {words.removeprefix('a ')} ({marks[0]}), which this needs; "
            f"it has {has}.",
            f"A command that fits it: {command}.",
        )


def _label_counts(checkpoint: Checkpoint) -> dict[str, int]:
    names = {head: HEADS[head][0][0] for head in ("sp", "cls", "token_cls", "qa", "siamese")}
    return {
        head: checkpoint.info(name).shape[0] for head, name in names.items() if checkpoint.has(name)
    }


def _sources(checkpoint: Checkpoint, config: ModelConfig, name: str) -> tuple[str, ...]:
    """The canonical names that a parameter is made of; empty for a table that is computed."""
    canonical = _canonical(checkpoint, name)
    for own, parts in _STACKED:
        if own in canonical:
            return tuple(canonical.replace(own, f".linear_layers.{part}.") for part in parts)
    if checkpoint.has(canonical):
        return (canonical,)
    if canonical.endswith("sinusoidalpos.pe"):
        return ()
    # Tied tensors need not be stored a second time.
    target = "tgt_embedding.word.embedding.weight"
    if canonical == target and config.share_embedding:
        return (_WORD,)
    if config.tie_weights and canonical in (
        "target.lm.output_layer.weight",
        "target.mlm.linear_2.weight",
    ):
        decoder = canonical.startswith("target.lm") and config.decoder is not None
        return (target if decoder and checkpoint.has(target) else _WORD,)
    return (canonical,)


def _canonical(checkpoint: Checkpoint, name: str) -> str:
    if name.startswith("pooler."):
        pair = "target.sp." + name.removeprefix("pooler.")
        if checkpoint.has(pair):
            return pair
        return name.replace("pooler.linear_1.", "output_layer_1.")
    for own, theirs in _PREFIXES:
        if name.startswith(own):
            return theirs + name[len(own) :]
    return name


# -- checks ---------------------------------------------------------------------------------------


def _check(
    checkpoint: Checkpoint,
    wanted: Mapping[str, Tensor],
    sources: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """The names that are left over; CheckpointError with everything that does not fit."""
    used = {source for names in sources.values() for source in names}
    missing = sorted(name for name in used if not checkpoint.has(name))
    rest = [name for name in checkpoint.keys() if name not in used]  # noqa: SIM118
    unexpected = [
        name for name in rest if not (name.startswith(_OPTIONAL) or checkpoint.ignores(name))
    ]
    unexpected.extend(checkpoint.unmapped)
    misshaped = [
        fault
        for name, tensor in wanted.items()
        if (fault := _misshaped(checkpoint, tensor, sources[name])) is not None
    ]
    faults = [
        f"{what}: {listed(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
            ("contradictory", checkpoint.problems),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"The weights of {checkpoint.path} do not fit the model; {'; '.join(faults)}.",
            "See: uertool check; `ignore_unexpected` ignores tensors by name."
            if unexpected
            else "Check the configuration, or look at the file with: uertool check",
        )
    return tuple(rest)


def _misshaped(checkpoint: Checkpoint, tensor: Tensor, names: tuple[str, ...]) -> str | None:
    infos = [checkpoint.info(name) for name in names if checkpoint.has(name)]
    if not infos or len(infos) < len(names):
        return None
    kinds = {info.dtype for info in infos if not info.dtype.is_floating_point}
    if kinds:
        return f"{names[0]} (holds {', '.join(map(str, kinds))}, not real numbers)"
    shape = list(infos[0].shape)
    if len(infos) > 1:
        shape = [sum(info.shape[0] if info.shape else 0 for info in infos), *shape[1:]]
    if names[0].endswith("sinusoidalpos.pe"):
        shape = [infos[0].shape[0], infos[0].shape[-1]]
    if tuple(shape) == tuple(tensor.shape):
        return None
    return f"{names[0]} {tuple(infos[0].shape)}, expected {tuple(tensor.shape)}"


# -- tensors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Filler:
    """Reads tensors in the model's device and type, each set of bytes once."""

    checkpoint: Checkpoint
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    folded: Container[str]
    done: dict[object, Tensor] = field(default_factory=dict)

    def passing(self) -> _Filler:
        """The same, for tensors that do not stay."""
        return dataclasses.replace(self, done={})

    def fill(
        self, wanted: Mapping[str, Tensor], sources: Mapping[str, tuple[str, ...]]
    ) -> dict[str, Tensor]:
        return {name: self._one(name, wanted[name], sources[name]) for name in wanted}

    def _one(self, name: str, like: Tensor, sources: tuple[str, ...]) -> Tensor:
        if not sources:
            return self._sinusoid(like)
        fold = name in self.folded
        key = (fold, *(self.checkpoint.storage_key(source) for source in sources))
        if key not in self.done:
            tensor = self._read(sources)
            if name.endswith("sinusoidalpos.pe"):
                tensor = tensor.reshape(like.shape)
            if fold:
                tensor = uer_gamma(tensor)
            self.done[key] = tensor
        # Tied parameters share memory, but need an object each.
        return self.done[key].view(like.shape)

    def _read(self, sources: tuple[str, ...]) -> Tensor:
        """One tensor, or several stacked.

        A copy, since the file may change, in blocks, since its pages are freed after each.
        """
        parts = [self.checkpoint.tensor(source) for source in sources]
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        found = torch.empty(shape, dtype=self.dtype, device=self.device)
        start = 0
        for source, part in zip(sources, parts, strict=True):
            for block in part.split(BLOCK):
                found[start : start + len(block)] = block
                start += len(block)
                self.checkpoint.release(source)
        return found

    def _sinusoid(self, like: Tensor) -> Tensor:
        rows, size = like.shape
        make = sinusoid_legacy if self.config.sinusoid == "legacy" else sinusoid_modular
        return make(rows, size).to(self.device, self.dtype)
