"""Several devices: order, errors, deaths and Ctrl-C, with cpu,cpu in the place of two GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine import distributed_jobs as jobs
from uertool.engine.executors.processes import WorkerTracebackError
from uertool.engine.jobs import JobWork
from uertool.engine.order import Order, Watch
from uertool.engine.run import run
from uertool.errors import InputError, UertoolError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LENGTHS = JobWork("lengths", ".txt", jobs.length_job, jobs.length_writer, window=100)


def order(output: Path, *texts: str, **more: Any) -> Order:
    lines = [*("x" * (n % 5) for n in range(2000)), *texts]
    more = {"work": LENGTHS, "devices": ["cpu", "cpu"], "strict": True, **more}
    return Order(output=str(output), texts=lines, **more)


def test_two_workers_share_the_work_and_keep_the_order(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    work = JobWork("lengths", ".txt", jobs.pid_job, jobs.length_writer, window=100)
    run(order(output, work=work))
    pids = set(output.read_text().split())
    assert len(pids) == 2 and str(os.getpid()) not in pids
    run(order(output, overwrite=True))
    assert output.read_text().split() == [str(n % 5) for n in range(2000)]
    assert list(tmp_path.iterdir()) == [output]


def test_one_device_runs_in_this_process(tmp_path: Path) -> None:
    work = JobWork("lengths", ".txt", jobs.pid_job, jobs.length_writer, window=100)
    run(order(tmp_path / "out.txt", work=work, devices=["cpu"]))
    assert set((tmp_path / "out.txt").read_text().split()) == {str(os.getpid())}


def test_an_error_in_a_worker_is_the_same_error_here(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(order(tmp_path / "out.txt", "unreadable"))
    assert caught.value.message == "It cannot be read."
    assert caught.value.hint is not None and "give `resume`" in caught.value.hint
    assert not (tmp_path / "out.txt").exists()


def test_an_error_while_loading_is_the_same_error_here(tmp_path: Path) -> None:
    work = JobWork("lengths", ".txt", jobs.missing_job, jobs.length_writer)
    with pytest.raises(InputError, match="There is no model"):
        run(order(tmp_path / "out.txt", work=work))
    assert list(tmp_path.iterdir()) == []


def test_a_bug_in_a_worker_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="poison") as caught:
        run(order(tmp_path / "out.txt", "poison"))
    assert isinstance(caught.value.__cause__, WorkerTracebackError)
    assert "in step" in str(caught.value.__cause__)


@pytest.mark.parametrize(("fault", "how"), [("deadly", "SIGKILL"), ("leaving", "exit code 3")])
def test_a_dead_worker_ends_the_run_with_a_sentence(tmp_path: Path, fault: str, how: str) -> None:
    with pytest.raises(UertoolError, match=how):
        run(order(tmp_path / "out.txt", fault))


def test_a_script_that_its_workers_would_run_again_is_said(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from tests.engine.test_processes import order, run\n"
        "run(order(Path('out.txt')))\n"
    )
    ran = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
    )
    assert 'in the script under if __name__ == "__main__":' in ran.stderr
    assert list(tmp_path.iterdir()) == [script]


def test_a_batch_is_halved_in_a_worker_with_a_notice_here(tmp_path: Path) -> None:
    notices: list[str] = []
    run(order(tmp_path / "out.txt", "large", "large"), Watch(notice=notices.append))
    assert any("did not fit in memory" in sentence for sentence in notices)
    assert len((tmp_path / "out.txt").read_text().split()) == 2002


def test_a_run_that_stops_early_leaves_no_worker(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    os.environ["UERTOOL_TEST_PIDS"] = str(pids)

    def stop(more: int) -> None:
        if more:
            raise StopIteration

    work = JobWork("lengths", ".txt", jobs.pid_job, jobs.length_writer, window=10)
    with pytest.raises(RuntimeError):
        run(order(tmp_path / "out.txt", work=work), Watch(lines=stop))
    children = [int(path.name) for path in pids.iterdir()]
    assert children
    for process in children:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            from tests.engine import distributed_jobs as jobs
            from uertool.engine.jobs import JobWork
            from uertool.engine.order import Order
            from uertool.engine.run import run

            if __name__ == "__main__":
                work = JobWork("lengths", ".txt", jobs.pid_job, jobs.length_writer, window=100)
                texts = ["x"] * 10_000_000
                run(Order(work, r"{tmp_path}/out.txt", texts=texts, devices=["cpu", "cpu"]))
        """)
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path, "UERTOOL_TEST_PIDS": str(pids)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = [int(found.name) for found in pids.iterdir()]
    assert len(children) == 2
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
