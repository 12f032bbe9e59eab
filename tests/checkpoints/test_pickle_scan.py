"""Pickles are judged by what they would import, and none is ever run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch

from tests.checkpoints.malicious import corpus, globals_of
from tests.conftest import fixture_folders
from uertool.checkpoints.formats import pickle_walk
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.pickle_scan import scan_pickle
from uertool.checkpoints.formats.pickle_verdicts import Verdict, judge
from uertool.checkpoints.formats.pickle_walk import walk
from uertool.errors import CheckpointError

ATTACKS = sorted(corpus(Path("/nonexistent/canary")))


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_named_refused_and_never_run(attack: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    file = tmp_path / "model.bin"
    file.write_bytes(corpus(canary)[attack])
    report = scan_pickle(file)
    assert report.suspicious
    assert not report.safe
    with pytest.raises(CheckpointError) as caught:
        open_tensor_file(file)
    assert any(use.name in str(caught.value) for use in report.suspicious)
    assert not canary.exists()


def test_an_attack_is_called_dangerous_and_a_whole_model_is_not(tmp_path: Path) -> None:
    calm = []
    for name, content in corpus(tmp_path / "canary").items():
        file = tmp_path / name
        file.write_bytes(content)
        if not any(use.verdict is Verdict.DANGEROUS for use in scan_pickle(file).globals):
            calm.append(name)
    assert calm == ["whole-model"]


def test_nested_pickles_are_looked_into(tmp_path: Path) -> None:
    for name in ("nested-loads", "load-from-bytes"):
        file = tmp_path / name
        file.write_bytes(corpus(tmp_path / "canary")[name])
        found = {use.name.replace("posix.", "os.") for use in scan_pickle(file).globals}
        assert "os.system" in found


def test_globals_agree_with_pickletools(tmp_path: Path) -> None:
    for name in ("os-system", "protocol-0", "protocol-0-inst", "exec-python-2"):
        content = corpus(tmp_path / "canary")[name]
        file = tmp_path / name
        file.write_bytes(content)
        assert {use.name for use in scan_pickle(file).globals} == globals_of(content)


@pytest.mark.parametrize("folder", fixture_folders("model.bin"), ids=lambda path: path.name)
def test_ordinary_checkpoints_are_safe(folder: Path) -> None:
    report = scan_pickle(folder / "model.bin")
    assert report.safe
    assert report.format == "torch-zip"
    assert {use.verdict for use in report.globals} == {Verdict.TENSOR}


@pytest.mark.slow
def test_a_training_checkpoint_with_plain_data_is_safe(tmp_path: Path) -> None:
    import argparse
    import collections

    file = tmp_path / "last.ckpt"
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save(
        {
            "state_dict": {"w": weight},
            "optimizer": optimizer.state_dict(),
            "args": argparse.Namespace(lr=0.1, path=Path("x")),
            "counts": collections.Counter("aab"),
            "seen": {1, 2},
        },
        file,
    )
    assert scan_pickle(file).safe
    opened = open_tensor_file(file)
    assert opened.keys() == ["w"]
    assert opened.metadata["unwrapped"] == "state_dict"
    assert set(opened.skipped) == {"optimizer", "args", "counts", "seen"}


def test_a_file_without_pickles_says_so(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("config of the model\n天气\n")
    assert scan_pickle(file).format == "none"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("torch._utils._rebuild_tensor_v2", Verdict.TENSOR),
        ("collections.OrderedDict", Verdict.TENSOR),
        ("argparse.Namespace", Verdict.DATA),
        ("os.system", Verdict.DANGEROUS),
        ("os.path.join", Verdict.DANGEROUS),
        ("torch.utils.data.anything", Verdict.DANGEROUS),
        ("torch.load", Verdict.DANGEROUS),
        ("builtins.getattr", Verdict.DANGEROUS),
        ("some.model.Class", Verdict.UNKNOWN),
        ("collectionsx.OrderedDict", Verdict.UNKNOWN),
    ],
)
def test_verdicts(name: str, verdict: Verdict) -> None:
    module, _, attribute = name.rpartition(".")
    assert judge(module, attribute) is verdict


def test_a_bomb_of_instructions_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_walk, "MAX_OPCODES", 1000)
    assert "instructions" in str(walk(io.BytesIO(b"\x80\x02" + b"]0" * 2000 + b"N.")).error)
    monkeypatch.setattr(pickle_walk, "MAX_STACK", 100)
    assert "stacks more values" in str(walk(io.BytesIO(b"\x80\x02" + b"]" * 2000 + b".")).error)


def test_tuples_nested_in_themselves_take_no_time() -> None:
    doubling = b"\x80\x02N" + b"".join(
        b"q%c0h%ch%c\x86" % (i, i, i) for i in range(60)
    )  # 2 ** 60 leaves
    assert walk(io.BytesIO(b"\x80\x02}" + doubling[2:] + b"Ns.")).error is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        1 << 100,
        2.5,
        "天",
        b"bytes",
        [1, [2]],
        (1,),
        (),
        (1, 2, 3, 4),
        {"a": {1: None}},
        [[]],
    ],
    ids=repr,
)
@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_values_are_followed_as_pickle_would(value: object, protocol: int) -> None:
    walked = walk(io.BytesIO(pickle.dumps(value, protocol=protocol)))
    assert walked.error is None
    assert walked.value == value
