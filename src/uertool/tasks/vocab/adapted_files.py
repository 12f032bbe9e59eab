"""The files next to the weights of an adapted model: its configuration and its tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uertool.checkpoints.model_folder import TOKENIZER_FILES
from uertool.checkpoints.reader import Checkpoint
from uertool.io.small_files import read_json_object
from uertool.tasks.convert.hf_tokenizer import (
    TokenizerSource,
    write_json,
    write_tokenizer,
    write_tokenizer_settings,
    write_vocab,
)
from uertool.tasks.vocab.building import side_file
from uertool.tasks.vocab.change import Change, Side, VocabChange

#: Files of a folder that hold ids or sizes.
_CONFIGS = ("config.json", "generation_config.json")

#: Endings of files that belong to a model; others, such as a model card, describe the old one.
_KEPT = (".json", ".txt", ".model", "")

_LONGEST = 1 << 31


def renewed(
    config: Mapping[str, Any], changes: Mapping[Side, Change]
) -> tuple[dict[str, Any], list[str]]:
    """A configuration with new sizes and new ids of special tokens, and the ids that are lost.

    Args:
        config: config.json, or the part of one that a safetensors file keeps.
        changes: the changes of vocabulary, by side.
    """
    made = dict(config)
    for name, side in (("vocab_size", "source"), ("tgt_vocab_size", "target")):
        change = changes.get(side)  # type: ignore[call-overload]
        if change is not None and made.get(name):
            made[name] = change.plan.size
    change = changes.get("source") or changes["target"]
    lost = []
    for name, value in config.items():
        if not name.endswith("_token_id") or value is None:
            continue
        several = isinstance(value, list)
        ids = [change.moved(item) for item in (value if several else [value])]
        if None in ids:
            lost.append(name)
        made[name] = [item for item in ids if item is not None] if several else ids[0]
    return made, lost


def write_companions(
    folder: Path, source: Path, checkpoint: Checkpoint, changes: Mapping[Side, Change]
) -> list[str]:
    """Write the configuration and the tokenizer files of a folder.

    Args:
        folder: the new folder, which has the weights already.
        source: the folder of the old model.
        checkpoint: the old model.
        changes: the changes of vocabulary, by side.

    Returns:
        Sentences that a user should read.
    """
    replaced: set[str] = set()
    if "source" in changes:
        replaced.update(TOKENIZER_FILES)
    own_target = changes.get("target") is not changes.get("source") and "target" in changes
    if own_target:
        replaced.add("tgt_vocab.txt")
    for item in sorted(source.iterdir()):
        plain = item.is_file() and item.suffix in _KEPT and not item.name.startswith(".")
        if not plain or item.name in replaced or item.name.endswith(".index.json"):
            continue
        if item.name in _CONFIGS:
            write_json(folder / item.name, renewed(read_json_object(item), changes)[0])
        else:
            shutil.copyfile(item, folder / item.name)
    if own_target:
        write_vocab(folder / "tgt_vocab.txt", changes["target"].vocab)
    if "source" not in changes:
        return []
    if checkpoint.layout == "uer":
        _write_uer_files(folder, changes["source"])
        return []
    return _write_hf_files(folder, source, checkpoint, changes["source"])


def _write_uer_files(folder: Path, change: Change) -> None:
    """The vocabulary as UER-py reads it, with the merges that `vocab build` wrote next to it."""
    if change.asked.new_spm is not None:
        shutil.copyfile(change.asked.new_spm, folder / "spiece.model")
        return
    write_vocab(folder / "vocab.txt", change.vocab)
    merges = _trained_file(change.asked, ".merges.txt")
    if merges is not None:
        shutil.copyfile(merges, folder / "merges.txt")


def _write_hf_files(
    folder: Path, source: Path, checkpoint: Checkpoint, change: Change
) -> list[str]:
    asked = change.asked
    path = source / "tokenizer_config.json"
    settings = read_json_object(path) if path.is_file() else {}
    length = settings.get("model_max_length")
    length = length if isinstance(length, int) and length < _LONGEST else 512
    trained = _trained_file(asked, ".tokenizer.json")
    if trained is not None:
        shutil.copyfile(trained, folder / "tokenizer.json")
        write_vocab(folder / "vocab.txt", change.vocab)
        kind = "PreTrainedTokenizerFast"
        write_tokenizer_settings(folder, change.vocab, length, tokenizer_class=kind)
        return []
    if asked.new_file is not None and change.joining != "wordpieces":
        write_vocab(folder / "vocab.txt", change.vocab)
        return [
            "The output has no tokenizer files: a vocabulary of such tokens does not define how "
            "text is split. Name a folder with a tokenizer, or a sentencepiece model, as the new "
            "vocabulary."
        ]
    made = TokenizerSource(
        vocab_path=asked.new_file,
        spm_path=asked.new_spm,
        folder=asked.new_folder,
        do_lower_case=bool(settings.get("do_lower_case", True)),
    )
    assert checkpoint.arch is not None
    write_tokenizer(folder, made, checkpoint.arch, length)
    return []


def _trained_file(asked: VocabChange, ending: str) -> Path | None:
    """A file that `vocab build` wrote next to the new vocabulary, if there is one."""
    if asked.new_file is None:
        return None
    found = side_file(asked.new_file, ending)
    return found if found.is_file() else None
