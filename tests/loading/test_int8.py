"""Models in 8 bits: nearly the same results, the same in any batch, a third of the memory.

The other number types are held to the same in any batch.
"""

from __future__ import annotations

import re
import weakref
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import uertool
from tests.conftest import MODELS, TEXT, sums_are_exact
from uertool.errors import UsageError
from uertool.loading.device import resolve_dtype
from uertool.loading.registry import forget_models
from uertool.models.int8 import Int8Linear, Int8Table
from uertool.models.packing import PackedLinear, in_8_bits


@cache
def model_in(dtype: str, name: str) -> uertool.Model:
    try:
        return uertool.load_model(MODELS / name, device="cpu", dtype=dtype)
    except UsageError:
        pytest.skip("no 8-bit kernels here")


def models(name: str) -> tuple[uertool.Model, uertool.Model]:
    return model_in("float32", name), model_in("int8", name)


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(1) / lengths


@cache
def sentences() -> list[str]:
    text = (Path(TEXT) / "reviews_test.tsv").read_text("utf-8")
    return [part for part in re.findall(r"[^\t\n。！？]{5,}[。！？]", text) if len(part) < 60][:100]


@pytest.mark.parametrize("name", ["zh-mlm-small", "zh-lm-small"])
@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_vectors_are_nearly_the_same(name: str, pooling: str) -> None:
    exact, coarse = (model.encode(sentences(), pooling=pooling) for model in models(name))
    assert cosines(exact, coarse).min() > 0.999
    assert not np.array_equal(exact, coarse)


def test_cloze_has_nearly_the_same_answers() -> None:
    masked = [f"{text[:3]}[MASK]{text[4:]}" for text in sentences()]
    exact, coarse = (
        [result.masks[0].guesses[0].token for result in model.cloze(masked)]
        for model in models("zh-mlm-small")
    )
    same = sum(mine == theirs for mine, theirs in zip(exact, coarse, strict=True))
    assert same >= 0.98 * len(masked)


def assert_same_vectors(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal where float32 sums are; elsewhere one of these may round to the next number or code."""
    if sums_are_exact():
        np.testing.assert_array_equal(found, expected)
    assert cosines(found, expected).min() > 0.9999


@pytest.mark.parametrize("name", ["zh-mlm-small", "zh-lm-small"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_text_gets_the_same_vector_in_any_batch(name: str, dtype: str) -> None:
    model = model_in(dtype, name)
    texts = sentences()[:40]
    together = model.encode(texts, pooling="mean")
    for size in (1, 7):
        assert_same_vectors(model.encode(texts, pooling="mean", batch_size=size), together)
    assert_same_vectors(model.encode(texts[::-1], pooling="mean")[::-1], together)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_prompt_gets_the_same_text_in_any_batch(dtype: str) -> None:
    if not sums_are_exact():
        pytest.skip("the next token may change where two are nearly equal")
    model = model_in(dtype, "zh-lm-small")
    prompts = [text[: 3 + number] for number, text in enumerate(sentences()[:8])]
    together = model.generate(prompts, temperature=0, max_new_tokens=12)
    for size in (1, 3):
        found = model.generate(prompts, temperature=0, max_new_tokens=12, batch_size=size)
        assert [texts[0].ids for texts in found] == [texts[0].ids for texts in together]


def test_word_tables_can_be_read() -> None:
    exact, coarse = (
        [one.word for one in model.neighbours(["好"], topn=5)[0]]
        for model in models("zh-mlm-small")
    )
    assert exact[0] == coarse[0]


def held_by(model: torch.nn.Module) -> int:
    """Bytes of all weights; packed ones are no parameters."""
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    for part in model.modules():
        if isinstance(part, Int8Linear):
            held += sum(torch.ops.mkldnn._nbytes(codes) + 8 * len(own) for codes, own in part.parts)
        elif isinstance(part, PackedLinear):
            held += part.weight.numel() * part.weight.element_size()
    return held


def test_it_holds_a_third_of_the_memory() -> None:
    exact, coarse = models("zh-mlm-small")
    assert held_by(coarse.model) < held_by(exact.model) / 3
    assert isinstance(coarse.model.embedding.word, Int8Table)


def test_it_is_for_processors() -> None:
    with pytest.raises(UsageError, match=r"`dtype` int8 works on CPUs only; this run is on cuda:1"):
        resolve_dtype("int8", torch.device("cuda:1"))


def test_weights_are_quantized_one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model_in("int8", "zh-mlm-small")
    plain: list[weakref.ref[torch.Tensor]] = []

    def watched(layer: torch.nn.Module) -> torch.nn.Module:
        assert not any(weight() is not None for weight in plain)
        plain.extend(weakref.ref(weight) for weight in layer.parameters())
        return in_8_bits(layer)

    monkeypatch.setattr("uertool.loading.rounding.in_8_bits", watched)
    forget_models()
    uertool.load_model(MODELS / "zh-mlm-small", device="cpu", dtype="int8")
    assert len(plain) > 20
    assert not any(weight() is not None for weight in plain)
