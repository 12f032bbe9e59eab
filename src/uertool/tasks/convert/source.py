"""Configuration and tokenizer of a conversion's source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from uertool.bundled import find_config
from uertool.checkpoints.architectures import all_architectures
from uertool.checkpoints.architectures.base import Architecture, check_types
from uertool.checkpoints.companions import find_companion
from uertool.checkpoints.lora import LoraChoice
from uertool.checkpoints.reader import HF_CONFIG_KEY, Checkpoint, open_checkpoint
from uertool.config import ModelConfig
from uertool.errors import UertoolError, VocabError
from uertool.loading.config_resolution import Resolved, named_hf_config, resolve_config
from uertool.loading.config_values import FOREIGN_KEYS, read_config
from uertool.loading.tokenizers import nearby_tokenizer
from uertool.tasks.convert.hf_tokenizer import TokenizerSource, spiece_tokenizer
from uertool.tasks.convert.settings import ConvertSettings
from uertool.text.vocab import Vocab

#: Settings that other configurations give as well for tables that UER-py computes.
_POSITIONS = ("embedding", "tgt_embedding")


def open_source(path: str | Path, options: ConvertSettings) -> Checkpoint:
    """Open the source of a conversion as the architecture that its configuration names.

    RoBERTa and BERT look alike in UER-py's names; the configuration that is kept from the original
    model tells them apart.
    """
    more: dict[str, Any] = {
        "hf_config": named_hf_config(options.config_path),
        "lora": LoraChoice.of(options.lora, options.lora_alpha),
        "attention_heads": options.heads_num,
    }
    checkpoint = open_checkpoint(path, arch=options.architecture, **more)
    if options.architecture is not None or checkpoint.layout != "uer":
        return checkpoint
    kind = (original_config(checkpoint, options.config_path) or {}).get("model_type")
    named = {arch.name for arch in all_architectures() if kind in arch.model_types}
    others = named.intersection(checkpoint.candidates)
    if len(others) != 1 or checkpoint.architecture in others:
        return checkpoint
    checkpoint.close()
    return open_checkpoint(path, arch=others.pop(), **more)


def original_config(checkpoint: Checkpoint, config_path: Path | None) -> dict[str, Any] | None:
    """config.json of the Hugging Face model that a source is, or that it was made from.

    It is in the folder, in the file's metadata, in the configuration that was named, or in
    NAME.config.json, under HF_CONFIG_KEY.

    Raises:
        ConfigError: a configuration that was named cannot be read.
    """
    kept = checkpoint.hf_config or checkpoint.stored_hf_config
    if kept is not None:
        return kept
    named = find_config(config_path) if config_path is not None else None
    if named is not None:
        content = read_config(named)
        kept = content if "model_type" in content else content.get(HF_CONFIG_KEY)
    elif config_path is None:
        companion = find_companion(checkpoint.path, "config.json")
        with contextlib.suppress(UertoolError):  # it need not be this model's
            kept = read_config(companion).get(HF_CONFIG_KEY) if companion is not None else None
    if not isinstance(kept, dict):
        return None
    check_types(kept)
    return kept


def source_config(checkpoint: Checkpoint, options: ConvertSettings) -> Resolved:
    """Resolve the configuration of a checkpoint that is to be converted.

    As `resolve_config` does, but UER-py's names may also be described by a configuration of
    Hugging Face or Google. The number of attention heads may stay unknown (0).

    Raises:
        ConfigError: a file cannot be read, or contradicts the tensors.
    """
    path = options.config_path
    given = {"heads_num": options.heads_num, "hidden_act": options.hidden_act}
    if path is not None and checkpoint.layout == "uer" and checkpoint.arch:
        original = _foreign(path)
        if original is not None:
            described = checkpoint.arch.config_from_hf(original)
            described = {name: value for name, value in described.items() if name not in _POSITIONS}
            given = {**described, **{name: v for name, v in given.items() if v is not None}}
            path = None
    resolved = resolve_config(checkpoint, path, given, complete=False)
    if options.layers_num and resolved.config.sources.get("layers_num") == "assumed":
        # A layer that is used several times, and neither tensors nor a file say how often.
        given["layers_num"] = options.layers_num
        resolved = resolve_config(checkpoint, path, given, complete=False)
    return resolved


def _foreign(path: Path) -> Mapping[str, Any] | None:
    """The configuration at `path` if it is one of Hugging Face or Google."""
    found = find_config(path)
    content = read_config(found) if found is not None else {}
    return content if FOREIGN_KEYS & set(content) else None


def find_tokenizer(
    checkpoint: Checkpoint,
    config: ModelConfig,
    arch: Architecture | None,
    options: ConvertSettings,
) -> tuple[TokenizerSource, tuple[str, ...]]:
    """The tokenizer of a model, and notes about it.

    One that the user names must fit. One that is next to the source is ignored if it does not fit,
    because a folder of checkpoints may hold any vocabulary.

    Raises:
        VocabError: a named vocabulary has more tokens than the model has words, or is broken.
    """
    if options.spm_model_path is not None:
        if arch is not None:
            size = len(spiece_tokenizer(options.spm_model_path, arch).vocab)
            _refuse_larger(options.spm_model_path, size, checkpoint, config)
        return TokenizerSource(spm_path=Path(options.spm_model_path)), ()
    own, remarks = nearby_tokenizer(checkpoint.path)
    lower = own.do_lower_case if options.do_lower_case is None else options.do_lower_case
    lower = True if lower is None else lower
    if options.vocab_path is not None:
        size = len(Vocab.load(options.vocab_path))
        _refuse_larger(options.vocab_path, size, checkpoint, config)
        notes: tuple[str, ...] = ()
        if size < config.vocab_size:
            notes = (
                f"{options.vocab_path} has {size} tokens, the model {config.vocab_size} words: "
                "the last ones have no token.",
            )
        return TokenizerSource(vocab_path=Path(options.vocab_path), do_lower_case=lower), notes
    if checkpoint.layout == "hf" and checkpoint.path.is_dir():
        return TokenizerSource(folder=checkpoint.path), ()
    if own.json is not None:
        return TokenizerSource(json_path=own.json), tuple(remarks)
    if own.spm_model_path is not None and own.vocab is None:
        return TokenizerSource(spm_path=Path(own.spm_model_path)), tuple(remarks)
    found = own.vocab or find_companion(checkpoint.path, "vocab.txt")
    if found is None:
        return TokenizerSource(), ()
    place = Path(found)
    reason = _not_fitting(place, config)
    if reason is not None:
        return TokenizerSource(), (f"{place} is not used: {reason}",)
    merges = None if own.merges_path is None else Path(own.merges_path)
    return TokenizerSource(vocab_path=place, merges_path=merges, do_lower_case=lower), ()


def _refuse_larger(path: Path, size: int, checkpoint: Checkpoint, config: ModelConfig) -> None:
    if size > config.vocab_size:
        raise VocabError(
            f"{path} has {size} tokens, but the word table of {checkpoint.path} has "
            f"{config.vocab_size} rows.",
            "Name the vocabulary that the model was trained with.",
        )


def _not_fitting(path: Path, config: ModelConfig) -> str | None:
    try:
        size = len(Vocab.load(path))
    except UertoolError as error:
        return error.message
    if size != config.vocab_size:
        return f"it has {size} tokens, the model has {config.vocab_size} words (`vocab_path`)."
    return None


def disagreeing(checkpoint: Checkpoint) -> Iterator[str]:
    """Sentences about names that mean one tensor and hold different numbers."""
    file = checkpoint.file
    for name in checkpoint:
        used, *copies = checkpoint.raw_names(name) or ("",)
        for copy in copies:
            if file.storage_key(copy) == file.storage_key(used):
                continue
            if not torch.equal(file.tensor(copy), file.tensor(used)):
                yield f"{copy} and {used} should be one tensor, but differ; {used} is taken."
            file.release(copy)
            file.release(used)
