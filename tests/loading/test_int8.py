"""Models in 8 bits: nearly the same results, the same in any batch, a third of the memory."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import uertool
from tests.conftest import MODELS, TEXT, assert_same_numbers
from uertool.errors import UsageError
from uertool.loading.device import resolve_dtype
from uertool.models.int8 import Int8Linear, Int8Table


@cache
def models(name: str) -> tuple[uertool.Model, uertool.Model]:
    exact = uertool.load_model(MODELS / name, device="cpu")
    try:
        return exact, uertool.load_model(MODELS / name, device="cpu", dtype="int8")
    except UsageError:
        pytest.skip("no 8-bit kernels here")


@cache
def sentences() -> list[str]:
    text = (Path(TEXT) / "reviews_test.tsv").read_text("utf-8")
    return [part for part in re.findall(r"[^\t\n。！？]{5,}[。！？]", text) if len(part) < 60][:100]


@pytest.mark.parametrize("name", ["zh-mlm-small", "zh-lm-small"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_vectors_are_nearly_the_same(name: str, pooling: str) -> None:
    exact, coarse = (model.encode(sentences(), pooling=pooling) for model in models(name))
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(coarse, axis=1)
    assert ((exact * coarse).sum(1) / lengths).min() > 0.999
    assert not np.array_equal(exact, coarse)


def test_cloze_has_nearly_the_same_answers() -> None:
    masked = [f"{text[:3]}[MASK]{text[4:]}" for text in sentences()]
    exact, coarse = (
        [result.masks[0].guesses[0].token for result in model.cloze(masked)]
        for model in models("zh-mlm-small")
    )
    same = sum(mine == theirs for mine, theirs in zip(exact, coarse, strict=True))
    assert same >= 0.98 * len(masked)


@pytest.mark.parametrize("name", ["zh-mlm-small", "zh-lm-small"])
def test_a_text_gets_the_same_vector_in_any_batch(name: str) -> None:
    _, model = models(name)
    texts = sentences()[:40]
    together = model.encode(texts, pooling="mean")
    for size in (1, 7):
        assert_same_numbers(model.encode(texts, pooling="mean", batch_size=size), together)
    assert_same_numbers(model.encode(texts[::-1], pooling="mean")[::-1], together)


def test_it_holds_a_third_of_the_memory() -> None:
    exact, coarse = models("zh-mlm-small")
    held = sum(p.numel() * p.element_size() for p in coarse.model.parameters())
    for part in coarse.model.modules():
        if isinstance(part, Int8Linear):
            held += torch.ops.mkldnn._nbytes(part.weight) + 8 * len(part.scale)
    assert held < sum(p.numel() * 4 for p in exact.model.parameters()) / 3
    assert isinstance(coarse.model.embedding.word, Int8Table)


def test_it_is_for_processors() -> None:
    with pytest.raises(UsageError, match=r"`dtype` int8 is for processors; this run is on cuda:1"):
        resolve_dtype("int8", torch.device("cuda:1"))
