"""Qwen2 and Qwen2.5: LLaMA with biases of query, key and value."""

from __future__ import annotations

from uertool.checkpoints.architectures.llama import decoder

ARCHITECTURE = decoder(
    "qwen2",
    {"": "Qwen2Model", "lm": "Qwen2ForCausalLM"},
    qkv_bias=True,
    usual={"rope_theta": 1000000.0},
)
