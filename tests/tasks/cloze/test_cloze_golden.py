"""Cloze tests give what UER-py gives, for every fixture that says what that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.conftest import fixture_folders
from uertool.engine.batching import Encoded, run_batches
from uertool.loading.registry import LoadedModel, load_model
from uertool.tasks.cloze.job import ClozeJob, _Row
from uertool.tasks.cloze.masking import Masked
from uertool.tasks.cloze.results import ClozeResult
from uertool.tasks.cloze.scoring import Filler, Gap
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.text.readers import Line

TOLERANCE = 1e-4


class Golden(NamedTuple):
    loaded: LoadedModel
    rows: list[dict[str, Any]]
    logits: np.ndarray  # [rows, vocab]

    def ids(self, row: dict[str, Any]) -> tuple[int, ...]:
        """The line as the model saw it, without padding."""
        return tuple(row["src"][: sum(row["seg"])])


@pytest.fixture(
    scope="module",
    params=fixture_folders("expected/cloze.json", "expected/cloze_logits.npz"),
    ids=lambda folder: folder.name,
)
def golden(request: pytest.FixtureRequest) -> Golden:
    folder: Path = request.param
    tokenizer = "space" if folder.name.startswith("word-") else None
    path = folder if folder.name.startswith("hf-") else folder / "model.bin"
    return Golden(
        load_model(path, heads=("mlm",), tokenizer=tokenizer, device="cpu"),
        json.loads((folder / "expected/cloze.json").read_text("utf-8")),
        np.load(folder / "expected/cloze_logits.npz")["logits"],
    )


def results_of(golden: Golden, *, tokens: int, rows: int) -> list[ClozeResult]:
    """The cloze job's results on UER-py's own masked ids."""
    job = ClozeJob(golden.loaded, ClozeSettings(topn=10, seq_length=32))
    items = []
    for number, row in enumerate(golden.rows):
        masked = Masked(golden.ids(row), (row["position"],), (row["label"],))
        items.append(Encoded(number, masked.ids, payload=_Row(Line(number, ""), masked, 0, None)))
    limits = job.limits.__class__(tokens, rows, pad_id=job.limits.pad_id)
    return list(run_batches(items, list, job.step, limits=limits))


def test_there_are_golden_cases() -> None:
    assert len(fixture_folders("expected/cloze.json")) >= 8


@pytest.mark.parametrize(("tokens", "rows"), [(2048, 64), (1, 1)], ids=["batches", "one by one"])
def test_guesses_and_their_probabilities_are_those_of_uer_py(
    golden: Golden, tokens: int, rows: int
) -> None:
    for row, result in zip(golden.rows, results_of(golden, tokens=tokens, rows=rows), strict=True):
        (mask,) = result.masks
        assert (mask.position, mask.label_id) == (row["position"], row["label"])
        assert mask.label == row["label_token"]
        assert [guess.id for guess in mask.guesses] == row["top_ids"]
        assert [guess.token for guess in mask.guesses] == row["top_tokens"]
        found = [guess.probability for guess in mask.guesses]
        np.testing.assert_allclose(found, row["top_probs"], atol=TOLERANCE)


def test_rank_and_probability_of_the_true_token_follow_from_the_logits(golden: Golden) -> None:
    chances = torch.from_numpy(golden.logits).double().softmax(-1).numpy()
    for row, logits, chance, result in zip(
        golden.rows, golden.logits, chances, results_of(golden, tokens=2048, rows=64), strict=True
    ):
        (mask,) = result.masks
        label = row["label"]
        assert mask.probability == pytest.approx(chance[label], abs=TOLERANCE)
        # Ranks may differ by tokens whose logits are equal within the tolerance.
        least = 1 + int((logits > logits[label] + TOLERANCE).sum())
        most = 1 + int((logits > logits[label] - TOLERANCE).sum())
        assert mask.rank is not None
        assert least <= mask.rank <= most


def test_logits_at_the_masks_are_those_of_uer_py(golden: Golden) -> None:
    filler = Filler(golden.loaded.model, golden.loaded.device)
    gaps = [Gap(golden.ids(row), [row["position"]]) for row in golden.rows]
    with torch.inference_mode():
        found = torch.cat(filler.log_probabilities(gaps)).numpy()
    expected = torch.from_numpy(golden.logits).log_softmax(-1).numpy()
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_padding_beyond_the_line_changes_nothing(golden: Golden) -> None:
    """The fixtures were made on rows padded to 32; so may be ours."""
    plain = Filler(golden.loaded.model, golden.loaded.device)
    padded = Filler(golden.loaded.model, golden.loaded.device, pad_to=32)
    gaps = [Gap(golden.ids(row), [row["position"]]) for row in golden.rows[:6]]
    with torch.inference_mode():
        one = torch.cat(plain.log_probabilities(gaps))
        two = torch.cat(padded.log_probabilities(gaps))
    torch.testing.assert_close(one, two, atol=2e-5, rtol=0)
