"""infer_config: the configuration that names and shapes of tensors imply.

Everything here follows from names and shapes alone. What they do not show (head count, activation,
mask) is assumed, and reported as assumed, in `uertool.loading.config_resolution`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from uertool.checkpoints.formats.tensor_file import TensorInfo

#: Gates of a recurrent cell: rows of weight_ih over the hidden size.
_GATES = {1: "rnn", 3: "gru", 4: "lstm"}

#: The table of relative positions.
_RELATIVE = "relative_attention_bias.weight"

#: Head of UER-py's models -> a canonical name that shows it.
HEAD_MARKS = {
    "mlm": "target.mlm.linear_1.weight",
    "rtd": "target.rtd.linear_1.weight",
    "sp": "target.sp.linear_2.weight",
    "lm": "target.lm.output_layer.weight",
    "bilm": "target.bilm.",
    "cls": "output_layer_2.weight",
    "siamese": "classifier.weight",
}


class Names(Protocol):
    """What inference needs of a checkpoint: names and shapes."""

    def keys(self) -> list[str]:
        """Canonical names."""

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""

    def info(self, name: str) -> TensorInfo:
        """Its shape."""


def infer_config(checkpoint: Names) -> dict[str, Any]:
    """The fields of `ModelConfig` that follow from names and shapes.

    Args:
        checkpoint: canonical names and shapes.

    Returns:
        Only fields that are certain; the rest is absent.
    """
    names = checkpoint.keys()
    found: dict[str, Any] = {}
    dual = any(name.startswith("embedding.dual.") for name in names)
    prefix = "embedding.dual.embedding_0." if dual else "embedding."
    found.update(_embedding(checkpoint, prefix))
    if dual:
        found["embedding"] = ("dual",)
        norms = any(re.match(r"embedding\.dual\.stream_\d+_layer_norm\.", name) for name in names)
        found["remove_embedding_layernorm"] = not norms
    encoder = "encoder.encoder_0." if dual else "encoder."
    found.update(_encoder(checkpoint, encoder, names))
    if dual and found.get("encoder") == "transformer":
        found["encoder"] = "dual"
    found.update(_decoder(checkpoint, names))
    found.update(_target(checkpoint, names))
    return found


class _Shapes:
    """Shapes by name under a prefix; None for what is not there or has not as many dimensions."""

    def __init__(self, checkpoint: Names, prefix: str = "") -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix

    def __call__(self, name: str, dimensions: int = 2) -> tuple[int, ...] | None:
        full = self.prefix + name
        shape = self.checkpoint.info(full).shape if self.checkpoint.has(full) else ()
        return shape if len(shape) == dimensions else None

    def has(self, name: str) -> bool:
        return self.checkpoint.has(self.prefix + name)


def _embedding(checkpoint: Names, prefix: str) -> dict[str, Any]:
    """The tables of one embedding, the encoder's or one stream's."""
    shape = _Shapes(checkpoint, prefix)
    found: dict[str, Any] = {}
    parts: list[str] = []
    tables = ("word", "pos", "seg", "task")
    word, pos, seg, task = (shape(f"{part}.embedding.weight") for part in tables)
    pe = shape("sinusoidalpos.pe", 3) or shape("sinusoidalpos.pe")
    if word is not None:
        parts.append("word")
        found.update(vocab_size=word[0], emb_size=word[-1])
    if pos is not None:
        parts.append("pos")
        found["max_seq_length"] = pos[0]
    if seg is not None:
        parts.append("seg")
        found["segments_num"] = seg[0]
    if task is not None:
        parts.append("task")
        found["task_types_num"] = task[0]
    if pe is not None:
        parts.append("sinusoidalpos")
        found.update(max_seq_length=pe[0], sinusoid="legacy")
    if parts:
        found["embedding"] = tuple(parts)
    found["remove_embedding_layernorm"] = not (
        shape.has("layer_norm.gamma") or shape.has("layer_norm.weight")
    )
    return found


def _encoder(checkpoint: Names, prefix: str, names: Iterable[str]) -> dict[str, Any]:
    shape = _Shapes(checkpoint, prefix)
    for mark, read in _ENCODERS:
        if any(name.startswith(prefix + mark) for name in names):
            return read(shape, list(names))
    return {}


def _transformer(shape: _Shapes, names: list[str]) -> dict[str, Any]:
    shared = shape.has("transformer.self_attn.linear_layers.0.weight")
    layer = "transformer." if shared else "transformer.0."
    found: dict[str, Any] = {"encoder": "transformer", "parameter_sharing": shared}
    if not shared:
        found["layers_num"] = _count(names, shape.prefix + "transformer.")
    query = shape(f"{layer}self_attn.linear_layers.0.weight")
    inner = shape(f"{layer}feed_forward.linear_1.weight")
    if query is not None:
        found["hidden_size"] = query[1]
    if inner is not None:
        found["feedforward_size"] = inner[0]
    found.update(_biases(shape, names, f"{layer}self_attn."))
    found.update(_normed_heads(shape, f"{layer}self_attn."))
    found["feed_forward"] = (
        "gated" if shape.has(f"{layer}feed_forward.linear_gate.weight") else "dense"
    )
    found.update(_norm_of(shape, layer, names))
    pre = shape.has("layer_norm.gamma") or shape.has("layer_norm.weight")
    found["layernorm_positioning"] = "pre" if pre else "post"
    found["factorized_embedding_parameterization"] = shape.has("linear.weight")
    is_t5 = shape.has(f"relative_pos_emb.{_RELATIVE}") or found["feed_forward"] == "dense"
    if found.get("layernorm") == "t5" and not is_t5:
        found["layernorm"] = "rms"  # the same norm, in LLaMA's words
    found.update(_relative(shape(f"relative_pos_emb.{_RELATIVE}"), query))
    return found


def _biases(shape: _Shapes, names: list[str], attention: str) -> dict[str, Any]:
    """Which linear layers have biases: all, none, or some in attention only."""
    query = shape.has(f"{attention}linear_layers.0.bias")
    inner = any(name.endswith("feed_forward.linear_1.bias") for name in names)
    return {
        "remove_transformer_bias": not (query and inner),
        "qkv_bias": query and not inner,
        "attention_output_bias": shape.has(f"{attention}final_linear.bias") and not inner,
    }


def _normed_heads(shape: _Shapes, attention: str) -> dict[str, Any]:
    """Norms of queries and keys; they are as long as a head, which shows the number of heads."""
    norm = shape(f"{attention}query_norm.weight", 1)
    found: dict[str, Any] = {"qk_norm": norm is not None}
    parts = (shape(f"{attention}linear_layers.{part}.weight") for part in range(2))
    for name, rows in zip(("heads_num", "local_kv_heads_num"), parts, strict=True):
        if norm is not None and rows is not None and norm[0] and rows[0] % norm[0] == 0:
            found.update({name: rows[0] // norm[0], "attention_head_size": norm[0]})
    return found


def _relative(bias: tuple[int, ...] | None, query: tuple[int, ...] | None) -> dict[str, Any]:
    """Relative positions; only their table shows the number of heads."""
    if bias is None:
        return {"relative_position_embedding": False}
    found: dict[str, Any] = {
        "relative_position_embedding": True,
        "relative_attention_buckets_num": bias[0],
        "heads_num": bias[1],
    }
    if query is not None and bias[1] and query[0] % bias[1] == 0:
        found["attention_head_size"] = query[0] // bias[1]
    return found


def _norm_of(shape: _Shapes, layer: str, names: list[str]) -> dict[str, Any]:
    """The kind of norm. Without any bias (ModernBERT), the first layer may lack its first norm."""
    first, second = f"{layer}layer_norm_1", f"{layer}layer_norm_2"
    if shape.has(f"{second}.weight"):
        return {"layernorm": "t5", "norm": "rms"}
    if not shape.has(f"{second}.gamma"):
        return {}
    found: dict[str, Any] = {"layernorm": "normal"}
    if not any(name.endswith(".beta") for name in names):
        found["remove_layernorm_bias"] = True
        found["remove_first_layernorm"] = not shape.has(f"{first}.gamma")
    return found


def _recurrent(shape: _Shapes, names: list[str]) -> dict[str, Any]:
    both = shape.has("rnn_forward.weight_ih_l0")
    stack = "rnn_forward." if both else "rnn."
    into, within = shape(f"{stack}weight_ih_l0"), shape(f"{stack}weight_hh_l0")
    if into is None or within is None:
        return {}
    cell = _GATES.get(into[0] // max(within[1], 1))
    reverse = shape.has("rnn.weight_ih_l0_reverse")
    layers = [
        int(match[1])
        for name in names
        if (match := re.fullmatch(re.escape(shape.prefix + stack) + r"weight_ih_l(\d+)", name))
    ]
    return {
        "encoder": f"bi{cell}" if both else cell,
        "hidden_size": within[1] * (2 if both or reverse else 1),
        "layers_num": max(layers, default=-1) + 1,
        "bidirectional": reverse,
    }


def _gated_cnn(shape: _Shapes, names: list[str]) -> dict[str, Any]:
    first = shape("conv_1.weight", 4)
    found: dict[str, Any] = {"encoder": "gatedcnn"}
    if first is not None:
        found.update(hidden_size=first[0], kernel_size=first[2])
    found["layers_num"] = _count(names, shape.prefix + "conv.") + 1
    return found


_Reader = Callable[[_Shapes, list[str]], dict[str, Any]]

#: How names in the encoder begin -> what reads that kind of encoder.
_ENCODERS: tuple[tuple[str, _Reader], ...] = (
    ("transformer.", _transformer),
    ("rnn", _recurrent),
    ("conv_1.", _gated_cnn),
)


def _decoder(checkpoint: Names, names: list[str]) -> dict[str, Any]:
    layers = _count(names, "decoder.transformer_decoder.")
    if not layers:
        return {"decoder": None}
    found: dict[str, Any] = {"decoder": "transformer", "decoder_layers_num": layers}
    shape = _Shapes(checkpoint, "tgt_embedding.")
    parts = [p for p in ("word", "pos", "seg") if shape.has(f"{p}.embedding.weight")]
    word, pos, pe = (
        shape("word.embedding.weight"),
        shape("pos.embedding.weight"),
        shape("sinusoidalpos.pe", 3) or shape("sinusoidalpos.pe"),
    )
    if word is None:
        # A target embedding that is the source's own is not stored a second time by everybody.
        word = _Shapes(checkpoint)("embedding.word.embedding.weight")
    if word is not None:
        found["tgt_vocab_size"] = word[0]
    if pe is not None:
        parts.append("sinusoidalpos")
    for table in (pos, pe):
        if table is not None:
            found["tgt_max_seq_length"] = table[0]
    if parts:
        found["tgt_embedding"] = tuple(parts)
    return found


def _target(checkpoint: Names, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    targets = [
        head
        for head, mark in HEAD_MARKS.items()
        if (any(name.startswith(mark) for name in names) if mark.endswith(".") else mark in names)
    ]
    if "output_layer.weight" in names:
        # A layer over every token with two rows gives start and end of an answer, else labels.
        rows = checkpoint.info("output_layer.weight").shape[:1]
        heads = getattr(checkpoint, "heads", ())
        targets.append("token_cls" if "token_cls" in heads or rows != (2,) else "qa")
    found["target"] = tuple(targets)
    parts = ("linear_1.bias", "layer_norm.beta")
    if "mlm" in targets and not any(f"target.mlm.{part}" in names for part in parts):
        found["remove_mlm_bias"] = True
    found["has_lmtarget_bias"] = checkpoint.has("target.lm.output_layer.bias")
    for name in ("output_layer_2.weight", "output_layer.weight", "classifier.weight"):
        if name in names and (shape := checkpoint.info(name).shape):
            found["labels_num"] = shape[0]
            break
    return found


def _count(names: Iterable[str], prefix: str) -> int:
    """One more than the largest number that follows a prefix."""
    largest = -1
    for name in names:
        if name.startswith(prefix):
            number = name[len(prefix) :].split(".", 1)[0]
            if number.isdecimal() and len(number) < 7:
                largest = max(largest, int(number))
    return largest + 1
