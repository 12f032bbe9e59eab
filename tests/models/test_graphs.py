"""Recorded steps give what plain ones give, while rows end, change places, double and join.

CUDA records a step; here a stand-in runs it again, with the same tensors and no Python values of
its own, so that what a graph would not see is found without a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import FIXTURES, MODELS, fixture_folders
from uertool.loading.registry import load_model
from uertool.models import graphs, states
from uertool.models.cache import KeyValueCache
from uertool.tasks.generation.job import generate

FOLDERS = [
    *fixture_folders("model.bin", "expected/lm.json"),
    *fixture_folders("model.bin", "expected/seq2seq.json"),
]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records steps from the second one on; gives the number of rows of each replay."""
    replays: list[int] = []

    def record(step: Any, ids: Tensor) -> tuple[Tensor, Callable[[], None]]:
        cache: KeyValueCache = step.args[1]
        logits = torch.full((len(ids), 1), float("nan"))

        def replay() -> None:
            replays.append(len(ids))
            lengths = cache.lengths
            cache.lengths = [10**6] * len(lengths)  # a graph reads tensors, no lengths
            found = step(ids)
            cache.lengths = lengths
            logits.resize_as_(found).copy_(found)

        cache.count()
        return logits, replay

    monkeypatch.setattr(states, "uses_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "WAIT", 1)
    return replays


def texts_of(folder: Path, device: str = "cpu", **settings: Any) -> list[Any]:
    loaded = load_model(folder / "model.bin", heads=("lm",), device=device)
    prompts = [text[: 2 + number % 5] for number, text in enumerate(PROMPTS)]
    found = generate(loaded, prompts, batch_size=6, max_new_tokens=24, **settings)
    return [[text.ids for text in row] for row in found]


PROMPTS = (MODELS.parent / "text/corpus_zh.txt").read_text("utf-8").splitlines()[:16]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "sampled": {"temperature": 1.3},
    "two": {"num_return": 2},
    "beams": {"beam": 3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_texts_are_those_of_plain_steps(
    folder: Path, way: str, recorded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(folder / "model.bin", heads=("lm",), device="cpu")
    tokenizer = loaded.tgt_tokenizer or loaded.tokenizer
    stops = tokenizer.vocab.tokens[10::9]  # so that texts end at different times
    settings = {"stop_token": stops, **WAYS[way]}
    found = texts_of(folder, **settings)
    assert recorded
    monkeypatch.setattr(states, "uses_graphs", lambda device: False)
    count = len(recorded)
    assert found == texts_of(folder, **settings)
    assert len(recorded) == count


# Tokens are drawn at a place of a sum of all probabilities, which a last digit can move.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("way", ["greedy", "beams"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_texts_of_a_gpu_are_those_of_a_cpu(folder: Path, way: str) -> None:
    assert texts_of(folder, device="cuda", **WAYS[way]) == texts_of(folder, **WAYS[way])


def test_rows_that_end_keep_their_places_for_a_while(recorded: list[int]) -> None:
    folder = FIXTURES / "gpt2-modular"
    loaded = load_model(folder / "model.bin", heads=("lm",), device="cpu")
    model = states.make_incremental(loaded.model)
    cases = json.loads((folder / "expected/lm.json").read_text("utf-8"))
    ids = cases[0]["ids"]
    state = model.start([ids[:2]] * 8, 8)
    for token in ids[2:6]:
        model.step(state, torch.full((state.rows,), token))
    state.select([0, 1, 2, 4, 5, 7])
    logits = model.step(state, torch.full((6,), ids[6]))
    assert logits.shape[0] == 6 and recorded[-1] == 8
    state.select([0, 1, 2])  # too many places are free: the others move together
    expected = model.start([ids[:7]], 1).logits
    torch.testing.assert_close(logits, expected.expand_as(logits), atol=1e-4, rtol=1e-5)
    logits = model.step(state, torch.full((3,), ids[7]))
    assert logits.shape[0] == 3
    torch.testing.assert_close(
        logits, model.start([ids[:8]], 1).logits.expand_as(logits), atol=1e-4, rtol=1e-5
    )
