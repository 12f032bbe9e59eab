"""Beam search with the hypotheses and scores of transformers' `generate`.

Each prompt has `beam` unfinished beams and as many of the best finished texts so far. A finished
text's score is the sum of its tokens' log-probabilities divided by (number of new tokens) to the
power of `length_penalty`.
"""

from __future__ import annotations

from dataclasses import dataclass

from uertool.tasks.generation.settings import Decoding
from uertool.tasks.generation.stopping import Reason

#: Far below any sum of log-probabilities; what transformers uses for candidates that are excluded.
FAR_BELOW = -1.0e9


@dataclass(frozen=True)
class Hypothesis:
    """A finished text."""

    ids: tuple[int, ...]
    log_probability: float
    score: float
    reason: Reason


class BeamGroup:
    """The beams of one prompt.

    Args:
        settings: with `beam`.
        room: how many new tokens a text may have.
    """

    def __init__(self, settings: Decoding, room: int) -> None:
        assert settings.beam is not None
        self.settings = settings
        self.width = settings.beam
        self.room = room
        self.length = 0
        #: Sums of log-probabilities of the running beams; only the first one counts at the start.
        self.running = [0.0] + [FAR_BELOW] * (self.width - 1)
        self.beams: list[list[int]] = [[] for _ in range(self.width)]
        self.finished: list[Hypothesis] = []
        self.done = False

    def advance(
        self,
        scores: list[float],
        parents: list[int],
        tokens: list[int],
        reasons: list[Reason | None],
    ) -> list[tuple[int, int]]:
        """Takes the best continuations of all beams, best first.

        Args:
            scores: sums of log-probabilities.
            parents: which beam each continues.
            tokens: with what.
            reasons: why it is finished, or None.

        Returns:
            (parent, token) of the beams that continue, unless `done` is set.
        """
        settings = self.settings
        self.length += 1
        order = sorted(
            range(len(scores)),
            key=lambda at: scores[at] + (FAR_BELOW if reasons[at] else 0.0),
            reverse=True,
        )[: self.width]
        full = len(self.finished) == self.width
        if not (full and settings.early_stopping == "true"):
            for at in range(min(self.width, len(scores))):
                reason = reasons[at]
                if reason is not None:
                    self._finish(scores[at], (*self.beams[parents[at]], tokens[at]), reason)
        self.running = [scores[at] + (FAR_BELOW if reasons[at] else 0.0) for at in order]
        self.beams = [[*self.beams[parents[at]], tokens[at]] for at in order]
        self.done = all(reasons) or not self._can_improve()
        return [(parents[at], tokens[at]) for at in order]

    def _finish(self, score: float, ids: tuple[int, ...], reason: Reason) -> None:
        penalized = score / self.length**self.settings.length_penalty
        self.finished.append(Hypothesis(ids, score, penalized, reason))
        self.finished.sort(key=lambda text: text.score, reverse=True)  # stable: first come first
        del self.finished[self.width :]

    def _can_improve(self) -> bool:
        settings = self.settings
        if len(self.finished) < self.width:
            return True
        if settings.early_stopping == "true":
            return False
        longest = settings.early_stopping == "never" and settings.length_penalty > 0
        length = self.room if longest else self.length
        best = self.running[0] / length**settings.length_penalty
        return bool(best > self.finished[-1].score)
