"""The command that CONTRIBUTING.md shows works as printed, also interrupted and resumed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TESTS, TEXT

pytestmark = pytest.mark.slow

ROOT = TESTS.parent
ENTRY = '    Entry("count", "count", "Count tokens.", _TEXT),\n'
LINES = 40_000


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the command of the guide."""
    source = tmp_path_factory.mktemp("contributing")
    shutil.copytree(ROOT / "src" / "uertool", source / "uertool")
    shutil.copytree(ROOT / "configs", source / "uertool" / "configs", dirs_exist_ok=True)
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    block = next(
        part for part in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "count" in part
    )
    files = re.split(r"^# (\S+\.py)\n", block, flags=re.MULTILINE)[1:]
    for name, code in zip(files[::2], files[1::2], strict=True):
        path = source / "uertool" / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text("from __future__ import annotations\n\n" + code, "utf-8")
    app = source / "uertool" / "cli" / "app.py"
    text = app.read_text("utf-8")
    start = "COMMANDS: tuple[Entry, ...] = (\n"
    assert start in text
    app.write_text(text.replace(start, start + ENTRY), "utf-8")
    return source


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough lines for a run that can be interrupted."""
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    some = (TEXT / "corpus_zh.txt").read_text("utf-8").splitlines()
    with open(path, "w", encoding="utf-8") as stream:
        for number in range(LINES):
            stream.write(f"{some[number % len(some)]} {number}\n")
    return path


def start(package: Path, *argv: str | Path) -> subprocess.Popen[str]:
    """A run in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "uertool", "count", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=150)
    return process.returncode, said


@pytest.fixture(scope="module")
def expected(package: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "count.tsv"
    code, said = finish(start(package, "--test-path", lines, "--min-tokens", "30", "-o", output))
    assert code == 0, said
    content = output.read_bytes()
    rows = [line.split(b"\t") for line in content.splitlines()]
    assert 0 < len(rows) < LINES
    assert min(int(tokens) for _, tokens in rows) >= 30
    return content


@pytest.mark.parametrize(
    ("number", "code", "devices"),
    [
        (signal.SIGINT, 130, "cpu"),
        (signal.SIGKILL, -signal.SIGKILL, "cpu,cpu"),
    ],
)
def test_an_interrupted_run_is_resumed(
    number: int,
    code: int,
    devices: str,
    package: Path,
    lines: Path,
    expected: bytes,
    tmp_path: Path,
) -> None:
    output = tmp_path / "count.tsv"
    job = ("--test-path", lines, "-o", output, "--device", devices)
    process = start(package, *job, "--min-tokens", "30")
    parts = output.with_name("count.tsv.resume") / "_run"
    end = time.monotonic() + 100
    while not list(parts.glob("part-*")):
        assert process.poll() is None and time.monotonic() < end, finish(process)
        time.sleep(0.01)
    os.killpg(process.pid, number)
    found, said = finish(process)
    assert found == code, said
    assert not output.exists()
    assert list(parts.glob("part-*"))

    found, said = finish(start(package, *job, "--min-tokens", "29", "--resume"))
    assert found != 0
    assert not output.exists(), said

    found, said = finish(start(package, *job, "--min-tokens", "30", "--resume"))
    assert found == 0, said
    assert output.read_bytes() == expected
    assert not parts.exists()
