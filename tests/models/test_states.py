"""Step by step gives what reading everything at once gives, whatever else is in the batch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import FIXTURES, MODELS, fixture_folders
from uertool import Model, load_model
from uertool.errors import UsageError
from uertool.loading.registry import forget_models
from uertool.models.cache import CHUNK
from uertool.models.states import (
    CachedLm,
    CachedSeq2seq,
    RecurrentLm,
    RereadLm,
    make_incremental,
)

LMS = fixture_folders("model.bin", "expected/lm.json")
SEQ2SEQS = fixture_folders("model.bin", "expected/seq2seq.json")
RECURRENT = [
    FIXTURES / f"enc-{cell}-{generation}"
    for cell in ("rnn", "lstm", "gru")
    for generation in ("legacy", "modular")
]


@cache
def loaded(folder: Path) -> Model:
    return load_model(folder / "model.bin", heads=("lm",), device="cpu")


def incremental(folder: Path, **settings: Any) -> Any:
    return make_incremental(loaded(folder).model, prefix=(5,), **settings)


def name_of(folder: Path) -> str:
    return folder.name


def follow(model: Any, prompts: list[list[int]], texts: list[list[int]]) -> Tensor:
    """Logits [rows, steps, vocab] of the first token and of each after the given ones."""
    state = model.start(prompts, len(texts[0]))
    logits = [state.logits]
    for ids in zip(*texts, strict=True):
        logits.append(model.step(state, torch.tensor(ids)))
    return torch.stack(logits, dim=1)


# -- against UER-py -------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", LMS, ids=name_of)
def test_a_language_model_gives_uer_logits_and_ids(folder: Path) -> None:
    cases = json.loads((folder / "expected/lm.json").read_text("utf-8"))
    first = np.load(folder / "expected/lm_first_logits.npz")["logits"]
    model = incremental(folder)
    assert isinstance(model, CachedLm)
    for case, expected in zip(cases, first, strict=True):
        prompt = case["prompt_ids"]
        new = case["ids"][len(prompt) :]
        logits = follow(model, [prompt], [new])[0]
        np.testing.assert_allclose(logits[0].numpy(), expected, atol=1e-4)
        assert logits[:-1].argmax(-1).tolist() == new


@pytest.mark.parametrize("folder", SEQ2SEQS, ids=name_of)
def test_an_encoder_decoder_gives_uer_logits_and_ids(folder: Path) -> None:
    cases = json.loads((folder / "expected/seq2seq.json").read_text("utf-8"))
    first = np.load(folder / "expected/seq2seq_first_logits.npz")["logits"]
    model = incremental(folder)
    assert isinstance(model, CachedSeq2seq)
    sources, targets = [c["src_ids"] for c in cases], [c["tgt_ids"][1:] for c in cases]
    logits = follow(model, sources, targets)
    np.testing.assert_allclose(logits[:, 0].numpy(), first, atol=1e-4)
    assert logits[:, :-1].argmax(-1).tolist() == targets


# -- against the same model over whole texts ------------------------------------------------------


def whole(folder: Path, prompt: list[int], new: list[int]) -> Tensor:
    """What `follow` should give for one text, by reading all of it for every token."""
    model = loaded(folder).model
    assert model.lm is not None
    with torch.no_grad():
        if model.decoder is not None:
            ids = torch.tensor([prompt])
            hidden = model.decode(ids, torch.ones_like(ids), torch.tensor([[5, *new]]))
            return model.lm(hidden)[0]
        rows = []
        for end in range(len(prompt), len(prompt) + len(new) + 1):
            ids = torch.tensor([[*prompt, *new][:end]])
            hidden = model.encode(ids, torch.ones_like(ids))
            assert isinstance(hidden, Tensor)
            rows.append(model.lm(hidden[:, -1])[0])
        return torch.stack(rows)


def assert_close(found: Tensor, expected: Tensor) -> None:
    # The convolutions of the fixture reach 1e4.
    atol = max(1e-4, 1e-6 * float(expected.abs().max()))
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)


def random_ids(rows: int, length: int, seed: int = 0) -> list[list[int]]:
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(7, 480, (rows, length), generator=chance).tolist()


CNNS = [FIXTURES / "enc-gatedcnn-modular"]
ALL = [*LMS, *SEQ2SEQS, *RECURRENT, *CNNS]


@pytest.mark.parametrize("folder", ALL, ids=name_of)
def test_every_step_equals_the_whole_text_read_again(folder: Path) -> None:
    prompts = [[5, *row] for row in random_ids(3, 6)]
    prompts = [prompts[0][:3], prompts[1], prompts[2][:1]]
    texts = random_ids(3, 7, seed=1)
    logits = follow(incremental(folder), prompts, texts)
    for row, (prompt, new) in enumerate(zip(prompts, texts, strict=True)):
        expected = whole(folder, prompt, new)
        assert_close(logits[row], expected)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [(RECURRENT[2], RecurrentLm), (RECURRENT[5], RecurrentLm), (CNNS[0], RereadLm)],
)
def test_the_way_fits_the_encoder(folder: Path, kind: type) -> None:
    assert isinstance(incremental(folder), kind)


@pytest.mark.parametrize("folder", [*LMS[:1], SEQ2SEQS[0], RECURRENT[3], *CNNS], ids=name_of)
def test_rows_may_leave_change_places_double_and_join(folder: Path) -> None:
    model = incremental(folder)
    prompts = [[5, *row][: 3 + number] for number, row in enumerate(random_ids(4, 8))]
    texts = random_ids(4, 6, seed=2)
    alone = [follow(model, [prompt], [new])[0] for prompt, new in zip(prompts, texts, strict=True)]

    state = model.start(prompts[:3], 6)
    for step in range(2):
        model.step(state, torch.tensor([texts[row][step] for row in range(3)]))
    state.select([2, 0, 0])  # row 1 leaves, row 0 is there twice
    assert state.rows == 3
    for row, expected in enumerate((2, 0, 0)):
        assert_close(state.logits[row], alone[expected][2])
    fresh = model.start(prompts[3:], 6)
    state.join(fresh)
    steps = {2: 2, 0: 2, 3: 0}
    rows = [2, 0, 0, 3]
    for _ in range(3):
        logits = model.step(state, torch.tensor([texts[row][steps[row]] for row in rows]))
        steps = {row: step + 1 for row, step in steps.items()}
        for place, row in enumerate(rows):
            assert_close(logits[place], alone[row][steps[row]])


@pytest.mark.parametrize("folder", [FIXTURES / "t5-modular"], ids=name_of)
def test_a_target_may_outgrow_the_room_that_was_made_for_it(folder: Path) -> None:
    new = random_ids(1, CHUNK + 40)[0]
    model = incremental(folder)
    state = model.start([[5, 9, 10]], 2)
    for token in new:
        model.step(state, torch.tensor([token]))
    expected = whole(folder, [5, 9, 10], new)[-1]
    assert_close(state.logits[0], expected)


@pytest.mark.parametrize("folder", [*LMS, RECURRENT[2], *CNNS], ids=name_of)
def test_the_probability_of_a_text_is_that_of_its_tokens(folder: Path) -> None:
    texts = [[5, *row] for row in random_ids(3, 9)]
    texts[1] = texts[1][:4]
    found = incremental(folder).log_probabilities(texts)
    for text, per_token in zip(texts, found, strict=True):
        expected = whole(folder, text[:1], text[1:])[:-1].log_softmax(-1)
        wanted = expected.gather(1, torch.tensor(text[1:])[:, None])[:, 0]
        torch.testing.assert_close(per_token, wanted, atol=2e-4, rtol=1e-5)


# -- other precisions -----------------------------------------------------------------------------


@cache
def small_lm() -> Model:
    return load_model(MODELS / "zh-lm-small", heads=("lm",), device="cpu")


def test_int8_changes_probabilities_a_little() -> None:
    texts = [[2, *row[:20]] for row in random_ids(4, 20, seed=5)]
    exact = make_incremental(small_lm().model)
    coarse = make_incremental(small_lm().model, precision="int8")
    assert isinstance(exact, CachedLm) and isinstance(coarse, CachedLm)
    first = torch.cat(exact.log_probabilities(texts))
    second = torch.cat(coarse.log_probabilities(texts))
    assert 1e-6 < float((first - second).abs().mean()) < 0.1


def test_int8_rows_do_not_depend_on_each_other() -> None:
    model = make_incremental(small_lm().model, precision="int8")
    prompts = [[2, *row] for row in random_ids(4, 6)]
    texts = random_ids(4, 5, seed=1)
    together = follow(model, prompts, texts)
    for row in range(4):
        alone = follow(model, prompts[row : row + 1], texts[row : row + 1])[0]
        # Attention may be summed in another order, which can move a value to the next integer.
        torch.testing.assert_close(together[row], alone, atol=0.05, rtol=0.01)


def test_half_precision_agrees_roughly() -> None:
    half = load_model(MODELS / "zh-lm-small", heads=("lm",), device="cpu", dtype="bfloat16")
    prompts, texts = [[2, 307, 1071]], [[1071, 2245, 1483]]
    logits = follow(make_incremental(half.model), prompts, texts)
    exact = follow(make_incremental(small_lm().model), prompts, texts)
    assert logits.dtype == torch.float32
    assert float((logits - exact).abs().max()) < 0.5


@pytest.mark.parametrize("name", ["gpt2-modular", "t5-v1_1-legacy", "enc-lstm-modular"])
@pytest.mark.parametrize("precision", ["native", "int8"])
def test_a_model_that_is_used_up_gives_the_same_and_holds_less(name: str, precision: Any) -> None:
    folder = FIXTURES / name
    prompts, texts = [[5, *row] for row in random_ids(2, 6)], random_ids(2, 5, seed=1)
    kept = follow(incremental(folder, precision=precision), prompts, texts)
    forget_models()
    own = load_model(folder / "model.bin", heads=("lm",), device="cpu")
    forget_models()
    before = sum(parameter.numel() for parameter in own.model.parameters())
    model: Any = make_incremental(own.model, prefix=(5,), precision=precision, release=True)
    assert torch.equal(follow(model, prompts, texts), kept)
    assert sum(parameter.numel() for parameter in own.model.parameters()) < 0.75 * before


def test_a_model_without_output_layer_is_refused() -> None:
    body = load_model(LMS[0] / "model.bin", heads=(), device="cpu")
    with pytest.raises(UsageError, match="output layer"):
        make_incremental(body.model)
