"""resolve_config: one ModelConfig from defaults, tensors, a configuration file and the user.

Later sources win: default < assumed < inferred < config file < command line. What the tensors show
cannot be overridden: all values that contradict them are named in one error.
`ModelConfig.sources` keeps where every value came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uertool.bundled import find_config
from uertool.checkpoints.companions import find_companions
from uertool.checkpoints.inference import infer_config
from uertool.checkpoints.reader import Checkpoint
from uertool.config import ModelConfig
from uertool.errors import ConfigError, UertoolError
from uertool.loading.assumptions import Draft, assume, unknown_heads
from uertool.loading.config_values import (
    FOREIGN_KEYS,
    fields_from_uer,
    given_fields,
    read_config,
    stored_fields,
)

#: Fields that follow from the tensors; other values are contradictions.
_SETTLED = frozenset(
    ["vocab_size", "emb_size", "hidden_size", "layers_num", "feedforward_size", "heads_num"]
    + ["local_kv_heads_num", "attention_head_size", "max_seq_length", "segments_num"]
    + ["task_types_num", "embedding", "encoder", "layernorm_positioning", "layernorm"]
    + ["feed_forward", "remove_transformer_bias", "qkv_bias", "attention_output_bias", "qk_norm"]
    + ["remove_embedding_layernorm", "relative_position_embedding"]
    + ["relative_attention_buckets_num", "factorized_embedding_parameterization"]
    + ["parameter_sharing", "bidirectional", "kernel_size", "decoder_layers_num"]
    + ["tgt_vocab_size", "tgt_max_seq_length", "tgt_embedding", "has_lmtarget_bias"]
)


@dataclass(frozen=True)
class Resolved:
    """A configuration and what a user should know of it.

    Attributes:
        config: the values, with their sources.
        notes: sentences about what was assumed or ignored.
    """

    config: ModelConfig
    notes: tuple[str, ...] = ()


def resolve_config(
    checkpoint: Checkpoint,
    config_path: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    complete: bool = True,
) -> Resolved:
    """The configuration of a checkpoint.

    Args:
        checkpoint: most settings follow from its names and shapes.
        config_path: a JSON configuration of UER-py or of the checkpoint's own
            library, or a preset such as "bert/base"; by default the one next to the checkpoint.
        settings: values by ModelConfig's names that override everything else; None means not
            given.
        complete: whether an unknown number of attention heads is an error. If not, it is 0 in the
            result, which cannot be run.

    Raises:
        ConfigError: the file cannot be read or understood, values contradict the tensors, or a
            needed value is unknown. All contradictions are named at once.
        UsageError: a setting is unknown or has an invalid value.
    """
    inferred = infer_config(checkpoint)
    given = given_fields(settings or {})
    notes: list[str] = []
    layers: list[tuple[str, Mapping[str, Any]]] = [("inferred", inferred)]
    if checkpoint.stored_config is not None:
        stored = stored_fields(checkpoint.stored_config, f"The configuration in {checkpoint.path}")
        layers.append(("config file", stored))
    if config_path is not None:
        path = find_config(config_path)
        if path is None:
            raise ConfigError(f"The configuration {config_path} does not exist.", "Check the path.")
        layers.append(("config file", _fields(checkpoint, path, notes)))
    else:
        layers.extend(_own_configuration(checkpoint, inferred, notes))
    layers.append(("command line", given))
    _refuse_contradictions(checkpoint, inferred, layers, config_path)
    values, sources = _merged(layers)
    _keep_settled(values, sources, inferred)
    assume(Draft(checkpoint, values, sources, notes))
    if complete and sources.get("heads_num") == "unknown":
        raise unknown_heads(checkpoint)
    _require_sizes(checkpoint, values)
    _require_task_type(checkpoint, values)
    return Resolved(ModelConfig(**values, sources=sources), tuple(notes))


def named_hf_config(config_path: str | Path | None) -> dict[str, Any] | None:
    """The config.json of a Hugging Face model that a user named, or None.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = find_config(config_path) if config_path is not None else None
    content = read_config(path) if path is not None else {}
    return content if "model_type" in content else None


def _merged(
    layers: Iterable[tuple[str, Mapping[str, Any]]],
) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, given in layers:
        for name, value in given.items():
            same = name in values and values[name] == value
            values[name] = value
            # A file that repeats what the tensors say adds nothing.
            if not same or source == "command line":
                sources[name] = source
    return values, sources


def _keep_settled(
    values: dict[str, Any], sources: dict[str, str], inferred: Mapping[str, Any]
) -> None:
    """Restore what the tensors show where a file describes parts that the model lacks."""
    decoder = inferred.get("decoder")
    values["decoder"] = decoder
    values["target"] = inferred.get("target", ())
    values["has_lmtarget_bias"] = inferred.get("has_lmtarget_bias", False)
    if decoder is None:
        for name in ("tgt_embedding", "tgt_vocab_size", "tgt_max_seq_length", "decoder_layers_num"):
            values.pop(name, None)
            sources.pop(name, None)
    if "remove_embedding_layernorm" in inferred:
        values["remove_embedding_layernorm"] = inferred["remove_embedding_layernorm"]
    if inferred.get("layernorm") in ("t5", "rms"):
        values["norm"] = "rms"


def _refuse_contradictions(
    checkpoint: Checkpoint,
    inferred: Mapping[str, Any],
    layers: Iterable[tuple[str, Mapping[str, Any]]],
    config_path: str | Path | None,
) -> None:
    faults: list[str] = []
    for source, given in layers:
        if source == "inferred":
            continue
        for name, value in given.items():
            if contradicts(name, value, inferred):
                file = config_path or "its own configuration"
                said = f"`{name}`" if source == "command line" else f"{name} in {file}"
                faults.append(
                    f"{said} is {_words(value)}, but the tensors have {_words(inferred[name])}"
                )
    if faults:
        raise ConfigError(
            f"The configuration does not fit {checkpoint.path}: {'; '.join(faults)}.",
            "Leave these values out: they are read from the tensors. Or name the checkpoint that "
            "they belong to.",
        )


def contradicts(name: str, value: Any, inferred: Mapping[str, Any]) -> bool:
    """Whether a value cannot be true of the tensors that gave `inferred`."""
    own = inferred.get(name)
    if name not in _SETTLED or own in (None, ()) or _is_idle(name, inferred):
        return False
    differs = _LENIENT.get(name)
    return bool(value != own) if differs is None else differs(value, own, inferred)


def _is_idle(name: str, inferred: Mapping[str, Any]) -> bool:
    """Whether a setting describes a part that the model lacks, as full configurations do."""
    if name.startswith(("tgt_", "decoder")):
        return inferred.get("decoder") is None
    if name == "max_seq_length":
        return not {"pos", "sinusoidalpos"} & set(inferred.get("embedding", ()))
    return name in _TRANSFORMER_ONLY and inferred.get("encoder") not in ("transformer", "dual")


def _other_tables(value: Any, own: Any, inferred: Mapping[str, Any]) -> bool:
    # Modular UER-py computes its sinusoidal table and stores none.
    return set(value) - {"sinusoidalpos"} != set(own) - {"sinusoidalpos"}


def _norm_removed(value: Any, own: Any, inferred: Mapping[str, Any]) -> bool:
    # An embedding with legacy sinusoids never has a norm, even if a file says so.
    return bool(value != own) and not (inferred.get("sinusoid") == "legacy" and not value)


#: Settings for which some differences from the tensors have no meaning.
_LENIENT: Mapping[str, Callable[[Any, Any, Mapping[str, Any]], bool]] = {
    "embedding": _other_tables,
    "tgt_embedding": _other_tables,
    "remove_embedding_layernorm": _norm_removed,
    "has_lmtarget_bias": lambda value, own, _: bool(value) and not own,
    "emb_size": lambda value, own, _: value not in (0, own),
    "attention_head_size": lambda value, own, _: value not in (0, own),
    "layernorm": lambda value, own, _: (value == "normal") != (own == "normal"),
}

_TRANSFORMER_ONLY = frozenset(
    ["feedforward_size", "layernorm_positioning", "layernorm", "feed_forward", "parameter_sharing"]
    + ["remove_transformer_bias", "relative_position_embedding"]
)


def _require_sizes(checkpoint: Checkpoint, values: Mapping[str, Any]) -> None:
    missing = [name for name in ("vocab_size", "hidden_size", "layers_num") if not values.get(name)]
    if missing or not values.get("encoder"):
        what = ", ".join(missing) or "the encoder"
        raise ConfigError(
            f"{checkpoint.path} is not a complete model: {what} cannot be read from its tensors."
        )


def _require_task_type(checkpoint: Checkpoint, values: Mapping[str, Any]) -> None:
    """Refuse a task type that the model does not have."""
    task, there = values.get("task_type", 0), "task" in values.get("embedding", ())
    rows = values.get("task_types_num", 0) if there else 1
    if task >= rows:
        has = f"{rows} of them, numbered from 0" if there else "none"
        raise ConfigError(
            f"There is no task type {task}: {checkpoint.path} has {has}.",
            "Choose another `task_type`." if there else "Leave `task_type` out.",
        )


def _own_configuration(
    checkpoint: Checkpoint, inferred: Mapping[str, Any], notes: list[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The configuration that belongs to a checkpoint, or that is in its folder and fits."""
    if checkpoint.layout == "hf":
        if checkpoint.hf_config is None or checkpoint.arch is None:
            return []
        return [("config file", checkpoint.arch.config_from_hf(checkpoint.hf_config))]
    if checkpoint.stored_config is not None:
        return []
    for path in find_companions(checkpoint.path, *_CONFIG_NAMES[checkpoint.layout]):
        try:
            values = _fields(checkpoint, path, notes)
        except UertoolError as error:
            notes.append(f"{path} is not used: {error.message}")
            continue
        wrong = [key for key, value in values.items() if contradicts(key, value, inferred)]
        if not wrong:
            return [("config file", values)]
        differ = ", ".join(wrong)
        notes.append(f"{path} is not used: it belongs to another model ({differ} differ).")
    return []


_CONFIG_NAMES: Mapping[str, tuple[str, ...]] = {
    "uer": ("config.json",),
    "tf": ("bert_config.json", "albert_config.json", "config.json"),
}


def _fields(checkpoint: Checkpoint, path: Path, notes: list[str]) -> dict[str, Any]:
    """ModelConfig fields from a configuration of UER-py or of another library."""
    content = read_config(path)
    foreign = sorted(FOREIGN_KEYS & set(content))
    if not foreign:
        return fields_from_uer(content, path, notes)
    if checkpoint.layout == "uer" or checkpoint.arch is None:
        raise ConfigError(
            f"{path} is a Hugging Face configuration (it has {', '.join(foreign)}), but "
            f"{checkpoint.path} has UER-py's names.",
            "Give a configuration of UER-py (hidden_size, layers_num, heads_num, ...), or none: "
            "most values are read from the tensors.",
        )
    return checkpoint.arch.config_from_hf(content)


def _words(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
