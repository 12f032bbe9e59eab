"""uertool: the toolkit for Chinese pre-trained models, on the command line and from Python.

    import uertool

    model = uertool.load_model("zh-mlm-small")
    model.cloze(["今天天气很[MASK]。"])
    uertool.convert("bert.bin", "bert_folder", to="hf", vocab_path="vocab.txt")

The names below are imported when they are first used, so that `import uertool` costs nothing. Type
checkers read `__init__.pyi`, which `python tools/python_stub.py` writes.
"""

from __future__ import annotations

import importlib

from uertool.version import __version__

#: Public name -> the module that defines it. The functions are the commands.
PUBLIC = {
    "average": "uertool.api.checkpoints",
    "check": "uertool.api.checkpoints",
    "cloze": "uertool.api.models",
    "compare": "uertool.api.checkpoints",
    "convert": "uertool.api.checkpoints",
    "convert_folder": "uertool.api.checkpoints",
    "dedupe": "uertool.api.search",
    "encode": "uertool.api.models",
    "ensemble_fit": "uertool.api.ensembles",
    "ensemble_predict": "uertool.api.ensembles",
    "ensemble_search": "uertool.api.ensembles",
    "evaluate_cloze": "uertool.api.evaluation",
    "evaluate_sts": "uertool.api.evaluation",
    "extract_embeddings": "uertool.api.vectors",
    "extract_features": "uertool.api.vectors",
    "generate": "uertool.api.models",
    "load_model": "uertool.api.models",
    "make_tokenizer": "uertool.text.tokenizers.factory",
    "nearest": "uertool.tasks.embeddings.neighbours",
    "open_checkpoint": "uertool.checkpoints.reader",
    "score": "uertool.api.models",
    "search": "uertool.api.search",
    "shards_merge": "uertool.api.shards",
    "shards_verify": "uertool.api.shards",
    "tokenize": "uertool.api.models",
    "topn_dep": "uertool.api.models",
    "topn_indep": "uertool.api.vectors",
    "vocab_adapt": "uertool.api.checkpoints",
    "vocab_build": "uertool.api.checkpoints",
    "vocab_diff": "uertool.api.checkpoints",
    "whiten_apply": "uertool.api.vectors",
    "whiten_fit": "uertool.api.vectors",
    "whiten_tune": "uertool.api.evaluation",
    "Checkpoint": "uertool.checkpoints.reader",
    "Model": "uertool.api.models",
    "ModelConfig": "uertool.config",
    "Tokenizer": "uertool.text.tokenizers.base",
    "UertoolError": "uertool.errors",
    "Vocab": "uertool.text.vocab",
    "Whitening": "uertool.tasks.features.whitening",
}

__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'uertool' has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
