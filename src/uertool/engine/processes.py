"""The same job on several devices: one process for each, results in input order.

A distributed engine would plug in here: it gets a picklable `make_job` and windows of items, and
gives lists of results.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

import torch

from uertool.engine.batching import (
    WINDOW,
    Batch,
    Encoded,
    Limits,
    run_batches,
    run_windows,
    windows_of,
)
from uertool.errors import UertoolError
from uertool.loading.device import set_threads, threads_for_each

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

#: Windows that a worker holds at a time: one that it runs and one that it encodes meanwhile.
_IN_HAND = 2
_PATIENCE = 5.0  # seconds that a worker gets to end by itself


class Job(Protocol[T, R_co]):
    """What runs on one device: a model that is loaded, and how it is used.

    A job that is made in a worker may have `notices`, sentences that the user should read; what
    all workers say is told once.
    """

    limits: Limits

    def encode(self, items: list[T]) -> list[Encoded]:
        """Items to texts as ids; runs in a background thread."""

    def step(self, batch: Batch) -> Sequence[R_co]:
        """A batch to one picklable result per row."""

    def empty(self, item: Encoded) -> R_co:
        """The result of a text without ids."""


def run_job(
    items: Iterable[T],
    make_job: Callable[[torch.device], Job[T, R]],
    devices: Sequence[torch.device],
    *,
    threads: int | None = None,
    window: int = WINDOW,
    on_notice: Callable[[str], None] | None = None,
) -> Iterator[R]:
    """Run a job over all items, on one device here or on several in processes of their own.

    Args:
        items: what the job encodes; picklable where there are several devices.
        make_job: loads the model for a device, once per process; picklable (a function at module
            level, or `functools.partial` of one) where there are several devices.
        devices: see `uertool.loading.device.resolve_devices`.
        threads: CPU threads in all, shared out among workers on the CPU; None: all cores.
        window: items that are sorted by length together, and handed out together; batches and so
            the results, to the last bit, are the same on one device and on several of a kind.
        on_notice: told what is worth knowing, in sentences.

    Raises:
        UertoolError: a worker died. What a worker raises is raised here.
    """
    if len(devices) > 1:
        yield from _run_workers(items, make_job, devices, threads, window, on_notice)
        return
    set_threads(threads)
    job = make_job(devices[0])
    limits = replace(job.limits, window=window)
    yield from run_batches(
        items, job.encode, job.step, limits=limits, empty=job.empty, on_notice=on_notice
    )


# -- the parent's side ----------------------------------------------------------------------------


@dataclass
class _Worker:
    """A process as its parent sees it."""

    name: str
    process: BaseProcess
    tasks: Connection
    results: Connection
    pending: deque[int] = field(default_factory=deque)  # windows that it holds, oldest first


def _run_workers(
    items: Iterable[T],
    make_job: Callable[[torch.device], Job[T, R]],
    devices: Sequence[torch.device],
    threads: int | None,
    window: int,
    on_notice: Callable[[str], None] | None,
) -> Iterator[R]:
    pool: _Pool[T, R] = _Pool(on_notice)
    try:
        pool.start(make_job, devices, threads)
        yield from pool.run(windows_of(items, window))
        pool.finish()
    finally:
        pool.kill()


class _Pool(Generic[T, R]):
    """Hands out windows, puts the results in order, and notices what goes wrong."""

    def __init__(self, on_notice: Callable[[str], None] | None) -> None:
        self.on_notice = on_notice
        self.workers: list[_Worker] = []
        self.done: dict[int, list[R]] = {}
        self.said: set[str] = set()

    def start(
        self,
        make_job: Callable[[torch.device], Job[T, R]],
        devices: Sequence[torch.device],
        threads: int | None,
    ) -> None:
        context = get_context("spawn")
        on_cpu = sum(device.type == "cpu" for device in devices)
        each = threads_for_each(on_cpu, threads) if on_cpu else threads
        with _interrupts_ignored():
            for number, device in enumerate(devices, start=1):
                tasks_out, tasks_in = context.Pipe(duplex=False)
                results_out, results_in = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work,
                    args=(make_job, str(device), each, tasks_out, results_in),
                    name=f"uertool-{number}-{device}",
                    daemon=True,
                )
                process.start()
                # Only the child may hold these ends, or its death would go unnoticed.
                tasks_out.close()
                results_in.close()
                name = f"worker {number} ({device})"
                self.workers.append(_Worker(name, process, tasks_in, results_out))

    def run(self, windows: Iterable[list[T]]) -> Iterator[R]:
        stream = iter(windows)
        given = taken = 0
        exhausted = False
        # A slow worker must not make the others' results pile up.
        most = 2 * _IN_HAND * len(self.workers)
        while True:
            while not exhausted and given - taken < most:
                worker = min(self.workers, key=lambda w: len(w.pending))
                if len(worker.pending) >= _IN_HAND:
                    break
                window = next(stream, None)
                if window is None:
                    exhausted = True
                    break
                self._give(worker, given, window)
                given += 1
            while taken in self.done:
                yield from self.done.pop(taken)
                taken += 1
            if exhausted and taken == given:
                return
            if taken not in self.done and not self._has_room(exhausted, given - taken, most):
                self._collect()

    def _has_room(self, exhausted: bool, open_windows: int, most: int) -> bool:
        if exhausted or open_windows >= most:
            return False
        return any(len(worker.pending) < _IN_HAND for worker in self.workers)

    def _give(self, worker: _Worker, number: int, window: list[T]) -> None:
        try:
            worker.tasks.send(window)
        except (BrokenPipeError, ConnectionError):
            self._drain(worker)
            self._died(worker)
        worker.pending.append(number)

    def _collect(self) -> None:
        """Wait until some worker says something or dies."""
        watched: dict[Any, _Worker] = {w.results: w for w in self.workers}
        watched.update({w.process.sentinel: w for w in self.workers})
        ready = wait(list(watched))
        for worker in {id(watched[r]): watched[r] for r in ready}.values():
            self._drain(worker)
            if not worker.process.is_alive() and worker.pending:
                self._died(worker)

    def _drain(self, worker: _Worker) -> None:
        """Take what a worker has sent so far."""
        try:
            while worker.results.poll():
                self._take(worker, worker.results.recv())
        except (EOFError, OSError):
            # Its end of the pipe is closed: it is dead or about to be.
            worker.process.join(_PATIENCE)
            if worker.pending:
                self._died(worker)

    def _take(self, worker: _Worker, message: tuple[str, Any]) -> None:
        kind, content = message
        if kind == "results":
            self.done[worker.pending.popleft()] = content
        elif kind == "said":
            if self.on_notice is not None and content not in self.said:
                self.said.add(content)
                self.on_notice(content)
        elif kind == "notice":
            if self.on_notice is not None:
                self.on_notice(f"{worker.name}: {content}")
        else:
            raise _as_raised(worker, *content)

    def _died(self, worker: _Worker) -> None:
        code = worker.process.exitcode
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({_signal_name(-code)})"
        else:
            how = f"ended with exit code {code}"
        raise UertoolError(
            f"The {worker.name} {how} before its work was done.",
            "If memory ran out, give fewer devices or a smaller batch; what was written so far "
            "can be continued where the command has `resume`.",
        )

    def finish(self) -> None:
        """Let the workers end by themselves."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.tasks.close()
        for worker in self.workers:
            worker.process.join(_PATIENCE)

    def kill(self) -> None:
        """End what still runs."""
        for worker in self.workers:
            for pipe in (worker.tasks, worker.results):
                with contextlib.suppress(OSError):
                    pipe.close()
            if worker.process.is_alive():
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Children started within inherit that they ignore Ctrl-C, which is for the parent to handle.

    A child that had to set this itself would print a traceback if Ctrl-C came while it starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


class WorkerTracebackError(Exception):
    """Where in a worker an unexpected exception was raised; the cause of the one raised here."""


def _as_raised(worker: _Worker, error: BaseException | None, text: str) -> BaseException:
    if error is None:
        return RuntimeError(f"The {worker.name} failed:\n{text}")
    if not isinstance(error, UertoolError):
        error.__cause__ = WorkerTracebackError(f"\n\nIn {worker.name}:\n{text}")
    return error


# -- the worker's side ----------------------------------------------------------------------------


def _work(
    make_job: Callable[[torch.device], Job[Any, Any]],
    device: str,
    threads: int | None,
    tasks: Connection,
    results: Connection,
) -> None:
    """Run windows from one pipe until it closes; results, notices and errors go into the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(kind: str, content: object) -> None:
        results.send((kind, content))

    try:
        set_threads(threads)
        job = make_job(torch.device(device))
        for sentence in getattr(job, "notices", ()):
            tell("said", sentence)
        for found in run_windows(
            _received(tasks),
            job.encode,
            job.step,
            limits=job.limits,
            empty=job.empty,
            on_notice=lambda sentence: tell("notice", sentence),
        ):
            tell("results", found)
    except (BrokenPipeError, EOFError):
        return  # the parent is gone
    except BaseException as error:
        text = traceback.format_exc()
        try:
            tell("error", (error, text))
        except (BrokenPipeError, OSError):
            return
        except Exception:  # an exception that cannot be pickled
            tell("error", (None, text))


def _received(tasks: Connection) -> Iterator[list[Any]]:
    while True:
        try:
            yield tasks.recv()
        except (EOFError, OSError):
            return
