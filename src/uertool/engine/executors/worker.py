"""What runs where the model is: it turns blocks into shards with their records."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uertool.engine.inputs.blocks import BadPlace, Block
from uertool.engine.inputs.reading import BlockReader
from uertool.engine.storage.manifest import record_name, shard_name, tries_name
from uertool.engine.storage.store import Store
from uertool.engine.work import Finished, Message, Notice, Processor, Progress, Task, Tasks, Work
from uertool.errors import UertoolError
from uertool.io.atomic import sha256_of

if TYPE_CHECKING:
    import torch

#: Lines between two reports about progress to a driver on another machine, at least.
_REPORT = 1024


@dataclass(frozen=True)
class Assignment:
    """Everything that a worker needs to know; it is sent to each once.

    Attributes:
        work: what is done.
        reader: reads the lines of blocks.
        store: where shards are written; None for a sample whose results are dropped.
        device: where the model runs; None for work without one.
        threads: processor threads of each worker; None leaves them as they are.
        strict: whether the first line that cannot be processed ends the run.
        most_tries: how often a block is begun before it is blamed for the death of its workers.
    """

    work: Work
    reader: BlockReader
    store: Store | None
    device: str | None
    threads: int | None
    strict: bool = False
    most_tries: int | None = None


@dataclass
class _Open:
    """A block in progress."""

    block: Block
    task: Task
    errors: list[BadPlace] = field(default_factory=list)
    started: float = 0.0
    reported: int = 0
    done: int = 0


class Worker:
    """Loads a model once, and turns blocks into shards.

    Args:
        assignment: what to do.
        isolated: whether it is on a cluster, where errors must name their line, since the driver
            does not see it. Otherwise a strict run raises what a line fails with.
    """

    def __init__(self, assignment: Assignment, *, isolated: bool = False) -> None:
        self._assignment = assignment
        self._isolated = isolated
        self._processor: Processor | None = None
        self._loading = 0.0
        self._open: dict[int, _Open] = {}

    def run(
        self, blocks: Iterator[Block], ready: Callable[[], bool] = lambda: True
    ) -> Iterator[Message]:
        """Turn blocks into shards and report about it.

        Args:
            blocks: what to do.
            ready: whether the next block is there, see `Tasks`.

        Raises:
            UertoolError: what a strict run does not leave out, or what the work cannot do at all.
        """
        processor = self.processor()
        for sentence in processor.notices:
            yield {"kind": "notice", "text": sentence, "once": True}
        for sentence in processor.details:
            yield {"kind": "detail", "text": sentence, "once": True}
        store = self._assignment.store or Store(tempfile.gettempdir())
        with store.folder() as folder, store.writing():
            for event in processor.run(Tasks(self._tasks(blocks, folder), ready)):
                if isinstance(event, Notice):
                    kind = "hint" if event.is_hint else "notice"
                    yield {"kind": kind, "text": event.text, "once": event.once}
                elif isinstance(event, Progress):
                    yield from self._progress(event)
                else:
                    yield self._finish(event, folder)

    def processor(self) -> Processor:
        """The loaded model; loads it at the first call."""
        if self._processor is None:
            started = time.perf_counter()
            self._processor = self._assignment.work.open(self._device())
            self._loading = time.perf_counter() - started
        return self._processor

    def _device(self) -> torch.device | None:
        job = self._assignment
        if job.device is None:
            return None
        import torch

        from uertool.loading.device import resolve_device, set_threads

        set_threads(job.threads)
        device = resolve_device(job.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return device

    def _tasks(self, blocks: Iterator[Block], folder: Path) -> Iterator[Task]:
        job = self._assignment
        for block in blocks:
            self._try_again(block)
            errors: list[BadPlace] = []

            def fail(
                number: int, reason: str, block: Block = block, errors: list[BadPlace] = errors
            ) -> None:
                errors.append(job.reader.place(block, number, reason))

            raises = job.strict and not self._isolated
            task = Task(
                block.index,
                job.reader.lines(block, errors.append),
                folder / shard_name(block.index, job.work.suffix),
                None if raises else fail,
            )
            self._open[block.index] = _Open(block, task, errors, time.perf_counter())
            yield task

    def _progress(self, event: Progress) -> Iterator[Message]:
        opened = self._open[event.block]
        self._check(opened.errors)
        opened.done += event.lines
        new = opened.done - opened.reported
        if new >= (_REPORT if self._isolated else 1):
            opened.reported = opened.done
            path = str(opened.task.path)
            yield {"kind": "lines", "block": event.block, "lines": new, "path": path}

    def _finish(self, event: Finished, folder: Path) -> Message:
        opened = self._open.pop(event.block)
        block, store = opened.block, self._assignment.store
        self._check(opened.errors)
        errors = sorted(opened.errors, key=lambda bad: bad.number or 0)
        record: dict[str, Any] = {
            "shard": block.index,
            "first": block.first,
            "lines": block.count,
            "rows": event.counts.get("rows", 0),
            "counts": event.counts,
            "files": [],
            "errors": [asdict(bad) for bad in errors],
        }
        for file in sorted(folder.glob(shard_name(block.index, "*"))):
            size, digest = file.stat().st_size, sha256_of(file)
            record["files"].append({"name": file.name, "bytes": size, "sha256": digest})
            if store is not None:
                store.put(file, file.name)
        if store is not None:
            data = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
            store.write(record_name(block.index), data)
        return {
            "kind": "done",
            "block": block.index,
            "lines": block.count - opened.reported,
            "record": {**record, "errors": len(opened.errors)},
            "seconds": time.perf_counter() - opened.started,
            "loading": self._loading,
        }

    def _try_again(self, block: Block) -> None:
        """Count how often the block was begun: Ray gives it out again when its worker dies."""
        store, most = self._assignment.store, self._assignment.most_tries
        if store is None or most is None:
            return
        name = tries_name(block.index)
        tries = int(store.read(name) or 0) + 1
        if tries > most:
            where = ""
            if block.segments:
                place = self._assignment.reader.place(block, block.segments[0].number, "")
                where = f" ({place.file}, from line {place.line})"
            raise UertoolError(
                f"Block {block.index}{where} was begun {most} times, and its worker died "
                "each time.",
                "If memory ran out, use fewer `actors`, a smaller `batch_size` or `shard_lines`.",
            )
        store.write(name, str(tries).encode(), flush=False)

    def _check(self, errors: Sequence[BadPlace]) -> None:
        if self._assignment.strict and errors:
            bad = errors[0]
            raise UertoolError(
                f"{bad.file}, line {bad.line}: {bad.reason}.",
                "Correct the line, or run without `strict` to have such lines in errors.jsonl.",
            )


def plain_error(error: UertoolError) -> dict[str, Any]:
    """An error as plain data."""
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


def raised_error(data: Mapping[str, Any]) -> UertoolError:
    """The error that `plain_error` described."""
    from uertool import errors

    found = getattr(errors, str(data["error"]), UertoolError)
    if found is errors.MissingExtraError:
        found = UertoolError  # it is constructed from other arguments
    error: UertoolError = found(data["message"], data["hint"])
    return error
