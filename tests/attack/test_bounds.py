"""Hostile files take bounded time and memory: 5 seconds of processor time, 1 GB."""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.malicious import pack, torch_zip
from tests.conftest import FIXTURES
from uertool.checkpoints.writer import save_tensors

pytestmark = pytest.mark.slow

#: Runs main on a file and prints its exit code, messages, processor time and peak memory.
_RUN = """
import contextlib, io, json, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from uertool.cli.app import main
from uertool.checkpoints.reader import open_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF)
said = io.StringIO()
with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "code": code, "said": said.getvalue(), "seconds": after.ru_utime - before.ru_utime,
    "peak": after.ru_maxrss * 1024, "base": before.ru_maxrss * 1024,
}))
"""


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))


def run(*arguments: str) -> dict[str, Any]:
    """Run a command in a process of its own; asserts the bounds."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=_limit,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["seconds"] < 5, found
    assert found["peak"] < 1 << 30, found
    assert found["code"] in (1, 2), found
    assert "Traceback" not in found["said"]
    assert len(found["said"].replace("/tmp", "")) < 600, found["said"]
    return found


def pickled(body: bytes) -> bytes:
    """A torch file with this pickle."""
    return pack({"m/data.pkl": body, "m/version": b"3\n"})


def text(content: str) -> bytes:
    data = content.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def encodings() -> bytes:
    call = b"c_codecs\nencode\nq\x01" + text("a" * 1_000_000) + b"q\x02" + text("latin1") + b"q\x03"
    return b"\x80\x02" + call + b"h\x01h\x02h\x03\x86R" * 8000 + b"."


def nested() -> bytes:
    inner = b"\x80\x02" + b"N0" * 20_000 + b"N."
    for _ in range(6):
        head = (
            b"\x80\x04cpickle\nloads\nq\x01B" + len(inner).to_bytes(4, "little") + inner + b"q\x02"
        )
        inner = head + b"h\x01h\x02\x85R0" * 200 + b"N."
    return inner


def many_globals() -> bytes:
    return b"\x80\x02" + b"".join(b"cm%d\nn\n0" % n for n in range(420_000)) + b"N."


BOMBS = {
    "encodings": encodings,
    "nested loads": nested,
    "globals": many_globals,
    "one long name": lambda: b"\x80\x02c" + b"a." * 400_000 + b"b\nx\n" + b".",
    "opcodes": lambda: b"\x80\x02" + b"N0" * 3_000_000 + b"N.",
    "wide text": lambda: b"\x80\x02" + text("\U0001f600" + "a" * 20_000_000) * 5 + b".",
    "big integer keys": lambda: pickle.dumps({10**6000: 1, "a": 2}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_in_a_pickle_is_refused_within_the_bounds(bomb: str, tmp_path: Path) -> None:
    content = BOMBS[bomb]()
    for form in (pickled(content), content):
        (tmp_path / "model.bin").write_bytes(form)
        run("check", str(tmp_path / "model.bin"))


@pytest.mark.parametrize("digits", ["9" * 9, "9" * 5000, "99999", "\u0663" * 6])
def test_a_layer_number_above_the_number_of_tensors_is_refused(digits: str, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    tensors = torch.load(FIXTURES / "bert-modular" / "model.bin")
    tensors[f"encoder.transformer.{digits}.layer_norm_1.gamma"] = torch.ones(2)
    torch.save(tensors, file)
    found = run("convert", "uer2hf", str(file), str(tmp_path / "out"))
    assert "cannot have that many layers" in found["said"]
    run("check", str(file))


def test_hugging_face_layer_numbers_are_bounded_too(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    names = ("bert.embeddings.word_embeddings.weight", f"bert.encoder.layer.{'9' * 6}.x.weight")
    file.write_bytes(torch_zip({name: torch.ones(2, 2) for name in names}))
    run("check", str(tmp_path))


def test_tied_names_take_linear_time(tmp_path: Path) -> None:
    one = torch.ones(2)
    tied = {f"encoder.transformer.{n % 12}.w{n}": one for n in range(200_000)}
    save_tensors(tied, tmp_path / "a.safetensors", ties="alias")
    run("check", str(tmp_path / "a.safetensors"))
    torch.save(tied, tmp_path / "a.bin")
    run("check", str(tmp_path / "a.bin"))
    chain = {f"encoder.w{n}": f"encoder.w{n + 1}" for n in range(200_000)}
    save_tensors({f"encoder.w{200_000}": one}.items(), tmp_path / "b.bin", tied=chain)


def test_a_name_of_three_megabytes_is_cut_in_messages(tmp_path: Path) -> None:
    torch.save({"x" * 3_000_000: torch.ones(2)}, tmp_path / "a.bin")
    run("check", str(tmp_path / "a.bin"))
    run("convert", "uer2hf", str(tmp_path / "a.bin"), str(tmp_path / "out"))
