"""TensorFlow checkpoints are read under their own names, and missing parts are named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import FIXTURES, fixture_folders
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.errors import CheckpointError, MissingExtraError

pytestmark = pytest.mark.slow

FOLDERS = fixture_folders("google/bert_model.ckpt.index")
PREFIX = "google/bert_model.ckpt"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
@pytest.mark.parametrize("spelling", [PREFIX, f"{PREFIX}.index", f"{PREFIX}.meta", "google"])
def test_tensors_are_those_of_tensorflow(folder: Path, spelling: str) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    reader = tensorflow.train.load_checkpoint(str(folder / PREFIX))
    file = open_tensor_file(folder / spelling)
    assert file.format == "tf-checkpoint"
    assert file.keys() == sorted(reader.get_variable_to_shape_map())
    for name in file:
        expected = torch.from_numpy(reader.get_tensor(name))
        assert torch.equal(file.tensor(name), expected)
        assert file.info(name).shape == expected.shape


@pytest.mark.parametrize("part", ["bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index"])
def test_a_missing_part_is_named_without_tensorflow(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    shutil.copytree(FIXTURES / "bert-legacy" / "google", tmp_path / "google")
    (tmp_path / "google" / part).unlink()
    with pytest.raises(CheckpointError, match=part):
        open_tensor_file(tmp_path / PREFIX)


def test_without_tensorflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"uertool\[google\]"):
        open_tensor_file(FIXTURES / "bert-legacy" / PREFIX)


@pytest.mark.parametrize("part", ["data-00000-of-00001", "index"])
@pytest.mark.parametrize("size", [0, 20, 1000])
def test_truncated_parts_are_one_sentence(part: str, size: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    shutil.copytree(FIXTURES / "bert-legacy" / "google", tmp_path / "google")
    file = tmp_path / f"{PREFIX}.{part}"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError):
        opened = open_tensor_file(tmp_path / PREFIX)
        for name in opened:
            opened.tensor(name)


def test_flipped_bits_are_found_by_the_checksums(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    shutil.copytree(FIXTURES / "bert-legacy" / "google", tmp_path / "google")
    data = tmp_path / f"{PREFIX}.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[1000] ^= 8
    data.write_bytes(content)
    assert len(open_tensor_file(tmp_path / PREFIX).damage()) == 1


def test_bfloat16_and_text_variables(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    prefix = str(tmp_path / "m.ckpt")
    tensorflow.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=["half", "words", "step"],
        shape_and_slices=["", "", ""],
        tensors=[
            tensorflow.constant([1.5, -2.0], dtype=tensorflow.bfloat16),
            tensorflow.constant(["a"]),
            tensorflow.constant(3, dtype=tensorflow.int64),
        ],
    )
    file = open_tensor_file(prefix)
    assert file.keys() == ["half", "step"]
    assert torch.equal(file.tensor("half"), torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert file.tensor("step") == torch.tensor(3)
    assert "words" in file.skipped


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from uertool.checkpoints.formats.tf_writer import save_google\n"
        "from uertool.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_google([('w', torch.zeros(100_000))], Path(sys.argv[1]))\n"
        "except OutputError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.ckpt")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "model.ckpt" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
