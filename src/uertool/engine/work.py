"""What a command does with lines: `Work` is its picklable description, `Processor` does it.

    work = JobWork("cloze", ".txt", make_job, open_writer)  # see `uertool.engine.jobs`
    processor = work.open(torch.device("cpu"))
    for event in processor.run(tasks): ...

Nothing here imports torch: counting the tokens of a corpus is work too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from uertool.errors import UertoolError
from uertool.text.readers import Line

if TYPE_CHECKING:
    import torch

F = TypeVar("F", bound="Figures")

#: Lines that are sorted by length together. Large enough that a batch holds texts of nearly one
#: length, small enough that memory and the wait for the first result stay low.
WINDOW = 2048

Counts = dict[str, int]
#: Called with the number of a line (in the whole input) that could not be processed, and why.
OnFailure = Callable[[int, str], None]
#: Writes results, a window at a time, through to the file, so that readers find them there; and
#: returns what they add to the counts of the run.
Write = Callable[[list[Any]], Mapping[str, int]]


#: What workers report, as plain data; `kind` says which:
#:
#: - "lines": so many more `lines` of a `block` are done; `path` is the unfinished shard;
#: - "done": the shard of a `block` is finished, and its record is in the store;
#: - "notice": a sentence that the user should read; "detail": one who wants to know more.
Message = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A block on its way to become a shard.

    Attributes:
        index: number of the block.
        lines: its lines.
        path: the shard to write. Further files may be written next to it if their names begin with
            its stem.
        fail: called for every line that cannot be processed, which is then left out; None to raise
            what it fails with.
    """

    index: int
    lines: Iterable[Line]
    path: Path
    fail: OnFailure | None = None


class Tasks:
    """The blocks of a worker as they come.

    Args:
        tasks: the blocks.
        ready: whether the next one is there (or the end), so that `next` does not wait.
    """

    def __init__(self, tasks: Iterator[Task], ready: Callable[[], bool] = lambda: True) -> None:
        self._tasks = tasks
        self.ready = ready

    def __iter__(self) -> Tasks:
        return self

    def __next__(self) -> Task:
        return next(self._tasks)


class Progress(NamedTuple):
    """So many more lines of a block are done, and their results are in the file of its shard."""

    block: int
    lines: int


class Finished(NamedTuple):
    """A shard is complete. Counts are summed over blocks; "rows" is what the file holds."""

    block: int
    counts: Counts


class Notice(NamedTuple):
    """A sentence for the user.

    Attributes:
        text: the sentence.
        once: whether it does not depend on the worker.
        is_hint: whether it is about the next run, not about the results of this one.
    """

    text: str
    once: bool = False
    is_hint: bool = False


Event = Progress | Finished | Notice


class Work(Protocol):
    """What is done with blocks of lines; picklable, made of settings only.

    Attributes:
        name: of the command, for the manifest.
        suffix: of a shard's file.
        window: lines that are processed together. A block that is cut from a stream has one window
            or several.
        block_lines: lines of a block of a large input whose workers read it by themselves; None for
            the usual number.
        in_hand: blocks that are handed to a process in advance.
    """

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def window(self) -> int: ...

    @property
    def block_lines(self) -> int | None: ...

    @property
    def in_hand(self) -> int: ...

    def open(self, device: torch.device | None) -> Processor:
        """Load what the work needs on a device; called once by every worker.

        The device is None for work without a model.
        """


class Processor(Protocol):
    """A `Work` with its model loaded.

    Attributes:
        notices: sentences that the user should read, once however many workers there are.
        details: sentences for a user who wants to know more.
    """

    @property
    def notices(self) -> Sequence[str]: ...

    @property
    def details(self) -> Sequence[str]: ...

    def run(self, tasks: Tasks) -> Iterator[Event]:
        """Turn blocks into shards, in their order.

        Tasks may be taken ahead of the work, by another thread or if they are ready: the next one
        may come only after an earlier one is finished.
        """


def add_counts(counts: Counts, more: Mapping[str, int]) -> None:
    """Add counts to others."""
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


@dataclass
class Figures:
    """Base of dataclasses of figures: numbers, and numbers by name in dictionaries."""

    def counts(self) -> Counts:
        """The figures as counts that can be added up over blocks."""
        found: Counts = {}
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                found.update({f"{name}.{key}": count for key, count in value.items()})
            else:
                found[name] = value
        return found

    @classmethod
    def of(cls: type[F], counts: Mapping[str, int]) -> F:
        """The figures of counts that were added up; other counts are ignored."""
        known = {field.name for field in fields(cls)}
        figures: dict[str, Any] = {}
        for name, count in counts.items():
            first, dot, key = name.partition(".")
            if dot and first in known:
                figures.setdefault(first, {})[key] = count
            elif name in known:
                figures[name] = count
        return cls(**figures)


def clause(error: BaseException) -> str:
    """The message of an error as a clause."""
    if isinstance(error, UertoolError):
        return error.message.rstrip(".")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "it does not fit in memory"
    return f"{type(error).__name__}: {error}".split("\n")[0]
