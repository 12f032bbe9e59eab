"""ModelConfig: every size and setting of a model, and where each value came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

EncoderName = Literal[
    "transformer", "rnn", "lstm", "gru", "birnn", "bilstm", "bigru", "gatedcnn", "dual"
]
MaskName = Literal["fully_visible", "causal", "causal_with_prefix"]
Activation = Literal["gelu", "gelu_fast", "relu", "silu", "linear", "tanh"]
NormKind = Literal["uer", "standard", "rms"]
SinusoidKind = Literal["legacy", "modular"]

ENCODERS: tuple[str, ...] = get_args(EncoderName)
MASKS: tuple[str, ...] = get_args(MaskName)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
EMBEDDINGS = ("word", "pos", "seg", "sinusoidalpos", "dual")
TARGETS = ("mlm", "sp", "lm", "bilm", "cls", "token_cls", "qa", "siamese")

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
    attention_head_size: int = 0  # 0: hidden_size / heads_num
    max_seq_length: int = 512
    hidden_act: Activation = "gelu"

    embedding: tuple[str, ...] = ("word", "pos", "seg")
    sinusoid: SinusoidKind = "modular"
    scale_embedding: bool = False  # word vectors times sqrt(emb_size); implied by sinusoidalpos
    remove_embedding_layernorm: bool = False
    segments_num: int = 3

    encoder: EncoderName = "transformer"
    mask: MaskName = "fully_visible"
    layernorm_positioning: Literal["post", "pre"] = "post"
    layernorm: Literal["normal", "t5"] = "normal"
    norm: NormKind = "uer"
    norm_eps: float = 1e-6
    feed_forward: Literal["dense", "gated"] = "dense"
    remove_transformer_bias: bool = False
    remove_attention_scale: bool = False
    relative_position_embedding: bool = False
    relative_attention_buckets_num: int = 32
    relative_attention_max_distance: int = 128
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

    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.attention_head_size or self.hidden_size // max(self.heads_num, 1)

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
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all settings."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "sources")
