"""Paths of test data, a quiet offline environment, and what tests without the slow mark may do."""

from __future__ import annotations

import functools
import multiprocessing.process
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
FIXTURES = TESTS / "fixtures"
MODELS = TESTS / "data" / "models"
TEXT = TESTS / "data" / "text"

#: Libraries that take seconds to load.
HEAVY = frozenset(["gensim", "ray", "sentence_transformers", "tensorflow", "transformers"])

platform.processor()  # runs uname and remembers what it says; libraries ask when they are imported

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
    """Remove COLUMNS, which a library that a test imports may set: it changes tables."""
    monkeypatch.delenv("COLUMNS", raising=False)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import a file that is slow as a whole when slow tests are deselected."""
    if config.option.markexpr != "not slow" or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text("utf-8")
    return True if re.search(r"^pytestmark = .*\bmark\.slow\b", text, re.MULTILINE) else None


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that starts a process or loads a heavy library must be marked slow."""
    if request.node.get_closest_marker("slow"):
        yield
        return

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("This test starts a process: mark it with pytest.mark.slow.")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    before = HEAVY & set(sys.modules)
    yield
    loaded = HEAVY & set(sys.modules) - before
    assert not loaded, f"This test loads {', '.join(loaded)}: mark it with pytest.mark.slow."
