"""The benchmarks run, and their figures become a page and a chart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TESTS

ROOT = TESTS.parent


@pytest.mark.slow
def test_figures_become_a_page_and_a_chart(tmp_path: Path) -> None:
    figures, page, chart = (tmp_path / name for name in ("f.json", "p.md", "c.svg"))
    options = ["--figures", figures, "--page", page, "--chart", chart]
    module = [sys.executable, "-m", "benchmarks.report", *map(str, options)]
    subprocess.run(
        [*module, "--quick", "--only", "embeddings,vocab"], cwd=ROOT, check=True, timeout=150
    )
    text = page.read_text("utf-8")
    assert "| old loop / text |" in text
    assert "uertool, 1 worker" in text
    assert "torch 2." in text
    assert not chart.exists()  # it shows vectors and generation


def test_the_chart_shows_every_method(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import report

    rows = [
        {"method": "uertool", "numbers": "int8", "sentences/s": 2.0},
        {"method": "peer", "numbers": "float32", "sentences/s": 1.0},
    ]
    report.draw({"features": {"rows": rows, "machine": ""}}, tmp_path / "c.svg")
    assert (tmp_path / "c.svg").read_text("utf-8").count("<path") > 2
