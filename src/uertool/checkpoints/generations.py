"""Names within UER-py: the renames between its two generations, and which names it knows at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Generation = Literal["legacy", "modular"]

_EMBEDDING_PARTS: tuple[tuple[str, str], ...] = (
    ("word_embedding.", "word.embedding."),
    ("position_embedding.", "pos.embedding."),
    ("segment_embedding.", "seg.embedding."),
)

#: Prefix in legacy files, prefix in modular ones. Longer prefixes come first.
_PREFIXES: tuple[tuple[str, str], ...] = (
    *((f"target.embedding.{old}", f"tgt_embedding.{new}") for old, new in _EMBEDDING_PARTS),
    ("target.embedding.pe", "tgt_embedding.sinusoidalpos.pe"),
    ("target.embedding.", "tgt_embedding."),
    *((f"embedding.{old}", f"embedding.{new}") for old, new in _EMBEDDING_PARTS),
    ("embedding.pe", "embedding.sinusoidalpos.pe"),
    ("target.decoder.", "decoder."),
    ("target.mlm_linear_", "target.mlm.linear_"),
    ("target.layer_norm.", "target.mlm.layer_norm."),
    ("target.output_layer.", "target.lm.output_layer."),
)

#: Sentence-pair heads by target: what the 2021 generation calls them.
_PAIR_HEADS = ("nsp", "sop", "sp")

#: The siamese converter of UER-py leaves out the part that its models have.
_OTHER_SPELLINGS: tuple[tuple[str, str], ...] = (
    ("embedding.embedding_", "embedding.dual.embedding_"),
    ("embedding.stream_", "embedding.dual.stream_"),
)

_NORM = r"(gamma|beta|weight)"
_LINEAR = r"(weight|bias)"
_N = r"\d+"
_TABLES = rf"(word|pos|seg|task)\.embedding\.weight|sinusoidalpos\.pe|layer_norm\.{_NORM}"
_ATTENTION = rf"((linear_layers\.[012]|final_linear)\.{_LINEAR}|(query|key)_norm\.weight)"
_FEED_FORWARD = rf"feed_forward\.(linear_1|linear_2|linear_gate)\.{_LINEAR}"
_BIAS = r"relative_attention_bias\.weight"
_CELL = r"(weight|bias)_[ih]h_l\d+(_reverse)?"

#: Every name that UER-py's modules can write, in the canonical spelling.
_KNOWN = re.compile(
    "|".join(
        (
            rf"(tgt_)?embedding\.({_TABLES})",
            rf"embedding\.dual\.embedding_{_N}\.({_TABLES})",
            rf"embedding\.dual\.stream_{_N}_layer_norm\.{_NORM}",
            rf"encoder\.(encoder_{_N}\.)?linear\.{_LINEAR}",
            rf"encoder\.(encoder_{_N}\.)?layer_norm\.{_NORM}",
            rf"encoder\.(encoder_{_N}\.)?relative_pos_emb\.{_BIAS}",
            (
                rf"encoder\.(encoder_{_N}\.)?transformer\.({_N}\.)?"
                rf"(self_attn\.{_ATTENTION}|{_FEED_FORWARD}|layer_norm_[12]\.{_NORM})"
            ),
            rf"encoder\.(encoder_{_N}\.)?rnn(_forward|_backward)?\.{_CELL}",
            rf"encoder\.(encoder_{_N}\.)?(conv|gate)(_1|\.{_N})\.{_LINEAR}",
            rf"encoder\.(encoder_{_N}\.)?(conv|gate)_(b1|b\.{_N})",
            (
                rf"decoder\.transformer_decoder\.{_N}\."
                rf"((self_attn|context_attn)\.{_ATTENTION}|{_FEED_FORWARD}|layer_norm_[123]\.{_NORM})"
            ),
            rf"decoder\.layer_norm\.{_NORM}",
            rf"decoder\.self_pos_emb\.{_BIAS}",
            rf"target\.mlm\.(linear_[12]\.{_LINEAR}|layer_norm\.{_NORM})",
            rf"target\.(sp|cls|rtd)\.linear_[12]\.{_LINEAR}",
            rf"target\.(lm|bilm)\.output_layer\.{_LINEAR}",
            rf"target\.bilm\.output_layer_(forward|backward)\.{_LINEAR}",
            rf"output_layer(_[12])?\.{_LINEAR}",
            rf"classifier\.{_LINEAR}",
        )
    )
)

_LEGACY_MARKS = re.compile(
    r"(target\.)?embedding\.(word_embedding|position_embedding|segment_embedding)\."
    r"|(target\.)?embedding\.pe$|target\.decoder\.|target\.embedding\."
    r"|target\.(mlm|nsp|sop|sp)_linear_|target\.layer_norm\.|target\.output_layer\."
    r"|target\.linear_[12]\."
)
_MODULAR_MARKS = re.compile(
    r"(tgt_)?embedding\.(word|pos|seg)\.embedding\.|embedding\.(dual|embedding_\d)\.|tgt_embedding\."
    r"|decoder\.|target\.(mlm|sp|lm|bilm|cls)\."
)


def is_uer_name(name: str) -> bool:
    """Whether a canonical name is one that UER-py's modules write."""
    return _KNOWN.fullmatch(name) is not None


def to_canonical(name: str) -> str:
    """A UER-py name of either generation in its canonical, that is modular, spelling."""
    for head in _PAIR_HEADS:
        if name.startswith(f"target.{head}_linear_"):
            return "target.sp.linear_" + name[len(f"target.{head}_linear_") :]
    if name.startswith("target.linear_"):
        return "target.cls.linear_" + name[len("target.linear_") :]
    for old, new in (*_PREFIXES, *_OTHER_SPELLINGS):
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def to_legacy(name: str, *, pair_head: str = "nsp") -> str:
    """A canonical name as the 2021 generation spells it.

    Args:
        name: canonical name.
        pair_head: "nsp" for BERT, "sop" for ALBERT.
    """
    if name.startswith("target.sp.linear_"):
        return f"target.{pair_head}_linear_" + name[len("target.sp.linear_") :]
    if name.startswith("target.cls.linear_"):
        return "target.linear_" + name[len("target.cls.linear_") :]
    for old, new in _PREFIXES:
        if name.startswith(new):
            return old + name[len(new) :]
    return name


def generation_of(names: Iterable[str]) -> Generation | None:
    """Which generation wrote these names; None if they do not show it (a bare encoder)."""
    legacy = modular = 0
    for name in names:
        legacy += _LEGACY_MARKS.match(name) is not None
        modular += _MODULAR_MARKS.match(name) is not None
    if legacy == modular:
        return None
    return "legacy" if legacy > modular else "modular"
