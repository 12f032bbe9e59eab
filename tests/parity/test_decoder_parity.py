"""Language models of other families: texts, logits and probabilities of their own libraries."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES, fixture_folders
from uertool import Model, load_model
from uertool.models.states import make_incremental
from uertool.tasks.generation.job import Generator
from uertool.tasks.generation.prompts import Prompt
from uertool.tasks.generation.settings import make_decoding

TOLERANCE = 1e-4

FOLDERS = [
    folder
    for folder in fixture_folders("expected/lm.json")
    if folder.name.startswith(("hf-", "llama-"))
]
SCORED = [folder for folder in FOLDERS if (folder / "expected/lm_scores.json").exists()]


def by_folder(folders: list[Path]) -> Any:
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


@functools.cache
def loaded(folder: Path) -> Model:
    """A folder of Hugging Face, or TencentPretrain's file with what belongs to it."""
    if folder.name.startswith("hf-"):
        return load_model(folder, device="cpu")
    more: dict[str, Any] = {}
    own = folder
    if folder.name == "llama-lora":
        own = FIXTURES / "llama-modular"
        alpha = json.loads((folder / "lora.json").read_text())["lora_alpha"]
        more = {"lora": folder / "lora.bin", "lora_alpha": alpha}
    return load_model(own / "model.bin", device="cpu", **more)


def prompts(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "expected/lm.json").read_text("utf-8")))


def greedy(folder: Path, cases: list[dict[str, Any]], **settings: Any) -> list[Any]:
    decoding = make_decoding(temperature=0, seq_length=48, stop_token=(), **settings)
    texts = [Prompt(number, case["beginning"]) for number, case in enumerate(cases)]
    return [text for (text,) in Generator(loaded(folder)).generate(texts, decoding)]


@by_folder(FOLDERS)
def test_greedy_texts(folder: Path) -> None:
    cases = prompts(folder)
    for case, text in zip(cases, greedy(folder, cases), strict=True):
        assert list(text.prompt_ids) == case["prompt_ids"]
        assert [*text.prompt_ids, *text.ids] == case["ids"]


@by_folder(FOLDERS)
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_texts_do_not_depend_on_the_batch(folder: Path, rows: int) -> None:
    cases = prompts(folder)[:4]
    for case, text in zip(cases, greedy(folder, cases, batch_size=rows), strict=True):
        assert [*text.prompt_ids, *text.ids] == case["ids"]


@by_folder(FOLDERS)
def test_logits_after_the_prompts(folder: Path) -> None:
    expected = np.load(folder / "expected/lm_first_logits.npz")["logits"]
    model = make_incremental(loaded(folder).model)
    for case, row in zip(prompts(folder), expected, strict=True):
        found = model.start([case["prompt_ids"]], 2).logits[0]
        np.testing.assert_allclose(found.numpy(), row, rtol=0, atol=TOLERANCE)


@by_folder(SCORED)
def test_probabilities_of_texts(folder: Path) -> None:
    expected = json.loads((folder / "expected/lm_scores.json").read_text("utf-8"))
    long = [line for line in expected if len(line["ids"]) > 1]
    found = make_incremental(loaded(folder).model).log_probabilities([one["ids"] for one in long])
    for line, values in zip(long, found, strict=True):
        np.testing.assert_allclose(values.numpy(), line["logprobs"], rtol=0, atol=5e-4)
        assert float(-values.double().mean()) == pytest.approx(line["mean_nll"], abs=TOLERANCE)


@by_folder([FIXTURES / "llama-gqa-modular", FIXTURES / "hf-qwen3"])
def test_rounded_weights_write_nearly_the_same(folder: Path) -> None:
    ids = prompts(folder)[0]["prompt_ids"]
    exact = make_incremental(loaded(folder).model)
    rounded = make_incremental(loaded(folder).model, precision="int8")
    first, second = (model.start([ids], 4).logits for model in (exact, rounded))
    assert torch.cosine_similarity(first, second).item() > 0.99
    assert not torch.equal(first, second)


@by_folder(FOLDERS)
def test_what_is_streamed_is_the_text(folder: Path) -> None:
    """No half character is ever shown, and nothing is shown twice."""
    case = prompts(folder)[0]
    pieces: list[str] = []
    decoding = make_decoding(temperature=0, seq_length=48, stop_token=())
    ((text,),) = Generator(loaded(folder)).generate(
        [Prompt(0, case["beginning"])], decoding, on_text=lambda *told: pieces.append(told[2])
    )
    assert "".join(pieces) == text.new_text
    assert len(pieces) > 1
    # A character that is not complete is held back, so that a piece ends with one only at the end.
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])
