"""The tokenizers of a model, from the files that were named or those next to the checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uertool.checkpoints.companions import companion, find_companion
from uertool.checkpoints.model_folder import SPIECE_FILES
from uertool.errors import UertoolError, UsageError, VocabError, counted
from uertool.io.small_files import read_json_object
from uertool.loading.references import find_model
from uertool.loading.settings import TokenizerSettings
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.factory import make_tokenizer
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder, tokenizer_from_json

if TYPE_CHECKING:
    from uertool.checkpoints.reader import Checkpoint
    from uertool.config import ModelConfig

#: Rows that a word table may have beyond its vocabulary: many are padded to a round number.
PADDING_ROWS = 128

#: Names of weight files, and of tokenizer files, in folders of Hugging Face.
_HF_WEIGHTS = ("pytorch_model.bin", "model.safetensors", "model.safetensors.index.json")
_HF_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

#: Keyword arguments of `load_model` that describe a tokenizer; with `tgt_` that of the target.
TOKENIZER_SETTINGS = ("spm_model_path", "merges_path", "do_lower_case")


@dataclass(frozen=True)
class TokenizerFiles:
    """What a user or the files next to a model say about a tokenizer; None means nothing.

    Attributes:
        vocab: a vocabulary file.
        kind: UER-py's name of the tokenizer, see `make_tokenizer`.
        spm_model_path: a sentencepiece model.
        merges_path: merges of a byte-level BPE.
        do_lower_case: whether text is lower-cased.
        json: a tokenizer.json of Hugging Face.
    """

    vocab: str | Path | None = None
    kind: str | None = None
    spm_model_path: str | Path | None = None
    merges_path: str | Path | None = None
    do_lower_case: bool | None = None
    json: Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was named."""
        return not any(vars(self).values())


def own_tokenizer(path: Path) -> TokenizerFiles:
    """The tokenizer that the companions of a weight file describe; nothing for a folder.

    They are NAME.vocab.txt or NAME.vocab.json, NAME.spiece.model, NAME.merges.txt, and
    NAME.config.json, which has its kind and `do_lower_case`; or NAME.tokenizer.json, which has
    everything.
    """
    if path.is_dir():
        return TokenizerFiles()

    def own(*names: str) -> Path | None:
        places = (companion(path, name) for name in names)
        return next((place for place in places if place.is_file()), None)

    settings: Mapping[str, Any] = {}
    config = own("config.json")
    if config is not None:
        with contextlib.suppress(UertoolError):  # it is reported where its settings are read
            settings = read_json_object(config)
    kind, lower = settings.get("tokenizer"), settings.get("do_lower_case")
    return TokenizerFiles(
        vocab=own("vocab.txt", "vocab.json"),
        kind=kind if isinstance(kind, str) else None,
        spm_model_path=own("spiece.model"),
        merges_path=own("merges.txt"),
        json=own("tokenizer.json"),
        do_lower_case={"true": True, "false": False}.get(str(lower).lower()),
    )


def nearby_tokenizer(path: Path) -> tuple[TokenizerFiles, list[str]]:
    """The tokenizer of a weight file, or one in its folder that is no plain vocabulary.

    A note names one that may be another model's.
    """
    own = own_tokenizer(path)
    if not own.is_empty or find_companion(path, "vocab.txt") is not None:
        return own, []
    found = find_companion(path, "tokenizer.json", *SPIECE_FILES)
    if found is None:
        return own, []
    is_json = found.name == "tokenizer.json"
    files = TokenizerFiles(json=found) if is_json else TokenizerFiles(spm_model_path=found)
    return files, [] if path.is_dir() else [f"The tokenizer {found}, next to the model, is used."]


def found_vocab(path: Path, default: str = "vocab.txt") -> tuple[Path, list[str]]:
    """The vocabulary of a checkpoint: its own, or the one in its folder, which a note names.

    Raises:
        UsageError: there is none.
    """
    found = find_companion(path, default)
    if found is None:
        raise UsageError(
            f"{path} has no vocabulary next to it.",
            "Name one with `vocab_path`, or a sentencepiece model with `spm_model_path`.",
        )
    if found.name != default or path.is_dir():
        return found, []
    own = companion(path, default).name
    return found, [
        f"The vocabulary {found}, next to the model, is used, because there is no {own}."
    ]


def settings_of(path: Path) -> Path | None:
    """tokenizer_config.json of a tokenizer.json."""
    found = path.with_name(path.name.replace("tokenizer.json", "tokenizer_config.json"))
    return found if found.is_file() else None


class TokenizerFinder:
    """Finds the tokenizers of a checkpoint.

    Attributes:
        notes: sentences that a user should read.
        details: sentences for one who wants to know more.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        source: TokenizerFiles,
        target: TokenizerFiles | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.named = source
        self.named_target = target or TokenizerFiles()
        self.notes: list[str] = []
        self.details: list[str] = []

    def source(self) -> Tokenizer:
        """The tokenizer of texts, or of an encoder-decoder's sources.

        Raises:
            UsageError: there is no vocabulary.
            VocabError: it does not fit the word table.
        """
        tokenizer = self._make(self.named, "vocab.txt")
        self._compare(tokenizer, self.config.vocab_size, self.named.vocab)
        return tokenizer

    def target(self) -> Tokenizer | None:
        """The tokenizer of targets, None where it is that of the sources.

        Raises:
            UsageError: the target has another vocabulary, which was not found.
            VocabError: it does not fit the word table.
        """
        config, named = self.config, self.named_target
        if config.decoder is None:
            return None
        own = find_companion(self.checkpoint.path, "tgt_vocab.txt")
        if named.is_empty and not (self.named.vocab is None and own is not None):
            if config.tgt_vocab_size not in (0, config.vocab_size):
                raise UsageError(
                    f"{self.checkpoint.path} has {config.tgt_vocab_size} target words but "
                    f"{config.vocab_size} source words, so the target needs its own vocabulary.",
                    "Name it with `tgt_vocab_path`.",
                )
            return None
        vocab = named.vocab
        if vocab is None and not named.spm_model_path and own is None:
            vocab = self.named.vocab
        kind = named.kind or ("bert" if named.vocab else self.named.kind)
        tokenizer = self._make(replace(named, vocab=vocab, kind=kind), "tgt_vocab.txt")
        self._compare(tokenizer, config.tgt_vocab_size or config.vocab_size, self.named.vocab)
        return tokenizer

    def _make(self, named: TokenizerFiles, default: str) -> Tokenizer:
        checkpoint = self.checkpoint
        return tokenizer_at(checkpoint.path, checkpoint.layout, named, self.notes, default)

    def _compare(self, tokenizer: Tokenizer, rows: int, named: str | Path | None) -> None:
        """A vocabulary of another size than the word table belongs to another model."""
        size = len(tokenizer)
        unused = rows - size
        if 0 <= unused <= PADDING_ROWS:
            if unused:
                self.details.append(
                    f"Unused at the end of the word table: {counted(unused, 'row')}."
                )
            return
        if unused > 0 and self.checkpoint.layout == "hf" and named is None:
            self.notes.append(f"Unused at the end of the word table: {counted(unused, 'row')}.")
            return
        raise VocabError(
            f"{tokenizer.vocab.source} has {size} tokens, but the word embedding of "
            f"{self.checkpoint.path} has {rows} rows.",
            "Use the vocabulary that the model was trained with, or adapt the model to this one "
            "with: uertool vocab adapt",
        )


def load_tokenizer(model: TokenizerSettings) -> tuple[Tokenizer, list[str]]:
    """The tokenizer that settings describe, without the weights of the model, and notes about it.

    Files of a tokenizer that are named need no model; otherwise the model is a weight file with
    its vocabulary next to it, or a folder, which may hold the files of a tokenizer alone.

    Raises:
        UsageError: there is no vocabulary.
        UertoolError: the model is missing, or its files cannot be read.
    """
    files = TokenizerFiles(
        model.vocab_path,
        model.tokenizer,
        model.spm_model_path,
        model.merges_path,
        model.do_lower_case,
    )
    notes: list[str] = []
    has_files = files.vocab is not None or files.spm_model_path is not None
    if has_files:
        return tokenizer_at(Path(), "uer", files, notes), notes
    path = find_model(model.reference)
    return tokenizer_at(path, _layout_of(path), files, notes), notes


def _layout_of(path: Path) -> str:
    """Whether the files around a model are those of Hugging Face ("hf"), without its weights."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name not in _HF_WEIGHTS:
        return "uer"
    if any((folder / name).is_file() for name in _HF_TOKENIZERS):
        return "hf"
    config = folder / "config.json"
    has_type = config.is_file() and "model_type" in read_json_object(config)
    return "hf" if has_type else "uer"


def tokenizer_at(
    path: Path,
    layout: str,
    named: TokenizerFiles,
    notes: list[str],
    default: str = "vocab.txt",
) -> Tokenizer:
    """The tokenizer of a model, from the files that were named or else those next to it.

    Args:
        path: the weight file or folder.
        layout: of the model, "hf" for Hugging Face's.
        named: what was named.
        notes: gets a note if the vocabulary may be another model's.
        default: the name of a vocabulary.
    """
    vocab, kind, lower = named.vocab, named.kind, named.do_lower_case
    spm, merges = named.spm_model_path, named.merges_path
    if vocab is None and spm is None:
        if layout == "hf" and default == "vocab.txt":
            folder = path if path.is_dir() else path.parent
            if kind is None and lower is None:
                return tokenizer_from_hf_folder(folder)
            vocab = find_companion(path, default)
            if vocab is None:
                raise UsageError(f"`tokenizer` needs `vocab_path`: {folder} has no vocab.txt.")
        else:
            own = TokenizerFiles()
            if default == "vocab.txt":
                own, near = nearby_tokenizer(path)
                notes.extend(near)
            if own.json is not None and kind is None and lower is None:
                return tokenizer_from_json(own.json, settings_of(own.json))
            spm, merges = own.spm_model_path, merges or own.merges_path
            vocab = own.vocab or (None if spm else _found(path, default, notes))
            kind = kind or own.kind
            lower = own.do_lower_case if lower is None else lower
    return make_tokenizer(
        kind or "bert",
        vocab_path=vocab,
        spm_model_path=spm,
        merges_path=merges,
        do_lower_case=True if lower is None else bool(lower),
    )


def _found(path: Path, default: str, notes: list[str]) -> Path:
    """The vocabulary of a model, with a note if it may be another model's."""
    found, note = found_vocab(path, default)
    notes.extend(note)
    return found
