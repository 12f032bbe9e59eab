"""LLaMA: a causal transformer with RMS norms, rotary positions, gated SiLU and shared key heads.

The canonical names are TencentPretrain's. It rotates neighbouring channels, as Meta's code does;
Hugging Face rotates the halves of a head, so rows of query and key change places on the way. The
tables of Qwen2 and Qwen3 are made here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import (
    ACTIVATIONS_OUT,
    WORD,
    Architecture,
    Signature,
    Spiece,
    activation,
    lm_head,
    number,
    real,
    refuse,
    rope_fields,
)
from uertool.checkpoints.naming import KEEP, Rule, Transform, paired_rows, rule

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_UER = "encoder.transformer.{i}."
_HF = "model.layers.{i}."

#: UER-py's and Hugging Face's names of what is the same in both.
_SAME = (
    ("self_attn.final_linear.weight", "self_attn.o_proj.weight"),
    ("layer_norm_1.weight", "input_layernorm.weight"),
    ("feed_forward.linear_gate.weight", "mlp.gate_proj.weight"),
    ("feed_forward.linear_1.weight", "mlp.up_proj.weight"),
    ("feed_forward.linear_2.weight", "mlp.down_proj.weight"),
    ("layer_norm_2.weight", "post_attention_layernorm.weight"),
)

#: Attention heads of published models by hidden and feed-forward size.
_PUBLISHED: Mapping[tuple[int, int], int] = {
    (4096, 11008): 32,
    (4096, 14336): 32,
    (5120, 13824): 40,
    (6656, 17920): 52,
    (8192, 22016): 64,
    (8192, 28672): 64,
}


#: Texts begin with <s> and have no end token.
_TOKENS = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "legacy": False,
}

#: The output layer; config.json says whether it is the word table.
_LM = lm_head("model.embed_tokens.weight", tied_by_config=True)


def core_rules(
    size: int, *, qkv_bias: bool | None, output_bias: bool | None, norms: bool
) -> tuple[Rule, ...]:
    """The rules of the body.

    Args:
        size: channels of a head, which decide how rows of query and key change places; 0 if they
            are unknown, and then these tensors cannot be read.
        qkv_bias: whether query, key and value have biases; None if they may have them.
        output_bias: whether the layer after attention has one; None as before.
        norms: whether queries and keys have norms.
    """
    paired = paired_rows(size)
    rows = [rule(WORD, "model.embed_tokens.weight")]
    for part, letter in enumerate("qkv"):
        how: Transform = KEEP if letter == "v" else paired
        uer, hf = f"{_UER}self_attn.linear_layers.{part}", f"{_HF}self_attn.{letter}_proj"
        rows.append(rule(f"{uer}.weight", f"{hf}.weight", how=how))
        if qkv_bias is not False:
            absent = qkv_bias is None
            rows.append(rule(f"{uer}.bias", f"{hf}.bias", how=how, optional=absent))
    if norms:
        for word in ("query", "key"):
            uer = f"{_UER}self_attn.{word}_norm.weight"
            rows.append(rule(uer, f"{_HF}self_attn.{word[0]}_norm.weight", how=paired))
    if output_bias is not False:
        uer, hf = f"{_UER}self_attn.final_linear.bias", f"{_HF}self_attn.o_proj.bias"
        rows.append(rule(uer, hf, optional=output_bias is None))
    rows.extend(rule(_UER + uer, _HF + hf) for uer, hf in _SAME)
    return (*rows, rule("encoder.layer_norm.weight", "model.norm.weight"))


def _from_hf(qkv_bias: bool, norms: bool, config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(
        config,
        mlp_bias=(False, None),
        use_sliding_window=(False, None),
        partial_rotary_factor=(1, 1.0, None),
    )
    hidden, heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    biased = bool(config.get("attention_bias"))
    return {
        "vocab_size": number(config, "vocab_size", default=32000),
        "hidden_size": hidden,
        "emb_size": hidden,
        "layers_num": number(config, "num_hidden_layers", default=32),
        "heads_num": heads,
        "local_kv_heads_num": number(config, "num_key_value_heads", default=heads),
        "attention_head_size": number(config, "head_dim", default=0),
        "feedforward_size": number(config, "intermediate_size", default=11008),
        "max_seq_length": number(config, "max_position_embeddings", default=2048),
        "hidden_act": activation(config, "hidden_act", "silu"),
        "embedding": ("word",),
        "remove_embedding_layernorm": True,
        "encoder": "transformer",
        "mask": "causal",
        "layernorm_positioning": "pre",
        "layernorm": "rms",
        "norm": "rms",
        "norm_eps": real(config, "rms_norm_eps", 1e-6),
        "feed_forward": "gated",
        "remove_transformer_bias": True,
        "qkv_bias": qkv_bias or biased,
        "attention_output_bias": biased,
        "qk_norm": norms,
        "rotary_position_embedding": True,
        **rope_fields(config),
    }


def _head_size(config: Mapping[str, Any]) -> int:
    """Channels of a head; 0 if config.json says neither that nor how many heads there are."""
    size = number(config, "head_dim", default=0)
    heads = number(config, "num_attention_heads", default=0)
    return size or (number(config, "hidden_size", default=0) // heads if heads else 0)


def _to_hf(qkv_bias: bool, config: ModelConfig) -> dict[str, Any]:
    made = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.feedforward_size,
        "num_hidden_layers": config.layers_num,
        "num_attention_heads": config.heads_num,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": ACTIVATIONS_OUT[config.hidden_act],
        "max_position_embeddings": config.max_seq_length,
        "initializer_range": 0.02,
        "rms_norm_eps": config.norm_eps,
        "use_cache": True,
        # Both transformers 4 and 5 read these two settings.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else config.rope_scaling.to_json(),
    }
    if not qkv_bias:  # a model that always has them has no such setting
        made["attention_bias"] = config.attention_output_bias
    return made


def _signature(qkv_bias: bool, norms: bool) -> Signature:
    """The tensors that tell such a model from others, see `decoder`."""
    attention = "encoder.transformer.0.self_attn."
    biases = (f"{attention}linear_layers.0.bias", f"{attention}final_linear.bias")
    query_norm = (f"{attention}query_norm.weight",)
    return Signature(
        has=(
            WORD,
            "encoder.layer_norm.weight",
            "encoder.transformer.0.feed_forward.linear_gate.weight",
            *(biases[:1] if qkv_bias else ()),
            *(query_norm if norms else ()),
        ),
        lacks=(
            "embedding.pos.embedding.weight",
            "embedding.seg.embedding.weight",
            "embedding.layer_norm.weight",
            "embedding.layer_norm.gamma",
            "decoder.transformer_decoder.0.self_attn.linear_layers.0.weight",
            "encoder.relative_pos_emb.relative_attention_bias.weight",
            "encoder.transformer.0.feed_forward.linear_1.bias",
            "target.mlm.linear_1.weight",
            *(() if norms else query_norm),
            *(biases[1:] if qkv_bias else ()),
        ),
        together=() if qkv_bias else biases,
    )


def decoder(
    name: str,
    classes: Mapping[str, str],
    *,
    qkv_bias: bool = False,
    norms: bool = False,
    usual: Mapping[str, Any] | None = None,
) -> Architecture:
    """An architecture like LLaMA.

    Args:
        name: its name, which is its model_type as well.
        classes: see `Architecture`.
        qkv_bias: whether query, key and value always have biases.
        norms: whether queries and keys have norms.
        usual: settings that are assumed in addition to those of all these models.
    """

    def rules_for(config: Mapping[str, Any]) -> tuple[Rule, ...]:
        biased = bool(config.get("attention_bias"))
        return core_rules(
            _head_size(config), qkv_bias=qkv_bias or biased, output_bias=biased, norms=norms
        )

    from_hf: Callable[[Mapping[str, Any]], dict[str, Any]] = partial(_from_hf, qkv_bias, norms)
    hf_bias, hf_norm = (f"model.layers.0.self_attn.{n}" for n in ("q_proj.bias", "q_norm.weight"))
    return Architecture(
        name=name,
        model_types=(name,),
        core=core_rules(
            0,
            qkv_bias=qkv_bias or None,
            output_bias=False if qkv_bias else None,
            norms=norms,
        ),
        heads=(_LM,),
        signature=_signature(qkv_bias, norms),
        classes=classes,
        config_from_hf=from_hf,
        config_to_hf=partial(_to_hf, qkv_bias),
        base="model.",
        hf_marks=(
            "model.embed_tokens.weight",
            "model.layers.0.mlp.gate_proj.weight",
            *((hf_bias,) if qkv_bias else ()),
            *((hf_norm,) if norms else ()),
        ),
        hf_without=() if norms else (hf_norm,),
        rules_for=rules_for,
        sizes={"hidden_size": "model.norm.weight", **({"head_dim": hf_norm} if norms else {})},
        spiece=Spiece("tokenizer.model", "LlamaTokenizer", _TOKENS),
        ends_lines=True,
        usual={
            "rotary_position_embedding": True,
            "hidden_act": "silu",
            "mask": "causal",
            **(usual or {}),
        },
        published_heads=_PUBLISHED,
    )


ARCHITECTURE = decoder("llama", {"": "LlamaModel", "lm": "LlamaForCausalLM"})
