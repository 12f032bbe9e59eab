"""Put a trained UER-py model into the package: safetensors, config.json and vocab.txt.

    python tools/bundle_model.py MODEL_FOLDER src/uertool/assets/NAME [--dtype float16]

A weight stored twice (a tied output layer) is written once. The configuration also goes into the
metadata of the weight file, so that the file alone can be read.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from uertool.checkpoints.reader import CONFIG_KEY
from uertool.checkpoints.writer import save_tensors


def main() -> None:
    """Convert one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    options = parser.parse_args()

    state = torch.load(options.source / "model.bin", map_location="cpu", weights_only=True)
    dtype = getattr(torch, options.dtype)
    # The writer sees from the shared memory which names are one; a cast would give each its own.
    cast: dict[int, torch.Tensor] = {}
    tensors = {
        name: cast.setdefault(tensor.untyped_storage().data_ptr(), tensor.to(dtype))
        for name, tensor in state.items()
    }
    config = json.loads((options.source / "config.json").read_text("utf-8"))
    options.target.mkdir(parents=True, exist_ok=True)
    save_tensors(
        tensors,
        options.target / "model.safetensors",
        metadata={CONFIG_KEY: json.dumps(config)},
        ties="alias",
        overwrite=True,
    )
    (options.target / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    shutil.copyfile(options.source / "vocab.txt", options.target / "vocab.txt")
    size = (options.target / "model.safetensors").stat().st_size
    print(f"{len(tensors)} names, {size / 1e6:.1f} MB: {options.target}")


if __name__ == "__main__":
    main()
