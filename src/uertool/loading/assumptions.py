"""Settings that do not follow from tensors: their usual values, and when they must be given.

The number of attention heads, the activation, the mask and the passes through a shared layer leave
no trace in names and shapes. The heads of most models follow from a published size. For others, a
command that only runs a model assumes the usual value and warns; a command that writes a model
requires the value (`require_known`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.reader import Checkpoint
from uertool.config import ModelConfig
from uertool.errors import ConfigError

#: The value of a setting `assume` that accepts one head for every 64 channels.
HEADS_BY_SIZE = "heads=hidden/64"

#: (hidden size, feed-forward size) -> attention heads, where every published model agrees:
#: Google's BERT miniatures, base and large, RoBERTa, XLM-R, MiniLM, TinyBERT, GPT-2, BART, ALBERT.
_PUBLISHED: Mapping[tuple[int, int], int] = {
    (128, 512): 2,
    (256, 1024): 4,
    (312, 1200): 12,
    (384, 1536): 12,
    (512, 2048): 8,
    (768, 3072): 12,
    (1024, 4096): 16,
    (1280, 5120): 20,
    (1600, 6400): 25,
    (2048, 8192): 16,
    (2560, 10240): 32,
}

#: Settings that change what a model computes, and their names in messages.
_REQUIRED: Mapping[str, str] = {
    "heads_num": "the number of attention heads",
    "layers_num": "the number of passes through the shared layer",
    "hidden_act": "the activation",
}


@dataclass(frozen=True)
class Draft:
    """A configuration in the making.

    Attributes:
        checkpoint: the source.
        values: ModelConfig fields that are known.
        sources: where each value came from; of what is added here "assumed", "published size" or
            "unknown".
        notes: sentences about assumptions that may be wrong.
    """

    checkpoint: Checkpoint
    values: dict[str, Any]
    sources: dict[str, str]
    notes: list[str]

    def fill(self, name: str, value: Any, source: str = "assumed") -> None:
        """Add a value that is not known."""
        if name not in self.values:
            self.values[name], self.sources[name] = value, source

    def is_assumed(self, name: str) -> bool:
        """Whether a value was added here."""
        return self.sources.get(name) == "assumed"

    def rows(self, part: int) -> int:
        """Rows of the query (0) or key (1) projection, 0 if there is none."""
        layer = "encoder.transformer." + ("" if self.values.get("parameter_sharing") else "0.")
        if self.values.get("encoder") == "dual":
            layer = layer.replace("encoder.", "encoder.encoder_0.", 1)
        name = f"{layer}self_attn.linear_layers.{part}.weight"
        return self.checkpoint.info(name).shape[0] if self.checkpoint.has(name) else 0


def assume(draft: Draft) -> None:
    """Fill in the settings of a model that neither tensors nor files give."""
    checkpoint, values, notes = draft.checkpoint, draft.values, draft.notes
    usual = checkpoint.arch.usual if checkpoint.arch else {}
    if "norm" not in values:
        own = "uer" if checkpoint.layout == "uer" else "standard"
        draft.fill("norm", usual.get("norm", own), "inferred")
        if values["norm"] == "standard":
            draft.fill("norm_eps", usual.get("norm_eps", 1e-12))
    if values["norm"] == "uer":
        # Part of its formula; the epsilon of other libraries is at another place.
        values["norm_eps"] = 1e-6
    for name, value in usual.items():
        draft.fill(name, value)
    if values.get("rotary_position_embedding") and checkpoint.layout == "hf":
        draft.fill("rope_theta", 10000.0)
        draft.fill("norm_eps", 1e-6)
    if draft.is_assumed("rope_theta"):
        notes.append(
            f"The base {values['rope_theta']:g} of rotary positions and the epsilon "
            f"{values.get('norm_eps', 1e-6):g} of norms are assumed, as usual for "
            f"{checkpoint.architecture}; name a configuration with `config_path`."
        )
    if values.get("encoder") not in ("transformer", "dual"):
        draft.fill("hidden_act", "gelu")
        return
    if values.get("decoder") is None and "lm" in values.get("target", ()):
        draft.fill("mask", "causal")
    _assume_positions(draft)
    _require_unseen(draft)
    _assume_heads(draft)
    if values.get("parameter_sharing") and "layers_num" not in values:
        draft.fill("layers_num", 12)
        notes.append(
            "12 passes through the shared layer are assumed, because they do not follow from the "
            "tensors; set `layers_num` or `config_path` if that is wrong."
        )
    draft.fill("hidden_act", "gelu")
    if draft.is_assumed("hidden_act") and values["hidden_act"] != "gelu":
        notes.append(
            f"The activation {values['hidden_act']} is assumed, as usual for "
            f"{checkpoint.architecture}; set `hidden_act` if that is wrong."
        )


def _assume_positions(draft: Draft) -> None:
    """A transformer without stored positions computes them, unless a configuration says no."""
    values, checkpoint = draft.values, draft.checkpoint
    if checkpoint.layout != "uer" or checkpoint.generation == "legacy":
        return  # the 2021 generation would have stored them
    if values.get("relative_position_embedding") or values.get("rotary_position_embedding"):
        return
    for name, size in (("embedding", "max_seq_length"), ("tgt_embedding", "tgt_max_seq_length")):
        if values.get(name) != ("word",) or draft.sources.get(name) != "inferred":
            continue
        values[name] = ("word", "sinusoidalpos")
        values.setdefault(size, 512)
        draft.sources[name] = "assumed"
        draft.notes.append(
            f"Sinusoidal positions are assumed for `{name}`, because the file has no position "
            f"table; set `{name}` to word if there are none."
        )


def _require_unseen(draft: Draft) -> None:
    """Refuse a model with positions of an unknown kind.

    Raises:
        ConfigError: of the architectures that its names fit, none has all of its settings.
    """
    checkpoint = draft.checkpoint
    names = dict.fromkeys((checkpoint.architecture, *checkpoint.candidates))
    kinds = [architecture(name) for name in names if name]
    if any(all(name in draft.values for name in kind.unseen) for kind in kinds) or not kinds:
        return
    options = [f"{' and '.join(f'`{name}`' for name in k.unseen)} ({k.name})" for k in kinds]
    raise ConfigError(
        f"{checkpoint.path} has no position table, and what attention computes in its place does "
        "not follow from the tensors.",
        f"Set {' or '.join(options)}, or name a configuration with `config_path`.",
    )


def _assume_heads(draft: Draft) -> None:
    """Attention heads and their size, which must fit the rows of the projections."""
    path, values, sources = draft.checkpoint.path, draft.values, draft.sources
    inner = draft.rows(0) or int(values.get("hidden_size", 0))
    if not values.get("heads_num"):
        _guess_heads(draft, inner)
    heads = values["heads_num"]
    if not heads:
        values["attention_head_size"] = 0
        return
    if inner % heads:
        raise ConfigError(
            f"{inner} channels of {path} cannot be split into {heads} attention heads.",
            f"Set `heads_num` to a divisor of {inner}.",
        )
    size = values.get("attention_head_size") or inner // heads
    if size * heads != inner:
        raise ConfigError(
            f"{path} has {inner} rows of queries, which are not {heads} heads of {size}."
        )
    if size % 2 and values.get("rotary_position_embedding"):
        raise ConfigError(
            f"{path} has {heads} heads of {size} channels; rotary positions need an even number.",
            "Set `heads_num`, or correct the configuration.",
        )
    values["attention_head_size"] = size
    sources.setdefault("attention_head_size", sources["heads_num"])
    _count_key_heads(draft)


def _guess_heads(draft: Draft, inner: int) -> None:
    """The usual number of heads for so many channels of all of them together; 0 if unknown."""
    arch = draft.checkpoint.arch
    own = arch.published_heads if arch else None
    table = _PUBLISHED if own is None else own
    heads = table.get((inner, draft.values.get("feedforward_size", 0)), 0)
    if heads:
        source = "published size"
        draft.notes.append(
            f"{heads} attention heads are assumed, as in the published models of this size "
            f"({inner} channels); set `heads_num` if that is wrong."
        )
    elif own is None and inner and inner % 64 == 0:
        heads, source = inner // 64, "assumed"
        draft.notes.append(
            f"{heads} attention heads are assumed (one for every 64 of {inner} channels), "
            "because they do not follow from the tensors; set `heads_num` if that is wrong."
        )
    else:
        source = "unknown"
    draft.values["heads_num"], draft.sources["heads_num"] = heads, source


def _count_key_heads(draft: Draft) -> None:
    """The heads of keys and values, which are as large as those of queries."""
    values, rows = draft.values, draft.rows(1)
    size, queries = values["attention_head_size"], values["heads_num"]
    given = values.get("local_kv_heads_num")
    heads, rest = divmod(rows, size)
    if rest or (given and rows and given != heads) or (heads and queries % heads):
        raise ConfigError(
            f"{draft.checkpoint.path} has {rows} rows of keys, which do not fit {queries} heads of "
            f"{size}" + (f" that share {given} heads of keys and values." if given else "."),
            "Set `heads_num`, or correct the configuration.",
        )
    if heads and heads != queries and not given:
        values["local_kv_heads_num"] = heads
        draft.sources["local_kv_heads_num"] = draft.sources["heads_num"]


def unknown_heads(checkpoint: Checkpoint) -> ConfigError:
    """The error for a model that cannot run without its number of attention heads."""
    return ConfigError(
        f"The number of attention heads of {checkpoint.path} is unknown: it does not follow "
        "from the tensors, and the size is neither a published one nor a multiple of 64.",
        "Set `heads_num`, or name a configuration with `config_path`.",
    )


def guessed(
    checkpoint: Checkpoint, config: ModelConfig, assumed: str | None = None
) -> tuple[str, ...]:
    """Settings that change what a model computes and that are guesses in this configuration.

    Args:
        checkpoint: the source.
        config: its resolved configuration.
        assumed: the guess that the user accepts: HEADS_BY_SIZE or None.
    """
    doubtful = [name for name in _REQUIRED if config.sources.get(name) in ("assumed", "unknown")]
    arch = checkpoint.arch
    if not (arch is not None and arch.activations_vary) and "hidden_act" in doubtful:
        doubtful.remove("hidden_act")
    if assumed == HEADS_BY_SIZE and config.heads_num and "heads_num" in doubtful:
        doubtful.remove("heads_num")
    return tuple(doubtful)


def require_known(checkpoint: Checkpoint, config: ModelConfig, assumed: str | None = None) -> None:
    """Refuse to write a model whose configuration would hold a guess; arguments as `guessed`.

    Raises:
        ConfigError: the number of heads, of passes through a shared layer, or an activation that
            differs between published models is neither in the tensors nor given.
    """
    names = guessed(checkpoint, config, assumed)
    if not names:
        return
    settings = ", ".join(f"`{name}`" for name in names)
    hint = f"Set {settings}, or name a configuration with `config_path`"
    if "heads_num" in names and config.heads_num:
        hint += (
            f"; `assume` {HEADS_BY_SIZE} accepts {config.heads_num} heads, one for every "
            f"{config.head_size} channels"
        )
    if "heads_num" in names:
        hint += "; `uertool check MODEL` with `run` compares numbers of heads of a trained model"
    raise ConfigError(
        f"{' and '.join(_REQUIRED[name] for name in names).capitalize()} of {checkpoint.path} "
        "cannot be read from the tensors, and a model is not written with a guess.",
        f"{hint}.",
    )
