"""The only place that prints: results on standard output, everything else on standard error.

Progress bars and colours appear on a terminal only; NO_COLOR and TERM=dumb are respected by rich.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uertool.errors import counted as counted
from uertool.io.json_text import json_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

_SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")
_typed: dict[str, str] = {}

#: Seconds of work that need no progress bar.
_SHORT = 1.0
#: Width of tables where no terminal says otherwise.
PLAIN_WIDTH = 100


@dataclass
class _Level:
    """How much is reported on standard error."""

    quiet: bool = False
    verbose: bool = False


_level = _Level()


def set_level(*, quiet: bool = False, verbose: bool = False) -> None:
    """Set how much is reported on standard error; errors and warnings always are."""
    _level.quiet = quiet
    _level.verbose = verbose


def is_quiet() -> bool:
    """Whether summaries and progress are unwanted."""
    return _level.quiet


def out_is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


# -- standard output ------------------------------------------------------------------------------


def out(text: str = "", *, end: str = "\n") -> None:
    """One line of results."""
    sys.stdout.write(text + end)


def json_line(record: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON object on a line of its own, Chinese as it is."""
    out(json_text(record))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    to_stderr: bool = False,
) -> None:
    """A table for people.

    Args:
        columns: headings.
        rows: cells as text or anything that `str` makes text of; a float gets four digits.
        right: headings of columns that are aligned to the right (numbers).
        to_stderr: whether it is a report about the results rather than a result.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    aligned = set(right)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(
            Text(column), justify="right" if column in aligned else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*(Text(_cell(cell)) for cell in row))
    _rich(to_stderr).print(grid)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


def rich_print(text: object) -> None:
    """Something that rich knows how to draw: a `Text`, a `Panel`, a `Columns`."""
    _rich(to_stderr=False).print(text)


def _rich(to_stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS") or PLAIN_WIDTH)
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


def bar(share: float, width: int = 20) -> str:
    """A bar of `width` characters for a share between 0 and 1, in eighths of a character."""
    share = min(max(share, 0.0), 1.0) if share == share else 0.0
    if not _can_show("█▏"):
        return ("#" * round(share * width)).ljust(width)
    eighths = round(share * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[part]).ljust(width)


def bars(rows: Sequence[tuple[str, float]], *, width: int = 20, form: str = "6.1%") -> None:
    """Labels with their numbers and a bar each from zero, aligned for characters of any width."""
    widest = max((width_of(label) for label, _ in rows), default=0)
    best = max((abs(number) for _, number in rows), default=0.0) or 1.0
    for n, (label, number) in enumerate(rows):
        blanks = " " * (widest - width_of(label))
        # The longest bar is the best one, so that differences show where all are small.
        drawn = bar(number / best, width).rstrip()
        out(f"  {n + 1:>3}  {label}{blanks}  {number:>{form}}  {drawn}")


def heading(text: str) -> None:
    """A line that what follows belongs to; bold on a terminal."""
    from rich.text import Text

    rich_print(Text(text, style="bold"))


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def width_of(text: str) -> int:
    """Columns that a text takes on a terminal; a Chinese character takes two."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def cut(text: str, width: int) -> str:
    """A text that takes at most so many columns; what was cut off is an ellipsis."""
    if width_of(text) <= width:
        return text
    kept = ""
    for char in text:
        if width_of(kept + char) >= width:
            break
        kept += char
    return kept + "…"


def terminal_width() -> int:
    """Columns of the terminal, or those used where there is none."""
    return shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns


# -- standard input -------------------------------------------------------------------------------


def typed_lines() -> Iterator[str]:
    """Lines typed by a person, without blank ones, until Ctrl-D."""
    asking = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    if asking:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` its history and its editing keys
    while True:
        try:
            line = input(asking)
        except EOFError:
            if asking:
                out()
            return
        if line.strip():
            yield line


# -- standard error -------------------------------------------------------------------------------


#: Settings with values from environment variables, and the names of these variables.
environment: dict[str, str] = {}


def origin(setting: str) -> str | None:
    """A sentence about the variable that a setting comes from, or None for the command line."""
    variable = environment.get(setting)
    return variable and f"It comes from the environment variable {variable}."


def remember_spelling(argv: Sequence[str]) -> None:
    """Let `spell` write options as they are written on this command line."""
    _typed.clear()
    _typed.update(
        {name.replace("_", "-"): name for token in argv for name in [token.split("=")[0]]}
    )


def remember_alias(setting: str, typed: str) -> None:
    """Let `spell` write a setting as the option that names it here: -o for prediction_path."""
    _typed["--" + setting.replace("_", "-")] = typed


def spell(text: str) -> str:
    """A message of the library with its settings, `like_this`, spelled as options, --like-this.

    Library code does not know the command line: it names settings in backquotes. An option is
    spelled as the user typed it.
    """

    def option(match: re.Match[str]) -> str:
        name = "--" + match[1].replace("_", "-")
        return _typed.get(name, name)

    return _SETTING.sub(option, text)


def err(text: str) -> None:
    """A line on standard error at any level; see `spell`."""
    sys.stderr.write(spell(text) + "\n")
    sys.stderr.flush()


def note(*texts: str) -> None:
    """Remarks about the results; omitted with --quiet."""
    for text in () if _level.quiet else texts:
        err(text)


def detail(*texts: str) -> None:
    """Remarks that --verbose shows."""
    for text in texts if _level.verbose else ():
        err(text)


def warn(*texts: str) -> None:
    """What the user should know about the results; never omitted."""
    for text in texts:
        err(f"{_colored('warning:', _YELLOW)} {text}")


def error(message: str, hint: str | None = None) -> None:
    """Why the run ends, and what to do next."""
    err(f"{_colored('error:', _RED)} {message}")
    if hint:
        err(f"  {hint}")


_RED, _YELLOW = "31", "33"


def _colored(word: str, color: str) -> str:
    """A word for standard error, in color on a terminal that wants it."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in (None, "dumb")
    return word if plain or not sys.stderr.isatty() else f"\x1b[1;{color}m{word}\x1b[0m"


class Ticker:
    """Something to tell about progress: call it with how much more is done.

    This one keeps quiet; `_Shown` draws a bar.
    """

    def __call__(self, count: float = 1) -> None:
        """So much more is done."""

    def total(self, count: float | None) -> None:
        """So much there is to do."""

    def say(self, words: str) -> None:
        """A few words next to the bar."""


class _Shown(Ticker):
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def __call__(self, count: float = 1) -> None:
        self._bars.advance(self._task, count)

    def total(self, count: float | None) -> None:
        self._bars.update(self._task, total=count)

    def say(self, words: str) -> None:
        self._bars.update(self._task, words=words)


@contextmanager
def progress(total: float | None, what: str, *, unit: str = "lines") -> Iterator[Ticker]:
    """A progress bar on standard error while the block runs; nothing without a terminal.

    It appears after a second: short runs show none.

    Args:
        total: how much there is to do, or None where that is not known.
        what: what is being done, a word or two.
        unit: what is counted; "bytes" are shown as MB and MB/s.
    """
    if _level.quiet or not sys.stderr.isatty():
        yield Ticker()
        return
    from rich import progress as bars

    counts: list[ProgressColumn] = (
        [bars.DownloadColumn(), bars.TransferSpeedColumn()]
        if unit == "bytes"
        else [bars.TextColumn("{task.completed:,.0f} " + unit)]
    )
    shown = bars.Progress(
        bars.SpinnerColumn("line"),
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=20),
        bars.TaskProgressColumn(),
        *counts,
        bars.TimeRemainingColumn(compact=True),
        bars.TextColumn("{task.fields[words]}"),
        console=_rich(to_stderr=True),
        transient=True,
    )
    task = shown.add_task(what, total=total, words="")
    begin = threading.Timer(_SHORT, shown.start)
    begin.daemon = True
    begin.start()
    try:
        yield _Shown(shown, task)
    finally:
        begin.cancel()
        begin.join()
        shown.stop()


@contextmanager
def tensor_progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over tensors: yields a function of a tensor's name, its number and the count.

    Args:
        what: as for `progress`.
    """
    with progress(None, what, unit="tensors") as ticker:

        def advance(name: str, number: int, count: int) -> None:
            ticker.total(count)
            ticker(1)
            ticker.say(name)

        yield advance
