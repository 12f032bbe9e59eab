"""Tuning of whitenings: what is judged by what, and numbers that can be had in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.conftest import MODELS, TEXT
from uertool import Model, Whitening, load_model
from uertool.errors import InputError, UsageError
from uertool.tasks import pictures
from uertool.tasks.evaluate.pairs import Pairs, cosines, text_vectors
from uertool.tasks.evaluate.settings import PairSettings, TuneSettings
from uertool.tasks.evaluate.tuning import Tuned, divide, tune

RANDOM = np.random.default_rng(5)
GRID = TuneSettings(sizes=(8, 192), betas=(0, 1), gammas=(0, 1), folds=3)


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(MODELS / "zh-mlm-small", device="cpu")


def some_pairs(scores: np.ndarray) -> Pairs:
    texts = (TEXT / "reviews_test.tsv").read_text("utf-8").split("\n")[1:61]
    texts = [text.partition("\t")[2][:30] for text in texts]
    places = np.tile(np.arange(len(texts)), (2, 2))
    first, second = RANDOM.permuted(places, axis=1)[:, : len(scores)]
    second = np.where(first == second, (second + 1) % len(texts), second)
    return Pairs(texts, first, second, scores)


def check_one(small: Model, pairs: Pairs, tuned: Tuned, pooling: str) -> None:
    """The whitened trial of 8 directions, computed part by part."""
    settings = PairSettings(pooling=pooling).features()[0]
    vectors = text_vectors(small, pairs.texts, settings)
    parts = divide(pairs, GRID.folds, GRID.seed)
    expected = []
    for part in range(GRID.folds):
        rest = parts != part
        occurring = np.concatenate([pairs.first[rest], pairs.second[rest]])
        fitted = Whitening.fit(vectors[occurring], 8, beta=0)
        values = cosines(fitted.transform(vectors), pairs)[~rest]
        expected.append(stats.spearmanr(values, pairs.scores[~rest]).statistic)
    (found,) = (
        trial
        for trial in tuned.trials
        if (trial.pooling, trial.size, trial.beta, trial.gamma) == (pooling, 8, 0, 1)
    )
    np.testing.assert_allclose(found.scores, expected, atol=0.02)


def test_every_part_is_judged_by_whitenings_of_the_others(small: Model) -> None:
    pairs = some_pairs(RANDOM.random(90))
    tuned = tune(small, pairs, PairSettings(pooling="mean,first"), GRID, about={"model": "small"})
    assert len(tuned.trials) == 2 * 2 * 2 * 2
    for pooling in ("mean", "first"):
        check_one(small, pairs, tuned, pooling)
    assert tuned.best.mean == max(trial.mean for trial in tuned.trials)
    assert tuned.whitening.about == {"model": "small", "pooling": tuned.best.pooling}
    assert (tuned.whitening.size, tuned.whitening.beta) == (tuned.best.size, tuned.best.beta)
    turned = [t for t in tuned.trials if (t.size, t.beta, t.gamma) == (192, 0, 0)]
    for trial, plain in zip(turned, tuned.plain, strict=True):  # a rotation keeps every cosine
        np.testing.assert_allclose(trial.scores, plain.scores, atol=0.01)
    assert tune(small, pairs, PairSettings(pooling="mean,first"), GRID).trials == tuned.trials


def test_repeated_values_are_tried_once(small: Model) -> None:
    pairs, mean = some_pairs(RANDOM.random(60)), PairSettings(pooling="mean")
    once, again = (
        tune(small, pairs, mean, TuneSettings(sizes=sizes, betas=betas, gammas=gammas, folds=3))
        for sizes, betas, gammas in (((8,), (0, 1), (1,)), ((8, 8), (0, 1, 1), (1, 1)))
    )
    assert again.trials == once.trials


def test_the_best_of_many_is_not_expected_of_new_pairs(small: Model) -> None:
    grid = TuneSettings(sizes=(4, 8, 16, 32, 64), gammas=(0, 0.25, 0.5, 0.75, 1))
    gaps = []
    for _ in range(3):
        tuned = tune(small, some_pairs(RANDOM.random(60)), PairSettings(pooling="mean"), grid)
        gaps.append(tuned.best.mean - tuned.expected)
    assert min(gaps) >= 0
    assert max(gaps) > 0


def test_labels_are_judged_by_area_and_accuracy(small: Model) -> None:
    tuned = tune(small, some_pairs(np.arange(60) % 2.0), PairSettings(pooling="mean"), GRID)
    assert tuned.measure == "AUC"
    for trial in (*tuned.trials, *tuned.plain):
        assert all(0 <= score <= 1 for score in (*trial.scores, *trial.accuracies))
        assert trial.accuracy == pytest.approx(np.mean(trial.accuracies))
    record = tuned.to_json()
    assert record["best"]["mean"] == tuned.best.mean and len(record["trials"]) == 8


def test_equal_pairs_are_in_one_part_and_scores_are_spread() -> None:
    first = np.concatenate([[0, 1, 2, 3] * 10, np.arange(40)])
    second = np.concatenate([[1, 0, 3, 2] * 10, np.arange(40) + 1])
    scores = np.concatenate([np.tile([1.0, 1.0, 2.0, 2.0], 10), np.arange(40) % 2])
    pairs = Pairs(["x"] * 50, first, second, scores)
    parts = divide(pairs, 4, seed=1)
    assert len(set(parts[:40][scores[:40] == 1])) == 1
    shares = [scores[40:][parts[40:] == part].mean() for part in range(4)]
    assert max(shares) - min(shares) < 0.25
    assert np.array_equal(parts, divide(pairs, 4, seed=1))
    assert not np.array_equal(parts, divide(pairs, 4, seed=2))


def test_too_few_pairs_and_too_large_sizes_are_said(small: Model) -> None:
    with pytest.raises(InputError, match="3 different pairs cannot be divided into 5 parts"):
        tune(small, some_pairs(np.arange(3.0)), PairSettings(), TuneSettings())
    with pytest.raises(InputError, match="in which scores differ"):
        tune(small, some_pairs(np.array([1.0] + [0.0] * 40)), PairSettings(), TuneSettings())
    with pytest.raises(UsageError, match="`sizes` 500 .* 192 dimensions"):
        tune(small, some_pairs(np.arange(60.0)), PairSettings(), TuneSettings(sizes=(500,)))


def test_the_picture_is_drawn(
    small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(pictures, "chinese_font", lambda: None)  # which starts a process
    from uertool.tasks.evaluate.tuning import draw_tuning

    settings = PairSettings(pooling="mean,first")
    tuned = tune(small, some_pairs(np.arange(60.0)), settings, GRID)
    draw_tuning(tmp_path / "t.svg", tuned)
    text = (tmp_path / "t.svg").read_text("utf-8")
    assert text.count('<g id="axes_') == 2
