"""Batches: order, bounds, what is read ahead, and what happens when memory is short."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uertool.engine.batching import (
    Batch,
    Encoded,
    Later,
    Limits,
    collate,
    run_batches,
)
from uertool.errors import UertoolError, UsageError


def encode(items: list[tuple[int, int]]) -> list[Encoded]:
    """(index, length) to a text of that many ids, all of them index + 1."""
    return [Encoded(index, [index + 1] * length) for index, length in items]


def texts(lengths: Sequence[int]) -> list[tuple[int, int]]:
    return list(enumerate(lengths))


def sums(batch: Batch) -> list[tuple[int, int]]:
    """Every row's index and the sum of its ids where segs says that they are real."""
    totals = (batch.ids * batch.segs).sum(1).tolist()
    return [(item.index, total) for item, total in zip(batch.items, totals, strict=True)]


def test_a_batch_is_padded_on_the_right_and_segments_say_where() -> None:
    batch = collate([Encoded(0, [5, 6, 7]), Encoded(1, [8], [2])], pad_id=9)
    assert batch.ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.segs.tolist() == [[1, 1, 1], [2, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]
    assert collate([Encoded(0, [5])], pad_to=4).ids.tolist() == [[5, 0, 0, 0]]
    assert collate([Encoded(0, [5, 6])], pad_to=1).ids.shape == (1, 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), max_size=60),
    st.integers(1, 64),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_results_come_in_input_order_within_the_bounds(
    lengths: list[int], tokens: int, window: int, rows: int | None
) -> None:
    limits = Limits(tokens=tokens, rows=rows, window=window)

    def step(batch: Batch) -> list[tuple[int, int]]:
        assert batch.ids.numel() <= tokens or len(batch) == 1
        assert rows is None or len(batch) <= rows
        return sums(batch)

    found = list(
        run_batches(texts(lengths), encode, step, limits=limits, empty=lambda item: (item.index, 0))
    )
    assert found == [(index, (index + 1) * length) for index, length in texts(lengths)]


def test_texts_of_like_length_go_together() -> None:
    rng = random.Random(7)
    lengths = [max(1, int(rng.lognormvariate(3, 0.6))) for _ in range(2000)]
    padded: list[int] = []

    def step(batch: Batch) -> list[tuple[int, int]]:
        padded.append(batch.ids.numel())
        return sums(batch)

    list(run_batches(texts(lengths), encode, step, limits=Limits(tokens=2048)))
    assert sum(padded) < 1.1 * sum(lengths)


def test_an_encoder_may_give_more_or_fewer_texts_than_it_got() -> None:
    def doubled(items: list[tuple[int, int]]) -> list[Encoded]:
        return [text for text in encode(items) for _ in range(2) if text.index != 1]

    found = run_batches(texts([3, 2, 1]), doubled, sums, limits=Limits(window=2))
    assert [index for index, _ in found] == [0, 0, 2, 2]


def test_encoding_runs_ahead_but_not_far() -> None:
    taken: list[int] = []

    def endless() -> Iterator[tuple[int, int]]:
        index = 0
        while True:
            taken.append(index)
            yield index, 3
            index += 1

    results = run_batches(endless(), encode, sums, limits=Limits(window=10))
    assert next(results) == (0, 3)
    deadline = time.monotonic() + 5
    while len(taken) < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 20 <= len(taken) <= 40
    before = threading.active_count()
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_an_error_while_encoding_comes_after_the_results_before_it() -> None:
    def broken(items: list[tuple[int, int]]) -> list[Encoded]:
        if items[0][0] >= 4:
            raise UertoolError("line 5 is bad")
        return encode(items)

    results = run_batches(texts([1] * 6), broken, sums, limits=Limits(window=2))
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(UertoolError, match="line 5 is bad"):
        next(results)


def short_of_memory(error: Exception, most: int, seen: list[int]):  # noqa: ANN201
    def step(batch: Batch) -> list[tuple[int, int]]:
        seen.append(len(batch))
        if len(batch) > most:
            raise error
        return sums(batch)

    return step


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_does_not_fit_is_halved_and_run_again(error: Exception) -> None:
    seen: list[int] = []
    notices: list[str] = []
    found = run_batches(
        texts([4] * 64),
        encode,
        short_of_memory(error, 3, seen),
        limits=Limits(tokens=64, window=32),
        on_notice=notices.append,
    )
    assert list(found) == [(index, 4 * (index + 1)) for index in range(64)]
    # 16 and 8 and 4 fail once each; from then on nothing so large is tried again.
    assert [size for size in seen if size > 3] == [16, 8, 4]
    assert len(notices) == 3
    assert "16 texts (64 tokens) did not fit" in notices[0]


def test_a_single_text_that_does_not_fit_is_an_error() -> None:
    step = short_of_memory(torch.OutOfMemoryError("out of memory"), 0, [])
    with pytest.raises(UertoolError, match="single text of 5 tokens"):
        list(run_batches(texts([5]), encode, step))


def test_other_errors_of_a_step_come_out_as_they_are() -> None:
    step = short_of_memory(RuntimeError("shapes do not fit"), 0, [])
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(run_batches(texts([5]), encode, step))


def test_memory_of_a_failed_batch_is_free_before_the_next_try() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def step(batch: Batch) -> list[int]:
        assert not any(ref() is not None for ref in held)
        scratch = torch.zeros(8)
        held.append(weakref.ref(scratch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return [0]

    assert list(run_batches(texts([1, 1, 1, 1]), encode, step)) == [0, 0, 0, 0]


def test_memory_does_not_grow_with_the_input() -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    most = 0

    class Result:
        pass

    def step(batch: Batch) -> list[Result]:
        results = [Result() for _ in batch.items]
        alive.update(results)
        return results

    for _ in run_batches(texts([2] * 2000), encode, step, limits=Limits(window=50)):
        most = max(most, len(alive))
    assert most <= 101


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="`rows`: 0 .must be at least 1"):
        Limits(rows=0)


def test_the_next_batch_is_started_before_results_are_fetched() -> None:
    order: list[str] = []

    def step(batch: Batch) -> Later[int]:
        found = [item.index for item in batch.items]
        order.append(f"start {found}")

        def get() -> list[int]:
            order.append(f"get {found}")
            return found

        return Later(get)

    limits = Limits(rows=2)
    results = list(
        run_batches(range(5), lambda some: [Encoded(n, [n]) for n in some], step, limits=limits)
    )
    assert results == [0, 1, 2, 3, 4]
    assert order == [
        "start [0, 1]",
        "start [2, 3]",
        "get [0, 1]",
        "start [4]",
        "get [2, 3]",
        "get [4]",
    ]
