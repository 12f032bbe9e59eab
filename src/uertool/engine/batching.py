"""Batches of texts of like length under a bound on tokens, with results in input order."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uertool.engine.work import WINDOW
from uertool.errors import SettingError, UertoolError
from uertool.loading.device import is_out_of_memory, release_memory, to_device

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as ids.

    Attributes:
        index: its number in the input. Whatever is random about a text is to be drawn from it (and
            the seed), never from a stream of random numbers, so that batches do not matter.
        ids: token ids; empty for a text that needs no model (see `run_batches`).
        segs: segment ids of the same length, or None for 1 everywhere.
        payload: anything that the step needs.
    """

    index: int
    ids: Sequence[int]
    segs: Sequence[int] | None = None
    payload: Any = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that go through the model together.

    Attributes:
        ids: token ids int64 [batch, length], padded on the right.
        segs: segment ids int64 [batch, length], 0 where padded.
        items: what the rows come from, in their order.
        lengths: real tokens of each row, int64 [batch].
    """

    ids: Tensor
    segs: Tensor
    items: list[Encoded]
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        ids, segs, lengths = (to_device(t, device) for t in (self.ids, self.segs, self.lengths))
        return Batch(ids, segs, self.items, lengths)


@dataclass(frozen=True, slots=True)
class Later(Generic[R_co]):
    """Results of a batch that a GPU is still busy with; the next batch is started before `get`."""

    get: Callable[[], Sequence[R_co]]


#: Runs a batch: one result for each row, now or later.
Step = Callable[[Batch], Sequence[R] | Later[R]]


def fetched(results: Sequence[R] | Later[R]) -> Sequence[R]:
    """The results of a batch; waits for those that come later."""
    return results.get() if isinstance(results, Later) else results


@dataclass(frozen=True)
class Limits:
    """How batches are cut.

    Attributes:
        tokens: most tokens of a batch, padding counted; a single longer text is its own batch.
        rows: most texts of a batch, or None.
        window: texts that are sorted by length together.
        pad_id: what padding is filled with.
        pad_to: pad every row to this length, for encoders whose output depends on padding; None
            pads to the longest row.
    """

    tokens: int = 2048
    rows: int | None = None
    window: int = WINDOW
    pad_id: int = 0
    pad_to: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "rows", "window", "pad_to"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(name, value, "must be at least 1")


def collate(items: Sequence[Encoded], *, pad_id: int = 0, pad_to: int | None = None) -> Batch:
    """One batch of texts, padded to the longest, or to `pad_to` where that is longer."""
    counts = [len(item.ids) for item in items]
    width = max([*counts, pad_to or 0])
    lengths = np.array(counts, dtype=np.int64)
    real = np.arange(width) < lengths[:, None]
    ids = np.full((len(items), width), pad_id, dtype=np.int64)
    ids[real] = _flat(item.ids for item in items)
    segs = real.astype(np.int64)
    if any(item.segs is not None for item in items):
        segs[real] = _flat(_segs(item) for item in items)
    tensors = map(torch.from_numpy, (ids, segs, lengths))
    return Batch(next(tensors), next(tensors), list(items), next(tensors))


def _flat(rows: Iterable[Sequence[int]]) -> npt.NDArray[np.int64]:
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64)


def _segs(item: Encoded) -> Sequence[int]:
    return [1] * len(item.ids) if item.segs is None else item.segs


def cut(lengths: Sequence[int], limits: Limits) -> list[list[int]]:
    """Positions grouped into batches, longest first, so that memory is needed most at the start.

    Equal lengths keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    groups: list[list[int]] = []
    width = 0
    for place in order:
        full = (
            not groups
            or (len(groups[-1]) + 1) * width > limits.tokens
            or (limits.rows is not None and len(groups[-1]) >= limits.rows)
        )
        if full:
            groups.append([])
            width = max(lengths[place], limits.pad_to or 0)
        groups[-1].append(place)
    return groups


# -- running --------------------------------------------------------------------------------------


def run_batches(
    items: Iterable[T],
    encode: Callable[[list[T]], list[Encoded]],
    step: Step[R],
    *,
    limits: Limits | None = None,
    empty: Callable[[Encoded], R] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Iterator[R]:
    """Run `step` over all items and give its results in input order.

    `encode` runs in a background thread, one window ahead of the model. Memory holds some windows
    of texts and the results of one, however long the input is. A batch for which memory does not
    suffice is halved and run again, and later batches stay below the size that failed.

    Args:
        items: what is to be encoded, for example lines; consumed in the background thread.
        encode: a window of items to texts as ids. It may give fewer or more than it got; results
            follow the order of what it gives.
        step: a batch to one result per row.
        limits: how batches are cut.
        empty: the result of a text without ids, which is then kept from `step`. Without it such a
            text is a row of padding.
        on_notice: called with one sentence when a batch had to be halved.

    Raises:
        UertoolError: a single text does not fit in memory. What `items`, `encode` and `step` raise
            comes out as it is.
    """
    limits = limits or Limits()
    windows = windows_of(items, limits.window)
    for results in run_windows(
        windows, encode, step, limits=limits, empty=empty, on_notice=on_notice
    ):
        yield from results


def windows_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter."""
    stream = iter(items)
    while window := list(itertools.islice(stream, size)):
        yield window


def run_windows(
    windows: Iterable[list[T]],
    encode: Callable[[list[T]], list[Encoded]],
    step: Step[R],
    *,
    limits: Limits,
    empty: Callable[[Encoded], R] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Iterator[list[R]]:
    """As `run_batches`, for items that come in windows already: the results of each window."""
    runner = WindowRunner(step, limits, empty, on_notice)
    with Ahead(lambda: (encode(window) for window in windows)) as encoded:
        for window in encoded:
            yield runner.run(window)


class WindowRunner(Generic[R]):
    """Runs windows batch by batch, and remembers which size did not fit in memory.

    Args:
        step, limits, empty, on_notice: see `run_batches`.
    """

    def __init__(
        self,
        step: Step[R],
        limits: Limits,
        empty: Callable[[Encoded], R] | None,
        on_notice: Callable[[str], None] | None,
    ) -> None:
        self.step = step
        self.limits = limits
        self.empty = empty
        self.on_notice = on_notice
        self.most = limits.tokens  # falls when a batch of that many tokens did not fit

    def run(self, items: list[Encoded]) -> list[R]:
        """The results of a window, in its order."""
        steps = self.steps(items)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return cast("list[R]", end.value)

    def steps(self, items: list[Encoded]) -> Generator[int, None, list[R]]:
        """As `run`, but yields after each batch how many texts it had."""
        results: list[R | None] = [None] * len(items)
        places = list(range(len(items)))
        if self.empty is not None:
            places = [place for place in places if items[place].ids]
            for place, item in enumerate(items):
                if not item.ids:
                    results[place] = self.empty(item)
        lengths = [len(items[place].ids) for place in places]
        behind: tuple[list[int], list[Sequence[R] | Later[R]]] | None = None
        for group in cut(lengths, self.limits):
            chosen = [places[number] for number in group]
            started = chosen, self._start([items[place] for place in chosen])
            if behind is not None:
                yield _finish(results, *behind)
            behind = started
        if behind is not None:
            yield _finish(results, *behind)
        return cast("list[R]", results)

    def _start(self, items: list[Encoded]) -> list[Sequence[R] | Later[R]]:
        """Runs one batch, in halves where memory does not suffice for the whole."""
        pending = [items]
        parts: list[Sequence[R] | Later[R]] = []
        while pending:
            part = pending.pop()
            size = len(part) * max(len(part[0].ids), self.limits.pad_to or 0)
            if len(part) > 1 and size > self.most:
                pending.extend(_halves(part))
                continue
            found = self._try(part)
            if found is not None:
                parts.append(found)
                continue
            # Outside the handler: the exception's frames held on to the batch's tensors.
            release_memory()
            self._shrink(part, size)
            pending.extend(_halves(part))
        return parts

    def _try(self, items: list[Encoded]) -> Sequence[R] | Later[R] | None:
        """The results of a batch, or None where memory did not suffice."""
        batch = collate(items, pad_id=self.limits.pad_id, pad_to=self.limits.pad_to)
        try:
            return self.step(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _shrink(self, items: list[Encoded], size: int) -> None:
        if len(items) == 1:
            raise UertoolError(
                f"Memory does not suffice for a single text of {len(items[0].ids)} tokens.",
                "Give a smaller `seq_length` or `dtype` bfloat16, or choose `device` cpu.",
            )
        self.most = max(1, min(self.most, size // 2))
        if self.on_notice is not None:
            self.on_notice(
                f"A batch of {len(items)} texts ({size} tokens) did not fit in memory; "
                f"going on with halves of it."
            )


def _finish(
    results: list[R | None], places: Sequence[int], parts: Iterable[Sequence[R] | Later[R]]
) -> int:
    """Put the results of a batch into their places, and give their number."""
    found = [result for part in parts for result in fetched(part)]
    if len(found) != len(places):
        raise RuntimeError(f"a step gave {len(found)} results for {len(places)} texts")
    for place, result in zip(places, found, strict=True):
        results[place] = result
    return len(found)


def _halves(items: list[Encoded]) -> list[list[Encoded]]:
    """The second and the first half: a stack gives the first one first."""
    middle = (len(items) + 1) // 2
    return [items[middle:], items[:middle]]


class _End:
    """The last thing in the queue: nothing more, or the exception that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """An iterator that a background thread runs, one item in front of its reader."""

    def __init__(self, start: Callable[[], Iterator[T]]) -> None:
        self._start = start
        self._queue: queue.Queue[T | _End] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        # A daemon, since a read from a pipe cannot be interrupted when the program ends.
        self._thread = threading.Thread(target=self._run, name="uertool-encode", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._read()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=1.0)

    def _read(self) -> Iterator[T]:
        while True:
            found = self._queue.get()
            if isinstance(found, _End):
                if found.error is not None:
                    raise found.error
                return
            yield found

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._start():
                if not self._put(item):
                    return
        except BaseException as caught:  # handed to the reader, who raises it
            error = caught
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        """Whether the reader still wanted it."""
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
