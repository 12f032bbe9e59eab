"""Hostile input of `uertool convert`: one clear sentence, no code run, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.checkpoints.malicious import pack, system, torch_zip
from tests.conftest import FIXTURES
from uertool.cli.app import main

MLM = FIXTURES / "mlm-modular"


def changed(place: Path, **tensors: torch.Tensor | None) -> str:
    """The MLM fixture with some tensors replaced (None: removed)."""
    model = dict(torch.load(MLM / "model.bin", weights_only=True))
    for name, tensor in tensors.items():
        model.pop(name.replace("__", "."), None)
        if tensor is not None:
            model[name.replace("__", ".")] = tensor
    torch.save(model, place / "model.bin")
    shutil.copy(MLM / "config.json", place)
    return str(place / "model.bin")


def header(place: Path, **entries: tuple[list[int], list[int]]) -> str:
    """A safetensors file with a header of shapes and offsets over 96 bytes."""
    table = {
        f"embedding.{name}.embedding.weight": {"dtype": "F32", "shape": shape, "data_offsets": at}
        for name, (shape, at) in entries.items()
    }
    text = json.dumps(table).encode()
    file = place / "bad.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(96))
    return str(file)


def code(place: Path) -> str:
    file = place / "evil.bin"
    file.write_bytes(torch_zip({"embedding.word.embedding.weight": system(place / "CANARY")}))
    return str(file)


def bomb(place: Path) -> str:
    import zipfile

    content = pack({"m/data.pkl": b"N" * (64 << 20)}, compression=zipfile.ZIP_DEFLATED)
    (place / "bomb.bin").write_bytes(content)
    return str(place / "bomb.bin")


def leaving(place: Path) -> str:
    index = {"weight_map": {"bert.pooler.dense.bias": "../../etc/passwd"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(place)


def shardless(place: Path) -> str:
    for item in (FIXTURES / "bert-modular" / "google").iterdir():
        if ".data-" not in item.name:
            shutil.copy(item, place)
    return str(place / "bert_model.ckpt")


def truncated(place: Path) -> str:
    content = (MLM / "model.bin").read_bytes()
    (place / "model.bin").write_bytes(content[: len(content) // 2])
    return str(place / "model.bin")


NORM = "embedding__layer_norm__gamma"
CASES: dict[str, tuple[Callable[[Path], str], str]] = {
    "pickle with code": (code, "system"),
    "overlapping offsets": (
        lambda p: header(p, word=([4, 4], [0, 64]), pos=([4, 4], [32, 96])),
        "overlaps",
    ),
    "absurd offsets": (lambda p: header(p, word=([1 << 58], [0, 1 << 60])), "shape"),
    "negative offsets": (lambda p: header(p, word=([4], [-16, 0])), "data_offsets"),
    "zip bomb": (bomb, "compressed"),
    "index that leaves its folder": (leaving, "outside its folder"),
    "nan": (lambda p: changed(p, **{NORM: torch.full((32,), float("nan"))}), "--allow-nan"),
    "infinite": (lambda p: changed(p, **{NORM: torch.full((32,), float("inf"))}), "--allow-nan"),
    "integers": (lambda p: changed(p, **{NORM: torch.ones(32, dtype=torch.int64)}), "int64"),
    "unknown name": (lambda p: changed(p, strange__name=torch.zeros(3)), "strange.name"),
    "two names of one tensor": (
        lambda p: changed(p, embedding__word_embedding__weight=torch.zeros(1040, 32)),
        "are both embedding.word.embedding.weight",
    ),
    "missing name": (lambda p: changed(p, **{NORM: None}), "embedding.layer_norm"),
    "wrong shape": (lambda p: changed(p, **{NORM: torch.ones(33)}), "embedding.layer_norm.gamma"),
    "missing data shard": (shardless, "data-00000-of-00001"),
    "truncated": (truncated, "truncated"),
    "nothing there": (lambda p: str(p / "none.bin"), "does not exist"),
    "no weights": (lambda p: str(MLM / "vocab.txt"), "--vocab-path"),
    "a folder without weights": (lambda p: str(FIXTURES.parent / "text"), "weights"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("to", ["hf", "uer"])
def test_hostile_input_is_one_sentence(
    case: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = CASES[case]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = make(tmp_path / "in")
    target = tmp_path / "out" / ("hf" if to == "hf" else "m.bin")
    before = {item for item in (tmp_path / "in").rglob("*") if item.name != "CANARY"}
    assert main(["convert", "auto", source, str(target), "--to", to]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("error: ") or lines[-2].startswith("error: ")
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err) < 1500
    assert not list((tmp_path / "out").iterdir())
    assert set((tmp_path / "in").rglob("*")) == before
