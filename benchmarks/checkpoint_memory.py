"""Time and peak memory of loading, averaging and copying 400 MB checkpoints, new and old.

Usage: python benchmarks/checkpoint_memory.py [--models 5] [--folder DIR]

Each figure comes from a separate process; memory is the peak above that of an interpreter with
torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

VOCAB = Path(__file__).parents[1] / "tests/data/text/google_zh_vocab.txt"
WORDS = 21128

_PREAMBLE = (
    f"""
VOCAB = {str(VOCAB)!r}
"""
    + """
import json, sys, time
import torch
torch.ones(1).double().sum()

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

paths = sys.argv[2:]
output = sys.argv[1]
before, start = peak(), time.perf_counter()
"""
)

_END = """
print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak() - before}))
"""

JOBS = {
    "load_model, uertool (goal: 1.25 times the file)": """
        from uertool.loading.registry import load_model
        loaded = load_model(paths[0], vocab=VOCAB, device="cpu")
        total = sum(float(tensor.sum()) for tensor in loaded.model.parameters())
    """,
    "load_model, uertool, int8 (goal: a third of the file)": """
        from uertool.loading.registry import load_model
        load_model(paths[0], vocab=VOCAB, device="cpu", dtype="int8")
    """,
    "load_state_dict into a model, the old way": """
        from uertool.checkpoints.reader import open_checkpoint
        from uertool.loading.config_resolution import resolve_config
        from uertool.models.model import UerModel
        held = torch.load(paths[0])
        config = resolve_config(open_checkpoint(paths[0])).config
        model = UerModel(config, ["mlm"])
        with torch.no_grad():
            total = sum(float(tensor.normal_(0, 0.02).sum()) for tensor in model.parameters())
        mine = {n: held.get(n) for n in model.state_dict() if n in held}
        model.load_state_dict(mine, strict=False)
    """,
    "load, uertool": """
        from uertool.checkpoints.formats.opener import open_tensor_file
        file = open_tensor_file(paths[0])
        total = sum(float(file.tensor(name).sum()) for name in file)
    """,
    "load, torch.load": """
        held = torch.load(paths[0], weights_only=True)
        total = sum(float(tensor.sum()) for tensor in held.values())
    """,
    "average, uertool": """
        from uertool.tasks.average.averaging import merge_checkpoints
        merge_checkpoints(paths, output, overwrite=True)
    """,
    "average, running mean as in the old script": """
        for number, path in enumerate(paths):
            model = torch.load(path, weights_only=True)
            if number == 0:
                mean = model
                continue
            for name in mean:
                mean[name].mul_(number).add_(model[name]).div_(number + 1)
        torch.save(mean, output)
    """,
    "ties, uertool": """
        from uertool.tasks.average.averaging import merge_checkpoints
        merge_checkpoints(paths[1:], output, method="ties", base=paths[0], overwrite=True)
    """,
    "check, uertool": """
        from uertool.checkpoints.formats.opener import open_tensor_file
        from uertool.tasks.check.tensor_health import examine
        examine(open_tensor_file(paths[0]))
    """,
    "to safetensors, uertool": """
        from uertool.tasks.check.repair import to_safetensors
        to_safetensors(paths[0], output + ".safetensors", overwrite=True)
    """,
    "plain copy": """
        import shutil
        shutil.copyfile(paths[0], output)
    """,
}


def make_models(folder: Path, count: int) -> list[Path]:
    """Random checkpoints with the tensors of a BERT base and its tied MLM head, 400 MB each."""
    import torch

    shapes: dict[str, tuple[int, ...]] = {
        "embedding.word.embedding.weight": (WORDS, 768),
        "embedding.pos.embedding.weight": (512, 768),
        "embedding.seg.embedding.weight": (3, 768),
        **norm("embedding.layer_norm"),
    }
    for layer in range(12):
        prefix = f"encoder.transformer.{layer}"
        for number in range(3):
            shapes |= linear(f"{prefix}.self_attn.linear_layers.{number}", 768, 768)
        shapes |= linear(f"{prefix}.self_attn.final_linear", 768, 768)
        shapes |= linear(f"{prefix}.feed_forward.linear_1", 3072, 768)
        shapes |= linear(f"{prefix}.feed_forward.linear_2", 768, 3072)
        shapes |= norm(f"{prefix}.layer_norm_1") | norm(f"{prefix}.layer_norm_2")
    shapes |= linear("target.mlm.linear_1", 768, 768) | norm("target.mlm.layer_norm")
    shapes["target.mlm.linear_2.bias"] = (WORDS,)
    paths = []
    for number in range(count):
        chance = torch.Generator().manual_seed(number)
        path = folder / f"model.bin-{number}"
        tensors = {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}
        # As torch.save writes a tied model: under both names, stored once.
        tensors["target.mlm.linear_2.weight"] = tensors["embedding.word.embedding.weight"]
        torch.save(tensors, path)
        paths.append(path)
    return paths


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.gamma": (768,), f"{name}.beta": (768,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default="", help="jobs whose names contain this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = make_models(Path(folder), options.models)
        size = paths[0].stat().st_size
        print(f"{options.models} models of {size / 1e6:.0f} MB")
        for name, code in JOBS.items():
            if options.only not in name:
                continue
            program = _PREAMBLE + textwrap.dedent(code) + _END
            done = subprocess.run(
                [sys.executable, "-c", program, f"{folder}/out.bin", *map(str, paths)],
                capture_output=True,
                text=True,
                check=True,
            )
            figures = json.loads(done.stdout)
            times = figures["bytes"] / size
            print(
                f"{name:48} {figures['seconds']:7.2f} s {figures['bytes'] / 1e6:8.0f} MB "
                f"{times:6.2f} x the file"
            )


if __name__ == "__main__":
    main()
