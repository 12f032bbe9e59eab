"""The configuration of a checkpoint, with the evidence for each value in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uertool.errors import ConfigError
from uertool.tasks.check.report import ConfigValue, Inspection

if TYPE_CHECKING:
    from uertool.checkpoints.reader import Checkpoint

#: What in the file shows a value that is inferred from tensors.
_EVIDENCE: Mapping[str, str] = {
    "vocab_size": "rows of the word table",
    "emb_size": "columns of the word table",
    "max_seq_length": "rows of the position table",
    "segments_num": "rows of the segment table",
    "task_types_num": "rows of the task table",
    "embedding": "the tables in the file",
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
    "remove_layernorm_bias": "whether layer norms have a beta",
    "remove_first_layernorm": "whether the first layer begins with a layer norm",
    "remove_mlm_bias": "whether the MLM head's first layer has a bias",
    "feed_forward": "whether there is a linear_gate",
    "layernorm": "gamma and beta, or a weight alone",
    "norm": "the naming of the file",
    "layernorm_positioning": "whether a layer norm follows the last layer",
    "factorized_embedding_parameterization": "whether there is an encoder.linear",
    "relative_position_embedding": "whether there is a table of relative positions",
    "relative_attention_buckets_num": "rows of the table of relative positions",
    "heads_num": "the table of relative positions, or norms of heads",
    "local_kv_heads_num": "rows of the key by norms of heads",
    "qkv_bias": "whether the query alone has a bias",
    "attention_output_bias": "whether only attention has biases",
    "qk_norm": "whether queries and keys have norms",
    "attention_head_size": "rows of the query by heads",
    "decoder": "whether there are decoder layers",
    "decoder_layers_num": "numbers in the decoder's names",
    "tgt_embedding": "the decoder's tables",
    "tgt_vocab_size": "rows of the decoder's word table",
    "tgt_max_seq_length": "rows of the decoder's position table",
    "target": "the heads in the file",
    "has_lmtarget_bias": "whether the output layer has a bias",
    "labels_num": "rows of the task's output layer",
}


def add_configuration(
    checkpoint: Checkpoint, config_path: str | Path | None, result: Inspection
) -> None:
    """Add the configuration of a checkpoint to a result, and what is assumed, unknown or wrong.

    Args:
        checkpoint: names and shapes tell most of it.
        config_path: a configuration that should fit; by default the one next to the checkpoint.
        result: gets `settings`, those that are known first, and findings.
    """
    from uertool.checkpoints.inference import infer_config
    from uertool.loading.assumptions import unknown_heads
    from uertool.loading.config_resolution import resolve_config

    try:
        resolved = resolve_config(checkpoint, config_path, complete=False)
    except ConfigError as error:
        inferred = infer_config(checkpoint)
        result.settings = _ordered(inferred, dict.fromkeys(inferred, "inferred"))
        result.fail(error)
        return
    config = resolved.config
    values = {name: getattr(config, name) for name in config.names()}
    sources = dict(config.sources)
    for sentence in resolved.notes:
        result.warn(sentence)
    if sources.get("heads_num") == "unknown":
        for name in ("heads_num", "attention_head_size"):
            values[name], sources[name] = None, "unknown"
        result.warn(str(unknown_heads(checkpoint)))
    result.settings = _ordered(values, sources)


def _ordered(values: Mapping[str, Any], sources: Mapping[str, str]) -> list[ConfigValue]:
    """Values with a source, then those left at their defaults."""
    found = []
    for name, value in values.items():
        source = sources.get(name, "default")
        how = _EVIDENCE.get(name, "") if source == "inferred" else ""
        found.append(ConfigValue(name, value, source, how))
    return sorted(found, key=lambda item: item.source == "default")
