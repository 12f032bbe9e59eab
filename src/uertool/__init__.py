"""uertool: the toolkit for Chinese pre-trained models, on the command line and from Python.

    import uertool

    model = uertool.load_model("zh-mlm-small")
    model.cloze(["今天天气很[MASK]。"])

The names below are imported when they are first used, so that `import uertool` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from uertool.version import __version__

if TYPE_CHECKING:
    from uertool.api import Model, load_model
    from uertool.checkpoints.reader import Checkpoint, open_checkpoint
    from uertool.config import ModelConfig
    from uertool.errors import UertoolError
    from uertool.tasks.embeddings.neighbours import nearest
    from uertool.tasks.features.whitening import Whitening
    from uertool.text.tokenizers.base import Tokenizer
    from uertool.text.tokenizers.factory import make_tokenizer
    from uertool.text.vocab import Vocab

#: Public name -> the module that defines it.
_PUBLIC = {
    "Checkpoint": "uertool.checkpoints.reader",
    "Model": "uertool.api",
    "ModelConfig": "uertool.config",
    "Tokenizer": "uertool.text.tokenizers.base",
    "UertoolError": "uertool.errors",
    "Vocab": "uertool.text.vocab",
    "Whitening": "uertool.tasks.features.whitening",
    "load_model": "uertool.api",
    "make_tokenizer": "uertool.text.tokenizers.factory",
    "nearest": "uertool.tasks.embeddings.neighbours",
    "open_checkpoint": "uertool.checkpoints.reader",
}

__all__ = [
    "Checkpoint",
    "Model",
    "ModelConfig",
    "Tokenizer",
    "UertoolError",
    "Vocab",
    "Whitening",
    "__version__",
    "load_model",
    "make_tokenizer",
    "nearest",
    "open_checkpoint",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'uertool' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
