"""One fixed input run by uertool and by transformers, to compare two models."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uertool.checkpoints.architectures.base import Architecture
from uertool.config import ModelConfig
from uertool.errors import CheckpointError
from uertool.io.memory import release_after_use
from uertool.models.model import UerModel
from uertool.models.outputs import all_outputs

#: Most tokens of a probe, source and target.
_SOURCE, _TARGET = 16, 7

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Probe:
    """A fixed input: two rows, of which the second is shorter.

    Attributes:
        ids: [2, length] tokens, 0 where there is padding.
        segs: [2, length] 0 for padding, 1 or 2 for the first or second text.
        tgt_ids: [2, target] tokens for a decoder, None without one.
    """

    ids: Tensor
    segs: Tensor
    tgt_ids: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """[2, length] bool, False at padding."""
        return self.segs > 0


def make_probe(config: ModelConfig, arch: Architecture | None) -> Probe:
    """The fixed input of a model: ids from all over its vocabulary, the same in every run."""
    length = max(1, min(_SOURCE, config.max_seq_length - 2))
    ids = _spread(2 * length, config.vocab_size).view(2, length)
    segs = torch.ones_like(ids)
    if arch is not None and arch.config_to_hf(config).get("type_vocab_size", 1) > 1:
        segs[0, length // 2 :] = 2
    segs[1, length - length // 3 :] = 0
    tgt = None
    if config.decoder is not None:
        size = max(1, min(_TARGET, config.max_seq_length - 2))
        vocab = config.tgt_vocab_size or config.vocab_size
        tgt = _spread(2 * size, vocab).view(2, size).flip(0)
    return Probe(ids * (segs > 0), segs, tgt)


def _spread(count: int, vocab: int) -> Tensor:
    """`count` ids, without the first few, which may be special tokens."""
    first = min(5, vocab - 1)
    steps = torch.arange(count, dtype=torch.int64) * 7919 + 104729  # two primes
    return first + steps % (vocab - first)


def uertool_outputs(model: UerModel, probe: Probe) -> dict[str, Tensor]:
    """The outputs of a model of uertool for a probe, without padding.

    Returns:
        "hidden states" [tokens, hidden], and the scores of every head by its name.
    """
    with torch.inference_mode():
        found = all_outputs(model, probe.ids, probe.segs, probe.tgt_ids)
    names = {"hidden": "hidden states"}
    of_tokens = {"hidden", "mlm", "rtd", "token_cls", "qa"}
    if probe.tgt_ids is None:
        of_tokens.add("lm")
    return {
        names.get(name, name): (out[probe.real] if name in of_tokens else out).float()
        for name, out in found.items()
        if name not in ("decoder", "siamese")
    }


def transformers_outputs(folder: Path, hf_class: str, probe: Probe) -> dict[str, Tensor] | None:
    """The outputs of transformers for a probe, with the model of a folder; None if not installed.

    Args:
        folder: the Hugging Face folder.
        hf_class: the class to load it with, for example "BertForMaskedLM".
        probe: the input.

    Returns:
        As `uertool_outputs`.

    Raises:
        CheckpointError: transformers cannot load it, or finds weights missing, unexpected or of
            another shape.
    """
    try:
        import transformers

        kind = getattr(transformers, hf_class)
    except (ImportError, RuntimeError, AttributeError):  # absent, older, or for another torch
        return None
    try:
        with silence():
            model, info = kind.from_pretrained(
                folder, output_loading_info=True, dtype=torch.float32, local_files_only=True
            )
    except Exception as error:  # of any type
        raise CheckpointError(
            f"transformers {transformers.__version__} cannot load the output as {hf_class}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}.",
            "The output was not kept; `no_verify` writes it anyway.",
        ) from error
    faults = [
        f"{len(names)} {what.replace('_', ' ')} such as {sorted(map(str, names))[0]}"
        for what, names in info.items()
        if names and what.endswith("_keys")
    ]
    if faults:
        raise CheckpointError(f"transformers finds in {folder}: {'; '.join(faults)}.")
    model.eval()
    release_after_use(model, folder)
    inputs = _hf_inputs(model.config, probe)
    with torch.inference_mode():
        out = model(**inputs, output_hidden_states=True, return_dict=True)
    return _named(out, hf_class, probe)


def _hf_inputs(config: Any, probe: Probe) -> dict[str, Tensor]:
    pad = getattr(config, "pad_token_id", None) or 0
    inputs = {
        "input_ids": probe.ids.masked_fill(~probe.real, pad),
        "attention_mask": probe.real.long(),
    }
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = (probe.segs - 1).clamp(min=0)
    if probe.tgt_ids is not None and config.is_encoder_decoder:
        inputs["decoder_input_ids"] = probe.tgt_ids
    return inputs


def _named(out: Any, hf_class: str, probe: Probe) -> dict[str, Tensor]:
    """The outputs of transformers under the names of `uertool_outputs`."""
    real = probe.real
    seq2seq = getattr(out, "encoder_last_hidden_state", None)
    if seq2seq is not None:
        hidden = seq2seq
    elif getattr(out, "last_hidden_state", None) is not None:
        hidden = out.last_hidden_state
    else:
        hidden = out.hidden_states[-1]
    found = {"hidden states": hidden[real]}
    if "prediction_logits" in out:
        found["mlm"] = out.prediction_logits[real]
        pair = "seq_relationship_logits" if "seq_relationship_logits" in out else "sop_logits"
        found["sp"] = out[pair]
    elif "start_logits" in out:
        found["qa"] = torch.stack([out.start_logits, out.end_logits], -1)[real]
    elif "logits" in out:
        name = next(head for ending, head in _HEADS if ending in hf_class)
        whole = name in ("sp", "cls") or seq2seq is not None
        found[name] = out.logits if whole else out.logits[real]
    if getattr(out, "pooler_output", None) is not None:
        found["pooler"] = out.pooler_output
    return {name: tensor.float() for name, tensor in found.items()}


#: Ending of Hugging Face's classes -> the head that computes their logits.
_HEADS = (
    ("ForMaskedLM", "mlm"),
    ("ForPreTraining", "rtd"),
    ("ForNextSentencePrediction", "sp"),
    ("ForSequenceClassification", "cls"),
    ("ForTokenClassification", "token_cls"),
    ("LMHeadModel", "lm"),
    ("ForCausalLM", "lm"),
    ("ForConditionalGeneration", "lm"),
)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Silence the log and progress bars of transformers; its loading report is checked instead."""
    from transformers.utils import logging as theirs

    logger = logging.getLogger("transformers")
    before, bars = logger.level, theirs.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(before)
        if bars:
            theirs.enable_progress_bar()
