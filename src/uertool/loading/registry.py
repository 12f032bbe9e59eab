"""load_model: a model by reference, with its tokenizer and configuration, ready to run.

    loaded = load_model("zh-mlm-small")
    loaded = load_model("model.bin", vocab="vocab.txt", device="cuda", dtype="bfloat16")

A reference is a file, a folder, a TensorFlow prefix, the name of a bundled model, or hf:owner/name.
What was loaded is kept, so that asking again for the same costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from uertool.bundled import bundled_models
from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.config import ModelConfig
from uertool.errors import CheckpointError, UsageError, VocabError
from uertool.loading import hub
from uertool.loading.assembling import HEADS, build_model, heads_in
from uertool.loading.config_resolution import resolve_config
from uertool.loading.device import resolve_device, resolve_dtype, set_threads
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.models.model import UerModel
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.factory import make_tokenizer
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder

#: Models that are kept; the one that was used longest ago makes room.
KEPT = 4

#: Rows that a table may have beyond its vocabulary: many are padded to a round number.
_PADDING_ROWS = 128

_FILES = ("spm_model_path", "merges_path", "do_lower_case")


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer and what is known about it.

    Attributes:
        model: in evaluation mode, without gradients.
        tokenizer: of texts and sources.
        tgt_tokenizer: of targets, where they have another vocabulary.
        config: sizes and switches; `config.sources` says where each came from.
        device, dtype: where it is and in which type it computes.
        reference: the path of what was loaded.
        architecture: for example "bert", or None for what only UER-py has.
        layout: whose names the file has: "uer", "hf" or "tf".
        heads: the heads that were loaded.
        notes: sentences about what was assumed, for a user to read.
        details: sentences about what was left out, for one who wants to know.
    """

    model: UerModel = field(repr=False)
    tokenizer: Tokenizer
    config: ModelConfig = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    reference: str
    tgt_tokenizer: Tokenizer | None = None
    architecture: str | None = None
    layout: str = "uer"
    heads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


_kept: dict[tuple[Any, ...], LoadedModel] = {}


def load_model(
    reference: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    vocab: str | Path | None = None,
    config: str | Path | None = None,
    tokenizer: str | None = None,
    heads: Sequence[str] | None = None,
    arch: str | None = None,
    tgt_vocab: str | Path | None = None,
    tgt_tokenizer: str | None = None,
    **overrides: Any,
) -> LoadedModel:
    """Load a model, or give the one that is loaded already.

    Args:
        reference: see above.
        device: "auto" (cuda, then mps, then cpu), "cpu", "cuda:1", ...
        dtype: the type to compute in: "auto" is float32.
        vocab: a vocabulary file; by default the one in the model's folder.
        config: a configuration file or preset; by default the one in the model's folder.
        tokenizer: UER-py's name of it, see `make_tokenizer`.
        heads: the heads that the job needs, of `loading.HEADS`; only these are loaded, and each
            must be there. None loads all that there are.
        arch: the architecture, where names alone do not tell.
        tgt_vocab, tgt_tokenizer: those of an encoder-decoder's target side.
        overrides: `spm_model_path`, `merges_path`, `do_lower_case` and the same with `tgt_` for the
            tokenizers; anything else is a field of ModelConfig.

    Raises:
        CheckpointError: there is no such model, it is broken, or its weights do not fit.
        ConfigError: the configuration contradicts the tensors.
        VocabError: the vocabulary does not fit.
        UsageError: an option that cannot be meant.
        MissingExtraError: an optional package is needed.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    path = find_model(reference)
    key = (
        *_stamp(path),
        str(place),
        kind,
        *(str(value) for value in (vocab, config, tokenizer, heads, arch)),
        *(str(value) for value in (tgt_vocab, tgt_tokenizer)),
        *sorted((name, str(value)) for name, value in overrides.items()),
    )
    if key in _kept:
        _kept[key] = _kept.pop(key)
        return _kept[key]
    sides = _Sides(path, vocab, tokenizer, tgt_vocab, tgt_tokenizer, overrides)
    with open_checkpoint(path, arch=arch) as checkpoint:
        loaded = _load(checkpoint, config, heads, sides, place, kind)
    _kept[key] = loaded
    while len(_kept) > KEPT:
        del _kept[next(iter(_kept))]
    return loaded


def load_from_settings(
    model: ModelSettings,
    device: DeviceSettings,
    *,
    heads: Sequence[str] | None = None,
    **more: Any,
) -> LoadedModel:
    """Load the model that settings describe, see `load_model`.

    Args:
        model: which model.
        device: where it runs; its number of threads holds from here on.
        heads: see `load_model`.
        more: further overrides, such as those of a decoder.

    Raises:
        UertoolError: see `load_model`.
    """
    if model.load_model_path is None and model.config_path is not None:
        raise UsageError(
            "`config_path` was given without a model.", "Name one with `load_model_path`."
        )
    if device.threads is not None:
        set_threads(device.threads)
    return load_model(
        model.reference,
        device=device.device,
        dtype=device.dtype,
        vocab=model.vocab_path,
        config=model.config_path,
        tokenizer=model.tokenizer,
        heads=heads,
        **model.overrides(),
        **more,
    )


def forget_models() -> None:
    """Let go of every model that is kept."""
    _kept.clear()


def find_model(reference: str | Path) -> Path:
    """The path of a model: as it is, a bundled one's folder, or what the hub gives.

    Raises:
        CheckpointError: there is nothing of that name.
    """
    text = str(reference)
    if hub.is_hub_reference(text):
        return hub.download(text)
    path = Path(reference)
    bundled = bundled_models()
    if text in bundled and not path.exists():
        return bundled[text]
    if not path.exists() and not path.with_name(path.name + ".index").exists():
        names = ", ".join(bundled)
        raise CheckpointError(
            f"The model {text} does not exist.",
            f"Check the path; bundled models are {names}, others on the hub are hf:owner/name.",
        )
    return path


def _stamp(path: Path) -> tuple[Any, ...]:
    """What tells that a file is still the one that was loaded."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]
    return (str(path.resolve()), *found)


def _load(
    checkpoint: Checkpoint,
    config_path: str | Path | None,
    heads: Sequence[str] | None,
    sides: _Sides,
    device: torch.device,
    dtype: torch.dtype,
) -> LoadedModel:
    resolved = resolve_config(checkpoint, config_path, sides.model_flags)
    config = resolved.config
    chosen = tuple(heads_in(checkpoint, config) if heads is None else heads)
    unknown = [head for head in chosen if head not in HEADS]
    if unknown:
        raise UsageError(f"There is no head {', '.join(unknown)}; there are {', '.join(HEADS)}.")
    tokenizer = sides.source(checkpoint, config)
    tgt_tokenizer = sides.target(checkpoint, config) if "lm" in chosen else None
    built = build_model(checkpoint, config, chosen, device, dtype)
    return LoadedModel(
        model=built.model,
        tokenizer=tokenizer,
        tgt_tokenizer=tgt_tokenizer,
        config=config,
        device=device,
        dtype=dtype,
        reference=str(checkpoint.path),
        architecture=checkpoint.architecture,
        layout=checkpoint.layout,
        heads=chosen,
        notes=(*checkpoint.notices, *resolved.notes, *sides.notes),
        details=tuple(_details(checkpoint, built.left_out)),
    )


def _details(checkpoint: Checkpoint, left_out: Sequence[str]) -> Iterator[str]:
    generation = f", {checkpoint.generation} names" if checkpoint.generation else ""
    yield (
        f"{checkpoint.path}: {checkpoint.format}, {checkpoint.layout} layout{generation}, "
        f"architecture {checkpoint.architecture or 'of UER-py only'}."
    )
    if checkpoint.multi_gpu:
        yield "The prefix module. of multi-GPU training was taken off."
    if left_out:
        yield f"Not needed and not loaded: {', '.join(left_out)}."
    if checkpoint.dropped:
        yield f"Known to carry nothing: {', '.join(checkpoint.dropped)}."


# -- tokenizers -----------------------------------------------------------------------------------


class _Sides:
    """The tokenizers of a model, from what was named and what lies in its folder."""

    def __init__(
        self,
        path: Path,
        vocab: str | Path | None,
        tokenizer: str | None,
        tgt_vocab: str | Path | None,
        tgt_tokenizer: str | None,
        overrides: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.vocab = vocab
        self.tokenizer = tokenizer
        self.tgt_vocab = tgt_vocab
        self.tgt_tokenizer = tgt_tokenizer
        self.files = {name: overrides.get(name) for name in _FILES}
        self.tgt_files = {name: overrides.get(f"tgt_{name}") for name in _FILES}
        own = {*_FILES, *(f"tgt_{name}" for name in _FILES)}
        self.model_flags = {name: value for name, value in overrides.items() if name not in own}
        self.notes: list[str] = []

    def source(self, checkpoint: Checkpoint, config: ModelConfig) -> Tokenizer:
        tokenizer = self._make(checkpoint, self.vocab, self.tokenizer, self.files, "vocab.txt")
        self._compare(checkpoint, tokenizer, config.vocab_size)
        return tokenizer

    def target(self, checkpoint: Checkpoint, config: ModelConfig) -> Tokenizer | None:
        if config.decoder is None:
            return None
        named = self.tgt_vocab or self.tgt_tokenizer or any(self.tgt_files.values())
        beside = self._folder(checkpoint) / "tgt_vocab.txt"
        if not named and not (self.vocab is None and beside.is_file()):
            if config.tgt_vocab_size not in (0, config.vocab_size):
                raise UsageError(
                    f"{checkpoint.path} has {config.tgt_vocab_size} target words beside "
                    f"{config.vocab_size} source words, so the target needs its own vocabulary.",
                    "Name it with `tgt_vocab_path`.",
                )
            return None
        vocab = self.tgt_vocab
        if vocab is None and not self.tgt_files["spm_model_path"] and not beside.is_file():
            vocab = self.vocab
        name = self.tgt_tokenizer or ("bert" if self.tgt_vocab else self.tokenizer)
        tokenizer = self._make(checkpoint, vocab, name, self.tgt_files, "tgt_vocab.txt")
        self._compare(checkpoint, tokenizer, config.tgt_vocab_size or config.vocab_size)
        return tokenizer

    def _folder(self, checkpoint: Checkpoint) -> Path:
        return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent

    def _make(
        self,
        checkpoint: Checkpoint,
        vocab: str | Path | None,
        name: str | None,
        files: Mapping[str, Any],
        beside: str,
    ) -> Tokenizer:
        spm, merges, lower = (files[key] for key in _FILES)
        folder = self._folder(checkpoint)
        if vocab is None and spm is None:
            if checkpoint.layout == "hf" and beside == "vocab.txt":
                if name is not None or lower is not None:
                    found = folder / "vocab.txt"
                    if not found.is_file():
                        raise UsageError(
                            f"`tokenizer` needs `vocab_path`: {folder} has no vocab.txt."
                        )
                    vocab = found
                else:
                    return tokenizer_from_hf_folder(folder)
            elif (folder / beside).is_file():
                vocab = folder / beside
                if not checkpoint.path.is_dir():
                    self.notes.append(f"The vocabulary {vocab}, beside the model, is used.")
            else:
                raise UsageError(
                    f"{checkpoint.path} brings no vocabulary.",
                    "Name it with `vocab_path`, or a sentencepiece model with `spm_model_path`.",
                )
        return make_tokenizer(
            name or "bert",
            vocab_path=vocab,
            spm_model_path=spm,
            merges_path=merges,
            do_lower_case=True if lower is None else bool(lower),
        )

    def _compare(self, checkpoint: Checkpoint, tokenizer: Tokenizer, rows: int) -> None:
        """A vocabulary of another size than the word table is another model's."""
        size = len(tokenizer)
        own = checkpoint.layout == "hf" and self.vocab is None
        if size <= rows and (own or rows <= size + _PADDING_ROWS):
            if rows > size:
                self.notes.append(f"The last {rows - size} rows of the word table are unused.")
            return
        raise VocabError(
            f"{tokenizer.vocab.source} has {size} tokens, but the word embedding of "
            f"{checkpoint.path} has {rows} rows.",
            "Use the vocabulary that the model was trained with, or fit the model to this one "
            "with: uertool vocab adapt",
        )
