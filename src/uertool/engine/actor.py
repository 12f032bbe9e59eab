"""What runs on a worker: it holds the model and turns blocks into shards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from uertool.engine.inputs import Block, Reading, Source
from uertool.engine.reading import BadPlace, BlockReader
from uertool.engine.store import Store
from uertool.engine.work import Processor, Work
from uertool.errors import UertoolError
from uertool.io.atomic import sha256_of
from uertool.loading.device import resolve_device, set_threads

#: Where in the output the records of finished shards lie while a run lasts.
RECORDS = "_run"

#: Lines between two messages about progress, at least.
_TELL = 1024


@dataclass(frozen=True)
class Assignment:
    """Everything that a worker must know; it is sent to each once.

    Attributes:
        work: what is done.
        sources, reading: the input.
        store: where shards are written; None for a sample whose results are dropped.
        device: where the model runs.
        threads: processor threads of each worker.
        strict: whether a line that cannot be processed ends the run.
        most_tries: how often a block is begun before it is taken for what kills its workers.
    """

    work: Work
    sources: Sequence[Source]
    reading: Reading
    store: Store | None
    device: str
    threads: int
    strict: bool = False
    most_tries: int = 10


def shard_name(index: int, suffix: str) -> str:
    """The name of a shard's file; names sort as the shards do."""
    return f"part-{index:06d}{suffix}"


def record_name(index: int) -> str:
    """Where the record of a finished shard lies."""
    return f"{RECORDS}/part-{index:06d}.json"


class BlockActor:
    """The callable that Ray Data's actors hold: blocks in, messages out.

    Messages are JSON in the one column `message`; `kind` says which:

    - "lines": so many more lines of a block are done;
    - "done": a shard is finished; its record, which also lies in the store;
    - "failed": the run cannot go on, with a `UertoolError` as plain data. Anything that is not
      expected is raised, and so becomes Ray's.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._reader = BlockReader(assignment.sources, assignment.reading)
        self._processor: Processor | None = None
        self._loading = 0.0

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[str]]]:
        for text in batch["block"]:
            for message in self._messages(Block.from_json(json.loads(text))):
                yield {"message": [json.dumps(message, ensure_ascii=False)]}

    def _messages(self, block: Block) -> Iterator[dict[str, Any]]:
        try:
            yield from self._run(block)
        except UertoolError as error:
            yield {"kind": "failed", "block": block.index, **plain_error(error)}

    def _run(self, block: Block) -> Iterator[dict[str, Any]]:
        store = self._assignment.store
        if store is not None:
            self._try_again(store, block)
        processor = self._loaded()
        started = time.perf_counter()
        with (store or _scratch()).folder() as folder:
            errors: list[BadPlace] = []
            path = folder / shard_name(block.index, self._assignment.work.suffix)
            running = processor.run(
                self._reader.lines(block, errors.append),
                path,
                block.index,
                lambda number, reason: errors.append(self._reader.place(block, number, reason)),
            )
            told = done = 0
            while True:
                try:
                    done += next(running)
                except StopIteration as finished:
                    counts: dict[str, int] = finished.value
                    break
                self._check(errors)
                if done - told >= _TELL:
                    yield {"kind": "lines", "block": block.index, "lines": done - told}
                    told = done
            self._check(errors)
            record: dict[str, Any] = {
                "shard": block.index,
                "first": block.first,
                "lines": block.count,
                "rows": counts.get("rows", 0),
                "counts": counts,
                "files": [],
                "errors": [asdict(bad) for bad in sorted(errors, key=lambda bad: bad.number or 0)],
            }
            for file in sorted(folder.iterdir()):
                size, digest = file.stat().st_size, sha256_of(file)
                record["files"].append({"name": file.name, "bytes": size, "sha256": digest})
                if store is not None:
                    store.put(file, file.name)
        if store is not None:
            store.write(record_name(block.index), json.dumps(record, ensure_ascii=False).encode())
        yield {
            "kind": "done",
            "block": block.index,
            "lines": block.count - told,
            "record": {**record, "errors": len(errors)},
            "seconds": time.perf_counter() - started,
            "loading": self._loading,
        }

    def _try_again(self, store: Store, block: Block) -> None:
        """Count how often the block was begun: Ray gives it out anew whenever its worker dies."""
        name = _tries_name(block.index)
        tries = int(store.read(name) or 0) + 1
        most = self._assignment.most_tries
        if tries > most:
            first = block.segments[0] if block.segments else None
            where = "" if first is None else f" ({self._assignment.sources[first.source].path}, "
            where += "" if first is None else f"from line {first.line + 1})"
            raise UertoolError(
                f"Block {block.index}{where} was begun {most} times, and its worker died "
                "each time.",
                "If memory ran out, take fewer `actors`, a smaller `batch_size` or `shard_lines`.",
            )
        store.write(name, str(tries).encode(), flush=False)

    def _check(self, errors: Sequence[BadPlace]) -> None:
        if self._assignment.strict and errors:
            bad = errors[0]
            raise UertoolError(
                f"{bad.file}, line {bad.line}: {bad.reason}.",
                "Correct the line, or run without `strict` to have such lines in errors.jsonl.",
            )

    def _loaded(self) -> Processor:
        # Not when the actor starts: an error there is Ray's to tell, with a page of traceback.
        if self._processor is None:
            started = time.perf_counter()
            set_threads(self._assignment.threads)
            device = resolve_device(self._assignment.device)
            if device.type == "cuda":
                torch.cuda.set_device(device)
            self._processor = self._assignment.work.open(device)
            self._loading = time.perf_counter() - started
        return self._processor


def _tries_name(index: int) -> str:
    return f"{RECORDS}/tries-{index:06d}"


def forget_tries(store: Store) -> None:
    """Begin to count anew, with another run."""
    for name in store.sizes(RECORDS):
        if name.startswith("tries-"):
            store.remove(f"{RECORDS}/{name}")


def _scratch() -> Store:
    import tempfile

    return Store(tempfile.gettempdir())


def plain_error(error: UertoolError) -> dict[str, Any]:
    """An error as plain data."""
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


def raised_error(data: Mapping[str, Any]) -> UertoolError:
    """The error that `plain_error` described."""
    from uertool import errors

    found = getattr(errors, str(data["error"]), UertoolError)
    if found is errors.MissingExtraError:
        found = UertoolError  # its words are made of other things
    error: UertoolError = found(data["message"], data["hint"])
    return error
