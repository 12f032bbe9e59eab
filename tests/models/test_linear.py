"""Packed and 8-bit linear layers compute what a plain one computes, row by row."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from uertool.models.dense import ACTIVATIONS
from uertool.models.linear import Int8Linear, Linear, PackedLinear, PlainLinear, make_linear

KINDS = {"plain": PlainLinear, "packed": PackedLinear, "int8": Int8Linear}


def layer(size: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, generator=chance) * 0.05
    return weight, torch.randn(size[0], generator=chance)


def made(kind: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    try:
        return KINDS[kind](weight, bias)
    except (RuntimeError, AttributeError, NotImplementedError):
        pytest.skip(f"no {kind} kernels here")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 16, 40])
def test_the_product_and_what_follows_it(kind: str, biased: bool, rows: int) -> None:
    weight, bias = layer((96, 64))
    given = bias if biased else None
    linear = made(kind, weight, given)
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))
    other = torch.randn(rows, 96, generator=torch.Generator().manual_seed(2))
    exact = functional.linear(x, weight, given)
    # Two roundings to 127 steps, summed over 64 channels.
    atol = 0.03 if kind == "int8" else 1e-5
    torch.testing.assert_close(linear(x), exact, atol=atol, rtol=1e-5)
    torch.testing.assert_close(linear.added(x, other), exact + other, atol=atol, rtol=1e-5)
    for name, function in ACTIVATIONS.items():
        found = linear.activated(x, name)  # type: ignore[arg-type]
        torch.testing.assert_close(found, function(exact), atol=atol, rtol=1e-5)


@pytest.mark.parametrize("kind", ["packed", "int8"])
@pytest.mark.parametrize("size", [(96, 64), (32, 3072), (768, 768)])
def test_a_row_alone_is_the_same_as_in_company(kind: str, size: tuple[int, int]) -> None:
    weight, bias = layer(size)
    linear = made(kind, weight, bias)
    x = torch.randn(16, size[1], generator=torch.Generator().manual_seed(1))
    together = linear(x)
    for row in range(16):
        assert torch.equal(linear(x[row : row + 1])[0], together[row])


def test_large_inputs_do_not_overflow_8_bits() -> None:
    weight = torch.full((8, 256), 0.5)
    linear = made("int8", weight, None)
    x = torch.full((2, 256), 1000.0)
    torch.testing.assert_close(linear(x), functional.linear(x, weight), rtol=0.01, atol=0.0)
    assert not torch.isnan(linear(torch.zeros(1, 256))).any()


def test_the_kind_follows_the_precision() -> None:
    weight, bias = layer((8, 8))
    assert isinstance(make_linear(weight.half(), bias.half()), PlainLinear)
    assert isinstance(make_linear(weight, bias), (PackedLinear, PlainLinear))
