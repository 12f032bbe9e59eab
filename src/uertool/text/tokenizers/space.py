"""The tokenizer whose tokens are separated by spaces."""

from __future__ import annotations

from collections.abc import Sequence

from uertool.text.tokenizers.base import Tokenizer


class SpaceTokenizer(Tokenizer):
    """Everything between two blanks is a token.

    As in UER-py, two blanks in a row hold an empty token between them, and an empty line is one.
    """

    name = "space"
    joining = "blanks"

    def _pieces(self, text: str) -> Sequence[str]:
        return text.strip().split(" ")

    def encode_parts(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        # Blanks at the border of two parts are not an empty token.
        return [
            [
                ids if part.strip() or len(row) == 1 else []
                for part, ids in zip(row, found, strict=True)
            ]
            for row, found in zip(rows, super().encode_parts(rows), strict=True)
        ]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        start = len(text) - len(text.lstrip())
        found = []
        for piece in self._pieces(text):
            found.append((start, start + len(piece)))
            start += len(piece) + 1
        return found
