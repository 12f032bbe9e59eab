"""Kill -9 at random moments of writing: the old output is whole, strays go with the next run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, MODELS, TEXT
from uertool.checkpoints.formats.opener import open_tensor_file

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parent.parent.parent / "src"
MODEL = MODELS / "zh-mlm-small"
KILLS = 8

#: Loads the program once and forks a victim for every kill, so that no time goes into imports.
#: Prints what the output was after the last kill; then one more run may clean up.
_HUNTER = """
import hashlib, json, os, random, signal, sys, time
job, output, kills = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
import torch
torch.set_num_threads(1)
from uertool.cli.app import main
console, sys.stdout = sys.stdout, open(os.devnull, "w")
for _ in range(2):  # the first imports everything, the second says how long a run takes
    start = time.perf_counter()
    assert main(job) == 0
    span = time.perf_counter() - start
chance = random.Random(1)
for _ in range(kills):
    victim = os.fork()
    if victim == 0:
        os._exit(main(job))
    time.sleep(chance.uniform(0.1, 1) * span)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
with open(output, "rb") as stream:
    console.write(hashlib.sha256(stream.read()).hexdigest())
assert main(job) == 0
"""

OUT = "out/new"
JOBS = {
    "average": ["average", "m.bin", "m.bin", "--output_model_path", f"{OUT}.bin"],
    "adapt": [
        *("vocab", "adapt", "-m", "m.bin", "--old_vocab_path", str(MODEL / "vocab.txt")),
        *("--new_vocab_path", str(TEXT / "google_zh_vocab.txt"), "-o", f"{OUT}.safetensors"),
    ],
    "to-safetensors": ["check", "m.bin", "--fast", "--to-safetensors", f"{OUT}.safetensors"],
    "vocab-build": [
        *("vocab", "build", str(FIXTURES / "misc-modular" / "corpus.txt")),
        *("--output_path", f"{OUT}.txt"),
    ],
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", JOBS)
def test_a_killed_command_leaves_a_whole_output_and_the_next_run_cleans_up(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "m.bin").symlink_to(MODEL / "model.bin")
    (tmp_path / "out").mkdir()
    job = [*JOBS[name], "--overwrite", "-q"]
    output = tmp_path / next(word for word in job if word.startswith(OUT))
    done = subprocess.run(
        [sys.executable, "-c", _HUNTER, json.dumps(job), str(output), str(KILLS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # Every whole output of these inputs is the same, so what the kills left is one.
    assert done.stdout == hashlib.sha256(output.read_bytes()).hexdigest()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [output.name]
    if name != "vocab-build":
        with open_tensor_file(output) as file:
            assert file.damage() == []
