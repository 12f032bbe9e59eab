"""Packed and 8-bit linear layers compute what a plain one computes, row by row."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.conftest import assert_same_numbers
from uertool.models.int8 import Int8Linear
from uertool.models.linear import ACTIVATIONS, Dense, Linear, has_kernel
from uertool.models.packing import PackedLinear, packed


def plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Dense:
    made = Dense(weight.shape[1], weight.shape[0], bias=bias is not None)
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(False)


KINDS = {"plain": plain, "packed": PackedLinear, "int8": Int8Linear}


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
    torch.testing.assert_close(linear.rows(x, 8, 40), exact[:, 8:40], atol=atol, rtol=1e-5)
    stacked = linear.added(x.expand(3, rows, 64), other.expand(3, rows, 96))
    torch.testing.assert_close(stacked, (exact + other).expand(3, rows, 96), atol=atol, rtol=1e-5)
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
        assert_same_numbers(linear(x[row : row + 1])[0], together[row])


def test_a_weight_with_large_channels_is_rounded_finer() -> None:
    weight, bias = layer((96, 64))
    plain_parts = made("int8", weight, bias).parts
    weight[:, :4] *= 30
    linear = made("int8", weight, bias)
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    x[:, :4] = 0  # the error of the other channels
    exact = functional.linear(x, weight, bias)
    torch.testing.assert_close(linear(x), exact, atol=0.03, rtol=1e-5)
    assert (len(plain_parts), len(linear.parts)) == (1, 2)


def test_large_inputs_do_not_overflow_8_bits() -> None:
    weight = torch.full((8, 256), 0.5)
    linear = made("int8", weight, None)
    x = torch.full((2, 256), 1000.0)
    torch.testing.assert_close(linear(x), functional.linear(x, weight), rtol=0.01, atol=0.0)
    assert not torch.isnan(linear(torch.zeros(1, 256))).any()


def test_the_kind_follows_the_precision() -> None:
    layer_of = plain(*layer((8, 8)))
    assert isinstance(packed(layer_of), (PackedLinear, Dense))
    assert isinstance(packed(layer_of, "int8"), Int8Linear)
    half = layer_of.half()
    assert packed(half) is half


def test_a_packed_module_shares_all_else_and_leaves_the_original_as_it_was() -> None:
    first, norm = plain(*layer((64, 96))), torch.nn.LayerNorm(64)
    original = torch.nn.Sequential(norm, torch.nn.Sequential(first, torch.nn.ReLU()))
    weight = first.weight
    twin = packed(original)
    assert twin is not original and twin[0] is norm and twin[1][1] is original[1][1]
    assert original[1][0] is first and first.weight is weight
    packed(original, release=True)
    if has_kernel(torch.float32):
        assert isinstance(twin[1][0], PackedLinear)
        assert first.weight.numel() == 0


def test_gelu_in_its_tanh_form() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e6, 0.0, 1e6])])
    exact = functional.gelu(x.double(), approximate="tanh").float()
    torch.testing.assert_close(ACTIVATIONS["gelu_fast"](x), exact, atol=1e-6, rtol=1e-6)
