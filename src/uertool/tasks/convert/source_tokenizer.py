"""Where the tokenizer of a conversion comes from, and whether it is that of the model."""

from __future__ import annotations

from pathlib import Path

from uertool.checkpoints.architectures.base import Architecture
from uertool.checkpoints.reader import Checkpoint
from uertool.config import ModelConfig
from uertool.errors import UertoolError, VocabError
from uertool.tasks.convert.hf_files import TokenizerSource, spiece_tokenizer
from uertool.tasks.convert.types import ConversionOptions
from uertool.text.vocab import Vocab


def find_tokenizer(
    checkpoint: Checkpoint,
    config: ModelConfig,
    arch: Architecture | None,
    options: ConversionOptions,
) -> tuple[TokenizerSource, tuple[str, ...]]:
    """The tokenizer that goes along with a model, and notes about it.

    One that the user names must fit. One that lies beside the source is left where it does not, for
    a folder of checkpoints may hold any vocabulary.

    Raises:
        VocabError: a named vocabulary has more tokens than the model has words, or is broken.
    """
    if options.spm_model_path is not None:
        if arch is not None:
            size = len(spiece_tokenizer(options.spm_model_path, arch).vocab)
            _refuse_larger(options.spm_model_path, size, checkpoint, config)
        return TokenizerSource(spm_path=options.spm_model_path), ()
    lower = options.do_lower_case
    if options.vocab_path is not None:
        size = len(Vocab.load(options.vocab_path))
        _refuse_larger(options.vocab_path, size, checkpoint, config)
        notes: tuple[str, ...] = ()
        if size < config.vocab_size:
            notes = (
                f"{options.vocab_path} has {size} tokens, the model {config.vocab_size} words: "
                "the last ones have no token.",
            )
        return TokenizerSource(vocab_path=options.vocab_path, do_lower_case=lower), notes
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if checkpoint.layout == "hf" and checkpoint.path.is_dir():
        return TokenizerSource(folder=folder), ()
    place = folder / "vocab.txt"
    if not place.is_file():
        return TokenizerSource(), ()
    reason = _not_fitting(place, config)
    if reason is not None:
        return TokenizerSource(), (f"{place} is not used: {reason}",)
    return TokenizerSource(vocab_path=place, do_lower_case=lower), ()


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
