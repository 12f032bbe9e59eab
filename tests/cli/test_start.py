"""What commands import: the first answer must not wait for libraries that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TESTS
from uertool.engine.order import Order
from uertool.engine.run import run
from uertool.tasks.features.whitening import Whitening
from uertool.tasks.vocab.counting import CorpusStream, TallyWork
from uertool.tasks.vocab.tallies import Counting

pytestmark = pytest.mark.slow

MODEL = TESTS / "fixtures" / "bert-modular"

#: Libraries that take long, and that few commands need.
HEAVY = {
    "datasets", "lightgbm", "matplotlib", "optuna", "pandas", "pyarrow", "ray", "scipy",
    "sentencepiece", "sklearn", "sympy", "tensorflow", "torch._dynamo", "transformers",
}  # fmt: skip
#: What commands without a model do not need either.
TORCH = {*HEAVY, "torch", "tokenizers", "safetensors.torch"}

_SCRIPT = """
import json, sys
from uertool.cli.app import main
code = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def imported(*arguments: str | Path) -> set[str]:
    """The modules that a command has imported when it ends."""
    command = [sys.executable, "-c", _SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *said, modules = done.stderr.splitlines()
    assert done.returncode == 0, said
    return set(json.loads(modules))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a corpus, vectors, a whitening and shards."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("今天天气很好\n我们去公园\n", encoding="utf-8")
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    Whitening.fit(rows).save(tmp_path / "w.safetensors")
    counting = Counting("char")
    stream = CorpusStream([corpus], counting)
    work = TallyWork(counting=counting)
    run(Order(work, str(tmp_path / "shards"), stream=stream, devices=[None], in_shards=True))
    return tmp_path


WITHOUT_TORCH = {
    "vocab build": ("corpus.txt", "-o", "vocab.txt"),
    "vocab diff": ("--vocab-1", MODEL / "vocab.txt", "--vocab-2", MODEL / "vocab.txt"),
    "shards verify": ("shards",),
    "whiten apply": ("x.npy", "-w", "w.safetensors", "-o", "y.npy"),
}


@pytest.mark.parametrize("command", WITHOUT_TORCH)
def test_commands_without_a_model_do_not_import_torch(
    command: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    assert not imported(*command.split(), *WITHOUT_TORCH[command]) & TORCH


WITH_TORCH = {
    "cloze": ("今天[MASK]气很好",),
    "check": (MODEL,),
    "convert uer2hf": (MODEL / "model.bin", "out"),
    "extract-embeddings": ("-m", MODEL, "-o", "embeddings.txt"),
    "extract-features": ("-m", MODEL, "今天天气很好"),
}


@pytest.mark.parametrize("command", WITH_TORCH)
def test_commands_with_a_model_import_torch_and_nothing_else_that_is_large(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = imported(*command.split(), *WITH_TORCH[command])
    assert "torch" in found
    assert not found & HEAVY
