"""Rules that change the scores of next tokens before one is chosen.

A rule is called with scores [rows, vocab] and the ids of every row, and may change the scores in
place. The rules stand in the order in which transformers applies its own, and compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

NEVER = float("-inf")


class Progress(Protocol):
    """What a rule may know of a row."""

    @property
    def context(self) -> list[int]:
        """Prompt (for an encoder-decoder: the start of the target) and new tokens."""

    @property
    def length(self) -> int:
        """How many of them are new."""

    @property
    def room(self) -> int:
        """How many new ones there may be."""


class Rule(Protocol):
    """Changes scores of next tokens."""

    def __call__(self, scores: Tensor, rows: Sequence[Progress]) -> Tensor:
        """New scores [rows, vocab]; the old ones may be written to."""


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive scores of tokens already there, multiplies negative ones.

    Keskar et al. 2019 (arXiv 1909.05858), section 4.1.
    """

    penalty: float

    def __call__(self, scores: Tensor, rows: Sequence[Progress]) -> Tensor:
        for number, row in enumerate(rows):
            known = torch.tensor(sorted(set(row.context)), device=scores.device)
            old = scores[number, known]
            scores[number, known] = torch.where(old < 0, old * self.penalty, old / self.penalty)
        return scores


@dataclass(frozen=True)
class NoRepeatNgram:
    """Forbids the token that would repeat `size` tokens already there in that order."""

    size: int

    def __call__(self, scores: Tensor, rows: Sequence[Progress]) -> Tensor:
        for number, row in enumerate(rows):
            banned = self.banned(row.context)
            if banned:
                scores[number, torch.tensor(banned, device=scores.device)] = NEVER
        return scores

    def banned(self, context: list[int]) -> list[int]:
        """Ids that would complete a repetition."""
        before = self.size - 1
        if len(context) < self.size:
            return []
        tail = context[len(context) - before :]
        return [
            context[at + before]
            for at in range(len(context) - before)
            if context[at : at + before] == tail
        ]


class ForbiddenWords:
    """Forbids the last token of a word whose other tokens have just been generated.

    Args:
        words: the ids of each word.
    """

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.single = sorted({word[0] for word in words if len(word) == 1})
        self.longer = [(list(word[:-1]), word[-1]) for word in words if len(word) > 1]

    def __call__(self, scores: Tensor, rows: Sequence[Progress]) -> Tensor:
        if self.single:
            scores[:, torch.tensor(self.single, device=scores.device)] = NEVER
        for beginning, last in self.longer:
            for number, row in enumerate(rows):
                if row.context[-len(beginning) :] == beginning:
                    scores[number, last] = NEVER
        return scores


class MinNewTokens:
    """Forbids stop tokens until a text has so many new tokens."""

    def __init__(self, least: int, stop: Sequence[int]) -> None:
        self.least = least
        self.stop = sorted(stop)

    def __call__(self, scores: Tensor, rows: Sequence[Progress]) -> Tensor:
        short = [number for number, row in enumerate(rows) if row.length < self.least]
        if short and self.stop:
            index = torch.tensor(short, device=scores.device)[:, None]
            scores[index, torch.tensor(self.stop, device=scores.device)] = NEVER
        return scores


@dataclass(frozen=True)
class ForcedToken:
    """Leaves one token only, as the first or as the last new one (BART's <s> and </s>)."""

    token: int
    last: bool = False

    def __call__(self, scores: Tensor, rows: Sequence[Progress]) -> Tensor:
        for number, row in enumerate(rows):
            place = row.room - 1 if self.last else 0
            if row.length == place:
                scores[number] = NEVER
                scores[number, self.token] = 0.0
        return scores


def apply_rules(rules: Sequence[Rule], scores: Tensor, rows: Sequence[Progress]) -> Tensor:
    """Scores [rows, vocab] after all rules; the given ones stay as they are."""
    if not rules:
        return scores
    scores = scores.clone()
    for rule in rules:
        scores = rule(scores, rows)
    return scores
