"""Choosing the next token: the best one, or one drawn from a truncated distribution.

Every draw is a function of (seed, line number, number of the text, step), so a text does not depend
on the batch that it was generated in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from uertool.tasks.generation.settings import Decoding

#: This many best tokens nearly always hold the mass of top-p; sorting all takes far longer.
_NEAR = 1024


def uniform(seed: int, line: int, number: int, step: int) -> float:
    """A pseudo-random number in [0, 1) with 53 bits, a function of its arguments only."""
    key = f"{seed}/{line}/{number}/{step}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


class Sampling:
    """Draws next tokens from a distribution that is cut before.

    The cuts are made in the order temperature, `top_k`, `top_p`, `min_p`, `typical`, each on what
    the one before left, as transformers makes them.

    Args:
        settings: the cuts.
    """

    def __init__(self, settings: Decoding) -> None:
        self.settings = settings

    def cut(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores of the tokens that may be drawn.

        Args:
            scores: [rows, vocab].

        Returns:
            Scores [rows, n] with -inf at what was cut, and their token ids [rows, n], or None where
            column and id are the same.
        """
        scores = self._tempered(scores)
        ids = None
        if 0 < self.settings.top_k < scores.shape[1]:
            scores, ids = scores.topk(self.settings.top_k)
        elif 0 < self.settings.top_p < 1:
            scores, ids = scores.sort(descending=True, stable=True)
        if 0 < self.settings.top_p < 1:
            scores = _nucleus(scores, scores.softmax(-1), self.settings.top_p)
        return self._narrowed(scores), ids

    def draw(self, scores: Tensor, uniforms: Sequence[float]) -> Tensor:
        """One token per row, by inversion of the cumulative distribution.

        Args:
            scores: [rows, vocab].
            uniforms: one number in [0, 1) per row.

        Returns:
            Ids [rows].
        """
        if self.settings.deterministic:
            return scores.argmax(-1)
        if scores.device.type == "mps":  # which has no float64
            return self.draw(scores.cpu(), uniforms).to(scores.device)
        target = torch.tensor(uniforms, dtype=torch.float64, device=scores.device)[:, None]
        if self.settings.top_k == 0 and 0 < self.settings.top_p < 1 and scores.shape[1] > _NEAR:
            return self._draw_near(scores, target)
        return _invert(*self.cut(scores), target)

    def _draw_near(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """As `draw`, without sorting a whole vocabulary where its best tokens suffice."""
        tempered = self._tempered(scores)
        best, ids = tempered.topk(_NEAR)
        probabilities = (best - tempered.logsumexp(-1, keepdim=True)).exp()
        chosen = _invert(
            self._narrowed(_nucleus(best, probabilities, self.settings.top_p)), ids, uniforms
        )
        flat = (probabilities.sum(-1) < self.settings.top_p).nonzero()[:, 0]
        if len(flat):  # row by row, so that none depends on its neighbours
            chosen[flat] = _invert(*self.cut(scores[flat]), uniforms[flat])
        return chosen

    def _tempered(self, scores: Tensor) -> Tensor:
        return scores / self.settings.temperature if self.settings.temperature != 1.0 else scores

    def _narrowed(self, scores: Tensor) -> Tensor:
        """The cuts that need no order."""
        if self.settings.min_p > 0:
            probabilities = scores.softmax(-1)
            least = self.settings.min_p * probabilities.amax(-1, keepdim=True)
            scores = scores.masked_fill(probabilities < least, float("-inf"))
        return _typical(scores, self.settings.typical) if 0 < self.settings.typical < 1 else scores


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
