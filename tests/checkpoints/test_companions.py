"""Files that belong to a weight file carry its name and come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from uertool.checkpoints.companions import companion, find_companion, find_companions


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("model.bin", "model.vocab.txt"),
        ("model.bin-1000", "model-1000.vocab.txt"),
        ("bert_model.ckpt", "bert_model.vocab.txt"),
        ("zh.base.safetensors", "zh.base.vocab.txt"),
    ],
)
def test_a_companion_has_the_name_of_its_file(file: str, own: str, tmp_path: Path) -> None:
    assert companion(tmp_path / file, "vocab.txt") == tmp_path / own


def test_own_files_come_before_others(tmp_path: Path) -> None:
    model = tmp_path / "model.bin-1000"
    assert find_companion(model, "vocab.txt") is None
    expected = []
    for name in ("vocab.txt", "model.vocab.txt", "model-1000.vocab.txt"):
        (tmp_path / name).write_text(name)
        expected.insert(0, tmp_path / name)
        assert list(find_companions(model, "vocab.txt")) == expected


def test_the_files_of_a_folder_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh.vocab.txt").write_text("another\n")
    assert find_companion(tmp_path / "zh", "vocab.txt") is None
    (tmp_path / "zh" / "vocab.txt").write_text("own\n")
    assert find_companion(tmp_path / "zh", "vocab.txt") == tmp_path / "zh" / "vocab.txt"
