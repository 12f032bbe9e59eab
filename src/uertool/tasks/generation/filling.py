"""T5's gaps: sentinels <extra_id_0>, <extra_id_1>, ... in a source, and a target's answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from uertool.text.tokenizers.base import Tokenizer

#: Spellings of a gap in vocabularies: T5's own and that of UER-py's Chinese T5 vocabulary.
_SPELLING = re.compile(r"<extra_id_(\d+)>|extra(\d+)")


class Gaps:
    """The gaps that a vocabulary has sentinels for.

    Args:
        tokenizer: its vocabulary holds the sentinels.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: dict[int, int] = {}
        for token, index in tokenizer.vocab.mapping.items():
            match = _SPELLING.fullmatch(token)
            if match:
                self.ids.setdefault(int(match.group(1) or match.group(2)), index)
        self.numbers: Mapping[int, int] = {index: number for number, index in self.ids.items()}

    def __bool__(self) -> bool:
        return bool(self.ids)

    def split(self, text: str) -> list[tuple[str, int | None]]:
        """A text cut at its gaps: (text, None) and (spelling, number of the gap)."""
        parts: list[tuple[str, int | None]] = []
        end = 0
        for match in _SPELLING.finditer(text):
            number = int(match.group(1) or match.group(2))
            if number not in self.ids:
                continue
            if match.start() > end:
                parts.append((text[end : match.start()], None))
            parts.append((match.group(), number))
            end = match.end()
        if end < len(text) or not parts:
            parts.append((text[end:], None))
        return parts

    def encode(self, text: str) -> list[int]:
        """The ids of a text, each gap as its sentinel."""
        ids: list[int] = []
        for part, number in self.split(text):
            if number is None:
                ids.extend(self.tokenizer.encode(part))
            else:
                ids.append(self.ids[number])
        return ids

    def answers(self, ids: Sequence[int], tokenizer: Tokenizer) -> dict[int, str]:
        """A target's answer for each gap: the words between its sentinel and the next.

        Args:
            ids: the target.
            tokenizer: of the target.
        """
        found: dict[int, list[int]] = {}
        current: int | None = None
        for index in ids:
            number = self.numbers.get(index)
            if number is not None:
                # A sentinel that comes twice keeps its first answer.
                current = number if number not in found else None
                if current is not None:
                    found[current] = []
            elif current is not None:
                found[current].append(index)
        return {number: tokenizer.decode(words) for number, words in found.items()}

    def fill(self, text: str, answers: Mapping[int, str]) -> str:
        """The source with its gaps filled; a gap without an answer stays as it is."""
        parts = [
            part if number is None or number not in answers else answers[number]
            for part, number in self.split(text)
        ]
        return "".join(parts)
