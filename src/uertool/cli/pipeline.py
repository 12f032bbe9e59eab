"""Commands that run on the engine: settings become an order, and what it does is shown."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import OutputSettings, report_empty, source_of
from uertool.engine.ordering import absolute_model, check_engine, order_of_lines, refuse_same
from uertool.engine.settings import EngineSettings
from uertool.errors import InputError, UsageError
from uertool.loading.settings import DeviceSettings, TokenizerSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.engine.estimate import Estimate
    from uertool.engine.order import Order, Watch
    from uertool.engine.run import Gathered
    from uertool.engine.work import Work

M = TypeVar("M", bound=TokenizerSettings)

#: Seconds between two lines about progress if there is no terminal.
_EVERY = 60.0


@dataclass(frozen=True)
class Call:
    """What the commands that run a model on lines share.

    Attributes:
        engine, model, text, device, output: their settings; no device if only files of the model
            are read.
        texts: texts on the command line.
        what: what is missing if there is no input, for messages.
        inputs: further files that decide the results, for the record of the run.
        tabs: whether the lines of the input have tabs in any case.
        details: what was reported about the model, for the record of the run.
    """

    engine: EngineSettings
    model: TokenizerSettings
    text: InputSettings
    device: DeviceSettings | None
    output: OutputSettings
    texts: Sequence[str] | None = None
    what: str = "text"
    inputs: Sequence[str | Path | None] = ()
    tabs: bool = False
    details: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output.apply(check=False)
        check_engine(self.engine)
        if self.is_ray and not self.output.to_file:
            raise UsageError(
                "`engine` ray writes a folder of shards.",
                "Name it with `prediction_path`; its suffix is the format, as that of a file.",
            )
        if self.output.to_file and self.text.test_path is not None:
            refuse_same(self.text.test_path, self.target)
        if self.engine.resume and not self.output.to_file:
            raise UsageError("`resume` needs an output file.", "Name one with `prediction_path`.")
        if not self.tabs:
            warn_of_table(self.text)

    @property
    def is_ray(self) -> bool:
        """Whether it runs on a cluster."""
        return self.engine.engine == "ray"

    @property
    def target(self) -> str:
        """The output as the engine takes it."""
        return self.output.prediction_path or "-"

    @property
    def source(self) -> str | None:
        """The path of the input, "-", or None if it is the texts themselves."""
        return source_of(self.text, self.texts, self.what)

    def suffix_for(self, form: str) -> str:
        """The suffix of shards of text in a format: that of the output, unless it is JSON lines."""
        suffix = Path(self.target.rstrip("/")).suffix.lower()
        return ".jsonl" if form == "jsonl" else suffix or ".txt"

    def for_workers(self, model: M) -> M:
        """The model for workers, which may run in other folders."""
        return absolute_model(model) if self.is_ray else model

    def new_order(self, **more: Any) -> Order:
        """The order to do some work; see `Order` for the arguments."""
        source = self._files() if self.is_ray else self.source
        return order_of_lines(
            self.engine,
            self.model,
            self.text,
            self.device,
            source=source,
            texts=self.texts,
            overwrite=self.output.overwrite,
            **more,
        )

    def _files(self) -> str:
        if self.texts:
            raise UsageError(
                "Texts on the command line are too few for `engine` ray.",
                "Name files, folders or globs with `test_path`.",
            )
        if self.text.test_path is None:
            raise UsageError(
                "`engine` ray needs files.", "Name files, folders or globs with `test_path`."
            )
        return self.text.test_path

    def run(
        self,
        what: str,
        work: Work,
        identity: Mapping[str, Any],
        show: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> tuple[Gathered, Meter]:
        """Do work that writes text.

        Args:
            what: what is being done, for the progress bar.
            work: what is done.
            identity: what decides the results.
            show: shows a record on the terminal; the work must then write JSON lines.
        """
        from uertool.engine.run import run

        emit = None if show is None else JsonLines(show)
        order = self.new_order(work=work, output=self.target, identity=identity, emit=emit)
        if self.engine.dry_run:
            show_plan(order, as_json=self.output.json)
        with self.watching(what) as (meter, watch):
            return run(order, watch), meter

    @contextmanager
    def watching(self, what: str, unit: str = "lines") -> Iterator[tuple[Meter, Watch]]:
        """A watch that shows progress, unless the results themselves do; see `watching`."""
        shown = self.output.to_file or not console.out_is_terminal()
        with watching(what, unit, self.engine, shown=shown) as (meter, watch):
            yield meter, dataclasses.replace(watch, detail=self._detail)

    def _detail(self, sentence: str) -> None:
        self.details.append(sentence)
        console.detail(sentence)

    def report(self, found: Gathered, rate: float = 0.0) -> None:
        """What came of shards, and which lines could not be processed."""
        if self.is_ray:
            report_shards(found.manifest, self.target, rate)
        report_empty(found.manifest["lines"] + found.manifest["errors"])
        report_errors(found, self.target)

    def record(self, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Write the record of the run, if it is wanted."""
        inputs = [*self.model.files(), self.source, *self.inputs]
        self.output.record(self.target, inputs, settings=settings, results=results)


def warn_of_table(text: InputSettings) -> None:
    """Warn if an input that is read line by line looks like a table."""
    if text.test_path is None or text.column is not None or text.field is not None:
        return
    from uertool.text.sniffing import table_notice

    notice = table_notice(text.test_path, text.encoding)
    if notice is not None:
        console.warn(notice)


class JsonLines:
    """Takes bytes of JSON lines as they come, and gives every record to `show`."""

    def __init__(self, show: Callable[[Mapping[str, Any]], None]) -> None:
        self._show = show
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(json.loads(line))


# -- progress -------------------------------------------------------------------------------------


class Meter:
    """Counts lines and knows the rate of this run, without what an earlier one had done."""

    def __init__(self, ticker: console.Ticker, what: str, unit: str) -> None:
        self.ticker = ticker
        self.what = what
        self.unit = unit
        self.total: int | None = None
        self.done = 0
        self.before: int | None = None
        self.started = time.monotonic()
        self.ended: float | None = None

    def begin(self, total: int) -> None:
        """Set the total number of lines."""
        self.total = total
        self.ticker.total(total)

    def add(self, count: int) -> None:
        """Count lines that are done; the first call counts those of an earlier run."""
        if self.before is None:
            self.before = count
            self.started = time.monotonic()
        self.done += count
        self.ticker(count)
        self.ended = time.monotonic() if self.done == self.total else None
        if self.rate:
            self.ticker.say(f"{self.rate:,.0f} {self.unit}/s")

    @property
    def seconds(self) -> float:
        """How long this run has taken."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def share(self) -> float:
        """The part of the lines that this run did, not an earlier one."""
        return 1 - (self.before or 0) / self.done if self.done else 1.0

    @property
    def rate(self) -> float:
        """Lines a second."""
        seconds = self.seconds
        return (self.done - (self.before or 0)) / seconds if seconds > 0 else 0.0

    def tell(self, stop: threading.Event) -> None:
        """A line every minute until the run ends."""
        while not stop.wait(_EVERY):
            share = left = ""
            if self.total:
                share = f" ({self.done / self.total:.0%})"
                rest = span((self.total - self.done) / self.rate) if self.rate else ""
                left = f", {rest} left" if rest else ", starting"
            console.note(
                f"{self.what}: {self.done:,} {self.unit}{share}, "
                f"{self.rate:,.1f} {self.unit}/s{left}"
            )


@contextmanager
def watching(
    what: str,
    unit: str = "lines",
    engine: EngineSettings | None = None,
    *,
    shown: bool = True,
) -> Iterator[tuple[Meter, Watch]]:
    """A watch that shows how far a run is: a bar on a terminal, else one line a minute.

    Args:
        what: what is being done, a word or two.
        unit: what is counted.
        engine: decides how an interrupted run is continued.
        shown: whether progress is shown; False if the results appear on the terminal.
    """
    from uertool.engine.order import Watch

    on_ray = engine is not None and engine.engine == "ray"
    bar = console.progress(None, what, unit=unit) if shown else nullcontext(console.Ticker())
    with bar as ticker:
        meter = Meter(ticker, what, unit)
        silent = console.is_quiet() or sys.stderr.isatty() or not shown
        stop = threading.Event()
        thread = threading.Thread(target=meter.tell, args=(stop,), daemon=True)
        if not silent:
            thread.start()
        try:
            say = console.note if on_ray else console.warn
            yield (
                meter,
                Watch(
                    total=meter.begin,
                    lines=meter.add,
                    notice=say,
                    hint=console.note,
                    detail=console.detail,
                ),
            )
        finally:
            stop.set()
            if not silent:
                thread.join()


def span(seconds: float) -> str:
    """A time in words: 42 s, 3 min 10 s, 5 h 2 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    days, hours = divmod(whole // 3600, 24)
    return (f"{days} d " if days else "") + f"{hours} h {whole % 3600 // 60} min"


# -- plans and reports ----------------------------------------------------------------------------


def show_plan(order: Order, *, as_json: bool = False) -> None:
    """--dry-run: what a run would be, on standard output; then the command ends."""
    from uertool.engine.estimate import estimate
    from uertool.engine.order import Watch

    plan = estimate(order, Watch(notice=console.warn))
    if as_json:
        console.json_line(asdict(plan))
    else:
        for line in _plan_lines(plan, order):
            console.out(line)
    raise typer.Exit


def _plan_lines(plan: Estimate, order: Order) -> Iterator[str]:
    room = plan.room
    each = f"{room.cpus:g} CPU" + (f" and {room.gpus:g} GPU" if room.gpus else "")
    files, nodes = counted(plan.files, "file"), counted(room.nodes, "node")
    # A file that is not read line by line is one unit of work.
    unit = "file" if order.reading.whole else "line"
    lines = "" if order.reading.whole else f", {counted(plan.lines, 'line')}"
    yield f"input:    {files}, {plan.bytes / 1e6:,.1f} MB{lines}"
    done = f", of which {plan.done:,} are done" if plan.done else ""
    yield f"blocks:   {plan.blocks:,} of {counted(plan.block_lines, unit)}{done}"
    yield f"workers:  {room.actors:,} with {each} each, on {nodes}"
    yield (
        f"sample:   {counted(plan.sampled, unit)} at {plan.rate:,.1f} {unit}s/s a worker, "
        f"model loaded in {plan.loading:.1f} s"
    )
    if plan.errors:
        yield f"          {plan.errors:,} of them cannot be processed"
    yield f"estimate: {span(plan.seconds)}, if workers do not slow each other down"
    yield f"output:   {order.output}, nothing written yet"


def report_shards(manifest: Mapping[str, Any], output: str, rate: float) -> None:
    """What came of a run on a cluster, on standard error."""
    console.note(
        f"{counted(manifest['lines'], 'line')}, {counted(manifest['rows'], 'row')} in "
        f"{counted(len(manifest['shards']), 'shard')} in {output}"
        + (f", {rate:,.1f} lines/s" if rate else "")
    )


def report_errors(found: Gathered, output: str) -> None:
    """How many lines could not be processed, and where that is written."""
    count = found.manifest["errors"]
    if not count:
        return
    if found.errors:
        first = found.errors[0]
        sentence = f"{counted(count, 'line')} left out; the first is line {first['line']}"
        if len(found.manifest["input"]) > 1:
            sentence += f" of {first['file']}"
        sentence += f": {first['reason']}"
    else:
        sentence = f"{counted(count, 'line')} could not be processed"
    if output != "-":
        between = "/" if found.manifest["shards"] and Path(output).is_dir() else "."
        sentence += f"; see {output.rstrip('/')}{between}errors.jsonl"
    if found.manifest["rows"] == 0 and count >= found.manifest["lines"] > 0:
        raise InputError(f"{sentence}. No line is left.")
    console.warn(sentence)
