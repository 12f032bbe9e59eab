"""Methods in processes of their own that take turns, so that other load on the machine hits all.

A benchmark script runs itself with `--worker METHOD` for each method, with this interpreter or with
that of the peers' environment. The worker loads the method once and answers requests.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Where `make bench` installs benchmarks/peers.txt.
PEERS = ROOT / ".bench" / "peers" / "bin" / "python"

#: Answers a request.
Run = Callable[[dict[str, Any]], dict[str, Any]]


def serve(load: Callable[[], Run]) -> None:
    """In a worker: load the method, then answer the requests on standard input, with seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        run = load()
    except Exception as error:
        first = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(json.dumps({"failed": first}), file=answers, flush=True)
        return
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        answer = run(request)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, **answer}), file=answers, flush=True)


class Worker:
    """A process with one method.

    Attributes:
        method: its name.
        failed: why it could not be loaded, or None.
    """

    def __init__(self, script: str, method: str, threads: int, *options: str, peer: bool) -> None:
        self.method = method
        self.failed: str | None = None
        python = str(PEERS) if peer else sys.executable
        if peer and not PEERS.exists():
            self.failed = "the peers are not installed (make bench installs them)"
            return
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        }
        self.process = subprocess.Popen(
            [python, str(Path(script).resolve()), "--worker", method, "--threads", str(threads)]
            + list(options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.failed = self._answer().get("failed")

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"failed": "it ended"}
        return found

    def __call__(self, **request: Any) -> dict[str, Any]:
        """The answer to a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        found = self._answer()
        if "failed" in found:
            raise SystemExit(f"{self.method}: {found['failed']}")
        return found

    def close(self) -> None:
        if hasattr(self, "process"):
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()


def usable(workers: Sequence[Worker]) -> list[Worker]:
    """The workers that were loaded; the others are named on standard error."""
    for worker in workers:
        if worker.failed:
            print(f"{worker.method} is left out: {worker.failed}", file=sys.stderr)
    return [worker for worker in workers if not worker.failed]


def take_turns(
    workers: Sequence[Worker], rounds: int, **request: Any
) -> dict[str, list[dict[str, Any]]]:
    """The answers of each method; the first round warms up and does not count."""
    answers: dict[str, list[dict[str, Any]]] = {worker.method: [] for worker in workers}
    for number in range(rounds + 1):
        for worker in workers:
            answer = worker(**request)
            if number:
                answers[worker.method].append(answer)
    return answers


def median_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
