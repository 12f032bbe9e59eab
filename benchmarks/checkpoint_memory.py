"""Time and peak memory of loading, averaging and copying 400 MB checkpoints, beside the old way.

Usage: python benchmarks/checkpoint_memory.py [--models 5] [--folder DIR]

Every figure is taken in a process of its own; memory is the peak above the interpreter with torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

_PREAMBLE = """
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

_END = """
print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak() - before}))
"""

JOBS = {
    "load, uertool": """
        from uertool.checkpoints.tensor_file import open_tensor_file
        file = open_tensor_file(paths[0])
        total = sum(float(file.tensor(name).sum()) for name in file)
    """,
    "load, torch.load": """
        held = torch.load(paths[0], weights_only=True)
        total = sum(float(tensor.sum()) for tensor in held.values())
    """,
    "average, uertool": """
        from uertool.tasks.averaging import merge_checkpoints
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
        from uertool.tasks.averaging import merge_checkpoints
        merge_checkpoints(paths[1:], output, method="ties", base=paths[0], overwrite=True)
    """,
    "check, uertool": """
        from uertool.checkpoints.tensor_file import open_tensor_file
        from uertool.tasks.tensor_health import examine
        examine(open_tensor_file(paths[0]))
    """,
    "to safetensors, uertool": """
        from uertool.tasks.repair import to_safetensors
        to_safetensors(paths[0], output + ".safetensors", overwrite=True)
    """,
    "plain copy": """
        import shutil
        shutil.copyfile(paths[0], output)
    """,
}


def make_models(folder: Path, count: int) -> list[Path]:
    """Random checkpoints with the tensors of a BERT base, about 400 MB each."""
    import torch

    shapes = {"embedding.word.embedding.weight": (21128, 768)}
    for layer in range(12):
        prefix = f"encoder.transformer.{layer}"
        shapes |= {f"{prefix}.self_attn.linear_layers.{n}.weight": (768, 768) for n in range(3)}
        shapes[f"{prefix}.self_attn.final_linear.weight"] = (768, 768)
        shapes[f"{prefix}.feed_forward.linear_1.weight"] = (3072, 768)
        shapes[f"{prefix}.feed_forward.linear_2.weight"] = (768, 3072)
    paths = []
    for number in range(count):
        chance = torch.Generator().manual_seed(number)
        path = folder / f"model.bin-{number}"
        torch.save(
            {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}, path
        )
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = make_models(Path(folder), options.models)
        size = paths[0].stat().st_size
        print(f"{options.models} models of {size / 1e6:.0f} MB")
        for name, code in JOBS.items():
            program = _PREAMBLE + textwrap.dedent(code) + _END
            done = subprocess.run(
                [sys.executable, "-c", program, f"{folder}/out.bin", *map(str, paths)],
                capture_output=True,
                text=True,
                check=True,
            )
            figures = json.loads(done.stdout)
            print(f"{name:45} {figures['seconds']:7.2f} s {figures['bytes'] / 1e6:8.0f} MB")


if __name__ == "__main__":
    main()
