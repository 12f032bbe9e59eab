"""Convert a BERT-base sized checkpoint to a Hugging Face folder, compared with UER-py's way.

Whole processes are timed, start-up included, in alternation: uertool's conversion without
verification, with the default checks, and with transformers; UER-py's way
(torch.load, a dictionary, torch.save) and a plain copy of the file. Goals: verified within 2.5 s of
the start-up of Python with torch for 409 MB; peak memory at most 600 MB above Python with torch,
verification included. Run: python -m benchmarks.convert [--layers 12]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_OLD_WAY = """
import collections, sys, torch
model = torch.load(sys.argv[1], map_location="cpu")
out = collections.OrderedDict()
for name, tensor in model.items():
    out["bert." + name] = tensor[1:] if "seg" in name else tensor
torch.save(out, sys.argv[2])
"""

_CONVERT = """
import sys
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings
given = ConvertSettings(verify=sys.argv[3] != "no", verify_full=sys.argv[3] == "full")
convert(sys.argv[1], sys.argv[2], "hf", given)
"""


def make_checkpoint(folder: Path, layers: int, hidden: int, vocab: int) -> None:
    """A random MLM checkpoint with UER-py's modular names, and its configuration next to it."""
    import torch

    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}

    def linear(name: str, out: int, size: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(out, size) * 0.02
        tensors[f"{name}.bias"] = torch.zeros(out)

    def norm(name: str) -> None:
        tensors[f"{name}.gamma"] = torch.ones(hidden)
        tensors[f"{name}.beta"] = torch.zeros(hidden)

    for part, rows in (("word", vocab), ("pos", 512), ("seg", 3)):
        tensors[f"embedding.{part}.embedding.weight"] = torch.randn(rows, hidden) * 0.02
    norm("embedding.layer_norm")
    for layer in range(layers):
        base = f"encoder.transformer.{layer}"
        for index in range(3):
            linear(f"{base}.self_attn.linear_layers.{index}", hidden, hidden)
        linear(f"{base}.self_attn.final_linear", hidden, hidden)
        norm(f"{base}.layer_norm_1")
        linear(f"{base}.feed_forward.linear_1", 4 * hidden, hidden)
        linear(f"{base}.feed_forward.linear_2", hidden, 4 * hidden)
        norm(f"{base}.layer_norm_2")
    linear("target.mlm.linear_1", hidden, hidden)
    norm("target.mlm.layer_norm")
    tensors["target.mlm.linear_2.weight"] = tensors["embedding.word.embedding.weight"]
    tensors["target.mlm.linear_2.bias"] = torch.zeros(vocab)
    torch.save(tensors, folder / "model.bin")
    settings = {
        "heads_num": hidden // 64,
        "hidden_act": "gelu",
        "embedding": ["word", "pos", "seg"],
    }
    (folder / "config.json").write_text(json.dumps(settings))


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"failed: {' '.join(command[:4])}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Measure everything and print JSON lines, the best of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=21128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to work (large files)")
    given = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        source = folder / "model.bin"
        # In a process of its own: what this one holds would count as memory of its children.
        sizes = (folder, given.layers, given.hidden, given.vocab)
        maker = multiprocessing.get_context("spawn").Process(target=make_checkpoint, args=sizes)
        maker.start()
        maker.join()
        size = source.stat().st_size / 1e6
        target = folder / "out"
        convert = [python, "-c", _CONVERT, str(source), str(target)]
        jobs = {
            "python with torch": [python, "-c", "import torch"],
            "copy of the file": ["cp", str(source), str(target)],
            "old way": [python, "-c", _OLD_WAY, str(source), str(target)],
            "uertool, not verified": [*convert, "no"],
            "uertool, verified": [*convert, "yes"],
            "uertool, with transformers": [*convert, "full"],
        }
        best = dict.fromkeys(jobs, (float("inf"), 0.0))
        for _ in range(given.repeats):
            for label, command in jobs.items():
                if target.is_dir():
                    shutil.rmtree(target)
                target.unlink(missing_ok=True)
                best[label] = min(best[label], timed(command))
        start = best["python with torch"]
        for label, (seconds, memory) in best.items():
            row = {"method": f"{label}, {size:.0f} MB", "seconds": seconds, "MB": memory}
            row["seconds above python"] = seconds - start[0]
            row["MB above python"] = memory - start[1]
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
