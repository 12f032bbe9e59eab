"""Memory of a conversion, its proof included, grows with a layer and not with the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import FIXTURES

pytestmark = pytest.mark.slow

_HIDDEN, _LAYERS, _WORDS = 512, 10, 600

#: Converts a small model first, so that every import is done, then a large one.
_SCRIPT = """
import re, sys
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings

def peak():  # getrusage would begin with what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

small, large, out, to = sys.argv[1:]
suffix = "" if to == "hf" else ".bin"
for source, name in ((small, "small"), (large, "large")):
    options = ConvertSettings(heads_num=4, max_shard_size="20MB", verify_full=True)
    report = convert(source, f"{out}/{name}{suffix}", to, options)
    assert report.verification.differences, report.verification.notes
    print(peak())
"""


def large(folder: Path) -> int:
    """A Hugging Face BERT with a file for every layer; returns its bytes."""
    folder.mkdir()
    chance = torch.Generator().manual_seed(3)
    places: dict[str, str] = {}
    total = 0

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance) * 0.02

    def write(tensors: dict[str, torch.Tensor], name: str) -> None:
        nonlocal total
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, name))
        total += sum(tensor.nbytes for tensor in tensors.values())

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.ones(_HIDDEN), f"{name}.bias": torch.zeros(_HIDDEN)}

    def linear(name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": matrix(rows, columns), f"{name}.bias": torch.zeros(rows)}

    tables = {"word": _WORDS, "position": 32, "token_type": 2}
    body = {
        f"embeddings.{name}_embeddings.weight": matrix(rows, _HIDDEN)
        for name, rows in tables.items()
    }
    body.update(norm("embeddings.LayerNorm"))
    body.update(linear("pooler.dense", _HIDDEN, _HIDDEN))
    write(body, "embeddings.safetensors")
    for layer in range(_LAYERS):
        base = f"encoder.layer.{layer}."
        tensors: dict[str, torch.Tensor] = {}
        for part in ("query", "key", "value"):
            tensors.update(linear(f"{base}attention.self.{part}", _HIDDEN, _HIDDEN))
        tensors.update(linear(f"{base}attention.output.dense", _HIDDEN, _HIDDEN))
        tensors.update(norm(f"{base}attention.output.LayerNorm"))
        tensors.update(linear(f"{base}intermediate.dense", 4 * _HIDDEN, _HIDDEN))
        tensors.update(linear(f"{base}output.dense", _HIDDEN, 4 * _HIDDEN))
        tensors.update(norm(f"{base}output.LayerNorm"))
        write(tensors, f"layer-{layer}.safetensors")
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": _WORDS,
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 8,
        "intermediate_size": 4 * _HIDDEN,
        "max_position_embeddings": 32,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are given back on Linux")
@pytest.mark.parametrize("to", ["uer", "hf"])
def test_memory_is_that_of_a_layer(to: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    size = large(tmp_path / "large")
    assert size > 120e6
    (tmp_path / "out").mkdir()
    small = FIXTURES / "bert-modular" / "model.bin"
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, small, tmp_path / "large", tmp_path / "out", to],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after - before < 60e6
