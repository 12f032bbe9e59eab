"""uertool: the toolkit for Chinese pre-trained models, on the command line and from Python.

    import uertool

    model = uertool.load_model("zh-mlm-small")
    model.cloze(["今天天气很[MASK]。"])

The names below are imported when they are first used, so that `import uertool` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from uertool.checkpoints.reader import Checkpoint, open_checkpoint
    from uertool.errors import UertoolError
    from uertool.models.config import ModelConfig
    from uertool.models.registry import LoadedModel, load_model
    from uertool.tasks.neighbours import nearest
    from uertool.tasks.whitening import Whitening
    from uertool.text.tokenizers import Tokenizer, make_tokenizer
    from uertool.text.vocab import Vocab

#: Public name -> the module that defines it.
_PUBLIC = {
    "Checkpoint": "uertool.checkpoints.reader",
    "LoadedModel": "uertool.models.registry",
    "ModelConfig": "uertool.models.config",
    "Tokenizer": "uertool.text.tokenizers",
    "UertoolError": "uertool.errors",
    "Vocab": "uertool.text.vocab",
    "Whitening": "uertool.tasks.whitening",
    "load_model": "uertool.models.registry",
    "make_tokenizer": "uertool.text.tokenizers",
    "nearest": "uertool.tasks.neighbours",
    "open_checkpoint": "uertool.checkpoints.reader",
}

__all__ = [
    "Checkpoint",
    "LoadedModel",
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
