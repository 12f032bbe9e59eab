"""Ray Data as an executor: actors hold the model and turn blocks into shards."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from uertool.engine.executors.worker import Assignment, Worker, plain_error, raised_error
from uertool.engine.inputs.blocks import Block, Piece, count_piece, cut_pieces
from uertool.engine.inputs.sources import Source
from uertool.engine.order import Room
from uertool.engine.work import Message
from uertool.errors import UertoolError

#: Blocks that a worker has at a time: one that it works on and one that waits.
_IN_HAND = 2
#: Bytes of input that are counted by the driver rather than on the cluster.
_COUNTED_HERE = 64 << 20


class BlockActor:
    """The callable that Ray Data's actors hold: blocks in, reports out.

    Reports are JSON in the one column `message`; those of `Worker`, and one more kind:

    - "failed": the run cannot go on, with a `UertoolError` as plain data. Anything unexpected is
      raised, and so becomes Ray's.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._worker = Worker(assignment, isolated=True)

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[str]]]:
        for text in batch["block"]:
            for message in self._messages(Block.from_json(json.loads(text))):
                yield {"message": [json.dumps(message, ensure_ascii=False)]}

    def _messages(self, block: Block) -> Iterator[Message]:
        # The model is not loaded when the actor starts: Ray would report an error there with a
        # page of traceback.
        try:
            yield from self._worker.run(iter([block]))
        except UertoolError as error:
            yield {"kind": "failed", "block": block.index, **plain_error(error)}


def map_on_ray(
    ray: Any, blocks: Sequence[Block], assignment: Assignment, room: Room
) -> Iterator[Message]:
    """Turn blocks into shards by a pool of actors; their reports as they come.

    Raises:
        UertoolError: what a worker could not do, or a block's worker died again and again.
    """
    _quiet(ray)
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = 1  # so that every report is sent at once
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
                message: Message = json.loads(row["message"])
                if message["kind"] == "failed":
                    raise raised_error(message)
                yield message
    finally:
        context.target_max_block_size = before


def count_pieces(ray: Any, sources: Sequence[Source]) -> list[Piece]:
    """The pieces of all files with their lines, counted on the cluster if there is much to read."""
    pieces = cut_pieces(sources)
    if ray is None or sum(source.size for source in sources) <= _COUNTED_HERE:
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


def _quiet(ray: Any) -> None:
    """Keep Ray Data from reporting its own progress."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextmanager
def _rays_words() -> Iterator[None]:
    """Turn Ray's errors about lost workers into a sentence.

    Workers that die are started again by Ray Data; a block that kills each of them is given up by
    `Worker`.
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
            "If memory ran out, use fewer `actors`; finished shards are kept, and the same "
            "command continues with them.",
        ) from error
