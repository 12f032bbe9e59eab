"""What every test may use: where the golden data lies, and a quiet, offline environment."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
FIXTURES = TESTS / "fixtures"
MODELS = TESTS / "data" / "models"
TEXT = TESTS / "data" / "text"

# Before any test imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


#: By how much results for other batches, orders, threads or executors may differ, as a part of the
#: largest number; see docs/reliability.md.
TOLERANCE = 1e-6


@functools.cache
def sums_are_exact() -> bool:
    """Whether matrix products here add up in one order for any shape, as measured on AMD's."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def assert_same_numbers(found: Any, expected: Any) -> None:
    """Float arrays are equal bit for bit, or within TOLERANCE where kernels depend on shapes."""
    found, expected = np.asarray(found), np.asarray(expected)
    if sums_are_exact():
        np.testing.assert_array_equal(found, expected)
    else:
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale)


def fixture_folders(*needed: str) -> list[Path]:
    """Fixture folders that hold every one of the `needed` relative paths, in name order.

    Parametrising over this list means that a new fixture is tested by being there.
    """
    return sorted(
        folder
        for folder in FIXTURES.iterdir()
        if folder.is_dir() and all((folder / name).exists() for name in needed)
    )


@pytest.fixture
def fixtures() -> Path:
    """The folder of reference cases."""
    return FIXTURES


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as wide as where nothing says otherwise; a library that a test imports may say so."""
    monkeypatch.delenv("COLUMNS", raising=False)
