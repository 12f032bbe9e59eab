"""Small models of transformers with random weights, and what transformers computes with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from uertool.checkpoints.architectures.base import Architecture
from uertool.tasks.convert.hf_config import written_class

#: Sizes by every word that a configuration of transformers may have for them.
SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size",), 131),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "encoder_layers", "num_layers"), 3),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads",), 2),
    **dict.fromkeys(("head_dim",), 12),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 48),
    **dict.fromkeys(("n_inner",), 56),
    **dict.fromkeys(("d_kv",), 12),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 40),
    **dict.fromkeys(("embedding_size",), 20),
    **dict.fromkeys(("num_labels",), 5),
    **dict.fromkeys(("bos_token_id",), 2),
    **dict.fromkeys(("eos_token_id",), 3),
    **dict.fromkeys(("decoder_start_token_id",), 2),
}

LENGTHS = (14, 9, 1)


@dataclass(frozen=True)
class Texts:
    """Three texts of unequal length; a target for decoders.

    Attributes:
        ids, segs: [3, 14] as uertool reads them.
        tgt_ids: [3, 6].
    """

    ids: Tensor
    segs: Tensor
    tgt_ids: Tensor

    @property
    def real(self) -> Tensor:
        """[3, 14] bool, False at padding."""
        return self.segs > 0


def texts(vocab: int, *, pairs: bool) -> Texts:
    """Texts of a vocabulary; `pairs`: the first one has two parts."""
    chance = torch.Generator().manual_seed(11)
    ids = torch.randint(5, vocab, (3, LENGTHS[0]), generator=chance)
    tgt_ids = torch.randint(5, vocab, (3, 6), generator=chance)
    segs = (torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]).long()
    if pairs:
        segs[0, 8:] = 2
    return Texts(ids * (segs > 0), segs, tgt_ids)


def make(
    folder: Path, arch: Architecture, model_type: str, head: str, **settings: Any
) -> tuple[Any, str]:
    """Save a small model of an architecture in a folder, with a vocabulary.

    Args:
        folder: where to.
        arch: decides the class.
        model_type: one of its model types.
        head: a key of `arch.classes`.
        settings: of the configuration, besides the sizes.

    Returns:
        The model, and the name of its class.
    """
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.fail(f"transformers has no {model_type}: set in_transformers=False")
    torch.manual_seed(5)
    known = transformers.AutoConfig.for_model(model_type)
    sizes = {name: size for name, size in SIZES.items() if hasattr(known, name)}
    if head == "qa":
        sizes["num_labels"] = 2
    config = transformers.AutoConfig.for_model(model_type, **{**sizes, **settings})
    heads = tuple(head.split("+")) if head else ()
    name = written_class(arch, heads, model_type)
    model = getattr(transformers, name)(config).eval()
    # Far from the small numbers of an untrained model, but where attention scores are not scaled.
    factor = 1.0 if hasattr(config, "d_kv") else 3.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("embed_positions.weight"):
                continue  # computed
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(factor)
    model.save_pretrained(folder)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab += [chr(0x4E00 + number) for number in range(config.vocab_size - len(vocab))]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")
    return model, name


def loaded(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a folder as transformers holds it; every key must be there and expected."""
    model, info = getattr(transformers, name).from_pretrained(
        folder, output_loading_info=True, dtype=dtype
    )
    assert {key: value for key, value in info.items() if value} == {}
    return model.eval()


def computed(model: Any, given: Texts) -> dict[str, Tensor]:
    """Hidden states and scores of a model of transformers at the real positions of texts.

    "layers" [layers + 1, tokens, hidden] of an encoder, "hidden" its last states, and the scores
    of heads: "mlm", "sp", "cls", "token_cls", "qa", "lm", "pooler".
    """
    pad = model.config.pad_token_id or 0
    real = given.real
    inputs: dict[str, Tensor] = {
        "input_ids": given.ids.masked_fill(~real, pad),
        "attention_mask": real.long(),
    }
    kinds = getattr(model.config, "type_vocab_size", 0)
    if kinds > 1:
        inputs["token_type_ids"] = (given.segs - 1).clamp(min=0)
    decodes = model.config.is_encoder_decoder and "Encoder" not in type(model).__name__
    if decodes:
        inputs["decoder_input_ids"] = given.tgt_ids
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True, return_dict=True)
    layers = out.encoder_hidden_states if decodes else out.hidden_states
    found = {"layers": torch.stack([layer[real] for layer in layers])}
    found["hidden"] = found["layers"][-1]
    name = type(model).__name__
    if "prediction_logits" in out:
        found["mlm"] = out.prediction_logits[real]
        found["sp"] = out.get("seq_relationship_logits", out.get("sop_logits"))
    elif "start_logits" in out:
        found["qa"] = torch.stack([out.start_logits, out.end_logits], -1)[real]
    elif "logits" in out:
        whole = {"ForNextSentencePrediction": "sp", "ForSequenceClassification": "cls"}
        tokens = {
            "ForMaskedLM": "mlm",
            "ForTokenClassification": "token_cls",
            "LMHead": "lm",
            "CausalLM": "lm",
        }
        tokens["ForPreTraining"] = "rtd"
        for part, head in whole.items():
            if part in name:
                found[head] = out.logits
        for part, head in tokens.items():
            if part in name:
                found[head] = out.logits[real]
        if decodes:
            found["lm"] = out.logits
    elif decodes:
        found["decoder"] = out.last_hidden_state
    if out.get("pooler_output") is not None:
        found["pooler"] = out.pooler_output
    return found


def ours(model: Any, given: Texts) -> dict[str, Tensor]:
    """The same of a model of uertool."""
    with torch.no_grad():
        numbers = range(model.config.layers_num + 1)
        layers = [
            layer[given.real] for layer in model.encode(given.ids, given.segs, layers=numbers)
        ]
        hidden = model.encode(given.ids, given.segs)
        tokens, first = hidden[given.real], hidden[:, 0]
        found = {"layers": torch.stack(layers), "hidden": tokens}
        parts = {
            "mlm": (model.mlm, tokens),
            "rtd": (model.rtd, tokens),
            "sp": (model.sp, first),
            "cls": (model.classifier, first),
            "token_cls": (model.token_classifier, tokens),
            "qa": (model.qa, tokens),
            "pooler": (model.pooler, first),
        }
        found.update({name: head(x) for name, (head, x) in parts.items() if head is not None})
        if model.lm is not None and model.decoder is not None:
            found["decoder"] = model.decode(given.ids, given.segs, given.tgt_ids)
            found["lm"] = model.lm(found["decoder"])
        elif model.lm is not None:
            found["lm"] = model.lm(tokens)
    return found
