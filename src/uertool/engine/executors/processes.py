"""Several devices of this machine: one process for each, which are handed blocks as they come."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from uertool.engine.executors.worker import Assignment, Worker
from uertool.engine.inputs.blocks import Block
from uertool.engine.work import Message
from uertool.errors import UertoolError

_PATIENCE = 5.0  # seconds that a worker gets to end by itself


def map_in_processes(
    blocks: Iterable[Block],
    assignment: Assignment,
    devices: Sequence[str | None],
    threads: int | None = None,
) -> Iterator[Message]:
    """Turn blocks into shards in a process for each device.

    Args:
        blocks: what to do; taken as workers have room.
        assignment: picklable; its device and threads are replaced by those of each worker.
        devices: names; the same one may be there twice. None for work without a model.
        threads: CPU threads in all, shared among workers on the CPU; None: all cores.

    Raises:
        UertoolError: a worker died. What a worker raises is raised here.
    """
    pool = _Pool(assignment.work.in_hand)
    try:
        pool.start(assignment, devices, threads)
        yield from pool.run(blocks)
        pool.finish()
    finally:
        pool.kill()


# -- the parent's side ----------------------------------------------------------------------------


@dataclass
class _Process:
    """A process as its parent sees it."""

    name: str
    process: BaseProcess
    tasks: Connection
    results: Connection
    pending: deque[int] = field(default_factory=deque)  # blocks that it has


class _Pool:
    """Hands out blocks, passes on reports, and notices what goes wrong."""

    def __init__(self, in_hand: int) -> None:
        self.in_hand = in_hand
        self.workers: list[_Process] = []
        self.reports: deque[Message] = deque()

    def start(
        self, assignment: Assignment, devices: Sequence[str | None], threads: int | None
    ) -> None:
        context = get_context("spawn")
        each = threads
        if on_cpu := sum(device == "cpu" for device in devices):
            from uertool.loading.device import threads_for_each

            each = threads_for_each(on_cpu, threads)
        with _interrupts_ignored():
            for number, device in enumerate(devices, start=1):
                tasks_out, tasks_in = context.Pipe(duplex=False)
                results_out, results_in = context.Pipe(duplex=False)
                theirs = replace(assignment, device=device, threads=each)
                process = context.Process(
                    target=_work,
                    args=(theirs, tasks_out, results_in),
                    name=f"uertool-{number}-{device or ''}",
                    daemon=True,
                )
                process.start()
                # Only the child may hold these ends, or its death would go unnoticed.
                tasks_out.close()
                results_in.close()
                name = f"worker {number}" + (f" ({device})" if device else "")
                self.workers.append(_Process(name, process, tasks_in, results_out))

    def run(self, blocks: Iterable[Block]) -> Iterator[Message]:
        stream = iter(blocks)
        exhausted = False
        while True:
            while not exhausted and (worker := self._with_room()) is not None:
                block = next(stream, None)
                if block is None:
                    exhausted = True
                    self._end()
                    break
                self._give(worker, block)
            while self.reports:
                yield self.reports.popleft()
            if exhausted and not any(worker.pending for worker in self.workers):
                return
            if exhausted or self._with_room() is None:
                self._collect()

    def _with_room(self) -> _Process | None:
        """The worker with the fewest blocks, if it may have another one.

        A block that is not finished must not let the others' shards pile up.
        """
        oldest = min((w.pending[0] for w in self.workers if w.pending), default=0)
        newest = max((w.pending[-1] for w in self.workers if w.pending), default=0)
        worker = min(self.workers, key=lambda w: len(w.pending))
        ahead = 4 * self.in_hand * len(self.workers)
        full = len(worker.pending) >= self.in_hand or newest - oldest >= ahead
        return None if full else worker

    def _give(self, worker: _Process, block: Block) -> None:
        try:
            worker.tasks.send(block)
        except (BrokenPipeError, ConnectionError):
            self._drain(worker)
            self._died(worker)
        worker.pending.append(block.index)

    def _end(self) -> None:
        """Tell the workers that there are no more blocks; one that is dead is noticed later."""
        for worker in self.workers:
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                worker.tasks.send(None)

    def _collect(self) -> None:
        """Wait until some worker reports or dies."""
        watched: dict[Any, _Process] = {w.results: w for w in self.workers}
        watched.update({w.process.sentinel: w for w in self.workers})
        ready = wait(list(watched))
        for worker in {id(watched[r]): watched[r] for r in ready}.values():
            self._drain(worker)
            if not worker.process.is_alive() and worker.pending:
                self._died(worker)

    def _drain(self, worker: _Process) -> None:
        """Take what a worker has sent so far."""
        try:
            while worker.results.poll():
                self._take(worker, worker.results.recv())
        except (EOFError, OSError):
            # Its end of the pipe is closed: it is dead or about to be.
            worker.process.join(_PATIENCE)
            if worker.pending:
                self._died(worker)

    def _take(self, worker: _Process, message: Message) -> None:
        if message["kind"] == "error":
            raise _as_raised(worker, *message["error"])
        if message["kind"] == "done":
            worker.pending.remove(message["block"])
        if message["kind"] == "notice" and not message["once"]:
            message["text"] = f"{worker.name}: {message['text']}"
        self.reports.append(message)

    def _died(self, worker: _Process) -> None:
        code = worker.process.exitcode
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({_signal_name(-code)})"
        else:
            how = f"ended with exit code {code}"
        hint = "If memory ran out, use fewer devices or a smaller `batch_size`; finished work is "
        hint += "kept, see `resume`."
        if code == 1:  # Python's, if a worker fails before it can report why
            hint = "Every worker imports a script that is run, so call this in the script under "
            hint += 'if __name__ == "__main__":, or see above.'
        raise UertoolError(f"The {worker.name} {how} before its work was done.", hint)

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


def _as_raised(worker: _Process, error: BaseException | None, text: str) -> BaseException:
    if error is None:
        return RuntimeError(f"The {worker.name} failed:\n{text}")
    if not isinstance(error, UertoolError):
        error.__cause__ = WorkerTracebackError(f"\n\nIn {worker.name}:\n{text}")
    return error


# -- the worker's side ----------------------------------------------------------------------------


def _work(assignment: Assignment, tasks: Connection, results: Connection) -> None:
    """Run blocks from one pipe until it closes; reports and errors go into the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for message in Worker(assignment).run(_received(tasks), tasks.poll):
            results.send(message)
    except (BrokenPipeError, EOFError):
        return  # the parent is gone
    except BaseException as error:
        text = traceback.format_exc()
        try:
            results.send({"kind": "error", "error": (error, text)})
        except (BrokenPipeError, OSError):
            return
        except Exception:  # an exception that cannot be pickled
            results.send({"kind": "error", "error": (None, text)})


def _received(tasks: Connection) -> Iterator[Block]:
    while True:
        try:
            block = tasks.recv()
        except (EOFError, OSError):
            return
        if block is None:
            return
        yield block
