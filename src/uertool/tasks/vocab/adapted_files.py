"""What lies beside the weights of a model that got another vocabulary: sizes, ids, tokenizers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uertool.checkpoints.architectures import architecture
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
from uertool.tasks.vocab.change import Change, Side, VocabChange, is_folder
from uertool.text.vocab import Vocab

#: Files of a folder that hold ids or sizes.
_CONFIGS = ("config.json", "generation_config.json")

#: Endings of files that belong to a model; others, such as a model card, tell of the old one.
_KEPT = (".json", ".txt", ".model", "")

_LONGEST = 1 << 31


def renewed(
    config: Mapping[str, Any], changes: Mapping[Side, Change]
) -> tuple[dict[str, Any], list[str]]:
    """A configuration with new sizes and new ids of special tokens, and the ids that are lost.

    Args:
        config: config.json, or what a safetensors file keeps of one.
        changes: by side.
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


def write_beside(
    folder: Path, source: Path, checkpoint: Checkpoint, changes: Mapping[Side, Change]
) -> list[str]:
    """Write the configuration and the tokenizer files of a folder; returns notes.

    Args:
        folder: the new one, in which the weights are already.
        source: the folder of the old model.
        checkpoint: the old model.
        changes: by side.
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
            content = read_json_object(item)
            write_json(folder / item.name, renewed(content, changes)[0])
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
    """The vocabulary as UER-py takes it, with the merges that `vocab build` puts beside it."""
    if change.asked.new_spm is not None:
        shutil.copyfile(change.asked.new_spm, folder / "spiece.model")
        return
    write_vocab(folder / "vocab.txt", change.vocab)
    merges = _beside(change.asked, ".merges.txt")
    if merges is not None:
        shutil.copyfile(merges, folder / "merges.txt")


def _write_hf_files(
    folder: Path, source: Path, checkpoint: Checkpoint, change: Change
) -> list[str]:
    asked = change.asked
    settings = _json(source / "tokenizer_config.json")
    length = settings.get("model_max_length")
    length = length if isinstance(length, int) and length < _LONGEST else 512
    trained = _beside(asked, ".tokenizer.json")
    if trained is not None:
        _write_trained(folder, trained, change.vocab, length)
        return []
    if asked.new_spm is None and not is_folder(asked.new) and change.joining != "wordpieces":
        write_vocab(folder / "vocab.txt", change.vocab)
        return [
            "There are no tokenizer files in the output: a vocabulary of such tokens does not "
            "say how text is cut. Name a folder with a tokenizer, or a sentencepiece model, "
            "as the new vocabulary."
        ]
    made = TokenizerSource(
        vocab_path=None if is_folder(asked.new) or asked.new is None else Path(asked.new),
        spm_path=None if asked.new_spm is None else Path(asked.new_spm),
        folder=Path(asked.new) if asked.new is not None and is_folder(asked.new) else None,
        do_lower_case=bool(settings.get("do_lower_case", True)),
    )
    assert checkpoint.architecture is not None
    write_tokenizer(folder, made, architecture(checkpoint.architecture), length)
    return []


def _write_trained(folder: Path, trained: Path, vocab: Vocab, length: int) -> None:
    """The tokenizer.json of a trained subword model, with its special tokens named."""
    shutil.copyfile(trained, folder / "tokenizer.json")
    write_vocab(folder / "vocab.txt", vocab)
    write_tokenizer_settings(folder, vocab, length, tokenizer_class="PreTrainedTokenizerFast")


def _beside(asked: VocabChange, ending: str) -> Path | None:
    """A file that `vocab build` wrote beside the new vocabulary, if it is there."""
    if asked.new is None or is_folder(asked.new):
        return None
    found = Path(side_file(asked.new, ending))
    return found if found.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
