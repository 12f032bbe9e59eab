"""T5 and T5 v1.1: encoder and decoder with relative positions; the second has gated layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.architectures.base import (
    ACTIVATIONS_OUT,
    WORD,
    Architecture,
    Head,
    Signature,
    activation,
    number,
    real,
    refuse,
)
from uertool.checkpoints.naming import Rule, rule

if TYPE_CHECKING:
    from uertool.config import ModelConfig

_BIAS = "relative_attention_bias.weight"


def _attention(uer: str, hf: str) -> list[Rule]:
    return [
        *(
            rule(f"{uer}.linear_layers.{part}.weight", f"{hf}.{letter}.weight")
            for part, letter in enumerate("qkv")
        ),
        rule(f"{uer}.final_linear.weight", f"{hf}.o.weight"),
    ]


def _feed_forward(uer: str, hf: str, gated: bool) -> list[Rule]:
    name = f"{hf}.DenseReluDense"
    inner = (
        [
            rule(f"{uer}feed_forward.linear_gate.weight", f"{name}.wi_0.weight"),
            rule(f"{uer}feed_forward.linear_1.weight", f"{name}.wi_1.weight"),
        ]
        if gated
        else [rule(f"{uer}feed_forward.linear_1.weight", f"{name}.wi.weight")]
    )
    return [*inner, rule(f"{uer}feed_forward.linear_2.weight", f"{name}.wo.weight")]


def _encoder(gated: bool) -> tuple[Rule, ...]:
    uer, hf = "encoder.transformer.{i}.", "encoder.block.{i}.layer."
    return (
        rule(WORD, ("encoder.embed_tokens.weight", "shared.weight")),
        rule(f"encoder.relative_pos_emb.{_BIAS}", f"encoder.block.0.layer.0.SelfAttention.{_BIAS}"),
        *_attention(f"{uer}self_attn", f"{hf}0.SelfAttention"),
        rule(f"{uer}layer_norm_1.weight", f"{hf}0.layer_norm.weight"),
        *_feed_forward(uer, f"{hf}1", gated),
        rule(f"{uer}layer_norm_2.weight", f"{hf}1.layer_norm.weight"),
        rule("encoder.layer_norm.weight", "encoder.final_layer_norm.weight"),
    )


def _decoder(gated: bool) -> tuple[Rule, ...]:
    uer, hf = "decoder.transformer_decoder.{i}.", "decoder.block.{i}.layer."
    return (
        rule(
            "tgt_embedding.word.embedding.weight",
            "decoder.embed_tokens.weight",
            tied=WORD,
            tie_if="decoder.layer_norm.weight",
        ),
        rule(f"decoder.self_pos_emb.{_BIAS}", f"decoder.block.0.layer.0.SelfAttention.{_BIAS}"),
        *_attention(f"{uer}self_attn", f"{hf}0.SelfAttention"),
        rule(f"{uer}layer_norm_1.weight", f"{hf}0.layer_norm.weight"),
        *_attention(f"{uer}context_attn", f"{hf}1.EncDecAttention"),
        rule(f"{uer}layer_norm_2.weight", f"{hf}1.layer_norm.weight"),
        *_feed_forward(uer, f"{hf}2", gated),
        rule(f"{uer}layer_norm_3.weight", f"{hf}2.layer_norm.weight"),
        rule("decoder.layer_norm.weight", "decoder.final_layer_norm.weight"),
        rule(
            "target.lm.output_layer.weight",
            "lm_head.weight",
            tied=WORD,
            tie_if="decoder.layer_norm.weight",
        ),
    )


def _from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(config, is_decoder=(False, None))
    hidden = number(config, "d_model", "hidden_size", default=512)
    heads = number(config, "num_heads", default=8)
    layers = number(config, "num_layers", default=6)
    mt5 = config.get("model_type") in ("mt5", "umt5")
    projection = str(config.get("feed_forward_proj") or ("gated-gelu" if mt5 else "relu"))
    gated = projection.startswith("gated-")
    # "gated-gelu" has always meant the tanh form there.
    word = "gelu_new" if projection == "gated-gelu" else projection.split("-")[-1]
    scaled = config.get("tie_word_embeddings") is not False
    if "scale_decoder_outputs" in config:
        scaled = bool(config["scale_decoder_outputs"])
    return {
        "vocab_size": number(config, "vocab_size", default=32128),
        "tgt_vocab_size": number(config, "vocab_size", default=32128),
        "hidden_size": hidden,
        "emb_size": hidden,
        "layers_num": layers,
        "decoder_layers_num": number(config, "num_decoder_layers", default=layers),
        "heads_num": heads,
        "attention_head_size": number(config, "d_kv", default=64),
        "feedforward_size": number(config, "d_ff", default=2048),
        "hidden_act": activation({"feed_forward_proj": word}, "feed_forward_proj", "relu"),
        "embedding": ("word",),
        "tgt_embedding": ("word",),
        "remove_embedding_layernorm": True,
        "encoder": "transformer",
        "decoder": "transformer",
        "mask": "fully_visible",
        "layernorm_positioning": "pre",
        "layernorm": "t5",
        "norm": "rms",
        "norm_eps": real(config, "layer_norm_epsilon", 1e-6),
        "feed_forward": "gated" if gated else "dense",
        "remove_transformer_bias": True,
        "remove_attention_scale": True,
        "relative_position_embedding": True,
        "relative_attention_buckets_num": number(
            config, "relative_attention_num_buckets", default=32
        ),
        "relative_attention_max_distance": number(
            config, "relative_attention_max_distance", default=128
        ),
        # A tied T5 scales what its decoder gives before the output layer; mT5 never does.
        "lm_scale": hidden**-0.5 if scaled and not mt5 else 1.0,
    }


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    act = ACTIVATIONS_OUT[config.hidden_act]
    if config.feed_forward == "gated":
        # "gated-gelu" would be read as the tanh form; its exact form has another word.
        act = {"gelu_new": "gated-gelu", "gelu": "gated-gelu_python"}.get(act, f"gated-{act}")
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "d_kv": config.head_size,
        "d_ff": config.feedforward_size,
        "num_layers": config.layers_num,
        "num_decoder_layers": config.decoder_layers_num,
        "num_heads": config.heads_num,
        "relative_attention_num_buckets": config.relative_attention_buckets_num,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": config.norm_eps,
        "feed_forward_proj": act,
        "is_encoder_decoder": True,
        "use_cache": True,
        # These two words keep transformers (4 and 5) from scaling the decoder's output, which
        # UER-py never does.
        "tie_word_embeddings": config.lm_scale != 1.0,
        "scale_decoder_outputs": config.lm_scale != 1.0,
    }


def _architecture(name: str, gated: bool) -> Architecture:
    gate = "encoder.transformer.0.feed_forward.linear_gate.weight"
    hf_mark = "encoder.block.0.layer.1.DenseReluDense." + ("wi_0.weight" if gated else "wi.weight")
    return Architecture(
        name=name,
        model_types=("t5", "mt5"),
        core=_encoder(gated),
        heads=(
            Head(
                "lm",
                _decoder(gated),
                hf=("decoder.final_layer_norm.weight",),
                uer=("decoder.layer_norm.weight",),
            ),
        ),
        signature=Signature(
            has=(
                WORD,
                f"encoder.relative_pos_emb.{_BIAS}",
                "encoder.layer_norm.weight",
                *((gate,) if gated else ()),
            ),
            lacks=(
                "embedding.pos.embedding.weight",
                "embedding.layer_norm.weight",
                "encoder.transformer.0.self_attn.linear_layers.0.bias",
                *(() if gated else (gate,)),
            ),
        ),
        hf_marks=(f"encoder.block.0.layer.0.SelfAttention.{_BIAS}", hf_mark),
        ignored_hf=(
            r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",
        ),
        classes={"": "T5EncoderModel", "lm": "T5ForConditionalGeneration"},
        config_from_hf=_from_hf,
        config_to_hf=_to_hf,
        class_prefixes={"mt5": "MT5"},
        scales_tied_words=True,
        usual={"hidden_act": "gelu_fast" if gated else "relu", "remove_attention_scale": True},
    )


ARCHITECTURE = _architecture("t5", gated=False)
ARCHITECTURE_V1_1 = _architecture("t5-v1_1", gated=True)
