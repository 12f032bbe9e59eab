"""Progress bars: on a terminal only, after a second, and gone when results are printed."""

from __future__ import annotations

import io
import sys
import time

import pytest

from uertool.cli import console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; not a fixture, since pytest sets the stream for each phase."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    console.set_level()
    return stream


def test_a_short_run_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with console.progress(10, "Counting") as ticker:
        ticker(10)
    assert terminal.getvalue() == ""


def test_a_longer_run_shows_share_count_and_rate_and_cleans_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(console, "_SHORT", 0.0)
    with console.progress(None, "Counting") as ticker:
        ticker.total(4000)
        ticker(1000)
        ticker.say("500 lines/s")
        time.sleep(0.3)
    shown = terminal.getvalue()
    assert "Counting" in shown
    assert "25%" in shown
    assert "1,000 lines" in shown
    assert "500 lines/s" in shown
    # The last thing is that the line of the bar is erased.
    assert shown.rstrip().endswith("\x1b[2K")


def test_warnings_are_yellow_on_a_terminal_that_wants_colors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.delenv("NO_COLOR", raising=False)
    console.warn("few lines")
    assert terminal.getvalue() == "\x1b[1;33mwarning:\x1b[0m few lines\n"
    monkeypatch.setenv("NO_COLOR", "1")
    console.error("no lines")
    assert terminal.getvalue().endswith("\nerror: no lines\n")


def test_without_a_terminal_there_is_no_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SHORT", 0.0)
    with console.progress(10, "Counting") as ticker:
        ticker(10)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
