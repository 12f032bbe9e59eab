"""The tokenizer whose tokens are single characters."""

from __future__ import annotations

from collections.abc import Sequence

from uertool.text.tokenizers.base import Tokenizer


class CharTokenizer(Tokenizer):
    """Every character is a token, blanks within the line too; blanks around it are cut off."""

    name = "char"
    joining = "characters"

    def _pieces(self, text: str) -> Sequence[str]:
        return text.strip()

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        start = len(text) - len(text.lstrip())
        return [(place, place + 1) for place in range(start, start + len(text.strip()))]
