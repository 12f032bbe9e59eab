"""Small models of transformers with random weights, which judge generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB += [chr(0x4E00 + number) for number in range(55)]
START, END = 2, 3

KINDS = ("gpt2", "t5", "t5-v1_1", "bart", "pegasus")

_MARKS = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": 0}
_SEQ2SEQ = {**_MARKS, "decoder_start_token_id": START, "vocab_size": len(VOCAB)}
_T5 = {**_SEQ2SEQ, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_BART = {
    **_SEQ2SEQ,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
}


def make(kind: str, folder: Path) -> Any:
    """Save a model of a kind with a vocabulary next to it; give it as transformers holds it."""
    import transformers

    torch.manual_seed(3)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=len(VOCAB), n_positions=64, n_embd=32, n_layer=3, n_head=4, **_MARKS
        )
        model = transformers.GPT2LMHeadModel(config)
    elif kind == "t5":
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5))
    elif kind == "t5-v1_1":
        config = transformers.T5Config(
            **_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
        )
        model = transformers.T5ForConditionalGeneration(config)
    elif kind == "bart":
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**_BART))
    else:
        config = transformers.PegasusConfig(**_BART, scale_embedding=True)
        model = transformers.PegasusForConditionalGeneration(config)
    # Untrained models write the same token over and over, and all beams are alike.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif not kind.startswith("t5"):
                parameter.mul_(4.0)
            elif "relative_attention_bias" in name or ".wo." in name or ".o." in name:
                parameter.mul_(6.0)
    model.eval().save_pretrained(folder)
    text = "".join(f"{token}\n" for token in VOCAB)
    (folder / "vocab.txt").write_text(text, encoding="utf-8")
    return type(model).from_pretrained(folder).eval()


def texts(count: int, longest: int = 12) -> list[str]:
    """Prompts of unequal length made of the vocabulary's words."""
    chance = torch.Generator().manual_seed(17)
    lengths = torch.randint(1, longest + 1, (count,), generator=chance).tolist()
    return [
        "".join(VOCAB[i] for i in torch.randint(5, len(VOCAB), (length,), generator=chance))
        for length in lengths
    ]
