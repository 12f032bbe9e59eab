"""From new ids to the text that a reader sees, whole or as it grows."""

from __future__ import annotations

from collections.abc import Sequence

from uertool.text.tokenizers import Tokenizer


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
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.prompt = list(prompt)
        self.new: list[int] = []
        self.shown = ""

    def add(self, token: int) -> str:
        """What there is to show after one more token; empty while a character is incomplete."""
        self.new.append(token)
        text = continuation(self.tokenizer, self.prompt, self.new)
        if text.endswith("\ufffd") or not text.startswith(self.shown):
            return ""
        more = text[len(self.shown) :]
        self.shown = text
        return more

    def rest(self) -> str:
        """What was held back."""
        text = continuation(self.tokenizer, self.prompt, self.new)
        return text[len(self.shown) :] if text.startswith(self.shown) else ""
