"""The format of generated texts, and the summary of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uertool.cli import console
from uertool.cli.options import OutputSettings
from uertool.errors import UsageError
from uertool.tasks.generation.settings import Form

if TYPE_CHECKING:
    from uertool.tasks.generation.job import Generated
    from uertool.text.readers import BadLine

#: Why texts end, in words.
_REASONS = {
    "stop_token": "at a stop token",
    "stop_string": "at a stop string",
    "length": "at their limit of tokens",
}


def choose_form(form: Form, output: OutputSettings) -> Form:
    """The format that was asked for, or that fits where the results go.

    Raises:
        UsageError: two formats were asked for.
    """
    if output.json:
        if form not in ("auto", "jsonl"):
            raise UsageError(f"--json and --format {form} were both given.", "Give one of them.")
        return "jsonl"
    if form != "auto":
        return form
    if output.prediction_path in (None, "-"):
        return "text"
    return "jsonl" if str(output.prediction_path).endswith((".jsonl", ".json")) else "old"


@dataclass
class Summary:
    """Counts of a run."""

    prompts: int = 0
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    empty: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Summary:
        """The summary of counts as `uertool.tasks.generation.work.count_texts` gives them."""
        start = "reason."
        return cls(
            prompts=counts.get("prompts", 0),
            texts=counts.get("rows", 0),
            tokens=counts.get("tokens", 0),
            truncated=counts.get("truncated", 0),
            empty=counts.get("empty", 0),
            reasons={k.removeprefix(start): n for k, n in counts.items() if k.startswith(start)},
        )

    def add(self, texts: Sequence[Generated]) -> None:
        """Counts the texts of one prompt."""
        self.prompts += 1
        self.texts += len(texts)
        self.truncated += bool(texts and texts[0].truncated)
        for text in texts:
            self.tokens += len(text.ids)
            self.reasons[text.reason] = self.reasons.get(text.reason, 0) + 1

    def count_empty(self) -> None:
        """One more prompt without tokens."""
        self.empty += 1

    def report(self, seconds: float) -> None:
        """Report it on standard error."""
        rate = self.tokens / seconds if seconds > 0 else 0.0
        ends = ", ".join(
            f"{count:,} ended {_REASONS.get(reason, reason)}"
            for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1])
        )
        console.note(
            f"{_count(self.texts, 'text')} for {_count(self.prompts, 'prompt')}, "
            f"{_count(self.tokens, 'token')} in {seconds:.1f} s ({rate:,.0f} a second)"
            + (f"; {ends}" if ends else "")
        )
        if self.truncated:
            console.warn(
                f"{_count(self.truncated, 'prompt')} truncated to the allowed length; "
                "see --seq-length and --truncate"
            )
        if self.empty:
            console.warn(
                f"{_count(self.empty, 'prompt')} without words; each text was started "
                "from the start token alone"
            )


def report_bad(bad: Sequence[BadLine]) -> None:
    """Report how many lines were left out, and why the first of them."""
    if bad:
        console.warn(
            f"{_count(len(bad), 'line')} left out; the first is line {bad[0].number + 1}: "
            f"{bad[0].reason}"
        )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
