"""Vectors are good for something: the nearest line has the same label, whitened or not.

Whitening is judged by what it promises, directions that tell more, and not by a gain on these
lines: benchmarks/features_quality.py shows that with a model as small as this there may be none.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.conftest import MODELS, TEXT
from uertool import Whitening, load_model
from uertool.tasks.features.whitening import MeanCosine, unit_rows
from uertool.text.readers import read_lines

pytestmark = pytest.mark.slow

SETS = {"emotions": ("emotions_train.tsv", "emotions_dev.tsv"),
        "reviews": ("reviews_train.tsv", "reviews_test.tsv")}  # fmt: skip


def labelled(name: str, count: int) -> tuple[np.ndarray, list[str]]:
    lines = list(read_lines(TEXT / name, column="text_a"))[:count]
    return np.array([line.fields["label"] for line in lines]), [line.text for line in lines]


@pytest.mark.parametrize("name", sorted(SETS))
def test_the_nearest_line_has_the_same_label_more_often_than_chance(name: str) -> None:
    model = load_model(MODELS / "zh-mlm-small", device="cpu")
    train, test = (
        labelled(file, count) for file, count in zip(SETS[name], (400, 200), strict=True)
    )
    known, asked = (
        model.encode(texts, pooling="mean", seq_length=48) for _, texts in (train, test)
    )
    whitening = Whitening.fit(known, 64)
    # Two lines drawn at random have the same label so often.
    counts = np.array(list(Counter(train[0]).values())) / len(train[0])
    chance = float((counts**2).sum())
    accuracies = []
    for first, second in ((known, asked), (whitening.transform(known), whitening.transform(asked))):
        nearest = (unit_rows(second) @ unit_rows(first).T).argmax(axis=1)
        accuracies.append(float((train[0][nearest] == test[0]).mean()))
    margin = 2.5 * (chance * (1 - chance) / len(test[0])) ** 0.5
    assert min(accuracies) > chance + margin, (accuracies, chance)
    assert MeanCosine(asked).value > 0.5
    assert abs(MeanCosine(whitening.transform(asked)).value) < 0.05
