"""No command runs what a malicious file asks for; each names it in a sentence and ends with 1."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from tests.checkpoints.malicious import corpus, pack
from tests.conftest import FIXTURES
from uertool.cli.app import main

GOOD = FIXTURES / "mlm-modular" / "model.bin"
VOCAB = str(FIXTURES / "mlm-modular" / "vocab.txt")
ATTACKS = sorted(corpus(Path("/nonexistent/canary")))

#: Every command that opens a checkpoint, with FILE in its place.
COMMANDS = {
    "check": ["check", "FILE", "--run"],
    "check-compare": ["check", str(GOOD), "--compare", "FILE"],
    "check-fix": ["check", "FILE", "--fix", "OUT.bin"],
    "average": ["average", str(GOOD), "FILE", "-o", "OUT.bin"],
    "adapt": [
        *("vocab", "adapt", "-m", "FILE", "--old_vocab_path", VOCAB),
        *("--new_vocab_path", VOCAB, "-o", "OUT.bin"),
    ],
    "convert": ["convert", "legacy2modular", "FILE", "OUT.bin"],
    "cloze": ["cloze", "--model", "FILE", "--vocab_path", VOCAB, "天[MASK]"],
}


def traversal() -> bytes:
    with zipfile.ZipFile(io.BytesIO(GOOD.read_bytes())) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    return pack({**entries, "../../evil.sh": b"#!/bin/sh\n"})


def run(command: str, file: Path, folder: Path) -> int:
    words = {"FILE": str(file), "OUT.bin": str(folder / "OUT.bin")}
    return main([words.get(word, word) for word in COMMANDS[command]])


@pytest.mark.parametrize("attack", ATTACKS)
def test_check_names_every_attack_and_runs_none(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, file = tmp_path / "canary", tmp_path / "model.bin"
    file.write_bytes(corpus(canary)[attack])
    assert run("check", file, tmp_path) == 1
    said = capsys.readouterr()
    assert "PROBLEM" in said.out and "would import" in said.out
    assert "Traceback" not in said.out + said.err
    assert not canary.exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("attack", ["os-system", "builtins-eval", "torch-zip", "torch-legacy"])
def test_no_command_runs_an_attack(
    command: str, attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, file = tmp_path / "canary", tmp_path / "model.bin"
    file.write_bytes(corpus(canary)[attack])
    assert run(command, file, tmp_path) == 1
    said = capsys.readouterr()
    assert "system" in said.out + said.err or "eval" in said.out + said.err
    assert "Traceback" not in said.err
    assert not canary.exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.bin"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_out_of_the_archive_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(traversal())
    assert run(command, folder / "model.bin", folder) == 1
    said = capsys.readouterr()
    assert "../../evil.sh" in said.out + said.err
    assert not list(tmp_path.rglob("evil*"))
