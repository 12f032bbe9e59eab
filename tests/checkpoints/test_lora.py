"""LoRA files of TencentPretrain: merged weights, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES
from uertool.checkpoints.lora import LoraChoice
from uertool.checkpoints.reader import open_checkpoint
from uertool.errors import CheckpointError, UsageError

BASE = FIXTURES / "llama-modular" / "model.bin"
LORA = FIXTURES / "llama-lora" / "lora.bin"
QUERY = "encoder.transformer.0.self_attn.linear_layers.0"


def changed(path: Path, **changes: Any) -> Path:
    """The LoRA with some tensors changed; None takes one out."""
    tensors = dict(torch.load(LORA, weights_only=True))
    for name, tensor in changes.items():
        tensors[f"{QUERY}.{name}"] = tensor
    torch.save({k: v for k, v in tensors.items() if v is not None}, path / "lora.bin")
    return path / "lora.bin"


def test_weights_are_merged_and_nothing_else_changes() -> None:
    expected = json.loads((FIXTURES / "llama-lora/expected/merged_state_dict.json").read_text())
    plain, low = torch.load(BASE, weights_only=True), torch.load(LORA, weights_only=True)
    alpha = json.loads((FIXTURES / "llama-lora/lora.json").read_text())["lora_alpha"]
    with open_checkpoint(BASE, lora=LoraChoice(LORA, alpha)) as checkpoint:
        assert set(checkpoint.keys()) == set(expected)
        for name in checkpoint:
            stem = name.removesuffix(".weight")
            wanted = plain[name]
            if f"{stem}.lora_A" in low:
                a, b = low[f"{stem}.lora_A"], low[f"{stem}.lora_B"]
                wanted = wanted + b @ a * (alpha / len(a))
            torch.testing.assert_close(checkpoint.tensor(name), wanted, atol=1e-6, rtol=1e-5)


def test_hidden_states_are_those_of_the_program_that_trained_it() -> None:
    from uertool import load_model

    stored = np.load(FIXTURES / "llama-lora/expected/hidden.npz")
    model = load_model(BASE, device="cpu", lora=LORA, lora_alpha=32)
    with torch.inference_mode():
        found = model.model.encode(*(torch.from_numpy(stored[n]) for n in ("src", "seg")))
    real = stored["seg"] > 0
    np.testing.assert_allclose(found.numpy()[real], stored["hidden"][real], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_A": torch.zeros(3, 32)}, r"do not have the same rank"),
        ({"lora_A": torch.zeros(4, 40)}, r"LoRA of another model.*\(32, 40\).*\(32, 32\)"),
        ({"lora_B": None}, r"lacks encoder.transformer.0.*lora_B"),
        ({"weight": torch.zeros(2)}, r"not a LoRA of TencentPretrain"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(BASE, lora=LoraChoice(path, 16.0))


def test_another_model_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="LoRA of another model"):
        open_checkpoint(FIXTURES / "llama-gqa-modular" / "model.bin", lora=LoraChoice(LORA, 16.0))


def test_a_lora_alone_is_no_model() -> None:
    with pytest.raises(CheckpointError, match="is a LoRA") as caught:
        open_checkpoint(LORA)
    assert "`lora`" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("path", "alpha", "words"),
    [(LORA, None, "needs `lora_alpha`"), (None, 16.0, "without `lora`")],
)
def test_file_and_alpha_belong_together(path: Path | None, alpha: float | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        LoraChoice.of(path, alpha)
    assert LoraChoice.of(None, None) is None
