"""When a text is finished: stop tokens, stop strings, and the limit of new tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal

#: Why a text ended: at a stop token, at a stop string, or at its limit of new tokens.
Reason = Literal["stop_token", "stop_string", "length"]


class Stopping:
    """Decides whether a text is finished, and why.

    Args:
        tokens: ids that end a text.
        strings: text that ends a text once it appears in the new part.
        decode: ids to readable text; needed for strings only.
    """

    def __init__(
        self,
        tokens: Collection[int] = (),
        strings: Sequence[str] = (),
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self.tokens = frozenset(tokens)
        self.strings = tuple(strings)
        self.decode = decode

    def reason(self, ids: Sequence[int], new: int, room: int) -> Reason | None:
        """Why a text ends, or None if it continues.

        Args:
            ids: prompt and text so far.
            new: how many of them, at the end, are new; at least one.
            room: most new tokens.
        """
        if ids[-1] in self.tokens:
            return "stop_token"
        if self.strings and self.decode is not None:
            text = self.decode(ids[len(ids) - new :])
            if any(string in text for string in self.strings):
                return "stop_string"
        return "length" if new >= room else None

    def visible(self, new: Sequence[int], reason: Reason | None) -> Sequence[int]:
        """The new ids without the stop token that ended them."""
        return new[:-1] if reason == "stop_token" else new

    def cut(self, text: str) -> str:
        """A text up to the first stop string in it."""
        places = [text.find(string) for string in self.strings if string in text]
        return text[: min(places)] if places else text
