"""UER-py's own numbers: hidden states and logits of every reference checkpoint, within 1e-4.

The cases are found by listing the folder, so a new one is tested by being there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES, MODELS, fixture_folders
from tests.models.model_fixtures import load_fixture
from uertool.loading.registry import load_model

TOLERANCE = 1e-4


def arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "expected" / name))


def tensors(*found: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in found]


def largest(one: torch.Tensor, other: np.ndarray, real: np.ndarray | None = None) -> float:
    difference = np.abs(one.numpy() - other)
    return float((difference if real is None else difference[real]).max())


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/hidden.npz", "model.bin"), ids=lambda f: f.name
)
def test_hidden_states_equal_uer_py(folder: Path) -> None:
    expected = arrays(folder, "hidden.npz")
    ids, segs = tensors(expected["src"], expected["seg"])
    with torch.inference_mode():
        hidden = load_fixture(folder).model.encode(ids, segs)
    real = expected["seg"] > 0
    # The gated CNN grows beyond 1e4, so there the bound is relative to the vector.
    scale = 1.0
    if "gatedcnn" in folder.name:
        scale = np.abs(expected["hidden"][real]).max()
    assert largest(hidden, expected["hidden"], real) <= TOLERANCE * scale


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/hidden.npz", "model.bin"), ids=lambda f: f.name
)
def test_a_line_alone_gives_what_it_gives_among_others(folder: Path) -> None:
    expected = arrays(folder, "hidden.npz")
    loaded = load_fixture(folder)
    if loaded.config.needs_full_length:
        pytest.skip("depends on the padded length, as in UER-py")
    ids, segs = tensors(expected["src"], expected["seg"])
    for row in range(0, len(ids), 3):
        length = int((segs[row] > 0).sum())
        with torch.inference_mode():
            hidden = loaded.model.encode(ids[row : row + 1, :length], segs[row : row + 1, :length])
        whole = expected["hidden"][row : row + 1, :length]
        assert largest(hidden, whole) <= TOLERANCE * max(1.0, float(np.abs(whole).max()))


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/cloze_logits.npz", "model.bin"), ids=lambda f: f.name
)
def test_masked_words_score_as_in_uer_py(folder: Path) -> None:
    model = load_fixture(folder).model
    cases = json.loads((folder / "expected" / "cloze.json").read_text("utf-8"))
    logits = arrays(folder, "cloze_logits.npz")["logits"]
    ids, segs = (torch.tensor([case[key] for case in cases]) for key in ("src", "seg"))
    places = torch.tensor([[case["position"]] for case in cases])
    assert model.mlm is not None
    with torch.inference_mode():
        scores = model.mlm(model.encode(ids, segs, positions=places))[:, 0]
    assert largest(scores, logits) <= TOLERANCE
    best = scores.topk(10).indices.tolist()
    assert best == [case["top_ids"] for case in cases]


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/logits.npz", "model.bin"), ids=lambda f: f.name
)
def test_task_heads_score_as_in_uer_py(folder: Path) -> None:
    expected = arrays(folder, "logits.npz")
    model = load_fixture(folder).model
    ids, segs = tensors(expected["src"], expected["seg"])
    with torch.inference_mode():
        hidden = model.encode(ids, segs)
        if model.classifier is not None:
            assert largest(model.classifier(hidden[:, 0]), expected["logits"]) <= TOLERANCE
            return
        head = model.qa or model.token_classifier
        assert head is not None
        assert largest(head(hidden), expected["logits"], expected["seg"] > 0) <= TOLERANCE


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/lm_first_logits.npz", "model.bin"), ids=lambda f: f.name
)
def test_next_words_score_as_in_uer_py(folder: Path) -> None:
    cases = json.loads((folder / "expected" / "lm.json").read_text("utf-8"))
    expected = arrays(folder, "lm_first_logits.npz")["logits"]
    model = load_fixture(folder).model
    assert model.lm is not None
    for case, logits in zip(cases, expected, strict=True):
        ids = torch.tensor([case["prompt_ids"]])
        with torch.inference_mode():
            scores = model.lm(model.encode(ids, torch.ones_like(ids)))[0, -1]
        assert largest(scores, logits) <= TOLERANCE


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/seq2seq_first_logits.npz"), ids=lambda f: f.name
)
def test_first_target_words_score_as_in_uer_py(folder: Path) -> None:
    cases = json.loads((folder / "expected" / "seq2seq.json").read_text("utf-8"))
    expected = arrays(folder, "seq2seq_first_logits.npz")["logits"]
    model = load_fixture(folder).model
    assert model.lm is not None
    for case, logits in zip(cases, expected, strict=True):
        ids = torch.tensor([case["src_ids"]])
        start = torch.tensor([case["tgt_ids"][:1]])
        with torch.inference_mode():
            scores = model.lm(model.decode(ids, torch.ones_like(ids), start))[0, -1]
        assert largest(scores, logits) <= TOLERANCE


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/seq2seq.json", "model.bin"), ids=lambda f: f.name
)
def test_whole_targets_are_uer_pys_greedy_choice(folder: Path) -> None:
    cases = json.loads((folder / "expected" / "seq2seq.json").read_text("utf-8"))
    model = load_fixture(folder).model
    assert model.lm is not None
    for case in cases:
        ids = torch.tensor([case["src_ids"]])
        target = torch.tensor([case["tgt_ids"]])
        with torch.inference_mode():
            scores = model.lm(model.decode(ids, torch.ones_like(ids), target[:, :-1]))
        assert scores.argmax(-1).tolist() == target[:, 1:].tolist()


def test_siamese_models_compare_pairs_as_in_uer_py() -> None:
    folder = FIXTURES / "sbert-pairs-modular"
    expected = arrays(folder, "pairs.npz")
    model = load_fixture(folder).model
    hidden = []
    for stream, side in enumerate("ab"):
        ids, segs = tensors(expected[f"src_{side}"], expected[f"seg_{side}"])
        with torch.inference_mode():
            hidden.append(model.encode(ids, segs, stream=stream))
        real = expected[f"seg_{side}"] > 0
        assert largest(hidden[-1], expected[f"hidden_{side}"], real) <= TOLERANCE
    assert model.siamese is not None
    with torch.inference_mode():
        logits = model.siamese(hidden[0][:, 0], hidden[1][:, 0])
    assert largest(logits, expected["logits"]) <= TOLERANCE


@pytest.mark.parametrize(
    "folder", fixture_folders("expected/hidden.npz", "vocab.txt", "model.bin"), ids=lambda f: f.name
)
def test_ids_of_every_line_equal_uer_py(folder: Path) -> None:
    """[CLS] and the tokens, cut at 32, for every line that has any; LLaMA's with an end mark."""
    expected = arrays(folder, "hidden.npz")
    if "line" not in expected:
        pytest.skip("made without the lines' numbers")
    tokenizer = load_fixture(folder).tokenizer
    lines = (folder / "input.txt").read_text("utf-8").split("\n")
    for number, ids, segs in zip(expected["line"], expected["src"], expected["seg"], strict=True):
        ends = tokenizer.suffix_ids if folder.name.startswith("llama") else ()
        own = [tokenizer.cls_id, *tokenizer.encode(lines[number]), *ends][:32]
        assert own == ids[segs > 0].tolist()


@pytest.mark.parametrize("name", ["zh-mlm-small", "zh-lm-small"])
def test_the_trained_models_load_without_a_word(name: str) -> None:
    folder = MODELS / name
    loaded = load_model(folder / "model.bin", vocab=folder / "vocab.txt")
    assert loaded.config.heads_num == 6
    assert [note for note in loaded.notes if "assumed" in note] == []
