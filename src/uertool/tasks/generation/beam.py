"""Beam search with the hypotheses and scores of transformers' `generate`.

Each prompt has `width` unfinished beams and the `width` best finished texts so far. A finished
text's score is the sum of its tokens' log-probabilities divided by (number of new tokens) to the
power of `length_penalty`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uertool.errors import UsageError
from uertool.tasks.generation.stopping import Reason

#: Far below any sum of log-probabilities; what transformers uses for "not to be chosen".
FAR_BELOW = -1.0e9


@dataclass(frozen=True)
class BeamSettings:
    """How beams are kept and compared.

    Attributes:
        width: number of beams.
        length_penalty: above 0 favours long texts, below 0 short ones.
        early_stopping: True ends with `width` finished texts, False when no beam of the present
            length could do better, "never" when none of any length could.
    """

    width: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"`beam` is {self.width} and must be 1 or more.")


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
        settings: see BeamSettings.
        room: how many new tokens a text may have.
    """

    def __init__(self, settings: BeamSettings, room: int) -> None:
        self.settings = settings
        self.room = room
        self.length = 0
        #: Sums of log-probabilities of the running beams; only the first one counts at the start.
        self.running = [0.0] + [FAR_BELOW] * (settings.width - 1)
        self.beams: list[list[int]] = [[] for _ in range(settings.width)]
        self.finished: list[Hypothesis] = []
        self.done = False

    def candidates_wanted(self, stop_tokens: int) -> int:
        """How many continuations `advance` needs to see, best first."""
        return max(2, 1 + stop_tokens) * self.settings.width

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
            (parent, token) of the beams that run on; `done` says whether they need to.
        """
        settings = self.settings
        self.length += 1
        order = sorted(
            range(len(scores)),
            key=lambda at: scores[at] + (FAR_BELOW if reasons[at] else 0.0),
            reverse=True,
        )[: settings.width]
        full = len(self.finished) == settings.width
        if not (full and settings.early_stopping is True):
            for at in range(min(settings.width, len(scores))):
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
        del self.finished[self.settings.width :]

    def _can_improve(self) -> bool:
        settings = self.settings
        if len(self.finished) < settings.width:
            return True
        if settings.early_stopping is True:
            return False
        longest = settings.early_stopping == "never" and settings.length_penalty > 0
        length = self.room if longest else self.length
        best = self.running[0] / length**settings.length_penalty
        return bool(best > self.finished[-1].score)
