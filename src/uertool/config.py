"""ModelConfig: every size and setting of a model, and where each value came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from uertool.errors import ConfigError, shown

EncoderName = Literal[
    "transformer", "rnn", "lstm", "gru", "birnn", "bilstm", "bigru", "gatedcnn", "dual"
]
MaskName = Literal["fully_visible", "causal", "causal_with_prefix"]
Activation = Literal["gelu", "gelu_fast", "relu", "silu", "linear", "tanh"]
NormKind = Literal["uer", "standard", "rms"]
SinusoidKind = Literal["legacy", "modular"]
RotaryOrder = Literal["interleaved", "half"]
RopeKind = Literal["linear", "dynamic", "llama3", "yarn"]

ENCODERS: tuple[str, ...] = get_args(EncoderName)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
EMBEDDINGS = ("word", "pos", "seg", "task", "sinusoidalpos", "dual")
TARGETS = ("mlm", "sp", "lm", "bilm", "cls", "token_cls", "qa", "siamese", "rtd")

#: How far T5's relative positions reach; UER-py has no setting for it.
UER_MAX_DISTANCE = 128

#: Words of the 2021 generation for a target, and what they mean in modular words.
LEGACY_TARGETS: Mapping[str, tuple[str, ...]] = {
    "bert": ("mlm", "sp"),
    "albert": ("mlm", "sp"),
    "mlm": ("mlm",),
    "lm": ("lm",),
    "bilm": ("bilm",),
    "cls": ("cls",),
    "seq2seq": ("lm",),
    "t5": ("lm",),
    "prefixlm": ("lm",),
    "sp": ("sp",),
}


def split_words(text: str) -> tuple[str, ...]:
    """The parts of `word_pos_seg`, `word,pos,seg` or `word pos seg`."""
    return tuple(part for part in text.replace(",", "_").replace(" ", "_").split("_") if part)


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are changed for texts longer than those of the training.

    Field names are Hugging Face's; the formulas are in `uertool.models.rotary`.
    """

    rope_type: RopeKind
    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any], positions: int) -> RopeScaling | None:
        """The scaling that an object of a config.json describes; None if it changes nothing.

        Args:
            values: `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
            positions: `max_position_embeddings`, the original length unless `values` has one.

        Raises:
            ConfigError: an unknown kind, or a value that is absent or has the wrong type.
        """
        kind = values.get("rope_type", values.get("type", "default"))
        if kind == "default":
            return None
        if kind not in get_args(RopeKind):
            raise ConfigError(
                f"The rope scaling {shown(repr(kind), 40)} is unknown.",
                f"uertool computes {', '.join(get_args(RopeKind))} and default.",
            )
        found: dict[str, Any] = {"original_max_position_embeddings": positions}
        for name in [f.name for f in dataclasses.fields(cls)][1:]:
            value = values.get(name)
            if value is None:
                continue
            flag = name == "truncate"
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (isinstance(value, bool) if flag else is_number and 0 < value < 1e9):
                wanted = "true or false" if flag else "a positive number"
                raise ConfigError(
                    f"The rope scaling {kind} has an invalid {name}: {shown(repr(value), 40)} "
                    f"(must be {wanted})."
                )
            found[name] = value
        for name in ("factor", "original_max_position_embeddings"):
            if not found.get(name) and (name == "factor" or kind != "linear"):
                raise ConfigError(f"The rope scaling {kind} has no {name}.")
        return cls(rope_type=kind, **found)

    def to_json(self) -> dict[str, Any]:
        """The values that are not the default."""
        fields = dataclasses.fields(self)
        values = {f.name: getattr(self, f.name) for f in fields}
        return {f.name: values[f.name] for f in fields if values[f.name] != f.default}


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a model. Field names are UER-py's options wherever it has one.

    `sources` maps a field to the origin of its value: "inferred" (from the tensors), "config file",
    "command line" (any setting that was given), "published size", "assumed" or "unknown"; a field
    that is absent has its default.
    """

    vocab_size: int
    hidden_size: int
    layers_num: int
    emb_size: int = 0  # 0: the hidden size
    feedforward_size: int = 0
    heads_num: int = 0
    local_kv_heads_num: int = 0  # heads of keys and values; 0: heads_num
    attention_head_size: int = 0  # 0: hidden_size / heads_num
    max_seq_length: int = 512
    hidden_act: Activation = "gelu"

    embedding: tuple[str, ...] = ("word", "pos", "seg")
    sinusoid: SinusoidKind = "modular"
    scale_embedding: bool = False  # word vectors times sqrt(emb_size); implied by sinusoidalpos
    remove_embedding_layernorm: bool = False
    segments_num: int = 3
    task_types_num: int = 3  # rows of ERNIE's table of task types
    task_type: int = 0  # the one that texts have

    encoder: EncoderName = "transformer"
    mask: MaskName = "fully_visible"
    layernorm_positioning: Literal["post", "pre"] = "post"
    layernorm: Literal["normal", "t5", "rms"] = "normal"  # t5 and rms are the same
    norm: NormKind = "uer"
    norm_eps: float = 1e-6
    feed_forward: Literal["dense", "gated"] = "dense"
    remove_transformer_bias: bool = False
    remove_layernorm_bias: bool = False  # no beta
    remove_first_layernorm: bool = False  # before the first attention
    qkv_bias: bool = False  # biases of query, key, value despite remove_transformer_bias
    attention_output_bias: bool = False  # and of the layer after attention
    qk_norm: bool = False  # a norm of every query and key (Qwen3)
    remove_attention_scale: bool = False
    relative_position_embedding: bool = False
    relative_attention_buckets_num: int = 32
    relative_attention_max_distance: int = UER_MAX_DISTANCE
    rotary_position_embedding: bool = False  # relative_position_embedding wins
    rotary_order: RotaryOrder = "interleaved"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rotary_value: bool = False  # values are turned as well as queries and keys
    max_relative_position: int = 0  # NEZHA's vectors of clipped distances; 0: none
    local_attention: int = (
        0  # tokens that a query of a local layer sees around it; 0: no such layer
    )
    global_attn_every_n_layers: int = 3  # layers 0, n, 2n, ... see all tokens
    local_rope_theta: float = 10000.0
    factorized_embedding_parameterization: bool = False
    parameter_sharing: bool = False
    has_residual_attention: bool = False
    bidirectional: bool = False
    kernel_size: int = 3
    block_size: int = 2

    decoder: Literal["transformer"] | None = None
    decoder_layers_num: int = 0
    tgt_embedding: tuple[str, ...] = ()
    tgt_vocab_size: int = 0
    tgt_max_seq_length: int = 0  # 0: max_seq_length
    share_embedding: bool = False

    target: tuple[str, ...] = ()
    tie_weights: bool = False
    has_lmtarget_bias: bool = False
    labels_num: int = 0
    pooling: Literal["first", "mean", "max", "last"] = "first"
    #: Factor on what enters the output layer (Hugging Face's tied T5: hidden**-0.5).
    lm_scale: float = 1.0
    #: Activation inside the MLM head; None is hidden_act, as UER-py has it.
    mlm_act: Activation | None = None
    remove_mlm_bias: bool = False  # of the first layer of the MLM head

    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.attention_head_size or self.hidden_size // max(self.heads_num, 1)

    @property
    def is_beyond_uer(self) -> bool:
        """Whether neither UER-py nor TencentPretrain has such a model.

        Its files need not follow what those programs assume.
        """
        return (
            "task" in self.embedding
            or self.max_relative_position > 0
            or self.remove_layernorm_bias
            or (self.rotary_position_embedding and self.norm == "standard")
        )

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; several heads of queries may share one."""
        return self.local_kv_heads_num or self.heads_num

    def is_local(self, layer: int) -> bool:
        """Whether a layer, counted from 0, sees the tokens nearby only."""
        return self.local_attention > 0 and layer % self.global_attn_every_n_layers > 0

    @property
    def word_size(self) -> int:
        """Size of one row of the word table."""
        return self.emb_size or self.hidden_size

    @property
    def needs_full_length(self) -> bool:
        """Whether outputs depend on the padded length.

        UER-py's bidirectional recurrent encoders start their reversed direction on padding, so a
        line must be padded to seq_length to give UER-py's numbers.
        """
        return self.encoder.startswith("bi") or (
            self.bidirectional and self.encoder in ("rnn", "lstm", "gru")
        )

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The values as JSON types, under UER-py's names, without `sources`."""
        values = dataclasses.asdict(self)
        del values["sources"]
        if self.rope_scaling is not None:
            values["rope_scaling"] = self.rope_scaling.to_json()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all settings."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "sources")
