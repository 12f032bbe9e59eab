"""`uertool tokenize` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MODELS
from uertool.cli.app import main

VOCAB = MODELS / "zh-mlm-small" / "vocab.txt"


def test_text_and_json_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("今天天气\n\n很好\n", "utf-8")
    asked = ["tokenize", "--vocab-path", str(VOCAB), "--test-path", str(lines)]
    assert main(asked) == 0
    assert capsys.readouterr().out == "今 天 天 气\n\n很 好\n"
    assert main([*asked, "--ids", "--add-special", "-o", str(tmp_path / "ids.txt")]) == 0
    assert "3 lines, 12 tokens, 0 unknown" in capsys.readouterr().err
    assert main([*asked[:3], "--decode", "-i", str(tmp_path / "ids.txt")]) == 0
    assert capsys.readouterr().out == lines.read_text("utf-8")
    assert main([*asked, "--json"]) == 0
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert records[2] == {
        "line": 3,
        "text": "很好",
        "tokens": ["很", "好"],
        "ids": [1483, 1103],
        "offsets": [[0, 1], [1, 2]],
        "decoded": "很好",
        "round_trip": True,
    }


def test_a_bad_line_of_ids_is_named_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "ids.txt"
    lines.write_text("307 1071\n1 x\n307\n")
    asked = ["tokenize", "--decode", "-i", str(lines)]
    assert main(asked) == 1
    assert "Line 2: '1 x' is not a list of ids." in capsys.readouterr().err
    assert main([*asked, "--skip-bad"]) == 0
    assert capsys.readouterr().out == "今天\n今\n"


def test_a_line_that_is_not_read_to_its_end_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("今天\n" + "天 " * 300_000 + "\n今\n", "utf-8")
    asked = ["tokenize", "--vocab-path", str(VOCAB), "-i", str(lines)]
    assert main(asked) == 1
    assert "error: Line 2 is longer than 1,048,576 bytes" in capsys.readouterr().err
    assert main([*asked, "--skip-bad"]) == 0
    assert capsys.readouterr().out == "今 天\n今\n"


@pytest.mark.slow
def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from uertool.cli.app import main; main(['tokenize', '今天']); "
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "今 天\n[]\n"
