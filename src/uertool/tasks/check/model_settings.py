"""The settings of a checkpoint with the place that each was learned from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uertool.errors import ConfigError

if TYPE_CHECKING:
    from uertool.checkpoints.reader import Checkpoint

#: What tells a setting that is inferred from tensors.
_TOLD_BY: Mapping[str, str] = {
    "vocab_size": "rows of the word table",
    "emb_size": "columns of the word table",
    "max_seq_length": "rows of the position table",
    "segments_num": "rows of the segment table",
    "embedding": "the tables that are there",
    "sinusoid": "whether the sinusoidal table is stored",
    "remove_embedding_layernorm": "whether the embedding has a layer norm",
    "encoder": "names and shapes of the encoder's weights",
    "bidirectional": "whether there are weights of the reverse direction",
    "kernel_size": "shape of the first convolution",
    "parameter_sharing": "whether layers have numbers",
    "layers_num": "numbers in the encoder's names",
    "hidden_size": "shape of the first layer's weights",
    "feedforward_size": "rows of feed_forward.linear_1",
    "remove_transformer_bias": "whether the query has a bias",
    "feed_forward": "whether there is a linear_gate",
    "layernorm": "gamma and beta, or a weight alone",
    "norm": "whose names the file has",
    "layernorm_positioning": "whether a layer norm follows the last layer",
    "factorized_embedding_parameterization": "whether encoder.linear is there",
    "relative_position_embedding": "whether there is a table of relative positions",
    "relative_attention_buckets_num": "rows of the table of relative positions",
    "heads_num": "columns of the table of relative positions",
    "attention_head_size": "rows of the query by heads",
    "decoder": "whether there are decoder layers",
    "decoder_layers_num": "numbers in the decoder's names",
    "tgt_embedding": "the decoder's tables",
    "tgt_vocab_size": "rows of the decoder's word table",
    "tgt_max_seq_length": "rows of the decoder's position table",
    "target": "the heads that are there",
    "has_lmtarget_bias": "whether the output layer has a bias",
    "labels_num": "rows of the task's output layer",
}


@dataclass(frozen=True)
class Setting:
    """One value of the model configuration and where it came from.

    Attributes:
        name: UER-py's word for it.
        value: as `ModelConfig` has it; None where nothing tells.
        source: "inferred", "assumed", "config file", "default" or "unknown".
        how: what in the file tells it, for inferred ones.
    """

    name: str
    value: Any
    source: str
    how: str = ""


@dataclass(frozen=True)
class Settings:
    """All settings of a checkpoint.

    Attributes:
        values: one per setting, those that were learned first.
        notes: what was assumed, or cannot be told.
        problem: a contradiction between a configuration and the tensors, or None.
    """

    values: tuple[Setting, ...]
    notes: tuple[str, ...] = ()
    problem: ConfigError | None = None


def settings_of(checkpoint: Checkpoint, config_path: str | Path | None = None) -> Settings:
    """Every setting of a model; nothing is raised, what is wrong is in the result.

    Args:
        checkpoint: whose tensors tell most of it.
        config_path: a configuration that should fit; by default the one beside the checkpoint.
    """
    from uertool.checkpoints.inference import infer_config
    from uertool.loading.config_resolution import resolve_config

    inferred = infer_config(checkpoint)
    unknown: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    try:
        resolved = resolve_config(checkpoint, config_path)
    except ConfigError as error:
        if config_path is not None:
            return Settings(_listed(inferred, {}), problem=error)
        try:
            # With a number of heads everything else may fit: that one only a configuration tells.
            resolved = resolve_config(checkpoint, None, {"heads_num": 1})
        except ConfigError:
            return Settings(_listed(inferred, {}), problem=error)
        unknown = ("heads_num", "attention_head_size")
        more = (f"{error.message} {error.hint or ''}".strip(),)
    config = resolved.config
    values = {name: getattr(config, name) for name in config.names()}
    values.update(dict.fromkeys(unknown))
    sources = {**config.sources, **dict.fromkeys(unknown, "unknown")}
    return Settings(_listed(values, sources), (*resolved.notes, *more))


def _listed(values: Mapping[str, Any], sources: Mapping[str, str]) -> tuple[Setting, ...]:
    """Settings that were learned, then those left at their defaults."""
    found = []
    for name, value in values.items():
        source = sources.get(name, "default" if sources else "inferred")
        how = _TOLD_BY.get(name, "") if source == "inferred" else ""
        found.append(Setting(name, value, source, how))
    return tuple(sorted(found, key=lambda setting: setting.source == "default"))
