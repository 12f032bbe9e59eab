"""Choosing a next token: the best one, or one drawn from a cut distribution.

Every draw is a function of (seed, line number, number of the return, step), so a text does not
depend on the batch that it was generated in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uertool.errors import UsageError

#: So many best tokens nearly always hold the mass of top-p; sorting a vocabulary takes far longer.
_NEAR = 1024


def uniform(seed: int, line: int, number: int, step: int) -> float:
    """A number in [0, 1) with 53 random bits that only its arguments decide."""
    key = f"{seed}/{line}/{number}/{step}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


@dataclass(frozen=True)
class Sampling:
    """How the distribution is cut before a token is drawn from it.

    The cuts are made in the order of the fields, each on what the one before left, as transformers
    makes them.

    Attributes:
        temperature: scores are divided by it; 0 takes the best token.
        top_k: the best k tokens only; 0 for all.
        top_p: the fewest best tokens that have this much probability together (Holtzman et al.
            2020, arXiv 1904.09751); 0 or 1 for all.
        min_p: tokens with at least this part of the best one's probability (Nguyen et al. 2024,
            arXiv 2407.01082).
        typical: the tokens whose surprise is nearest to the expected one and that have this much
            probability together (Meister et al. 2022, arXiv 2202.00666); 0 or 1 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    typical: float = 0.0

    def __post_init__(self) -> None:
        problems = [
            (
                not self.temperature >= 0,
                "`temperature`",
                self.temperature,
                "0 (the best token) or more",
            ),
            (self.top_k < 0, "`top_k`", self.top_k, "0 (all tokens) or more"),
            (not 0 <= self.top_p <= 1, "`top_p`", self.top_p, "in (0, 1], or 0 to leave it out"),
            (not 0 <= self.min_p <= 1, "`min_p`", self.min_p, "in [0, 1]"),
            (
                not 0 <= self.typical <= 1,
                "`typical`",
                self.typical,
                "in (0, 1], or 0 to leave it out",
            ),
        ]
        wrong = [
            f"{name} is {value} and must be {must}" for bad, name, value, must in problems if bad
        ]
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    @property
    def greedy(self) -> bool:
        """Whether there is nothing to draw."""
        return self.temperature == 0 or self.top_k == 1

    def cut(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """What may be drawn.

        Args:
            scores: [rows, vocab].

        Returns:
            Scores [rows, n] with -inf at what was cut, and their token ids [rows, n], or None where
            column and id are the same.
        """
        scores = self._tempered(scores)
        ids = None
        if 0 < self.top_k < scores.shape[1]:
            scores, ids = scores.topk(self.top_k)
        elif 0 < self.top_p < 1:
            scores, ids = scores.sort(descending=True, stable=True)
        if 0 < self.top_p < 1:
            scores = _nucleus(scores, scores.softmax(-1), self.top_p)
        return self._narrowed(scores), ids

    def draw(self, scores: Tensor, uniforms: Sequence[float]) -> Tensor:
        """One token per row, by inversion of the cumulative distribution.

        Args:
            scores: [rows, vocab].
            uniforms: one number in [0, 1) per row.

        Returns:
            Ids [rows].
        """
        if self.greedy:
            return scores.argmax(-1)
        if scores.device.type == "mps":  # which has no float64
            return self.draw(scores.cpu(), uniforms).to(scores.device)
        target = torch.tensor(uniforms, dtype=torch.float64, device=scores.device)[:, None]
        if self.top_k == 0 and 0 < self.top_p < 1 and scores.shape[1] > _NEAR:
            return self._draw_near(scores, target)
        return _invert(*self.cut(scores), target)

    def _draw_near(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """As `draw`, without sorting all of a vocabulary whose best tokens suffice."""
        tempered = self._tempered(scores)
        best, ids = tempered.topk(_NEAR)
        probabilities = (best - tempered.logsumexp(-1, keepdim=True)).exp()
        chosen = _invert(self._narrowed(_nucleus(best, probabilities, self.top_p)), ids, uniforms)
        flat = (probabilities.sum(-1) < self.top_p).nonzero()[:, 0]
        if len(flat):  # row by row, so that none depends on its neighbours
            chosen[flat] = _invert(*self.cut(scores[flat]), uniforms[flat])
        return chosen

    def _tempered(self, scores: Tensor) -> Tensor:
        return scores / self.temperature if self.temperature != 1.0 else scores

    def _narrowed(self, scores: Tensor) -> Tensor:
        """The cuts that need no order."""
        if self.min_p > 0:
            probabilities = scores.softmax(-1)
            least = self.min_p * probabilities.amax(-1, keepdim=True)
            scores = scores.masked_fill(probabilities < least, float("-inf"))
        return _typical(scores, self.typical) if 0 < self.typical < 1 else scores


def _invert(scores: Tensor, ids: Tensor | None, uniforms: Tensor) -> Tensor:
    """Where the cumulative distribution of scores [rows, n] passes uniforms [rows, 1]: [rows]."""
    cumulative = scores.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    # A product rounded up to the total must not fall beyond the last possible token.
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    column = torch.searchsorted(cumulative, target, right=True)
    return (column if ids is None else ids.gather(1, column))[:, 0]


def _nucleus(scores: Tensor, probabilities: Tensor, mass: float) -> Tensor:
    """Scores [rows, n], best first, with -inf behind the first that have so much probability."""
    cut = probabilities.cumsum(-1) - probabilities >= mass
    cut[:, 0] = False
    return scores.masked_fill(cut, float("-inf"))


def _typical(scores: Tensor, mass: float) -> Tensor:
    log_probabilities = scores.log_softmax(-1)
    probabilities = log_probabilities.exp()
    entropy = -(log_probabilities * probabilities).nansum(-1, keepdim=True)
    distance = (-log_probabilities - entropy).abs()
    nearest, order = distance.sort(dim=-1, stable=True)
    cumulative = probabilities.gather(-1, order).cumsum(-1)
    last = (cumulative < mass).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    return scores.masked_fill(distance > nearest.gather(-1, last), float("-inf"))
