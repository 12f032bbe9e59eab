"""The ModelConfig of a conversion's source, from its tensors, its files and what the user says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.reader import Checkpoint
from uertool.errors import ConfigError
from uertool.models.config import ModelConfig


def source_config(
    checkpoint: Checkpoint, config_path: Path | None, settings: Mapping[str, Any]
) -> ModelConfig:
    """Resolve the configuration of a checkpoint that is to be converted.

    Later ones win: tensors, config.json of its folder, `config_path`, `settings`.

    Args:
        checkpoint: the source.
        config_path: a configuration in UER-py's, Hugging Face's or Google's words.
        settings: single values by ModelConfig's names.

    Raises:
        ConfigError: the file cannot be read, or contradicts the tensors.
    """
    from uertool.checkpoints.inference import infer_config

    values = dict(infer_config(checkpoint))
    values.update(checkpoint.stored_config or {})
    found = _beside(checkpoint) if config_path is None else _read(config_path)
    if found is not None:
        values.update(_fields(checkpoint, found))
    values.update({name: value for name, value in settings.items() if value is not None})
    known = set(ModelConfig.names())
    return ModelConfig(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in known
        }
    )


def hugging_face_words(path: Path | None) -> dict[str, Any] | None:
    """The configuration at `path` if it is one of Hugging Face, otherwise None."""
    content = _read(path) if path is not None else {}
    return content if "model_type" in content else None


def _beside(checkpoint: Checkpoint) -> dict[str, Any] | None:
    if checkpoint.layout == "hf":
        return checkpoint.hf_config
    if checkpoint.uer_config is not None:
        return checkpoint.uer_config
    names = ("bert_config.json", "albert_config.json", "config.json")
    for name in names if checkpoint.layout == "tf" else ("config.json",):
        path = checkpoint.path.parent / name
        if path.is_file():
            return _read(path)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid JSON ({error}).") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object.")
    return found


def _fields(checkpoint: Checkpoint, content: dict[str, Any]) -> dict[str, Any]:
    """ModelConfig fields from the words of whoever wrote the file."""
    foreign = {"model_type", "num_attention_heads", "n_head", "num_heads"}
    if foreign.intersection(content) and checkpoint.architecture is not None:
        return architecture(checkpoint.architecture).config_from_hf(content)
    return {name: content[name] for name in ("heads_num", "hidden_act") if name in content}
