"""Several devices: order, errors, deaths and Ctrl-C, with cpu,cpu standing in for two GPUs."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from uertool.engine.batching import Batch, Encoded, Limits
from uertool.engine.processes import WorkerTracebackError, run_job
from uertool.errors import InputError, UertoolError

CPUS = [torch.device("cpu"), torch.device("cpu")]
ROOT = Path(__file__).parents[2]


class Squares:
    """Squares numbers; some numbers make it misbehave."""

    limits = Limits(tokens=64)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def encode(self, items: list[int]) -> list[Encoded]:
        return [Encoded(number, [number] * (number % 5)) for number in items]

    def step(self, batch: Batch) -> list[tuple[int, int]]:
        if any(item.index == 777 for item in batch.items):
            if self.fault == "input":
                raise InputError("Line 778 is bad.", "Mend it.")
            if self.fault == "bug":
                raise ZeroDivisionError("a bug")
            if self.fault == "memory" and len(batch) > 1:
                raise MemoryError
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "exit":
                os._exit(3)
        return [(item.index**2, os.getpid()) for item in batch.items]

    def empty(self, item: Encoded) -> tuple[int, int]:
        return item.index**2, 0


def make_squares(device: torch.device, *, fault: str = "") -> Squares:
    if fault == "load":
        raise InputError("There is no model.")
    return Squares(fault)


def run(fault: str = "", **options: object) -> list[tuple[int, int]]:
    job = functools.partial(make_squares, fault=fault)
    return list(run_job(range(2000), job, CPUS, window=100, **options))  # type: ignore[arg-type]


def test_two_workers_share_the_work_and_keep_the_order() -> None:
    found = run()
    assert [square for square, _ in found] == [number**2 for number in range(2000)]
    assert len({process for _, process in found} - {0}) == 2
    assert os.getpid() not in {process for _, process in found}


def test_one_device_runs_in_this_process() -> None:
    found = list(run_job(range(20), make_squares, CPUS[:1]))
    assert {process for _, process in found} <= {0, os.getpid()}


def test_an_error_in_a_worker_is_the_same_error_here() -> None:
    with pytest.raises(InputError) as caught:
        run("input")
    assert (caught.value.message, caught.value.hint) == ("Line 778 is bad.", "Mend it.")


def test_an_error_while_loading_is_the_same_error_here() -> None:
    with pytest.raises(InputError, match="There is no model"):
        run("load")


def test_a_bug_in_a_worker_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run("bug")
    assert isinstance(caught.value.__cause__, WorkerTracebackError)
    assert "in step" in str(caught.value.__cause__)


@pytest.mark.parametrize(("fault", "how"), [("killed", "SIGKILL"), ("exit", "exit code 3")])
def test_a_dead_worker_ends_the_run_with_a_sentence(fault: str, how: str) -> None:
    with pytest.raises(UertoolError, match=how):
        run(fault)


def test_a_batch_is_halved_in_a_worker_with_a_notice_here() -> None:
    notices: list[str] = []
    assert len(run("memory", on_notice=notices.append)) == 2000
    assert any("did not fit in memory" in sentence for sentence in notices)


def test_a_reader_that_stops_early_leaves_no_worker() -> None:
    results = run_job(range(10**9), make_squares, CPUS, window=100)
    children = {process for _, process in (next(results) for _ in range(500))} - {0}
    results.close()  # type: ignore[attr-defined]
    assert children
    for process in children:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from tests.engine.test_processes import CPUS, make_squares
            from uertool.engine.processes import run_job

            if __name__ == "__main__":
                seen = set()
                for _, process in run_job(range(10**9), make_squares, CPUS, window=100):
                    if process and process not in seen:
                        seen.add(process)
                        print(process, flush=True)
        """)
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does: to parent and workers
    else:
        os.kill(parent.pid, number)
    _, errors = parent.communicate(timeout=30)
    assert errors.count("Traceback") == (1 if number == signal.SIGINT else 0), errors
    deadline = time.monotonic() + 20
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(child) for child in children)


def _alive(process: int) -> bool:
    """Whether a process runs; one that is dead but not yet waited for does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
