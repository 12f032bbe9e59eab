"""Write expected/hf_state_dict.json of a fixture: shape, type and sha256 of every tensor.

    python tools/make_fixture.py tests/fixtures/hf-ernie
    python tools/make_fixture.py tests/fixtures/bert-modular --weights made/pytorch_model.bin

The weights are those that another library wrote with Hugging Face's names, by default the folder's
own model.safetensors. uertool is not used, so that its tables are checked against something else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def described(weights: Path) -> dict[str, dict[str, object]]:
    """Every tensor of a .safetensors or torch file; the sha256 is of little-endian float32."""
    if weights.suffix == ".safetensors":
        tensors = load_file(weights)
    else:
        tensors = torch.load(weights, weights_only=True, map_location="cpu")
    return {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(tensor.float().contiguous().numpy().tobytes()).hexdigest(),
        }
        for name, tensor in sorted(tensors.items())
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the fixture")
    parser.add_argument("--weights", type=Path, help="default: FOLDER/model.safetensors")
    given = parser.parse_args()
    made = described(given.weights or given.folder / "model.safetensors")
    target = given.folder / "expected" / "hf_state_dict.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {len(made)} tensors")


if __name__ == "__main__":
    main()
