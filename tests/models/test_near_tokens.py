"""Local attention and vectors of clipped distances: formulas written out, packed and padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from uertool.models.layout import PackedLayout, PaddedLayout, Reach, make_layout
from uertool.models.positions import sinusoid_legacy

LENGTHS = torch.tensor([9, 4, 1, 6, 9])
SEGS = (torch.arange(9) < LENGTHS[:, None]).long()
SCALE = 0.3
KINDS: list[dict[str, Any]] = [
    {},
    {"window": 2},
    {"window": 1},
    {"window": 50},
    {"clipped": sinusoid_legacy(2 * 3 + 1, 8)},
    {"clipped": sinusoid_legacy(2 * 20 + 1, 8)},
]


def random() -> list[Tensor]:
    """Queries, keys and values [5, 9, 2, 8]."""
    numbers = torch.Generator().manual_seed(1)
    return [torch.randn(*SEGS.shape, 2, 8, generator=numbers) for _ in range(3)]


def expected(window: int = 0, clipped: Tensor | None = None) -> Tensor:
    """The sums over real tokens, one by one."""
    q, k, v = random()
    out = torch.zeros_like(q)
    for row, length in enumerate(LENGTHS.tolist()):
        for head in range(2):
            for i in range(length):
                near = [j for j in range(length) if not window or abs(i - j) <= window]
                keys, values = k[row, near, head], v[row, near, head]
                if clipped is not None:
                    most = len(clipped) // 2
                    table = clipped[[max(-most, min(most, j - i)) + most for j in near]]
                    keys, values = keys + table, values + table
                weights = torch.softmax(keys @ q[row, i, head] * SCALE, 0)
                out[row, i, head] = weights @ values
    return out


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "".join(kind) or "plain")
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_attention_is_what_the_formula_says(kind: dict[str, Any], packed: bool) -> None:
    right = expected(**kind)
    layout: Any = PaddedLayout(SEGS, Reach("fully_visible", **kind))
    if packed:
        layout = make_layout(SEGS, Reach("fully_visible", **kind))
        assert isinstance(layout, PackedLayout)
    q, k, v = (layout.pack(x.flatten(2)).unflatten(-1, (2, 8)) for x in random())
    both = torch.stack([k, v], -3)
    found = layout.unpack(layout.attend(q, both, SCALE).flatten(-2)).unflatten(2, (2, 8))
    assert torch.allclose(found[SEGS > 0], right[SEGS > 0], atol=1e-6)
    places = torch.tensor([[8, 0], [3, 1], [0, 0], [5, 5], [2, 7]])
    rows = torch.arange(5)[:, None]
    chosen = layout.attend(random()[0][rows, places], both, SCALE, places)
    assert torch.allclose(chosen, right[rows, places], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "".join(kind) or "plain")
def test_padding_in_front_of_a_text_changes_nothing(kind: dict[str, Any]) -> None:
    segs = SEGS.flip(1)
    q, k, v = (
        torch.stack([r.roll(9 - n, 0) for r, n in zip(x, LENGTHS, strict=True)]) for x in random()
    )
    layout = PaddedLayout(segs, Reach("fully_visible", **kind))
    found = layout.attend(q, torch.stack([k, v], -3), SCALE)
    assert bool(found.isfinite().all())
    assert torch.allclose(found[segs > 0], expected(**kind)[SEGS > 0], atol=1e-6)


def test_far_padding_gives_numbers() -> None:
    """Padding that no real token is near to must not become NaN, which would spread."""
    segs = torch.zeros(1, 9, dtype=torch.long)
    segs[0, 0] = 1
    layout = PaddedLayout(segs, Reach("fully_visible", window=2))
    q, k, v = (x[:1] for x in random())
    assert bool(layout.attend(q, torch.stack([k, v], -3), SCALE).isfinite().all())
