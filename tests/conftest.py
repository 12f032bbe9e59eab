"""What every test may use: where the golden data lies, and a quiet, offline environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FIXTURES = TESTS / "fixtures"
MODELS = TESTS / "data" / "models"
TEXT = TESTS / "data" / "text"

# Before any test imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
