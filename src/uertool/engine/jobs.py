"""Jobs: a loaded model with batches in and results out, as `Work` on blocks of lines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, cast

import torch

from uertool.engine.batching import (
    Ahead,
    Batch,
    Encoded,
    Later,
    Limits,
    WindowRunner,
    fetched,
    run_batches,
    windows_of,
)
from uertool.engine.faster_type import Advice
from uertool.engine.work import (
    WINDOW,
    Counts,
    Event,
    Finished,
    Notice,
    OnFailure,
    Progress,
    Task,
    Tasks,
    Write,
    add_counts,
    clause,
)
from uertool.errors import InputError
from uertool.loading.device import fitting_threads, is_out_of_memory, release_memory
from uertool.text.readers import Line

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel
    from uertool.loading.settings import DeviceSettings, ModelSettings

T = TypeVar("T")
R = TypeVar("R")
J = TypeVar("J")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[T, R_co]):
    """A loaded model and how it is used on batches.

    If it has the model as `loaded`, what was assumed about that is reported.
    """

    limits: Limits

    def encode(self, items: list[T]) -> list[Encoded]:
        """Items to texts as ids; runs in a background thread."""

    def step(self, batch: Batch) -> Sequence[R_co] | Later[R_co]:
        """A batch to one result per row."""

    def empty(self, item: Encoded) -> R_co:
        """The result of a text without ids."""


@dataclass(frozen=True)
class JobWork(Generic[R]):
    """A job, and how its results are written.

    Attributes:
        name, suffix, window, block_lines, in_hand: see `Work`; a window is sorted by length.
        make_job: loads the model for a device; picklable.
        open_writer: opens a shard: gets its path, the number of its block and the job; picklable.
            A block without results becomes an empty file.
    """

    name: str
    suffix: str
    make_job: Callable[[torch.device], Job[Line, R]]
    open_writer: Callable[[Path, int, Any], AbstractContextManager[Write]]
    window: int = WINDOW
    block_lines: int | None = None
    in_hand: int = 2  # one that it runs and one that it encodes meanwhile

    def open(self, device: torch.device | None) -> JobProcessor[R]:
        """Load the model."""
        assert device is not None
        return JobProcessor(self, self.make_job(device))


def load_job(
    model: ModelSettings,
    where: DeviceSettings,
    heads: Sequence[str],
    make: Callable[[LoadedModel], J],
    device: torch.device,
) -> J:
    """The job of a model on a device; with all but the device given it is picklable.

    Args:
        model: which model.
        where: the type of its numbers, and so on.
        heads: output heads that the job needs.
        make: the job of the loaded model.
        device: where it runs.
    """
    from uertool.loading.registry import load_from_settings

    return make(load_from_settings(model, where.on(device), heads=heads))


def run_job(
    job: Job[T, R],
    items: Iterable[T],
    *,
    window: int = WINDOW,
    on_notice: Callable[[str], None] | None = None,
) -> Iterator[R]:
    """The results of a stream of items, in their order.

    Args:
        job: the model and what it does.
        items: read as they are needed, for example `uertool.text.readers.read_lines`.
        window: items that are sorted by length together.
        on_notice: called with what is worth knowing, in sentences.
    """
    limits = replace(job.limits, window=window)
    step = functools.partial(_step, job)
    return run_batches(items, job.encode, step, limits=limits, empty=job.empty, on_notice=on_notice)


def _step(job: Job[T, R], batch: Batch) -> Sequence[R] | Later[R]:
    """A step of a job, with as many threads as are worthwhile."""
    loaded = getattr(job, "loaded", None)
    if loaded is None or loaded.device.type != "cpu":
        return job.step(batch)
    with fitting_threads(loaded.config, batch.ids.numel()):
        return job.step(batch)


class _Window(NamedTuple):
    """Encoded lines of a task; after the last of them `ends` says that there are no more."""

    task: Task
    items: list[Encoded]
    ends: bool


class JobProcessor(Generic[R]):
    """Runs a job over blocks; the next window is encoded while the model is busy with one."""

    def __init__(self, work: JobWork[R], job: Job[Line, R]) -> None:
        self.work = work
        self.job = job
        loaded = getattr(job, "loaded", None)
        self.notices: Sequence[str] = loaded.notes if loaded is not None else ()
        self.details: Sequence[str] = loaded.described() if loaded is not None else ()

    def run(self, tasks: Tasks) -> Iterator[Event]:
        """Turn blocks into shards."""
        said: list[Notice] = []

        def say(sentence: str) -> None:
            said.append(Notice(sentence))

        safe = _SafeJob(self.job)
        limits = replace(self.job.limits, window=self.work.window)
        advice = Advice(getattr(self.job, "loaded", None))

        def step(batch: Batch) -> Sequence[R | _Failed] | Later[R | _Failed]:
            found = safe.step(batch)
            if (sentence := advice.after(batch.ids.numel())) is not None:
                said.append(Notice(sentence, once=True, is_hint=True))
            return found

        runner = WindowRunner(step, limits, self.job.empty, say)
        with Ahead(lambda: self._encoded(tasks, safe)) as encoded:
            for window in encoded:
                task = window.task
                counts: Counts = {"rows": 0}
                with self.work.open_writer(task.path, task.index, self.job) as write:
                    while not window.ends:
                        safe.fail = task.fail
                        steps = runner.steps(window.items)
                        found, last = yield from _reporting(steps, task.index, said)
                        results = [result for result in found if not isinstance(result, _Failed)]
                        add_counts(counts, write(cast("list[Any]", results)))
                        yield from said
                        said.clear()
                        yield Progress(task.index, last)
                        window = next(encoded)
                yield Finished(task.index, counts)

    def _encoded(self, tasks: Tasks, safe: _SafeJob[R]) -> Iterator[_Window]:
        for task in tasks:
            for lines in windows_of(task.lines, self.work.window):
                yield _Window(task, safe.encode(lines, task.fail), False)
            yield _Window(task, [], True)


def _reporting(
    steps: Generator[int, None, list[T]], block: int, said: list[Notice]
) -> Generator[Event, None, tuple[list[T], int]]:
    """Run the batches of a window, and report about each but the last, and what they `said`.

    Returns:
        The results, and how many lines were not reported: those are done when they are written.
    """
    held = 0
    while True:
        try:
            count = next(steps)
        except StopIteration as end:
            return cast("list[T]", end.value), held
        yield from said
        said.clear()
        if held:
            yield Progress(block, held)
        held = count


class _Failed:
    """The result of a line that could not be processed."""


_FAILED = _Failed()


class _SafeJob(Generic[R]):
    """A job that leaves out the lines that it fails on, where the task wants that.

    Attributes:
        fail: of the task that `step` works on.
    """

    def __init__(self, job: Job[Line, R]) -> None:
        self.job = job
        self.fail: OnFailure | None = None

    def encode(self, items: list[Line], fail: OnFailure | None) -> list[Encoded]:
        try:
            return self.job.encode(items)
        except Exception as error:
            if fail is None:
                raise
            if len(items) == 1:
                fail(items[0].number, clause(error))
                return []
            found: list[Encoded] = []
            failed: list[Exception] = []
            for item in items:
                try:
                    found.extend(self.job.encode([item]))
                except Exception as reason:
                    failed.append(reason)
                    fail(item.number, clause(reason))
            _require_some_good(failed, len(items), error)
            return found

    def step(self, batch: Batch) -> Sequence[R | _Failed] | Later[R | _Failed]:
        try:
            return cast("Sequence[R | _Failed] | Later[R | _Failed]", _step(self.job, batch))
        except Exception as error:
            if self.fail is None or (is_out_of_memory(error) and len(batch) > 1):
                raise  # a batch that does not fit in memory is halved by the caller
            failure = error
        if len(batch) == 1:
            return [self._failed(batch.items[0], failure)]
        results: list[R | _Failed] = []
        failed: list[Exception] = []
        for row, item in enumerate(batch.items):
            one = slice(row, row + 1)
            single = Batch(batch.ids[one], batch.segs[one], [item], batch.lengths[one])
            try:
                results.extend(fetched(_step(self.job, single)))
            except Exception as reason:
                failed.append(reason)
                results.append(self._failed(item, reason))
        _require_some_good(failed, len(batch), failure)
        return results

    def _failed(self, item: Encoded, error: Exception) -> _Failed:
        if is_out_of_memory(error):
            release_memory()
        assert self.fail is not None
        self.fail(item.index, clause(error))
        return _FAILED


def _require_some_good(failed: Sequence[Exception], of: int, error: Exception) -> None:
    """Raise if every line fails by something that is not about the line: a fault of the job."""
    if len(failed) == of and not all(isinstance(reason, InputError) for reason in failed):
        raise error
