"""A Hugging Face folder as an output: a writer replaces the files of a model, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uertool.io.atomic import atomic_folder

#: Names under which folders keep a sentencepiece model.
SPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

#: Files of a Hugging Face folder that belong to its tokenizer.
TOKENIZER_FILES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *SPIECE_FILES,
    "chat_template.jinja",
)

_OTHERS = frozenset([*TOKENIZER_FILES, "config.json", "generation_config.json"])
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


@contextmanager
def model_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes the model at `path` when the block ends well.

    With `overwrite`, the files of a model that is there are replaced, those that the new one does
    not have included. Files that are not part of a model written by uertool stay.

    Raises:
        OutputError: as `atomic_folder`.
    """
    holds_model = (path / "config.json").is_file() and any(
        _WEIGHTS.fullmatch(item.name) for item in path.iterdir()
    )

    def keep(name: str) -> bool:
        belongs = name in _OTHERS or _WEIGHTS.fullmatch(name) is not None
        return not (holds_model and belongs)

    with atomic_folder(path, overwrite=overwrite, keep=keep) as folder:
        yield folder
