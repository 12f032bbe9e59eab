"""Generated texts as lines, JSON lines or in UER-py's format, and the summary of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from uertool.cli import console
from uertool.cli.options import OutputSettings
from uertool.errors import UsageError
from uertool.tasks.generation.settings import Form

if TYPE_CHECKING:
    from uertool.tasks.generation.job import Generated, Scored
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


class Writer:
    """Writes the texts of one prompt after the other.

    - old: UER-py's format, the prompt and below it the text, a blank line between two prompts;
    - text: the texts alone, one line each;
    - jsonl: with ids, log-probability and the reason why it ended.

    Args:
        form: one of these.
        stream: where to.
        raw: join tokens as they are, special tokens and ## included.
        fill: returns a source with its gaps filled, which is written in place of the target.
    """

    def __init__(
        self,
        form: Form,
        stream: TextIO,
        *,
        raw: bool = False,
        fill: Callable[[Generated], str] | None = None,
    ) -> None:
        self.form = form
        self.stream = stream
        self.raw = raw
        self.fill = fill
        self.begun = False

    def __call__(self, texts: Sequence[Generated]) -> None:
        if self.form == "jsonl":
            lines = [console.json_text(self.record(text)) for text in texts]
        else:
            lines = [_one_line(self.shown(text)) for text in texts]
        if self.form == "old":
            lines.insert(0, _one_line(texts[0].prompt.text))
            if self.begun:
                lines.insert(0, "")
        self.stream.write("".join(f"{line}\n" for line in lines))
        # For readers of a pipe or a terminal, and so that an interrupted run keeps it.
        self.stream.flush()
        self.begun = True

    def shown(self, text: Generated) -> str:
        """The form of a text that is written."""
        if self.fill is not None:
            return self.fill(text)
        return text.raw if self.raw else text.text

    def record(self, text: Generated) -> dict[str, Any]:
        """A text as JSON."""
        known: dict[str, Any] = {"line": text.prompt.number, "prompt": text.prompt.text}
        if text.prompt.fields:
            known["fields"] = dict(text.prompt.fields)
        known |= {
            "number": text.number,
            "text": text.text,
            "new_text": text.new_text,
            "prompt_ids": list(text.prompt_ids),
            "ids": list(text.ids),
            "log_probability": text.log_probability,
            "score": text.score,
            "reason": text.reason,
        }
        if text.truncated:
            known["truncated"] = text.truncated
        if self.raw:
            known["raw"] = text.raw
        if self.fill is not None:
            known["filled"] = self.fill(text)
        return known


def _one_line(text: str) -> str:
    # Some vocabularies can write a line end, which would look like the next text.
    return " ".join(text.splitlines()) if "\n" in text or "\r" in text else text


def score_line(scored: Scored, form: Form) -> str:
    """The perplexity of a line and the line; or a JSON object."""
    if form != "jsonl":
        return f"{scored.perplexity:.4f}\t{_one_line(scored.prompt.text)}"
    known: dict[str, Any] = {"line": scored.prompt.number, "text": scored.prompt.text}
    if scored.prompt.fields:
        known["fields"] = dict(scored.prompt.fields)
    return console.json_text(
        {
            **known,
            "tokens": scored.tokens,
            "log_probability": scored.log_probability,
            "perplexity": scored.perplexity,
        }
    )


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
        """The summary of counts as `uertool.tasks.sharded_generation.count_texts` gives them."""
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
