"""The ModelConfig of a conversion's source, from its tensors, its files and what the user says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uertool.bundled import find_config
from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.reader import Checkpoint
from uertool.errors import ConfigError
from uertool.loading.config_resolution import FOREIGN_KEYS, Resolved, read_config, resolve_config

#: What other programs' configurations say about positions that UER-py's names may not store.
_POSITIONS = ("embedding", "tgt_embedding")


def source_config(
    checkpoint: Checkpoint,
    config_path: Path | None,
    settings: Mapping[str, Any],
    *,
    needs_heads: bool = True,
) -> Resolved:
    """Resolve the configuration of a checkpoint that is to be converted.

    As `resolve_config` does, but a checkpoint with UER-py's names may also be described in Hugging
    Face's or Google's words: it then is a model of theirs in other clothes.

    Args:
        checkpoint: the source.
        config_path: a configuration in UER-py's, Hugging Face's or Google's words.
        settings: single values by ModelConfig's names.
        needs_heads: whether an unknown number of attention heads is an error; where it is not, it
            is 0 in the result.

    Raises:
        ConfigError: a file cannot be read, or contradicts the tensors.
    """
    found = find_config(config_path) if config_path is not None else None
    if found is not None and checkpoint.layout == "uer" and checkpoint.architecture:
        content = read_config(found)
        if FOREIGN_KEYS & set(content):
            told = architecture(checkpoint.architecture).config_from_hf(content)
            told = {name: value for name, value in told.items() if name not in _POSITIONS}
            given = {name: value for name, value in settings.items() if value is not None}
            return resolve_config(checkpoint, None, {**told, **given})
    try:
        return resolve_config(checkpoint, config_path, settings)
    except ConfigError:
        if needs_heads or settings.get("heads_num"):
            raise
        # Names can be changed without knowing how many heads share the numbers.
        resolved = resolve_config(checkpoint, config_path, {**settings, "heads_num": 1})
        unknown = resolved.config.replace(heads_num=0, attention_head_size=0)
        return Resolved(unknown, resolved.notes)


def hugging_face_words(path: Path | None) -> dict[str, Any] | None:
    """The configuration at `path` if it is one of Hugging Face, otherwise None."""
    found = find_config(path) if path is not None else None
    content = read_config(found) if found is not None else {}
    return content if "model_type" in content else None
