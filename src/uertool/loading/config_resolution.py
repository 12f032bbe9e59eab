"""resolve_config: one ModelConfig from defaults, tensors, a config file and the command line.

Later ones win: default < assumed < inferred < config file < command line. What tensors tell cannot
be overridden: a value that contradicts them is an error that says both, all of them at once. Where
every value came from is kept in `ModelConfig.sources`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uertool.bundled import find_config
from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.inference import infer_config
from uertool.checkpoints.reader import Checkpoint
from uertool.config import (
    ACTIVATIONS,
    EMBEDDINGS,
    ENCODERS,
    LEGACY_TARGETS,
    MASKS,
    TARGETS,
    ModelConfig,
    split_words,
)
from uertool.errors import ConfigError, UertoolError, UsageError

#: Keys that only other programs' configurations have.
FOREIGN_KEYS = frozenset(
    ["model_type", "architectures", "transformers_version", "num_hidden_layers", "n_layer"]
    + ["num_attention_heads", "num_layers", "d_model"]
)

#: Settings of UER-py that say nothing about how a trained model computes.
_TRAINING = frozenset(
    ["adv_type", "batch_size", "crf_target", "data_processor", "deep_init", "dropout"]
    + ["fgm_epsilon", "fp16", "fp16_opt_level", "labels", "learning_rate", "lr_decay", "optimizer"]
    + ["pgd_alpha", "pgd_epsilon", "pgd_k", "prefix_lm_loss", "scheduler", "seed", "seq_length"]
    + ["span_geo_prob", "span_masking", "span_max_length", "spm_model_path", "stream_0", "stream_1"]
    + ["tokenizer", "use_adv", "vocab_path", "warmup", "whole_word_masking"]
)

_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ACTIVATIONS,
    "encoder": ENCODERS,
    "mask": MASKS,
    "layernorm_positioning": ("post", "pre"),
    "layernorm": ("normal", "t5"),
    "norm": ("uer", "standard", "rms"),
    "feed_forward": ("dense", "gated"),
    "decoder": ("transformer", None),
    "pooling": ("first", "mean", "max", "last"),
    "sinusoid": ("legacy", "modular"),
    "mlm_act": (*ACTIVATIONS, None),
}

#: Fields that hold several words.
_LISTS: Mapping[str, tuple[str, ...]] = {
    "embedding": EMBEDDINGS,
    "tgt_embedding": EMBEDDINGS,
    "target": (*TARGETS, *LEGACY_TARGETS),
}

#: Fields that tensors settle where they say anything, so that other values are contradictions.
_SETTLED = (
    "vocab_size",
    "emb_size",
    "hidden_size",
    "layers_num",
    "feedforward_size",
    "heads_num",
    "max_seq_length",
    "segments_num",
    "embedding",
    "encoder",
    "layernorm_positioning",
    "layernorm",
    "feed_forward",
    "remove_transformer_bias",
    "remove_embedding_layernorm",
    "relative_position_embedding",
    "relative_attention_buckets_num",
    "factorized_embedding_parameterization",
    "parameter_sharing",
    "bidirectional",
    "kernel_size",
    "decoder_layers_num",
    "tgt_vocab_size",
    "tgt_max_seq_length",
    "tgt_embedding",
    "has_lmtarget_bias",
)

#: What is assumed where neither tensors nor files tell, by architecture.
_ASSUMED: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"hidden_act": "gelu_fast", "mask": "causal"},
    "t5": {"hidden_act": "relu", "remove_attention_scale": True},
    "t5-v1_1": {"hidden_act": "gelu_fast", "remove_attention_scale": True},
    "pegasus": {"hidden_act": "relu"},
    "albert": {"hidden_act": "relu"},
}


@dataclass(frozen=True)
class Resolved:
    """A configuration and what a user should know of it.

    Attributes:
        config: the values, with their sources.
        notes: sentences about what was assumed or set aside.
    """

    config: ModelConfig
    notes: tuple[str, ...] = ()


def resolve_config(
    checkpoint: Checkpoint,
    config_path: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Resolved:
    """The configuration of a checkpoint.

    Args:
        checkpoint: whose names and shapes tell most of it.
        config_path: a JSON configuration, in UER-py's words or in those of the checkpoint's
            maker, or a preset such as "bert/base"; by default the one that lies beside it.
        flags: values by ModelConfig's names that override all else; None stands for not given.

    Raises:
        ConfigError: the file cannot be read or understood, values contradict the tensors, or a
            needed value can be had from nowhere. All that is wrong is said at once.
        UsageError: a flag has an impossible value.
    """
    inferred = infer_config(checkpoint)
    flags = _checked(
        {name: value for name, value in (flags or {}).items() if value is not None}, flag_fault
    )
    notes: list[str] = []
    layers: list[tuple[str, Mapping[str, Any]]] = [("inferred", inferred)]
    if checkpoint.stored_config is not None:
        layers.append(("config file", _known(checkpoint.stored_config)))
    if config_path is not None:
        path = find_config(config_path)
        if path is None:
            raise ConfigError(f"The configuration {config_path} does not exist.", "Check the path.")
        given = _fields(checkpoint, path, notes)
        layers.append(("config file", given))
    else:
        layers.extend(_beside(checkpoint, inferred, notes))
    layers.append(("command line", flags))
    _refuse_contradictions(checkpoint, inferred, layers, config_path)
    values, sources = _merged(layers)
    _keep_settled(values, sources, inferred)
    _assume(checkpoint, values, sources, notes)
    _require(checkpoint, values)
    config = ModelConfig(**values, sources=sources)
    return Resolved(config, tuple(notes))


# -- the pieces -----------------------------------------------------------------------------------


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
    """Put back what the tensors settle where a file speaks of parts that the model has not."""
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
    if inferred.get("layernorm") == "t5":
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
            "Leave these values out, since the tensors tell them, or name the checkpoint that "
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
    """Whether a setting is of a part that the model has not, which full configurations name too."""
    if name.startswith(("tgt_", "decoder")):
        return inferred.get("decoder") is None
    if name == "max_seq_length":
        return not {"pos", "sinusoidalpos"} & set(inferred.get("embedding", ()))
    return name in _TRANSFORMER_ONLY and inferred.get("encoder") not in ("transformer", "dual")


def _other_tables(value: Any, own: Any, inferred: Mapping[str, Any]) -> bool:
    # Modular UER-py computes its sinusoidal table and stores none.
    return set(value) - {"sinusoidalpos"} != set(own) - {"sinusoidalpos"}


def _norm_removed(value: Any, own: Any, inferred: Mapping[str, Any]) -> bool:
    # An embedding with legacy sinusoids never has a norm, whatever is said of it.
    return bool(value != own) and not (inferred.get("sinusoid") == "legacy" and not value)


#: Settings whose values may differ from the tensors' in ways that mean nothing.
_LENIENT: Mapping[str, Callable[[Any, Any, Mapping[str, Any]], bool]] = {
    "embedding": _other_tables,
    "tgt_embedding": _other_tables,
    "remove_embedding_layernorm": _norm_removed,
    "has_lmtarget_bias": lambda value, own, _: bool(value) and not own,
    "emb_size": lambda value, own, _: value not in (0, own),
}

_TRANSFORMER_ONLY = frozenset(
    ["feedforward_size", "layernorm_positioning", "layernorm", "feed_forward", "parameter_sharing"]
    + ["remove_transformer_bias", "relative_position_embedding"]
)


def _assume(
    checkpoint: Checkpoint, values: dict[str, Any], sources: dict[str, str], notes: list[str]
) -> None:
    """Fill in what nobody told, and say so."""

    def assume(name: str, value: Any, *, aloud: str = "") -> None:
        if name not in values:
            values[name] = value
            sources[name] = "assumed"
            if aloud:
                notes.append(aloud)

    standard = checkpoint.layout != "uer"
    if "norm" not in values:
        values["norm"] = "standard" if standard else "uer"
        sources["norm"] = "inferred"
        if standard and "norm_eps" not in values:
            values["norm_eps"] = 1e-12
            sources["norm_eps"] = "assumed"
    if values["norm"] == "uer":
        # Said by the kind; other libraries' epsilon stands elsewhere in the formula.
        values["norm_eps"] = 1e-6
    words = _ASSUMED.get(checkpoint.architecture or "", {})
    for name, value in words.items():
        assume(name, value)
    if values.get("encoder") in ("transformer", "dual"):
        if values.get("decoder") is None and "lm" in values.get("target", ()):
            assume("mask", "causal")
        if values.get("relative_position_embedding"):
            assume("remove_attention_scale", True)
        _assume_positions(checkpoint, values, sources, notes)
        _assume_heads(checkpoint, values, sources, notes)
        if values.get("parameter_sharing"):
            assume(
                "layers_num",
                12,
                aloud="12 runs of the shared layer are assumed, since the tensors cannot tell; "
                "set `layers_num` or `config_path` if that is wrong.",
            )
        if "hidden_act" not in values:
            values["hidden_act"] = "gelu"
            sources["hidden_act"] = "assumed"
        if sources.get("hidden_act") == "assumed" and values["hidden_act"] != "gelu":
            notes.append(
                f"The activation {values['hidden_act']} is assumed, as usual for "
                f"{checkpoint.architecture}; set `hidden_act` if that is wrong."
            )
    elif "hidden_act" not in values:
        values["hidden_act"] = "gelu"
        sources["hidden_act"] = "assumed"


def _assume_positions(
    checkpoint: Checkpoint, values: dict[str, Any], sources: dict[str, str], notes: list[str]
) -> None:
    """A transformer without any stored positions has computed ones, unless it is told otherwise."""
    for name, size in (("embedding", "max_seq_length"), ("tgt_embedding", "tgt_max_seq_length")):
        if values.get(name) != ("word",) or sources.get(name) != "inferred":
            continue
        if values.get("relative_position_embedding") or checkpoint.layout != "uer":
            continue
        if checkpoint.generation == "legacy":
            continue  # it would have stored them
        values[name] = ("word", "sinusoidalpos")
        values.setdefault(size, 512)
        sources[name] = "assumed"
        notes.append(
            f"Sinusoidal positions are assumed for {name}, since the file has no position table; "
            f"set `{name}` word if there are none."
        )


def _assume_heads(
    checkpoint: Checkpoint, values: dict[str, Any], sources: dict[str, str], notes: list[str]
) -> None:
    hidden = values.get("hidden_size", 0)
    layer = "encoder.transformer." + ("" if values.get("parameter_sharing") else "0.")
    if values.get("encoder") == "dual":
        layer = layer.replace("encoder.", "encoder.encoder_0.", 1)
    query = f"{layer}self_attn.linear_layers.0.weight"
    inner = checkpoint.info(query).shape[0] if checkpoint.has(query) else hidden
    heads = values.get("heads_num")
    if not heads:
        if inner % 64 or not inner:
            raise ConfigError(
                f"The number of attention heads of {checkpoint.path} cannot be told from its "
                f"tensors, and {inner} channels are no multiple of the usual 64.",
                "Set it with `heads_num` or in the file of `config_path`.",
            )
        values["heads_num"] = heads = inner // 64
        sources["heads_num"] = "assumed"
        notes.append(
            f"{heads} attention heads are assumed (one for every 64 of {inner} channels), since "
            "the tensors cannot tell; set `heads_num` if that is wrong."
        )
    if inner % heads:
        raise ConfigError(
            f"{inner} channels of {checkpoint.path} cannot be shared among {heads} attention "
            "heads.",
            f"Set `heads_num` to a divisor of {inner}.",
        )
    values["attention_head_size"] = inner // heads
    sources["attention_head_size"] = sources["heads_num"]


def _require(checkpoint: Checkpoint, values: Mapping[str, Any]) -> None:
    missing = [name for name in ("vocab_size", "hidden_size", "layers_num") if not values.get(name)]
    if missing or not values.get("encoder"):
        what = ", ".join(missing) or "the encoder"
        raise ConfigError(
            f"{checkpoint.path} holds no whole model: {what} cannot be told from its tensors."
        )


# -- files ----------------------------------------------------------------------------------------


def _beside(
    checkpoint: Checkpoint, inferred: Mapping[str, Any], notes: list[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The configuration in the checkpoint's own folder, if it has one that fits."""
    if checkpoint.layout == "hf":
        if checkpoint.hf_config is None or checkpoint.architecture is None:
            return []
        told = architecture(checkpoint.architecture).config_from_hf(checkpoint.hf_config)
        return [("config file", told)]
    if checkpoint.stored_config is not None:
        return []
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    names = ("bert_config.json", "albert_config.json", "config.json")
    for name in names if checkpoint.layout == "tf" else ("config.json",):
        path = folder / name
        if not path.is_file():
            continue
        try:
            told = _fields(checkpoint, path, notes)
        except UertoolError as error:
            notes.append(f"{path} is not used: {error.message}")
            continue
        wrong = [key for key, value in told.items() if contradicts(key, value, inferred)]
        if wrong:
            notes.append(f"{path} is not used: it is of another model ({', '.join(wrong)} differ).")
            continue
        return [("config file", told)]
    return []


def read_config(path: str | Path) -> dict[str, Any]:
    """The JSON object in a configuration file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is no valid JSON ({error}).", "Check that it is a configuration file."
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object of settings.")
    return found


def _fields(checkpoint: Checkpoint, path: Path, notes: list[str]) -> dict[str, Any]:
    """ModelConfig fields from a file in whoever's words it is written."""
    content = read_config(path)
    foreign = sorted(FOREIGN_KEYS & set(content))
    if not foreign:
        return fields_from_uer(content, path, notes)
    if checkpoint.layout == "uer" or checkpoint.architecture is None:
        raise ConfigError(
            f"{path} is a Hugging Face configuration (it has {', '.join(foreign)}), but "
            f"{checkpoint.path} has UER-py's names.",
            "Give UER-py's configuration (hidden_size, layers_num, heads_num, ...), or none: "
            "most values are read from the tensors.",
        )
    return architecture(checkpoint.architecture).config_from_hf(content)


def fields_from_uer(
    content: Mapping[str, Any], path: str | Path, notes: list[str] | None = None
) -> dict[str, Any]:
    """ModelConfig fields from a configuration in UER-py's words, of either generation.

    Raises:
        ConfigError: values of the wrong kind; all of them are named.
    """
    unknown = sorted(set(content) - set(ModelConfig.names()) - _TRAINING)
    if unknown and notes is not None:
        notes.append(f"{path} has settings that uertool does not know: {', '.join(unknown)}.")

    def fault(name: str, value: Any, wanted: str) -> UertoolError:
        return ConfigError(f"{path} gives {name} as {value!r}, which is not {wanted}.")

    stream = content.get("stream_0")
    if isinstance(stream, dict):
        # The streams of a siamese model are described apart; what they are made of is settled.
        own = {k: v for k, v in stream.items() if k not in ("embedding", "encoder")}
        content = {**own, **content}
    found = _checked(_known(content), fault)
    found.pop("target", None)
    return found


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    known = set(ModelConfig.names())
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
        if name in known
    }


def flag_fault(name: str, value: Any, wanted: str) -> UertoolError:
    """The complaint about a flag with an impossible value."""
    return UsageError(f"`{name}` is {value!r}; it must be {wanted}.")


def _checked(
    values: Mapping[str, Any], fault: Callable[[str, Any, str], UertoolError]
) -> dict[str, Any]:
    """Values of the right kinds, lists split into their words."""
    defaults = {name: getattr(_BLANK, name) for name in ModelConfig.names()}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in defaults:
            raise fault(name, value, "a setting of the model, which there is none of that name")
        found[name] = _as_field(name, value, defaults[name], fault)
    return found


_BLANK = ModelConfig(vocab_size=1, hidden_size=1, layers_num=1)


def _as_field(
    name: str, value: Any, default: Any, fault: Callable[[str, Any, str], UertoolError]
) -> Any:
    if name in _LISTS:
        parts = split_words(value) if isinstance(value, str) else tuple(value or ())
        wrong = [part for part in parts if part not in _LISTS[name]]
        if wrong:
            raise fault(name, value, f"made of {', '.join(_LISTS[name])}")
        return parts
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise fault(name, value, f"one of {', '.join(map(str, _CHOICES[name]))}")
        return value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise fault(name, value, "true or false")
        return value
    if isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise fault(name, value, "a whole number")
        return value
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise fault(name, value, "a number")
        return float(value)
    return value


def _words(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
