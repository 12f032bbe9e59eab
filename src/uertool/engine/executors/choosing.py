"""Where blocks are worked on: in this process, in one for each device, or on a Ray cluster."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from uertool.engine.executors.worker import Assignment, Worker
from uertool.engine.inputs.blocks import Block, Piece, make_blocks
from uertool.engine.inputs.reading import BlockReader, LineStream
from uertool.engine.inputs.sources import Source, list_sources, stream_sources
from uertool.engine.storage.files import require_pyarrow
from uertool.engine.storage.folder import RunFolder
from uertool.engine.storage.manifest import RECORDS
from uertool.engine.storage.store import Store
from uertool.engine.work import WINDOW, Message
from uertool.errors import InputError, UsageError

if TYPE_CHECKING:
    from uertool.engine.order import Order, Room, Watch

#: Lines of a block of a large input: few enough that a lost block is a small loss, so many that
#: starting one is nothing compared with the work in it.
BLOCK_LINES = 16384
_FEWEST_BLOCKS = 64  # an input that is too small for so many gets smaller blocks, for all actors
_MOST_BLOCKS = 10_000  # a huge input gets larger blocks, so that folders stay readable


@dataclass(frozen=True)
class Summary:
    """What an executor knows about an input at the end.

    Attributes:
        blocks: how many there were.
        inputs: files, with their bytes and lines.
        problems: files that could not be read to their end, as errors.jsonl has them.
    """

    blocks: int
    inputs: Sequence[Mapping[str, Any]]
    problems: Sequence[Mapping[str, Any]] = field(default_factory=list)


class Executor(Protocol):
    """Knows the input of an order, cuts it into blocks and turns these into shards.

    Attributes:
        inputs: the files, for the fingerprint of the run.
        count: how many blocks there are, or 0 until that is known.
    """

    @property
    def inputs(self) -> Sequence[Any]: ...

    @property
    def count(self) -> int: ...

    def begin(
        self, folder: RunFolder, earlier: Mapping[str, Any] | None, watch: Watch
    ) -> AbstractContextManager[None]:
        """Get ready, with the plan of an interrupted run or a new one."""

    def messages(self, store: Store, done: set[int]) -> Iterator[Message]:
        """Turn the blocks that are not done into shards."""

    def summary(self) -> Summary:
        """What was there, after all messages."""


def executor_of(order: Order, watch: Watch) -> Executor:
    """The executor that an order asks for.

    Raises:
        UertoolError: the input is missing, or cannot be read there.
    """
    if order.engine == "local":
        return Local(order, watch)
    require_pyarrow()
    return OnRay(order, watch)


class Local:
    """This machine: lines are streamed, and cut into blocks as they come."""

    def __init__(self, order: Order, watch: Watch) -> None:
        self.order = order
        self.watch = watch
        self.sources: Sequence[Source] = []
        if order.texts is None and order.stream is None:
            self.sources = stream_sources(order.inputs, order.reading)
        self.stream = order.stream or LineStream(
            self.sources, order.reading, texts=order.texts, strict=order.strict
        )
        self.inputs: Sequence[Any] = self.stream.identity()
        self.count = 0

    @contextmanager
    def begin(
        self, folder: RunFolder, earlier: Mapping[str, Any] | None, watch: Watch
    ) -> Iterator[None]:
        del watch
        if earlier is None:
            folder.write_plan({})
        yield

    def messages(self, store: Store, done: set[int]) -> Iterator[Message]:
        order = self.order
        assignment = Assignment(
            work=order.work,
            reader=self.stream,
            store=store,
            device=order.devices[0],
            threads=order.threads,
            strict=order.strict,
        )
        if len(order.devices) > 1:
            from uertool.engine.executors.processes import map_in_processes

            return map_in_processes(self._blocks(done), assignment, order.devices, order.threads)
        return Worker(assignment).run(self._blocks(done))

    def _blocks(self, done: set[int]) -> Iterator[Block]:
        work, fixed = self.order.work, self.order.block_lines
        if self.order.output == "-" and self.order.joins:
            fixed = fixed or work.window  # what is done shall be seen
        lines = 0
        for block in self.stream.blocks(work.window, fixed):
            self.count = block.index + 1
            lines += block.count
            if share := self.stream.share():
                self.watch.total(round(lines / share))
            if block.index not in done:
                yield block

    def summary(self) -> Summary:
        return Summary(self.count, self.stream.summary())


class OnRay:
    """A cluster: all lines are counted first, and workers read their blocks by themselves."""

    def __init__(self, order: Order, watch: Watch) -> None:
        if order.texts is not None:
            raise UsageError(
                "A cluster reads files, not texts from the command line.",
                "Write them to a file, or use `engine` local.",
            )
        self.order = order
        self.watch = watch
        self.sources = list_sources(order.inputs, order.reading)
        self.inputs = [
            {"path": s.path, "bytes": s.size, "changed": s.changed} for s in self.sources
        ]
        self.ray: Any = None
        self.plan = Plan([], 1, [])

    @property
    def count(self) -> int:
        return len(self.plan.blocks)

    @contextmanager
    def begin(
        self, folder: RunFolder, earlier: Mapping[str, Any] | None, watch: Watch
    ) -> Iterator[None]:
        from uertool.engine.executors.cluster import connected

        with connected(self.order.address) as self.ray:
            self.plan = self.plan_of(earlier)
            if earlier is None or not earlier.get("pieces"):
                pieces = [asdict(piece) for piece in self.plan.pieces]
                folder.write_plan({"block_lines": self.plan.block_lines, "pieces": pieces})
            self.report_problems(watch)
            watch.total(self.plan.lines)
            yield

    def plan_of(self, earlier: Mapping[str, Any] | None) -> Plan:
        """The plan of an interrupted run, or a new one."""
        if earlier is not None and earlier.get("pieces"):
            pieces = [Piece(**piece) for piece in earlier["pieces"]]
            return Plan.of(pieces, earlier["block_lines"])
        from uertool.engine.executors.on_ray import count_pieces

        pieces = count_pieces(self.ray, self.sources)
        lines = sum(piece.lines or 0 for piece in pieces)
        order = self.order
        return Plan.of(pieces, order.block_lines or order.work.block_lines or block_lines(lines))

    def messages(self, store: Store, done: set[int]) -> Iterator[Message]:
        from uertool.engine.executors.cluster import find_room
        from uertool.engine.executors.on_ray import map_on_ray

        left = [block for block in self.plan.blocks if block.index not in done]
        if not left:
            return iter(())
        room = find_room(self.ray, self.order.resources, len(left))
        if room.notice:
            self.watch.notice(room.notice)
        for name in store.sizes(RECORDS):
            if name.startswith("tries-"):  # of another run
                store.remove(f"{RECORDS}/{name}")
        return map_on_ray(self.ray, left, self.assignment(room, store), room)

    def assignment(self, room: Room, store: Store | None) -> Assignment:
        """What every worker gets."""
        order = self.order
        device = order.device or ("cuda" if room.gpus else "cpu")
        return Assignment(
            work=order.work,
            reader=BlockReader(self.sources, order.reading),
            store=store,
            device=None if order.devices == (None,) else device,
            threads=order.threads or room.threads,
            strict=order.strict and store is not None,
            most_tries=order.most_tries,
        )

    def problems(self) -> list[dict[str, Any]]:
        """Files that could not be read to their end, as errors.jsonl has them."""
        lines: Counter[int] = Counter()
        found = []
        for piece in self.plan.pieces:
            lines[piece.source] += piece.lines or 0
            if piece.problem is not None:
                path, line = self.sources[piece.source].path, lines[piece.source] + 1
                found.append({"number": None, "file": path, "line": line, "reason": piece.problem})
        return found

    def report_problems(self, watch: Watch) -> None:
        """Tell about files that cannot be read to their end, or raise for the first of them."""
        for problem in self.problems():
            sentence = f"{problem['file']} {problem['reason']}"
            if self.order.strict:
                raise InputError(
                    f"{sentence}.",
                    "Replace the file, or run without `strict` to use what can be read of it.",
                )
            watch.notice(f"{sentence}; its lines from {problem['line']} on are left out.")

    def summary(self) -> Summary:
        lines: Counter[int] = Counter()
        for piece in self.plan.pieces:
            lines[piece.source] += piece.lines or 0
        inputs = [
            {"path": source.path, "bytes": source.size, "lines": lines[number]}
            for number, source in enumerate(self.sources)
        ]
        return Summary(len(self.plan.blocks), inputs, self.problems())


@dataclass(frozen=True)
class Plan:
    """The pieces of the input, counted, and the blocks that they are cut into."""

    pieces: list[Piece]
    block_lines: int
    blocks: list[Block]

    @classmethod
    def of(cls, pieces: list[Piece], size: int) -> Plan:
        """The plan with blocks of `size` lines."""
        return cls(pieces, size, make_blocks(pieces, size))

    @property
    def lines(self) -> int:
        """Lines of the input."""
        return sum(piece.lines or 0 for piece in self.pieces)


def block_lines(lines: int) -> int:
    """Lines of a block of an input: whole windows, so that batches are those of one machine."""
    wanted = max(min(BLOCK_LINES, lines / _FEWEST_BLOCKS), lines / _MOST_BLOCKS)
    return max(1, math.ceil(wanted / WINDOW)) * WINDOW
