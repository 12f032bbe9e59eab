"""The plan of a run and an estimate of its time, from a timed sample; nothing is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from uertool.engine.executors.choosing import OnRay
from uertool.engine.executors.cluster import connected, find_room
from uertool.engine.executors.on_ray import map_on_ray
from uertool.engine.executors.worker import Worker
from uertool.engine.inputs.blocks import sample_block
from uertool.engine.order import Order, Room, Watch
from uertool.engine.storage.folder import RunFolder, resume_folder
from uertool.engine.storage.manifest import MANIFEST
from uertool.engine.storage.store import Store
from uertool.engine.work import Message
from uertool.errors import UsageError

_SAMPLE = 1024
_WARM_UP = 64


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


def estimate(order: Order, watch: Watch | None = None) -> Estimate:
    """What `run` would do and how long it would take.

    Raises:
        UertoolError: as `run` would.
        UsageError: the input is not made of files.
    """
    watch = watch or Watch()
    if order.texts is not None or order.stream is not None or "-" in order.inputs:
        raise UsageError(
            "A dry run takes its sample from files.", "Name files, folders or globs as the input."
        )
    executor = OnRay(order, watch)
    output = order.output if order.in_shards else resume_folder(order.output)
    folder = RunFolder(Store(output, order.output), order.fingerprint(executor.inputs))
    is_finished = order.in_shards and not order.overwrite and folder.parsed(MANIFEST) is not None
    earlier = None if order.overwrite or order.engine == "local" else folder.earlier_plan()
    if order.engine == "ray":
        with connected(order.address) as ray:
            executor.ray = ray
            executor.plan = executor.plan_of(earlier)
            done = len(executor.plan.blocks) if is_finished else 0
            done = done or (len(folder.records(checked=False)) if earlier else 0)
            room = find_room(ray, order.resources, len(executor.plan.blocks) - done)
            messages = _samples(executor, room)
    else:
        executor.plan = executor.plan_of(None)
        done = 0
        room = Room(len(order.devices), 1.0, 0.0, 1)
        messages = _samples(executor, room)
    executor.report_problems(watch)
    if room.notice:
        watch.notice(room.notice)
    return _estimated(executor, done, room, messages)


def _samples(executor: OnRay, room: Room) -> list[Message]:
    """A short block to warm up, and one that is timed."""
    blocks = [
        sample_block(executor.plan.blocks, _WARM_UP, 1),
        sample_block(executor.plan.blocks, _SAMPLE),
    ]
    one = Room(1, room.cpus, room.gpus, room.nodes)
    assignment = executor.assignment(one, None)
    if executor.ray is not None:
        found = list(map_on_ray(executor.ray, blocks, assignment, one))
    else:
        worker = Worker(assignment)
        found = [message for block in blocks for message in worker.run(iter([block]))]
    return [message for message in found if message["kind"] == "done"]


def _estimated(executor: OnRay, done: int, room: Room, samples: list[Message]) -> Estimate:
    plan = executor.plan
    timed = max(samples, key=lambda message: int(message["record"]["lines"]))
    lines, seconds = timed["record"]["lines"], timed["seconds"]
    rate = lines / seconds if lines else 0.0
    # Whole blocks are handed out, so in the last round some workers may be idle.
    left = len(plan.blocks) - done
    rounds = math.ceil(left / room.actors) if left else 0
    per_block = plan.block_lines / rate if rate else 0.0
    lower = plan.lines * (left / len(plan.blocks)) / rate / room.actors if rate else 0.0
    return Estimate(
        files=len(executor.sources),
        bytes=sum(source.size for source in executor.sources),
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
