"""Rules that change the scores of next tokens before one is chosen.

A rule is called with scores [rows, vocab] and the ids of every row, and may change the scores in
place. The rules compute what transformers' logits processors compute, in the same order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from uertool.tasks.generation.settings import Decoding
from uertool.tasks.generation.special_tokens import SpecialTokens

NEVER = float("-inf")


class Progress(Protocol):
    """The part of a row that rules read."""

    @property
    def context(self) -> list[int]:
        """Prompt (for an encoder-decoder: the start of the target) and new tokens."""

    @property
    def length(self) -> int:
        """Number of new ones among them."""

    @property
    def room(self) -> int:
        """Most new ones."""


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
    """Forbids stop tokens until a text has a number of new tokens."""

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
    """Allows one token only, as the first or as the last new one (BART's <s> and </s>)."""

    token: int
    last: bool = False

    def __call__(self, scores: Tensor, rows: Sequence[Progress]) -> Tensor:
        for number, row in enumerate(rows):
            place = row.room - 1 if self.last else 0
            if row.length == place:
                scores[number] = NEVER
                scores[number, self.token] = 0.0
        return scores


def rules_of(
    decoding: Decoding,
    forbidden: Sequence[Sequence[int]],
    stops: Collection[int],
    special: SpecialTokens,
) -> list[Rule]:
    """The rules for some settings, in the order in which they apply.

    Args:
        decoding: the settings.
        forbidden: ids of each word that must not be written.
        stops: ids that end a text.
        special: with the tokens that a model forces.
    """
    rules: list[Rule] = []
    if decoding.repetition_penalty != 1.0:
        rules.append(RepetitionPenalty(decoding.repetition_penalty))
    if decoding.no_repeat_ngram > 0:
        rules.append(NoRepeatNgram(decoding.no_repeat_ngram))
    if forbidden:
        rules.append(ForbiddenWords(forbidden))
    if decoding.min_new_tokens > 0:
        rules.append(MinNewTokens(decoding.min_new_tokens, sorted(stops)))
    if special.forced_first is not None:
        rules.append(ForcedToken(special.forced_first))
    if special.forced_last is not None:
        rules.append(ForcedToken(special.forced_last, last=True))
    return rules


def apply_rules(rules: Sequence[Rule], scores: Tensor, rows: Sequence[Progress]) -> Tensor:
    """Scores [rows, vocab] after all rules; the given ones are not changed."""
    if not rules:
        return scores
    scores = scores.clone()
    for rule in rules:
        scores = rule(scores, rows)
    return scores
