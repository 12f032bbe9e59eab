"""Generated texts as lines, JSON lines or in UER-py's format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from uertool.engine.work import Figures
from uertool.io.json_text import json_text
from uertool.tasks.generation.settings import Form

if TYPE_CHECKING:
    from uertool.tasks.generation.job import Generated, Scored
    from uertool.tasks.generation.prompts import Prompt


@dataclass
class GenerationSummary(Figures):
    """Figures of a run.

    Attributes:
        prompts, empty, truncated: all prompts, those without tokens, and those that were truncated.
        texts, tokens: what was generated.
        reasons: how many texts ended for each `uertool.tasks.generation.stopping.Reason`.
    """

    prompts: int = 0
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    empty: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, texts: Sequence[Generated]) -> None:
        """Count the texts of one prompt."""
        self.prompts += 1
        self.texts += len(texts)
        self.truncated += bool(texts and texts[0].truncated)
        for text in texts:
            self.tokens += len(text.ids)
            self.reasons[text.reason] = self.reasons.get(text.reason, 0) + 1

    def add_empty(self, prompt: Prompt) -> None:
        """Count a prompt without tokens, which is also counted with its texts."""
        self.empty += 1


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
            lines = [json_text(self.record(text)) for text in texts]
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
        known: dict[str, Any] = {"line": text.prompt.number + 1, "prompt": text.prompt.text}
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
    known: dict[str, Any] = {"line": scored.prompt.number + 1, "text": scored.prompt.text}
    if scored.prompt.fields:
        known["fields"] = dict(scored.prompt.fields)
    return json_text(
        {
            **known,
            "tokens": scored.tokens,
            "log_probability": scored.log_probability,
            "perplexity": scored.perplexity,
        }
    )
