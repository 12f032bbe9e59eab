"""The parts of an architecture: a table of rules, heads, a signature, two config maps."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.naming import Rule, Side, WeightMap, renamed, rule
from uertool.config import RopeScaling
from uertool.errors import ConfigError, shown

if TYPE_CHECKING:
    from torch import Tensor

    from uertool.config import ModelConfig

#: The canonical name of the word table.
WORD = "embedding.word.embedding.weight"

#: Hugging Face's word for an activation, and UER-py's.
ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_fast",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu_fast",
    "gelu_python_tanh": "gelu_fast",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "linear": "linear",
    "tanh": "tanh",
}

#: The way back.
ACTIVATIONS_OUT: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_fast": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "linear": "linear",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Head:
    """An output head: a group of rules that a checkpoint has completely or not at all.

    Attributes:
        name: "mlm", "sp", "cls", "qa", "token_cls", "lm" or "pooler".
        rules: its rows.
        hf: Hugging Face names that must all be there for it.
        tf: TensorFlow names that must all be there for it.
        uer: canonical names that must all be there for it.
        hf_without: Hugging Face names that must not be there.
        uer_without: canonical names that must not be there.
        hf_class: a class name in config.json that decides for this head where names do not.
        implied: its own Hugging Face name where its marks are the body's, because its weights are
            usually tied; a config.json with the class of the bare body then excludes it.
    """

    name: str
    rules: tuple[Rule, ...]
    hf: tuple[str, ...] = ()
    tf: tuple[str, ...] = ()
    uer: tuple[str, ...] = ()
    hf_without: tuple[str, ...] = ()
    uer_without: tuple[str, ...] = ()
    hf_class: str = ""
    implied: str = ""

    def _marks(self, side: Side | None) -> tuple[str, ...]:
        return {"hf": self.hf, "tf": self.tf, None: self.uer}[side]

    def in_names(self, names: set[str], side: Side | None) -> bool:
        """Whether the names of one side (None: canonical ones) include this head's."""
        marks = self._marks(side)
        absent = {"hf": self.hf_without, None: self.uer_without}.get(side, ())
        return bool(marks) and names.issuperset(marks) and names.isdisjoint(absent)


def lm_head(mark: str, *more: Rule, **how: Any) -> Head:
    """The output layer over words, which is the word table where a file does not store it.

    Args:
        mark: Hugging Face's name of a tensor that a model with this head has.
        more: further rules.
        how: further fields of the rule of the layer.
    """
    name = "target.lm.output_layer.weight"
    layer = rule(name, "lm_head.weight", tied=WORD, tie_if=WORD, **how)
    return Head("lm", (layer, *more), hf=(mark,), uer=(name,), implied="lm_head.weight")


@dataclass(frozen=True)
class Signature:
    """Canonical names that identify an architecture; those of layers are of layer 0.

    Of the names `together`, there are all or none.
    """

    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    together: tuple[str, ...] = ()

    def without(self, *names: str) -> Signature:
        """The same whether or not these names are there."""
        return replace(
            self,
            has=tuple(name for name in self.has if name not in names),
            lacks=tuple(name for name in self.lacks if name not in names),
        )

    def lacking(self, *names: str) -> Signature:
        """The same if these names are not there."""
        return replace(self, lacks=(*self.lacks, *names))

    def matches(self, names: set[str]) -> bool:
        """Whether the canonical names fit."""
        fits = names.issuperset(self.has) and names.isdisjoint(self.lacks)
        return fits and len(names.intersection(self.together)) in (0, len(self.together))


@dataclass(frozen=True)
class Spiece:
    """How folders of an architecture keep a sentencepiece model.

    Attributes:
        name: the file.
        kind: the class of transformers that reads it.
        settings: of its tokenizer_config.json, in place of [CLS] and [SEP].
    """

    name: str = "spiece.model"
    kind: str = "T5Tokenizer"
    settings: Mapping[str, Any] = field(default_factory=dict)


def _never(config: Mapping[str, Any]) -> tuple[Rule, ...] | None:
    return None


def _nothing(config: ModelConfig) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """One architecture, complete.

    Attributes:
        name: the word for `arch`.
        model_types: Hugging Face's model_type values that it reads; the first is written.
        core: rules of the body.
        heads: in the order in which they are looked for; an earlier one shadows `shadows`.
        signature: how it is recognised among UER-py's checkpoints.
        base: prefix of the body in Hugging Face's names, which a bare body lacks.
        hf_marks: Hugging Face names that must all be there for it to be a candidate.
        hf_without: Hugging Face names that must not be there.
        by_name: whether its names are another's but for the prefix, so that it is a candidate only
            if that is there, or config.json or the user names it.
        classes: heads, joined by "+", to Hugging Face's class.
        config_from_hf: config.json to ModelConfig fields.
        config_to_hf: a ModelConfig to config.json, without its model_type.
        ignored_hf: patterns of Hugging Face names that hold no weights.
        rules_for: rules that depend on config.json, in place of those with the same names.
        computed: tensors of a folder for transformers that follow from the configuration, under
            Hugging Face's names after the prefix of the body.
        google: whether there is an original TensorFlow format.
        pair_head: what the 2021 generation calls the sentence-pair head.
        sizes: settings of config.json that are the length of a tensor, with its Hugging Face name,
            for files without a config.json.
        spiece: how its folders keep a sentencepiece model.
        ends_lines: whether UER-py's successor, which trains it, puts an end mark behind texts.
        unseen: settings that change what a model computes, that its tensors do not show, and that
            are not assumed.
        usual: settings that are assumed where neither tensors nor files give them.
        in_transformers: whether transformers still has it.
        from_fairseq: whether ids of pieces and first rows of positions are fairseq's, and the
            segments of its files are one.
        class_prefixes: how the classes of further model types begin.
        computes_positions: whether its position tables are sinusoids, which Hugging Face stores and
            UER-py computes.
        has_fixed_epsilon: whether config.json has no setting for the epsilon of its layer norms.
        scales_tied_words: whether `tie_word_embeddings` of config.json also scales the output, so
            that only `config_to_hf` decides about it.
        activations_vary: whether published models have several activations, so that none is
            assumed in a model that is written.
        published_heads: attention heads of published models by hidden and feed-forward size, where
            they are not those of BERT's relatives.
    """

    name: str
    model_types: tuple[str, ...]
    core: tuple[Rule, ...]
    heads: tuple[Head, ...]
    signature: Signature
    classes: Mapping[str, str]
    config_from_hf: Callable[[Mapping[str, Any]], dict[str, Any]]
    config_to_hf: Callable[[ModelConfig], dict[str, Any]]
    base: str = ""
    hf_marks: tuple[str, ...] = ()
    hf_without: tuple[str, ...] = ()
    by_name: bool = False
    tf_marks: tuple[str, ...] = ()
    ignored_hf: tuple[str, ...] = ()
    rules_for: Callable[[Mapping[str, Any]], tuple[Rule, ...] | None] = _never
    computed: Callable[[ModelConfig], Mapping[str, Tensor]] = _nothing
    pair_head: str = "nsp"
    shadows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)
    spiece: Spiece = Spiece()
    ends_lines: bool = False
    unseen: tuple[str, ...] = ()
    usual: Mapping[str, Any] = field(default_factory=dict)
    in_transformers: bool = True
    from_fairseq: bool = False
    class_prefixes: Mapping[str, str] = field(default_factory=dict)
    computes_positions: bool = False
    has_fixed_epsilon: bool = False
    scales_tied_words: bool = False
    activations_vary: bool = False
    published_heads: Mapping[tuple[int, int], int] | None = None

    @property
    def google(self) -> bool:
        """Whether there is an original TensorFlow format."""
        return bool(self.tf_marks)

    def heads_in(
        self, names: set[str], side: Side | None, hf_class: str | None = None
    ) -> tuple[Head, ...]:
        """The heads that the names show; `hf_class` from config.json decides between equals."""
        decided = [
            head for head in self.heads if head.hf_class and head.hf_class in (hf_class or "")
        ]
        found: list[Head] = []
        hidden: set[str] = set()
        if side == "hf" and hf_class == self.classes[""]:
            hidden = {h.name for h in self.heads if h.implied and h.implied not in names}
        for head in (*decided, *self.heads):
            if head.name in hidden or head in found:
                continue
            loose = head in decided and names.issuperset(head._marks(side) or ("",))
            if loose or head.in_names(names, side):
                found.append(head)
                hidden.update(self.shadows.get(head.name, ()))
        return tuple(sorted(found, key=self.heads.index))

    def weight_map(
        self, heads: Iterable[Head] | None = None, hf_config: Mapping[str, Any] | None = None
    ) -> WeightMap:
        """The rules of the body and of some heads (by default all)."""
        core = (self.rules_for(hf_config) if hf_config is not None else None) or self.core
        rows = list(core)
        for head in self.heads if heads is None else heads:
            rows.extend(head.rules)
        return WeightMap(rows)

    def with_base(self, base: str) -> Architecture:
        """The same with another prefix of the body in Hugging Face's names; "" for a bare one."""

        def moved(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
            return renamed(rules, hf=(self.base, base))

        def named(names: tuple[str, ...]) -> tuple[str, ...]:
            cut = len(self.base)
            return tuple(base + n[cut:] if n.startswith(self.base) else n for n in names)

        def rules_for(config: Mapping[str, Any]) -> tuple[Rule, ...] | None:
            rules = self.rules_for(config)
            return moved(rules) if rules is not None else None

        heads = tuple(
            replace(head, rules=moved(head.rules), hf=named(head.hf)) for head in self.heads
        )
        return replace(
            self,
            core=moved(self.core),
            heads=heads,
            rules_for=rules_for,
            base=base,
            hf_marks=named(self.hf_marks),
            hf_without=named(self.hf_without),
        )

    def hf_class(self, heads: Iterable[str]) -> str:
        """Hugging Face's class for a set of heads."""
        names = [name for name in heads if name != "pooler"]
        return self.classes.get("+".join(sorted(names)), self.classes[""])

    def ignores(self, name: str) -> bool:
        """Whether a Hugging Face name is known to hold no weights."""
        return any(re.search(pattern, name) for pattern in (*IGNORED_HF, *self.ignored_hf))


#: Buffers in many Hugging Face files that models do not need.
IGNORED_HF = (
    r"(^|\.)position_ids$",
    r"(^|\.)embeddings\.token_type_ids$",
    r"(^|\.)(encoder|decoder)\.version$",
    r"\.rotary_emb\.inv_freq$",
)

#: Optimizer slots and counters of TensorFlow training.
IGNORED_TF = re.compile(
    r"(^|/)(global_step|beta[12]_power|good_steps|bad_steps|loss_scale|current_loss_scale"
    r"|learning_rate|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)$"
    r"|/(adam_[mv]|lamb_[mv]|Adam(_\d+)?|AdamWeightDecayOptimizer(_\d+)?|LAMBOptimizer(_\d+)?"
    r"|adafactor\w*|Momentum|ExponentialMovingAverage)$"
)


#: Types of settings in config.json that are neither numbers nor activations.
_TYPES: Mapping[str, type] = {
    "model_type": str,
    "architectures": list,
    "id2label": dict,
    "label2id": dict,
    "feed_forward_proj": str,
    "tie_word_embeddings": bool,
    "scale_embedding": bool,
    "rope_scaling": dict,
    "rope_parameters": dict,
    "attention_bias": bool,
}
_LARGEST = 2**31 - 1


def check_types(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first setting of a config.json that has the wrong type."""
    for name, kind in _TYPES.items():
        value = config.get(name)
        if value is not None and not isinstance(value, kind):
            raise _invalid(name, value, _KINDS[kind])
    classes = config.get("architectures") or ()
    if not all(isinstance(item, str) for item in classes):
        raise _invalid("architectures", classes, "a list of names")


_KINDS = {str: "text", list: "a list", dict: "an object", bool: "true or false"}


def _invalid(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"config.json has an invalid {name}: {_value(value)} (must be {wanted}).")


def number(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """A whole number of config.json under the first of several names.

    Raises:
        ConfigError: it is absent without a default, or no whole number.
    """
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
            raise _invalid(name, value, "a whole number")
        return value
    if default is None:
        raise ConfigError(f"config.json has no {names[0]}.")
    return default


def real(config: Mapping[str, Any], name: str, default: float) -> float:
    """A number of config.json."""
    value = config.get(name)
    if value is None:
        return default
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise _invalid(name, value, "a number")
    return float(value)


def activation(config: Mapping[str, Any], name: str, default: str) -> str:
    """UER-py's word for an activation of config.json.

    Raises:
        ConfigError: uertool has no such activation.
    """
    value = config.get(name) or default
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise _invalid(name, value, f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def rope_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of rotary positions, from the spelling of transformers 4 or 5.

    Raises:
        ConfigError: an unknown or incomplete scaling.
    """
    values = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = values if values.get("rope_theta") is not None else config
    positions = number(config, "max_position_embeddings", default=2048)
    return {
        "rope_theta": real(theta, "rope_theta", 10000.0),
        "rope_scaling": RopeScaling.from_json(values, positions),
    }


def refuse(config: Mapping[str, Any], **allowed: tuple[Any, ...]) -> None:
    """Raise ConfigError naming every setting with a value that is not allowed."""
    wrong = [
        f"{name} = {_value(config[name])}"
        for name, values in allowed.items()
        if name in config and config[name] not in values
    ]
    if wrong:
        raise ConfigError(
            f"config.json asks for what uertool does not support: {', '.join(wrong)}."
        )


def _value(value: object) -> str:
    """A value of config.json as messages print it."""
    return shown(json.dumps(value, ensure_ascii=False), 60)


def norm_settings(config: ModelConfig) -> float:
    """The epsilon to write: that of a standard layer norm, or 1e-12 for UER-py's.

    With UER-py's epsilon outside the root there is no equal; 1e-12 is the nearest to it, and what
    Google's BERT uses.
    """
    return config.norm_eps if config.norm != "uer" else 1e-12
