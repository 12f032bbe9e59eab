"""The figures of a run of `generate`."""

from __future__ import annotations

from uertool.cli import console
from uertool.cli.console import counted
from uertool.tasks.generation.writing import GenerationSummary

#: Why texts end, in words.
_REASONS = {
    "stop_token": "at a stop token",
    "stop_string": "at a stop string",
    "length": "at their limit of tokens",
}


def report_summary(summary: GenerationSummary, seconds: float, share: float = 1.0) -> None:
    """Report the figures of a run on standard error.

    Args:
        summary: the figures.
        seconds: how long this run took.
        share: the part of the texts that it generated, where it continued another.
    """
    rate = summary.tokens * share / seconds if seconds > 0 else 0.0
    ends = ", ".join(
        f"{count:,} ended {_REASONS.get(reason, reason)}"
        for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1])
    )
    console.note(
        f"{counted(summary.texts, 'text')} for {counted(summary.prompts, 'prompt')}, "
        f"{counted(summary.tokens, 'token')} in {seconds:.1f} s ({rate:,.0f} a second)"
        + (f"; {ends}" if ends else "")
    )
    if summary.truncated:
        console.warn(
            f"{counted(summary.truncated, 'prompt')} truncated to the allowed length; "
            "see `seq_length` and `truncate`"
        )
    if summary.empty:
        console.warn(
            f"{counted(summary.empty, 'prompt')} without words; each text was started "
            "from the start token alone"
        )
