"""Evaluation of masked language models: every token or word of a text is masked in turn.

The pseudo-perplexity is exp of the mean negative log-probability of the masked tokens (Salazar,
Liang, Nguyen, Kirchhoff 2020, arXiv:1910.14659). It depends on the vocabulary, so that it compares
models that have the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from uertool.engine.batching import Batch, Encoded
from uertool.engine.jobs import run_job
from uertool.errors import InputError
from uertool.io.display import Report
from uertool.loading.registry import LoadedModel
from uertool.tasks.cloze.job import ClozeJob
from uertool.tasks.cloze.masking import Masked
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.text.readers import Line

#: Lines that are sorted by length together; each becomes a row for every word.
_WINDOW = 32


class _Found(NamedTuple):
    """The result for one masked word, or for a line without any (no tokens)."""

    line: int
    tokens: int = 0
    right: int = 0
    loss: float = 0.0
    was_cut: bool = False


class EveryWordJob(ClozeJob):
    """Masks each word of every line in turn; a line without known tokens has one empty result."""

    def encode(self, items: list[Line]) -> list[Encoded]:
        """Lines to a row of ids for every word."""
        found: list[Encoded] = []
        rows = self._masker.encode([line.text for line in items])
        for line, ids in zip(items, rows, strict=True):
            words = list(self._masker.each_word(ids))
            found.extend(Encoded(line.number, word.ids, payload=word) for word in words)
            if not words:
                found.append(Encoded(line.number, ()))
        return found

    @torch.inference_mode()
    def step(self, batch: Batch) -> list[Any]:
        """What the model says about the masked tokens of every row."""
        batch = batch.to(self._filler.device)
        maskeds: list[Masked] = [item.payload for item in batch.items]
        rows = [n for n, masked in enumerate(maskeds) for _ in masked.positions]
        places = [place for masked in maskeds for place in masked.positions]
        labels = torch.tensor([label for masked in maskeds for label in masked.labels])
        found: list[tuple[bool, float]] = []  # of every token: whether it is right, and its loss
        for scores in self._filler.parts_at(batch.ids, batch.segs, rows, places):
            wanted = labels[len(found) : len(found) + len(scores)].to(scores.device)
            losses = -scores.gather(1, wanted[:, None])[:, 0]
            are_right = scores.argmax(-1) == wanted
            found.extend(zip(are_right.tolist(), losses.tolist(), strict=True))
        tokens = iter(found)
        results = []
        for item, masked in zip(batch.items, maskeds, strict=True):
            count = len(masked.positions)
            right, of_word = zip(*itertools.islice(tokens, count), strict=True)
            loss = math.fsum(of_word)
            results.append(_Found(item.index, count, sum(right), loss, masked.was_cut))
        return results

    def empty(self, item: Encoded) -> Any:
        """The result of a line without known tokens."""
        return _Found(item.index)


@dataclass(frozen=True, repr=False)
class ClozeFigures(Report):
    """How well a model predicts masked tokens.

    Attributes:
        model: as it was named.
        lines: lines that were read.
        empty: of these, lines without a token that the vocabulary knows.
        cut: lines that were longer than what is read.
        words, tokens: that were masked; they are the same unless words are masked as a whole.
        word_accuracy: share of the words of which every token is the model's best guess.
        token_accuracy: share of the tokens that are the best guess.
        perplexity: pseudo-perplexity per token.
    """

    model: str
    lines: int
    empty: int
    cut: int
    words: int
    tokens: int
    word_accuracy: float
    token_accuracy: float
    perplexity: float


def evaluate_cloze(
    loaded: LoadedModel,
    lines: Iterable[Line],
    settings: ClozeSettings,
    *,
    name: str | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> ClozeFigures:
    """Mask every word of every line in turn, and add up what the model says.

    Args:
        loaded: a model with a masked-language head.
        lines: text, read as it is needed.
        settings: `whole_word`, `words`, `seq_length` and `batch_size` count.
        name: the model in the result.
        advance: called with a number of lines that are done.

    Raises:
        InputError: there is nothing to mask.
        UertoolError: see `ClozeJob`.
    """
    words = tokens = right_words = right_tokens = 0
    losses = 0.0
    seen = empty = cut = 0
    last = -1
    for found in run_job(EveryWordJob(loaded, settings), lines, window=_WINDOW):
        if found.line != last:
            last = found.line
            seen += 1
            empty += found.tokens == 0
            cut += found.was_cut
            advance(1)
        words += found.tokens > 0
        tokens += found.tokens
        right_words += found.tokens > 0 and found.right == found.tokens
        right_tokens += found.right
        losses += found.loss
    if tokens == 0:
        raise InputError(
            f"The input has no token that {loaded.reference} knows, so nothing can be masked.",
            "Check the vocabulary and the input.",
        )
    return ClozeFigures(
        model=name or loaded.reference,
        lines=seen,
        empty=empty,
        cut=cut,
        words=words,
        tokens=tokens,
        word_accuracy=right_words / words,
        token_accuracy=right_tokens / tokens,
        perplexity=math.exp(min(losses / tokens, 700.0)),
    )
