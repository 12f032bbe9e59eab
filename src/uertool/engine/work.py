"""What becomes of a block's lines; `JobWork` does what `uertool.engine.processes.run_job` does."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import torch

from uertool.engine.batching import WINDOW, Batch, Encoded, run_windows, windows_of
from uertool.engine.processes import Job
from uertool.errors import InputError, UertoolError
from uertool.loading.device import is_out_of_memory, release_memory
from uertool.text.readers import Line

R = TypeVar("R")

Counts = dict[str, int]
#: Told of a line (by its number in the whole input) that could not be processed, and why.
OnFailure = Callable[[int, str], None]
#: Writes results, a window at a time, and gives what they add to the counts of the run.
Write = Callable[[list[Any]], Mapping[str, int]]


class Work(Protocol):
    """What is done with blocks of lines; picklable.

    Attributes:
        name: of the command, for the manifest.
        suffix: of a shard's file.
        block_lines: lines of a block, where the user does not say; None for the usual number.
    """

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def block_lines(self) -> int | None: ...

    def open(self, device: torch.device) -> Processor:
        """What does the work on a device; called once on every worker."""


class Processor(Protocol):
    """A `Work` with its model loaded."""

    def run(
        self, lines: Iterator[Line], path: Path, block: int, on_failure: OnFailure
    ) -> Generator[int, None, Counts]:
        """Turn the lines of a block into a shard.

        Args:
            lines: the lines.
            path: the file to write; further files may be written beside it, their names beginning
                with its stem.
            block: number of the block.
            on_failure: told of every line that cannot be processed, which is then left out.

        Yields:
            How many more lines are done.

        Returns:
            Counts, which are summed over blocks; "rows" is what the file holds.
        """


@dataclass(frozen=True)
class JobWork(Generic[R]):
    """A job of the local engine, and how its results are written.

    Attributes:
        name, suffix, block_lines: see `Work`.
        make_job: as for `run_job`.
        open_writer: opens a shard: given its path, the number of its block and the job. Whoever
            has results of no line too writes an empty file.
        window: lines that are sorted by length together, as for `run_job`.
    """

    name: str
    suffix: str
    make_job: Callable[[torch.device], Job[Line, R]]
    open_writer: Callable[[Path, int, Any], AbstractContextManager[Write]]
    window: int = WINDOW
    block_lines: int | None = None

    def open(self, device: torch.device) -> _JobProcessor[R]:
        """Load the model."""
        return _JobProcessor(self, self.make_job(device))


class _JobProcessor(Generic[R]):
    def __init__(self, work: JobWork[R], job: Job[Line, R]) -> None:
        self.work = work
        self.job = job

    def run(
        self, lines: Iterator[Line], path: Path, block: int, on_failure: OnFailure
    ) -> Generator[int, None, Counts]:
        safe = _SafeJob(self.job, on_failure)
        counts: Counts = {"rows": 0}
        with self.work.open_writer(path, block, self.job) as write:
            for found in run_windows(
                windows_of(lines, self.work.window),
                safe.encode,
                safe.step,
                limits=replace(self.job.limits, window=self.work.window),
                empty=self.job.empty,
            ):
                results = [result for result in found if not isinstance(result, _Failed)]
                for name, count in write(cast("list[Any]", results)).items():
                    counts[name] = counts.get(name, 0) + count
                yield len(found)
        return counts


class _Failed:
    """Stands among the results for a line that could not be processed."""


_FAILED = _Failed()


class _SafeJob(Generic[R]):
    """A job that goes on without the lines that it fails on."""

    def __init__(self, job: Job[Line, R], on_failure: OnFailure) -> None:
        self.job = job
        self.on_failure = on_failure

    def encode(self, items: list[Line]) -> list[Encoded]:
        try:
            return self.job.encode(items)
        except Exception as error:
            if len(items) == 1:
                self._told(items[0].number, error)
                return []
            found: list[Encoded] = []
            failed: list[Exception] = []
            for item in items:
                try:
                    found.extend(self.job.encode([item]))
                except Exception as reason:
                    failed.append(reason)
                    self._told(item.number, reason)
            _require_some_good(failed, len(items), error)
            return found

    def step(self, batch: Batch) -> Sequence[R | _Failed]:
        try:
            return self.job.step(batch)
        except Exception as error:
            if is_out_of_memory(error) and len(batch) > 1:
                raise  # the batch is halved by who asked
            failure = error
        if len(batch) == 1:
            return [self._failed(batch.items[0], failure)]
        results: list[R | _Failed] = []
        failed: list[Exception] = []
        for row, item in enumerate(batch.items):
            one = slice(row, row + 1)
            single = Batch(batch.ids[one], batch.segs[one], [item], batch.lengths[one])
            try:
                results.extend(self.job.step(single))
            except Exception as reason:
                failed.append(reason)
                results.append(self._failed(item, reason))
        _require_some_good(failed, len(batch), failure)
        return results

    def _failed(self, item: Encoded, error: Exception) -> _Failed:
        if is_out_of_memory(error):
            release_memory()
        self._told(item.index, error)
        return _FAILED

    def _told(self, number: int, error: Exception) -> None:
        self.on_failure(number, clause(error))


def _require_some_good(failed: Sequence[Exception], of: int, error: Exception) -> None:
    """Raise where every line fails by something that is not about the line: a fault of the job."""
    if len(failed) == of and not all(isinstance(reason, InputError) for reason in failed):
        raise error


def clause(error: BaseException) -> str:
    """What an error says, as a clause."""
    if isinstance(error, UertoolError):
        return error.message.rstrip(".")
    if is_out_of_memory(error):
        return "memory does not suffice for it"
    return f"{type(error).__name__}: {error}".split("\n")[0]
