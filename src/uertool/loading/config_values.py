"""Values of model configurations: read from JSON files and checked by type.

What a field may hold follows from its annotation in `ModelConfig`, so there is no second table.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from uertool.checkpoints.generations import Generation
from uertool.checkpoints.reader import HF_CONFIG_KEY
from uertool.config import (
    EMBEDDINGS,
    LEGACY_TARGETS,
    TARGETS,
    UER_MAX_DISTANCE,
    ModelConfig,
    RopeScaling,
    split_words,
)
from uertool.errors import ConfigError, SettingError, UertoolError, UsageError, shown
from uertool.io.small_files import read_json_object

#: Keys that only configurations of other programs have.
FOREIGN_KEYS = frozenset(
    ["model_type", "architectures", "transformers_version", "num_hidden_layers", "n_layer"]
    + ["num_attention_heads", "num_layers", "d_model"]
)

#: Settings of UER-py that do not change what a trained model computes.
_TRAINING = frozenset(
    ["adv_type", "batch_size", "crf_target", "data_processor", "deep_init", "do_lower_case"]
    + ["dropout", "fgm_epsilon", "fp16", "fp16_opt_level", "labels", "learning_rate"]
    + ["lr_decay", "optimizer", "pgd_alpha", "pgd_epsilon", "pgd_k", "prefix_lm_loss"]
    + ["scheduler", "seed", "seq_length", "span_geo_prob", "span_masking", "span_max_length"]
    + ["spm_model_path", "stream_0", "stream_1", "tokenizer", "use_adv", "vocab_path", "warmup"]
    + ["whole_word_masking"]
)

#: Words that a list may hold.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "embedding": EMBEDDINGS,
    "tgt_embedding": EMBEDDINGS,
    "target": (*TARGETS, *LEGACY_TARGETS),
}

#: Settings that UER-py's configurations have, in their usual order.
_UER_NAMES = (
    *("emb_size", "feedforward_size", "hidden_size", "hidden_act", "heads_num", "layers_num"),
    *("decoder_layers_num", "max_seq_length", "embedding", "tgt_embedding", "encoder", "decoder"),
    *("mask", "layernorm_positioning", "layernorm", "feed_forward", "remove_embedding_layernorm"),
    *("remove_attention_scale", "remove_transformer_bias", "relative_position_embedding"),
    *("relative_attention_buckets_num", "factorized_embedding_parameterization"),
    *("parameter_sharing", "has_residual_attention", "bidirectional", "kernel_size", "block_size"),
    *("share_embedding", "tie_weights", "has_lmtarget_bias", "pooling", "target"),
)

#: Settings that TencentPretrain or uertool alone has, for models with rotary positions.
_ROTARY_NAMES = (
    *("rotary_position_embedding", "local_kv_heads_num", "attention_head_size", "rope_theta"),
    *("rope_scaling", "qkv_bias", "attention_output_bias", "qk_norm"),
)

#: Settings of models that neither UER-py nor TencentPretrain has.
_OWN_NAMES = (
    *("norm", "norm_eps", "mlm_act", "task_type", "max_relative_position", "rotary_order"),
    *("rotary_value", "local_attention", "global_attn_every_n_layers", "local_rope_theta"),
)

#: Settings that the 2021 generation does not have.
_MODULAR_ONLY = frozenset(["decoder_layers_num", "has_residual_attention", "target"])

#: Upper limits that keep a wrong file from asking for endless work.
_LIMITS: Mapping[str, int] = {"layers_num": 10_000, "decoder_layers_num": 10_000}
_LARGEST = 2**31 - 1

#: Makes an error of a field's name, its value and what was expected.
Fault = Callable[[str, Any, str], UertoolError]


def read_config(path: str | Path) -> dict[str, Any]:
    """The JSON object in a configuration file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    return read_json_object(path, error=ConfigError)


def fields_from_uer(
    content: Mapping[str, Any], path: str | Path, notes: list[str] | None = None
) -> dict[str, Any]:
    """ModelConfig fields from a UER-py configuration of either generation.

    Args:
        content: the JSON object.
        path: named in errors.
        notes: gets a sentence about unknown settings.

    Raises:
        ConfigError: a value has the wrong type or is not among the choices.
    """
    content = dict(content)
    if "layernorm_eps" in content:  # TencentPretrain's word
        content["norm_eps"] = content.pop("layernorm_eps")
    unknown = sorted(set(content) - set(ModelConfig.names()) - _TRAINING - {HF_CONFIG_KEY})
    if unknown and notes is not None:
        notes.append(f"{path} has settings that uertool does not know: {', '.join(unknown)}.")
    stream = content.get("stream_0")
    if isinstance(stream, dict):
        # A siamese model describes its streams separately; their kind is known from the tensors.
        own = {k: v for k, v in stream.items() if k not in ("embedding", "encoder")}
        content = {**own, **content}
    found = checked(_known(content), _fault_in(path))
    found.pop("target", None)
    return found


def uer_content(config: ModelConfig, generation: Generation) -> dict[str, Any]:
    """A configuration of UER-py for a model; `fields_from_uer` reads it back.

    Args:
        config: the model. What UER-py has no setting for, such as its kind of layer norm, is lost,
            except for models that UER-py does not have.
        generation: the 2021 generation writes lists as words joined by underscores.
    """
    names = [n for n in _UER_NAMES if generation == "modular" or n not in _MODULAR_ONLY]
    values = {name: value for name, value in config.to_json().items() if name in names}
    values = {name: values[name] for name in names}
    if config.decoder is None:
        for name in ("decoder", "tgt_embedding", "decoder_layers_num"):
            values.pop(name, None)
    if config.attention_head_size * config.heads_num != config.hidden_size:
        values["attention_head_size"] = config.attention_head_size
    rotary = config.rotary_position_embedding
    if rotary or config.is_beyond_uer:
        more = (*_ROTARY_NAMES, *(_OWN_NAMES if config.is_beyond_uer else ()))
        own = {name: getattr(config, name) for name in more}
        if config.rope_scaling is not None:
            own["rope_scaling"] = config.rope_scaling.to_json()
        default = ModelConfig(0, 0, 0)
        values.update({k: v for k, v in own.items() if v != getattr(default, k)})
        values["rope_theta"] = config.rope_theta  # its usual value depends on the architecture
    if config.layernorm != "normal" and (rotary or config.norm_eps != 1e-6):
        values["layernorm_eps"] = config.norm_eps
    if config.relative_attention_max_distance != UER_MAX_DISTANCE:
        values["relative_attention_max_distance"] = config.relative_attention_max_distance
    if config.encoder == "dual":
        stream = {**values, "embedding": ["word", "pos", "seg"], "encoder": "transformer"}
        values["stream_0"] = values["stream_1"] = stream
    if generation == "legacy":
        values = {k: "_".join(v) if isinstance(v, list) else v for k, v in values.items()}
    return {**values, "dropout": 0.1}


def stored_fields(content: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """ModelConfig fields that a weight file keeps in its metadata.

    Raises:
        ConfigError: a value has the wrong type or is not among the choices.
    """
    return checked(_known(content), _fault_in(path))


def given_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """ModelConfig fields that a user gave; None means not given.

    Raises:
        UsageError: a setting is unknown, or its value is invalid.
    """
    return checked({k: v for k, v in values.items() if v is not None}, _setting_fault)


def checked(values: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
    """Values of the right types; lists of words are split."""
    kinds = _kinds()
    unknown = next((name for name in values if name not in kinds), None)
    if unknown is not None:
        raise UsageError(f"Unknown setting of the model: {unknown}.")
    return {name: _as_field(name, value, kinds[name], fault) for name, value in values.items()}


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    known = _kinds()
    return {name: value for name, value in content.items() if name in known and value is not None}


def _fault_in(path: str | Path) -> Fault:
    def fault(name: str, value: Any, wanted: str) -> UertoolError:
        return ConfigError(
            f"{path} has an invalid {name}: {shown(repr(value), 60)} (must be {wanted})."
        )

    return fault


def _setting_fault(name: str, value: Any, wanted: str) -> UertoolError:
    return SettingError(name, value, f"must be {wanted}")


@cache
def _kinds() -> dict[str, Any]:
    """Field name to its type, or to a tuple of choices."""
    hints = typing.get_type_hints(ModelConfig)
    return {name: _choices(hints[name]) or hints[name] for name in ModelConfig.names()}


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, None included where it may be; () for other types."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return typing.get_args(hint)
    if origin in (Union, UnionType):
        return tuple(chain.from_iterable(map(_choices, typing.get_args(hint))))
    return (None,) if hint is NoneType else ()


def _as_field(name: str, value: Any, kind: Any, fault: Fault) -> Any:
    if isinstance(value, RopeScaling):
        return value
    if name == "rope_scaling":
        if value is None or isinstance(value, RopeScaling):
            return value
        if not isinstance(value, Mapping):
            raise fault(name, value, "an object")
        return RopeScaling.from_json(value, 0)
    if isinstance(kind, tuple):
        if not isinstance(value, (str, NoneType)) or value not in kind:
            raise fault(name, value, f"one of {', '.join(map(str, kind))}")
        return value
    if name in _WORDS:
        parts = split_words(value) if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or any(part not in _WORDS[name] for part in parts):
            raise fault(name, value, f"made of {', '.join(_WORDS[name])}")
        return tuple(parts)
    if kind is bool:
        if not isinstance(value, bool):
            raise fault(name, value, "true or false")
        return value
    if kind is int:
        most = _LIMITS.get(name, _LARGEST)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise fault(name, value, f"a whole number from 0 to {most}")
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise fault(name, value, "a number")
    return float(value)
