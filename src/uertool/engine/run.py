"""A whole distributed run: count the input, cut it into blocks, map them, write the manifest.

While a run lasts, the folder `_run` in the output holds the plan and a record of every finished
shard. A run that was stopped, in whatever way, goes on from there: the plan fixes the blocks, so
the shards are the same as if it had never been stopped.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from uertool.engine.actor import (
    RECORDS,
    Assignment,
    BlockActor,
    forget_tries,
    raised_error,
    record_name,
)
from uertool.engine.batching import WINDOW
from uertool.engine.cluster import Resources, Room, connected, find_room
from uertool.engine.inputs import (
    Block,
    Piece,
    Reading,
    Source,
    count_piece,
    cut_pieces,
    list_sources,
    make_blocks,
    sample_block,
)
from uertool.engine.manifest import ERRORS, MANIFEST, make_manifest
from uertool.engine.store import Store, require_pyarrow
from uertool.engine.work import Work
from uertool.errors import InputError, OutputError, UertoolError, UsageError

#: Lines of a block. Small enough that a lost one is no loss, large enough that starting one is
#: nothing beside the work in it.
BLOCK_LINES = 16384
_FEWEST_BLOCKS = 64  # of an input that is smaller than so many blocks: smaller ones, for all actors
_MOST_BLOCKS = 10_000  # of a huge input: larger ones, so that folders stay readable

#: Bytes of input that are counted here rather than on the cluster.
_COUNTED_HERE = 64 << 20
#: Blocks that a worker has in hand: one that it works on and one that waits.
_IN_HAND = 2
_SAMPLE = 1024
_WARM_UP = 64

_PLAN = f"{RECORDS}/plan.json"


@dataclass(frozen=True)
class Order:
    """What is to be done, on what, and where.

    Attributes:
        work: what becomes of lines.
        inputs: files, folders, globs.
        output: a folder, or the URI of one.
        identity: everything else that decides the results (settings, the model's fingerprint), as
            JSON types: a run is not continued with another, and the manifest holds it.
        reading: how text is taken from files.
        resources: workers and what each takes.
        address: of the cluster, see `connected`.
        device: of each worker; None is the GPU where workers have one, else the CPU.
        threads: of each worker; None for as many as it has CPUs.
        block_lines: lines of a shard; None for a fitting number.
        strict: end at the first line that cannot be processed.
        overwrite: replace what another run wrote.
        most_tries: how often a block is begun whose worker dies.
    """

    work: Work
    inputs: Sequence[str]
    output: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    resources: Resources = field(default_factory=Resources)
    address: str | None = None
    device: str | None = None
    threads: int | None = None
    block_lines: int | None = None
    strict: bool = False
    overwrite: bool = False
    most_tries: int = 10


@dataclass(frozen=True)
class Watch:
    """Who is told how far a run is.

    Attributes:
        total: told once how many lines there are.
        lines: told how many more lines are done.
        notice: told what is worth knowing, in sentences.
    """

    total: Callable[[int], None] = lambda _: None
    lines: Callable[[int], None] = lambda _: None
    notice: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Estimate:
    """What a run would be.

    Attributes:
        files, bytes, lines: of the input.
        blocks, block_lines: how it is cut.
        done: blocks that an earlier run has finished.
        room: workers and what each takes.
        sampled: lines that were timed.
        loading: seconds until a worker has its model.
        rate: lines a second of one worker.
        seconds: estimated time, if workers do not get in each other's way.
        errors: of the sampled lines, those that cannot be processed.
    """

    files: int
    bytes: int
    lines: int
    blocks: int
    block_lines: int
    done: int
    room: Room
    sampled: int
    loading: float
    rate: float
    seconds: float
    errors: int


def run(order: Order, watch: Watch | None = None) -> dict[str, Any]:
    """Do the work, or what is left of it, and give the manifest.

    Raises:
        UertoolError: the output belongs to something else, a line fails and that is to end the run,
            or whatever the work cannot do.
    """
    watch = watch or Watch()
    require_pyarrow()
    _check(order)
    sources = list_sources(order.inputs, order.reading)
    fingerprint = _fingerprint(order, sources)
    store = Store(order.output)
    finished = _finished(store, order, fingerprint)
    if finished is not None:
        watch.notice(f"{order.output} is finished already; nothing was done.")
        return finished
    plan = _earlier_plan(store, order, fingerprint)
    store.create()
    with _only_one(store), _nothing_left_of_nothing(store):
        store.clean()
        with connected(order.address) as ray:
            if plan is None:
                plan = _Plan.make(ray, order, sources)
                store.write(_PLAN, plan.as_json(fingerprint))
            _report_problems(plan, sources, order, watch)
            records = dict(_done(store, plan))
            watch.total(plan.lines)
            watch.lines(sum(plan.blocks[index].count for index in records))
            if records:
                watch.notice(f"{len(records)} of {len(plan.blocks)} shards are done already.")
            left = [block for block in plan.blocks if block.index not in records]
            if left:
                room = find_room(ray, order.resources, len(left))
                if room.notice:
                    watch.notice(room.notice)
                forget_tries(store)
                assignment = _assignment(order, sources, room, store)
                for message in _mapped(ray, left, assignment, room):
                    watch.lines(message["lines"])
        return _finish(store, order, sources, plan, fingerprint)


def estimate(order: Order, watch: Watch | None = None) -> Estimate:
    """What `run` would do and how long it would take, from a timed sample; nothing is written.

    Raises:
        UertoolError: as `run` would.
    """
    watch = watch or Watch()
    require_pyarrow()
    _check(order)
    sources = list_sources(order.inputs, order.reading)
    fingerprint = _fingerprint(order, sources)
    store = Store(order.output)
    finished = _finished(store, order, fingerprint) is not None
    plan = None if finished else _earlier_plan(store, order, fingerprint, keep=True)
    with connected(order.address) as ray:
        if plan is None:
            plan = _Plan.make(ray, order, sources)
        _report_problems(plan, sources, order, watch)
        done = len(plan.blocks) if finished else len(dict(_done(store, plan)))
        left = len(plan.blocks) - done
        room = find_room(ray, order.resources, left)
        if room.notice:
            watch.notice(room.notice)
        one = Room(1, room.cpus, room.gpus, room.nodes)
        assignment = _assignment(order, sources, one, None)
        blocks = [sample_block(plan.blocks, _WARM_UP, 1), sample_block(plan.blocks, _SAMPLE)]
        samples = [m for m in _mapped(ray, blocks, assignment, one) if m["kind"] == "done"]
    timed = max(samples, key=lambda message: int(message["record"]["lines"]))
    lines, seconds = timed["record"]["lines"], timed["seconds"]
    rate = lines / seconds if lines else 0.0
    # Whole blocks are given out, so the last round may leave workers idle.
    rounds = math.ceil(left / room.actors) if left else 0
    per_block = plan.block_lines / rate if rate else 0.0
    lower = plan.lines * (left / len(plan.blocks)) / rate / room.actors if rate else 0.0
    return Estimate(
        files=len(sources),
        bytes=sum(source.size for source in sources),
        lines=plan.lines,
        blocks=len(plan.blocks),
        block_lines=plan.block_lines,
        done=done,
        room=room,
        sampled=lines,
        loading=timed["loading"],
        rate=rate,
        seconds=timed["loading"] + max(lower, min(rounds * per_block, 2 * lower)),
        errors=timed["record"]["errors"],
    )


def _check(order: Order) -> None:
    if order.block_lines is not None and order.block_lines < 1:
        raise UsageError(f"`shard_lines` {order.block_lines} is too few.", "Give 1 or more.")
    if order.threads is not None and order.threads < 1:
        raise UsageError(f"`threads` {order.threads} is too few.", "Give 1 or more.")


def _assignment(
    order: Order, sources: Sequence[Source], room: Room, store: Store | None
) -> Assignment:
    return Assignment(
        work=order.work,
        sources=sources,
        reading=order.reading,
        store=store,
        device=order.device or ("cuda" if room.gpus else "cpu"),
        threads=order.threads or room.threads,
        strict=order.strict and store is not None,
        most_tries=order.most_tries,
    )


# -- the plan -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The pieces of the input, counted, and the blocks that they are cut into."""

    pieces: list[Piece]
    block_lines: int
    blocks: list[Block]

    @property
    def lines(self) -> int:
        return sum(piece.lines or 0 for piece in self.pieces)

    @classmethod
    def of(cls, pieces: list[Piece], block_lines: int) -> _Plan:
        return cls(pieces, block_lines, make_blocks(pieces, block_lines))

    @classmethod
    def make(cls, ray: Any, order: Order, sources: Sequence[Source]) -> _Plan:
        pieces = _count(ray, sources)
        lines = sum(piece.lines or 0 for piece in pieces)
        return cls.of(pieces, order.block_lines or order.work.block_lines or _block_lines(lines))

    def as_json(self, fingerprint: Mapping[str, Any]) -> bytes:
        pieces = [asdict(piece) for piece in self.pieces]
        data = {"fingerprint": fingerprint, "block_lines": self.block_lines, "pieces": pieces}
        return json.dumps(data, ensure_ascii=False).encode()


def _block_lines(lines: int) -> int:
    """Lines of a block for an input, in whole windows, so that batches are those of one machine."""
    wanted = max(min(BLOCK_LINES, lines / _FEWEST_BLOCKS), lines / _MOST_BLOCKS)
    return max(1, math.ceil(wanted / WINDOW)) * WINDOW


def _count(ray: Any, sources: Sequence[Source]) -> list[Piece]:
    """The pieces of all files with their lines, on the cluster where there is much to read."""
    pieces = cut_pieces(sources)
    if sum(source.size for source in sources) <= _COUNTED_HERE:
        return [count_piece(sources[piece.source], piece) for piece in pieces]
    _quiet(ray)
    rows = [
        {"place": place, "piece": json.dumps(asdict(piece))} for place, piece in enumerate(pieces)
    ]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 512))
    counted = data.map_batches(
        functools.partial(_count_rows, list(sources)), batch_size=None, num_cpus=1
    )
    found: list[Piece | None] = [None] * len(pieces)
    with _rays_words():
        for row in counted.iter_rows():
            found[int(row["place"])] = Piece(**json.loads(row["piece"]))
    return [piece for piece in found if piece is not None]


def _count_rows(sources: Sequence[Source], batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    done = []
    for text in batch["piece"]:
        piece = Piece(**json.loads(text))
        done.append(json.dumps(asdict(count_piece(sources[piece.source], piece))))
    return {"place": list(batch["place"]), "piece": done}


def _problems(plan: _Plan, sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    """Files that could not be read to their end, as errors.jsonl has them."""
    lines: dict[int, int] = {}
    for piece in plan.pieces:
        lines[piece.source] = lines.get(piece.source, 0) + (piece.lines or 0)
        if piece.problem is not None:
            path, line = sources[piece.source].path, lines[piece.source] + 1
            yield {"number": None, "file": path, "line": line, "reason": piece.problem}


def _report_problems(plan: _Plan, sources: Sequence[Source], order: Order, watch: Watch) -> None:
    problems = list(_problems(plan, sources))
    for problem in problems:
        sentence = f"{problem['file']} {problem['reason']}"
        if order.strict:
            raise InputError(
                f"{sentence}.",
                "Replace the file, or run without `strict` to take what can be read of it.",
            )
        watch.notice(f"{sentence}; its lines from {problem['line']} on are left out.")


# -- what lies there already ----------------------------------------------------------------------


def _fingerprint(order: Order, sources: Sequence[Source]) -> dict[str, Any]:
    """What decides the result; a run goes on only where all of it is the same."""
    found = {
        "command": order.work.name,
        "format": order.work.suffix,
        "shard_lines": order.block_lines,
        "column": order.reading.column,
        "field": order.reading.field,
        **order.identity,
        "input": [{"path": s.path, "bytes": s.size, "changed": s.changed} for s in sources],
    }
    return dict(json.loads(json.dumps(found, default=str)))


def _finished(store: Store, order: Order, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a run that had the same fingerprint, if there is one."""
    data = store.read(MANIFEST)
    if data is not None:
        manifest: dict[str, Any] = _parsed(data, f"{order.output}/{MANIFEST}")
        if manifest.get("fingerprint") == fingerprint and not order.overwrite:
            return manifest
        if not order.overwrite:
            raise OutputError(
                f"The output {order.output} holds the shards of another run.",
                "Choose another path, or give `overwrite` to replace it.",
            )
    return None


def _earlier_plan(
    store: Store, order: Order, fingerprint: Mapping[str, Any], *, keep: bool = False
) -> _Plan | None:
    """The plan of the run that is to be continued, with everything else out of the way."""
    names = store.sizes()
    data = store.read(_PLAN) if not order.overwrite else None
    if data is not None:
        plan = _parsed(data, f"{order.output}/{_PLAN}")
        before = plan["fingerprint"]
        changed = [
            name for name in {**before, **fingerprint} if before.get(name) != fingerprint.get(name)
        ]
        if changed and not any(name.startswith("part-") for name in store.sizes(RECORDS)):
            return None  # nothing was finished, so nothing is lost
        if changed:
            raise UsageError(
                f"The unfinished run in {order.output} was another one: "
                f"{'; '.join(_difference(name, before, fingerprint) for name in changed)}.",
                "Give the same options and files as then, or `overwrite` to begin anew.",
            )
        return _Plan.of([Piece(**piece) for piece in plan["pieces"]], plan["block_lines"])
    foreign = sorted(name for name in names if not _is_ours(name))
    if foreign or (names and not order.overwrite):
        raise OutputError(
            f"The output {order.output} holds {'other ' if foreign else ''}files "
            f"({', '.join((foreign or sorted(names))[:3])}).",
            "Name a new folder for the shards.",
        )
    if order.overwrite and not keep:
        for name in names:
            store.remove(name)
        store.remove_folder(RECORDS)
    return None


def _difference(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if name == "input":
        return "the input files are not the same, or were changed"
    return f"{name} was {before.get(name)!r} and is {after.get(name)!r}"


def _is_ours(name: str) -> bool:
    return name in (MANIFEST, ERRORS) or name.startswith(("part-", "."))


def _parsed(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise OutputError(
            f"{name} is broken.", "Give `overwrite` to begin anew, or name another folder."
        ) from None


def _done(store: Store, plan: _Plan) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of shards that are finished and still there."""
    there = store.sizes()
    names = set(store.sizes(RECORDS))
    indices = [
        block.index
        for block in plan.blocks
        if record_name(block.index).removeprefix(f"{RECORDS}/") in names
    ]
    found = store.read_all([record_name(index) for index in indices])
    for index, data in zip(indices, found, strict=True):
        record = json.loads(data) if data else None
        if record and all(there.get(f["name"]) == f["bytes"] for f in record["files"]):
            yield index, record


@contextmanager
def _only_one(store: Store) -> Iterator[None]:
    """Hold the output folder against another run, where it is local and locks exist."""
    try:
        import fcntl
    except ImportError:
        fcntl = None  # type: ignore[assignment]
    if fcntl is None or not store.is_local:
        yield
        return
    descriptor = os.open(store.local_path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"Another run is writing into {store.path}.", "Wait for it, or end it first."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _nothing_left_of_nothing(store: Store) -> Iterator[None]:
    """Take the plan away again after a failure before the first shard."""
    try:
        yield
    except BaseException:
        if not any(name.startswith("part-") for name in store.sizes(RECORDS)):
            store.remove_folder(RECORDS)
            store.clean()
            store.remove_if_empty()
        raise


# -- mapping --------------------------------------------------------------------------------------


def _quiet(ray: Any) -> None:
    """Let Ray Data keep to itself what it has to say about its own work."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _mapped(
    ray: Any, blocks: Sequence[Block], assignment: Assignment, room: Room
) -> Iterator[dict[str, Any]]:
    """Blocks through a pool of actors; their messages as they come.

    Raises:
        UertoolError: what a worker could not do, or that a block's worker died again and again.
    """
    _quiet(ray)
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = 1  # so that every message is sent at once
    try:
        data = ray.data.from_items(
            [{"block": json.dumps(block.as_json())} for block in blocks],
            override_num_blocks=len(blocks),
        )
        mapped = data.map_batches(
            BlockActor,
            fn_constructor_args=(assignment,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                size=room.actors, max_tasks_in_flight_per_actor=_IN_HAND
            ),
            num_cpus=room.cpus,
            num_gpus=room.gpus,
        )
        with _rays_words():
            for row in mapped.iter_rows():
                message: dict[str, Any] = json.loads(row["message"])
                if message["kind"] == "failed":
                    raise raised_error(message)
                yield message
    finally:
        context.target_max_block_size = before


@contextmanager
def _rays_words() -> Iterator[None]:
    """Turn what Ray says when it cannot get workers to run into a sentence.

    Workers that die are started again by Ray Data; a block that kills each of them is given up by
    `BlockActor`.
    """
    from ray import exceptions

    lost = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )
    try:
        yield
    except lost as error:
        raise UertoolError(
            f"Ray lost its workers: {type(error).__name__}.",
            "If memory ran out, take fewer `actors`; finished shards are kept, and the same "
            "command goes on with them.",
        ) from error


# -- the end --------------------------------------------------------------------------------------


def _finish(
    store: Store,
    order: Order,
    sources: Sequence[Source],
    plan: _Plan,
    fingerprint: Mapping[str, Any],
) -> dict[str, Any]:
    """Write errors.jsonl and the manifest, and take the records away."""
    records = dict(_done(store, plan))
    missing = [block.index for block in plan.blocks if block.index not in records]
    if missing:
        raise OutputError(
            f"{len(missing)} shards are missing in {order.output} although they were written; the "
            f"first is part {missing[0]}.",
            "Every worker must see the same folder; name one on a shared disk, or a URI.",
        )
    errors = [*_problems(plan, sources)]
    for index in sorted(records):
        errors.extend(records[index].pop("errors"))
    if errors:
        text = "".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors)
        store.write(ERRORS, text.encode("utf-8", "surrogatepass"))
    lines: dict[int, int] = {}
    for piece in plan.pieces:
        lines[piece.source] = lines.get(piece.source, 0) + (piece.lines or 0)
    manifest = make_manifest(
        command=order.work.name,
        suffix=order.work.suffix,
        fingerprint=fingerprint,
        identity=order.identity,
        inputs=[
            {"path": source.path, "bytes": source.size, "lines": lines.get(number, 0)}
            for number, source in enumerate(sources)
        ],
        shards=[records[index] for index in sorted(records)],
        errors=len(errors),
    )
    store.write(MANIFEST, (json.dumps(manifest, ensure_ascii=False, indent=1) + "\n").encode())
    store.remove_folder(RECORDS)
    return manifest
