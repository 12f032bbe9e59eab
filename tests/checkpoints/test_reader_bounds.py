"""Damaged files of real size take no more than twice their size in memory, and no time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parent.parent.parent / "src"
SIZE = 24 << 20
ROUNDS = 10

#: Damages a file in many ways, reads all that can be read of each, and measures itself.
_READER = """
import json, random, resource, sys, time
from pathlib import Path
import torch
from uertool.checkpoints.formats.pickle_scan import scan_pickle
from uertool.checkpoints.reader import open_checkpoint
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.writer import save_tensors
from uertool.errors import CheckpointError
from uertool.tasks.check.inspection import inspect_checkpoint

torch.set_num_threads(1)
form, size, rounds, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])

def make(path, count):
    tensors = {f"encoder.transformer.{n}.layer_norm_1.gamma": torch.rand(count) for n in range(6)}
    if form == "torch-legacy":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        save_tensors(tensors, path, format="torch" if form == "torch-zip" else "safetensors")

def read(path):
    try:
        with open_tensor_file(path) as file:
            for name in file:
                float(file.tensor(name).sum())
    except CheckpointError:
        pass
    try:
        open_checkpoint(path).close()
    except CheckpointError:
        pass
    try:
        scan_pickle(path)
    except CheckpointError:
        pass
    inspect_checkpoint(path)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small, whole, path = folder / "small", folder / "whole", folder / "model.pt"
make(small, 1000)
make(whole, size // 24)
read(small)
path.write_bytes(b"PK" + bytes(1 << 20))
read(path)
chance = random.Random(3)
length = whole.stat().st_size

def truncate(stream):
    stream.truncate(chance.randrange(length))

def flip(stream):
    for _ in range(8):
        place = chance.choice([chance.randrange(length), chance.randrange(4096), length - 1
                               - chance.randrange(4096)])
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1 << chance.randrange(8)]))

def noise(stream):
    for start in (0, 4096, length - 8192):
        if chance.random() < 0.6:
            stream.seek(start + chance.randrange(512))
            stream.write(chance.randbytes(2048))

def nothing(stream):
    pass

before = peak()
slowest = 0.0
for number in range(rounds):
    for damage in (truncate, flip, noise, nothing):
        with open(whole, "rb") as source, open(path, "wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
        with open(path, "r+b") as stream:
            damage(stream)
        start = time.perf_counter()
        read(path)
        slowest = max(slowest, time.perf_counter() - start)
        path = path.rename(path.with_suffix(chance.choice([".bin", ".txt", ".json", ".pt", ""])))
print(json.dumps({"memory": peak() - before, "length": length, "slowest": slowest}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch-zip", "torch-legacy", "safetensors"])
def test_a_damaged_file_takes_at_most_twice_its_size_and_little_time(
    form: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READER, form, str(SIZE), str(ROUNDS), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["length"] > SIZE * 0.99
    assert found["memory"] < 2 * found["length"], found
    assert found["slowest"] < 30, found  # a hang, not a busy machine
