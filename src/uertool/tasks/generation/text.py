"""From new ids to the text that a reader sees, whole or as it grows."""

from __future__ import annotations

from collections.abc import Sequence

from uertool.text.tokenizers.base import Tokenizer


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The readable text of new ids, joined to the prompt as its words ask for.

    A blank in front is there where the prompt's last word and the first new one need it; a piece
    such as ##ing has none.
    """
    before = tokenizer.decode(prompt)
    both = tokenizer.decode([*prompt, *new])
    return both[len(before) :] if both.startswith(before) else tokenizer.decode(new)


class Growing:
    """The text of one row while it grows.

    Args:
        tokenizer: of the side that is generated.
        prompt: ids in front, for the joint; empty for a target.
        strings: stop strings; what may be the beginning of one is held back until it is clear.
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
        """What there is to show after one more token; empty while a character is incomplete."""
        self.new.append(token)
        text = continuation(self.tokenizer, self.prompt, self.new)
        if text.endswith("\ufffd"):
            return ""
        return self._show(text[: len(text) - self._unclear(text)])

    def rest(self, text: str) -> str:
        """What of the finished text was not shown yet."""
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
