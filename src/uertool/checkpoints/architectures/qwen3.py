"""Qwen3 and Qwen3-Embedding: LLaMA with norms of queries and keys, and heads of any size."""

from __future__ import annotations

from uertool.checkpoints.architectures.llama import decoder

ARCHITECTURE = decoder(
    "qwen3",
    {"": "Qwen3Model", "lm": "Qwen3ForCausalLM"},
    norms=True,
    usual={"rope_theta": 1000000.0},
)
