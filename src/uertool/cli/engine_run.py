"""A run on a cluster as its user sees it: progress, the plan, and what came of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from uertool.cli import console

if TYPE_CHECKING:
    from uertool.engine.run import Estimate, Order, Watch

#: Seconds between two lines about progress where there is no terminal.
_EVERY = 60.0


def run_order(order: Order, what: str, unit: str = "lines") -> tuple[dict[str, Any], float]:
    """Do the work under a progress bar; give its manifest, and lines a second if there were any.

    Args:
        order: what to do.
        what: what is being done, a word or two.
        unit: what is counted.
    """
    from uertool.engine.run import run

    with _metered(what, unit) as (meter, watch):
        try:
            return run(order, watch), meter.rate
        except KeyboardInterrupt:
            if meter.done:
                console.err("Finished shards are kept; the same command goes on with the others.")
            raise


def show_plan(order: Order, *, as_json: bool = False) -> None:
    """--dry-run: what a run would be, on standard output."""
    from uertool.engine.run import Watch, estimate

    plan = estimate(order, Watch(notice=console.warn))
    if as_json:
        console.json_line(asdict(plan))
        return
    for line in _plan_lines(plan, order):
        console.out(line)


def _plan_lines(plan: Estimate, order: Order) -> Iterator[str]:
    room = plan.room
    each = f"{room.cpus:g} CPU" + (f" and {room.gpus:g} GPU" if room.gpus else "")
    files, nodes = counted(plan.files, "file"), counted(room.nodes, "node")
    yield f"input:    {files}, {plan.bytes / 1e6:,.1f} MB, {counted(plan.lines, 'line')}"
    done = f", of which {plan.done:,} are done" if plan.done else ""
    yield f"blocks:   {plan.blocks:,} of {plan.block_lines:,} lines{done}"
    yield f"workers:  {room.actors:,} with {each} each, on {nodes}"
    yield (
        f"sample:   {plan.sampled:,} lines at {plan.rate:,.1f} lines/s a worker, "
        f"model loaded in {plan.loading:.1f} s"
    )
    if plan.errors:
        yield f"          {plan.errors:,} of them cannot be processed"
    yield f"estimate: {span(plan.seconds)}, if workers do not slow each other down"
    yield f"output:   {order.output}, nothing written yet"


@contextmanager
def watching(what: str, unit: str = "lines") -> Iterator[Watch]:
    """Who shows how far a run is: a bar on a terminal, else one line a minute."""
    with _metered(what, unit) as (_, watch):
        yield watch


@contextmanager
def _metered(what: str, unit: str) -> Iterator[tuple[_Meter, Watch]]:
    from uertool.engine.run import Watch

    with console.progress(None, what, unit=unit) as ticker:
        meter = _Meter(ticker, what, unit)
        silent = console.is_quiet() or sys.stderr.isatty()
        stop = threading.Event()
        thread = threading.Thread(target=meter.tell, args=(stop,), daemon=True)
        if not silent:
            thread.start()
        try:
            yield meter, Watch(total=meter.begin, lines=meter.add, notice=_notice)
        finally:
            stop.set()
            if not silent:
                thread.join()


def _notice(sentence: str) -> None:
    console.note(sentence)


class _Meter:
    """Counts lines and knows the rate of this run, without what an earlier one had done."""

    def __init__(self, ticker: console.Ticker, what: str, unit: str) -> None:
        self.ticker = ticker
        self.what = what
        self.unit = unit
        self.total = 0
        self.done = 0
        self.before: int | None = None
        self.started = time.monotonic()
        self.ended: float | None = None

    def begin(self, total: int) -> None:
        self.total = total
        self.ticker.total(total)

    def add(self, count: int) -> None:
        if self.before is None:  # told first: what is done already
            self.before = count
            self.started = time.monotonic()
        self.done += count
        self.ticker(count)
        self.ended = time.monotonic() if self.done == self.total else None
        if self.rate:
            self.ticker.say(f"{self.rate:,.0f} {self.unit}/s")

    @property
    def rate(self) -> float:
        """Lines a second."""
        seconds = (self.ended or time.monotonic()) - self.started
        return (self.done - (self.before or 0)) / seconds if seconds > 0 else 0.0

    def tell(self, stop: threading.Event) -> None:
        """A line every minute until the run ends."""
        while not stop.wait(_EVERY):
            left = span((self.total - self.done) / self.rate) + " left" if self.rate else "starting"
            console.note(
                f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, "
                f"{self.rate:,.1f} {self.unit}/s, {left}"
            )


def span(seconds: float) -> str:
    """A time in words: 42 s, 3 min 10 s, 5 h 2 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    days, hours = divmod(whole // 3600, 24)
    return (f"{days} d " if days else "") + f"{hours} h {whole % 3600 // 60} min"


def counted(number: int, what: str) -> str:
    """A number of things, in words that agree."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def report(manifest: dict[str, Any], output: str, rate: float) -> None:
    """What came of a run, on standard error."""
    console.note(
        f"{counted(manifest['lines'], 'line')}, {counted(manifest['rows'], 'row')} in "
        f"{counted(len(manifest['shards']), 'shard')} in {output}"
        + (f", {rate:,.1f} lines/s" if rate else "")
    )
    if manifest["errors"]:
        console.warn(
            f"{counted(manifest['errors'], 'line')} could not be processed (a broken file counts "
            f"as one); see {output.rstrip('/')}/errors.jsonl"
        )
