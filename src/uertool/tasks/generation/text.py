"""Readable text of generated ids, whole or while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from uertool.tasks.generation.prompts import Prompt
from uertool.tasks.generation.search import Request, Row
from uertool.tasks.generation.stopping import Stopping
from uertool.text.tokenizers.base import Tokenizer

#: Called with readable text as it comes: the prompt, the number of its text, the new piece.
OnText = Callable[[Prompt, int, str], None]


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The readable text of new ids, as it follows the prompt.

    It starts with a blank if there is one between the prompt's last word and the first new one; a
    piece such as ##ing has none.
    """
    before = tokenizer.decode(prompt)
    both = tokenizer.decode([*prompt, *new])
    return both[len(before) :] if both.startswith(before) else tokenizer.decode(new)


class Growing:
    """The text of one row while it grows.

    Args:
        tokenizer: of the side that is generated.
        prompt: ids before it, which decide about a blank; empty for a target.
        strings: stop strings; a possible beginning of one is held back until it is complete.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], strings: Sequence[str] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt = list(prompt)
        self.strings = tuple(strings)
        self.new: list[int] = []
        self.shown = ""

    def add(self, token: int) -> str:
        """The text to show after one more token; empty while a character is incomplete."""
        self.new.append(token)
        text = continuation(self.tokenizer, self.prompt, self.new)
        if text.endswith("\ufffd"):
            return ""
        return self._show(text[: len(text) - self._unclear(text)])

    def rest(self, text: str) -> str:
        """The part of the finished text that was not shown yet."""
        return self._show(text)

    def _show(self, text: str) -> str:
        if not text.startswith(self.shown):
            return ""
        more = text[len(self.shown) :]
        self.shown = text
        return more

    def _unclear(self, text: str) -> int:
        """How many characters at the end belong, or may belong, to a stop string."""
        found = [text.find(string) for string in self.strings if string in text]
        if found:
            return len(text) - min(found)
        lengths = [
            length
            for string in self.strings
            for length in range(1, len(string))
            if text.endswith(string[:length])
        ]
        return max(lengths, default=0)


class LiveText:
    """Turns the tokens of texts in progress into readable text.

    Args:
        tokenizer: of the side that is generated.
        on_text: called with the text.
        stopping: when texts end.
        continues: whether texts continue their prompts.
    """

    def __init__(
        self, tokenizer: Tokenizer, on_text: OnText, stopping: Stopping, *, continues: bool
    ) -> None:
        self.tokenizer = tokenizer
        self.on_text = on_text
        self.continues = continues
        self.stopping = stopping
        self.growing: dict[tuple[int, int], Growing] = {}

    def __call__(self, row: Row, token: int) -> None:
        """Called with one more token of a row."""
        request = row.group.request
        key = (request.payload.place, row.number)
        if key not in self.growing:
            before = request.prompt if self.continues else ()
            self.growing[key] = Growing(self.tokenizer, before, self.stopping.strings)
        if token not in self.stopping.tokens:
            self._report(request, row.number, self.growing[key].add(token))

    def finish(self, request: Request, texts: Sequence[str]) -> None:
        """Called with the finished texts of a prompt."""
        for number, text in enumerate(texts):
            growing = self.growing.pop((request.payload.place, number), None)
            if growing is not None:
                self._report(request, number, growing.rest(text))

    def _report(self, request: Request, number: int, more: str) -> None:
        if more:
            self.on_text(request.payload.prompt, number, more)
