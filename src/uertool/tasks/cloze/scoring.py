"""What a model predicts for masks: log-probabilities, scores of given words, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from uertool.engine.batching import Encoded, collate
from uertool.errors import VocabError
from uertool.loading.device import to_device
from uertool.models.model import UerModel
from uertool.tasks.cloze.settings import Order

#: Tokens that begin a word, and tokens that continue one. Tokenizers without such a
#: difference have FIRST only.
Kind = Literal["first", "inner"]
FIRST: Kind = "first"
INNER: Kind = "inner"

#: Rows of the vocabulary that are scored at a time: 64 MiB of float32 at 21,128 entries.
_PLACES = 800

#: Rows that are drawn from at a time, in double precision.
_DRAWN = 128


class Gap(NamedTuple):
    """A row of ids with masks, and the positions of those to predict."""

    ids: Sequence[int]
    places: Sequence[int]


@dataclass(frozen=True)
class Filler:
    """A model with a masked-language head, asked about places only.

    Attributes:
        model: the model, in evaluation mode.
        device: where the model is.
        tokens: most tokens of one pass, padding counted.
        pad_id: what padding is filled with.
        pad_to: see `uertool.engine.batching.Limits`.
    """

    model: UerModel
    device: torch.device
    tokens: int = 2048
    pad_id: int = 0
    pad_to: int | None = None

    def log_probabilities(self, gaps: Sequence[Gap]) -> list[Tensor]:
        """For each gap the log-probabilities at its places, float32 [places, vocab]."""
        found: list[Tensor] = []
        for start, stop in self._passes(gaps):
            part = gaps[start:stop]
            items = [Encoded(n, gap.ids) for n, gap in enumerate(part)]
            batch = collate(items, pad_id=self.pad_id, pad_to=self.pad_to).to(self.device)
            rows = [n for n, gap in enumerate(part) for _ in gap.places]
            places = [place for gap in part for place in gap.places]
            scores = self.at(batch.ids, batch.segs, rows, places)
            found.extend(torch.split(scores, [len(gap.places) for gap in part]))
        return found

    def at(self, ids: Tensor, segs: Tensor, rows: Sequence[int], places: Sequence[int]) -> Tensor:
        """Log-probabilities at places of a batch, float32 [places, vocab]; see `parts_at`."""
        parts = list(self.parts_at(ids, segs, rows, places))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def parts_at(
        self, ids: Tensor, segs: Tensor, rows: Sequence[int], places: Sequence[int]
    ) -> Iterator[Tensor]:
        """Log-probabilities at places of a batch, some hundred places at a time.

        Args:
            ids, segs: [batch, length].
            rows, places: the row and the position of each place, by rising rows.
        """
        head = self.model.mlm
        assert head is not None, "load_model loads this head"
        for part in torch.split(self._hidden_at(ids, segs, rows, places), _PLACES):
            yield head(part).float().log_softmax(-1)

    def _hidden_at(
        self, ids: Tensor, segs: Tensor, rows: Sequence[int], places: Sequence[int]
    ) -> Tensor:
        """Hidden states of the last layer at places [places, hidden]."""
        counts = np.bincount(np.asarray(rows, dtype=np.int64), minlength=ids.shape[0])
        asked = np.arange(counts.max()) < counts[:, None]
        if asked.size >= ids.numel():
            hidden = self.model.encode(ids, segs)
            return hidden[self._indices(rows), self._indices(places)]
        # The last layer is computed where there are masks; rows with fewer ask for position 0 too.
        positions = np.zeros(asked.shape, dtype=np.int64)
        positions[asked] = places
        hidden = self.model.encode(ids, segs, positions=self._indices(positions))
        where, column = np.nonzero(asked)
        return hidden[self._indices(where), self._indices(column)]

    def _indices(self, numbers: Any) -> Tensor:
        return to_device(torch.as_tensor(numbers, dtype=torch.long), self.device)

    def _passes(self, gaps: Sequence[Gap]) -> list[tuple[int, int]]:
        """Ranges of gaps that go through the model together."""
        passes: list[tuple[int, int]] = []
        start = width = places = 0
        for n, gap in enumerate(gaps):
            wider = max(width, len(gap.ids), self.pad_to or 0)
            places += len(gap.places)
            if n > start and ((n + 1 - start) * wider > self.tokens or places > _PLACES):
                passes.append((start, n))
                start, wider, places = n, max(len(gap.ids), self.pad_to or 0), len(gap.places)
            width = wider
        if gaps:
            passes.append((start, len(gaps)))
        return passes


# -- given words ----------------------------------------------------------------------------------


@dataclass
class _Attempt:
    """One candidate that is being put into one slot, token by token."""

    slot: int
    candidate: int
    ids: list[int]
    waiting: dict[int, int]  # place -> token that belongs there
    total: float = 0.0


def score_words(
    filler: Filler,
    slots: Sequence[tuple[Sequence[int], int, int]],
    words: Sequence[Sequence[int]],
    *,
    most: int,
    mask_id: int,
    order: Order,
) -> list[list[float]]:
    """The joint log-probability of every word in every slot.

    A slot is given as many masks as the word has tokens; they are filled one after the other, each
    given those before (the chain rule), from left to right or the most certain first.

    Args:
        filler: the model.
        slots: (ids of the row, start, stop): the masks from start to stop are one slot.
        words: token ids of the words.
        most: ids that a row may have; what a longer word pushes beyond is cut.
        mask_id: id of [MASK].
        order: which mask is filled first.

    Returns:
        For every slot a number for every word.
    """
    scores = [[0.0] * len(words) for _ in slots]
    lengths = sorted({len(word) for word in words})
    opened = [(slot, length) for slot in range(len(slots)) for length in lengths]
    gaps = []
    for slot, length in opened:
        ids, start, stop = slots[slot]
        row = [*ids[:start], *([mask_id] * length), *ids[stop:]][: max(most, start + length)]
        gaps.append(Gap(row, range(start, start + length)))
    attempts: list[_Attempt] = []
    first: list[list[float]] = []
    for (slot, length), gap, table in zip(
        opened, gaps, filler.log_probabilities(gaps), strict=True
    ):
        fitting = [n for n, word in enumerate(words) if len(word) == length]
        wanted = torch.tensor([words[n] for n in fitting], device=table.device)
        known = table.gather(1, wanted.T).T.tolist()  # [words, places]
        for n, row_scores in zip(fitting, known, strict=True):
            waiting = dict(zip(gap.places, words[n], strict=True))
            attempts.append(_Attempt(slot, n, list(gap.ids), waiting))
            first.append(row_scores)
    _fill_one(attempts, first, order)
    while unfinished := [attempt for attempt in attempts if attempt.waiting]:
        gaps = [Gap(attempt.ids, sorted(attempt.waiting)) for attempt in unfinished]
        tables = filler.log_probabilities(gaps)
        known = [
            table[range(len(gap.places)), [attempt.waiting[p] for p in gap.places]].tolist()
            for attempt, gap, table in zip(unfinished, gaps, tables, strict=True)
        ]
        _fill_one(unfinished, known, order)
    for attempt in attempts:
        scores[attempt.slot][attempt.candidate] = attempt.total
    return scores


def _fill_one(attempts: Sequence[_Attempt], known: Sequence[Sequence[float]], order: Order) -> None:
    """Put one more token of every attempt in its place, given the scores of those that wait."""
    for attempt, scores in zip(attempts, known, strict=True):
        places = sorted(attempt.waiting)
        n = 0 if order == "left-to-right" else max(range(len(places)), key=scores.__getitem__)
        attempt.total += scores[n]
        attempt.ids[places[n]] = attempt.waiting.pop(places[n])


# -- samples --------------------------------------------------------------------------------------


@dataclass
class Draft:
    """A row whose masks are to be filled by sampling.

    Attributes:
        ids: the row; masks are replaced as they are drawn.
        places: the masks that are still to be filled.
        never: by place, a token that may not be drawn: the one that was masked.
        kinds: by place, which kind of token belongs there, see `sample`.
        stream: its own random numbers.
    """

    ids: list[int]
    places: list[int]
    never: dict[int, int]
    kinds: dict[int, Kind]
    stream: np.random.Generator = field(repr=False)


def sample(
    filler: Filler,
    drafts: Sequence[Draft],
    *,
    temperature: float,
    best: int,
    allowed: Mapping[Kind, Tensor],
) -> None:
    """Fill the masks of every draft by drawing from the model, from left to right.

    Args:
        filler: the model.
        drafts: changed in place.
        temperature: above 0; below 1 prefers probable tokens, above 1 improbable ones.
        best: how many of the most probable tokens, of those that may come, are drawn from.
        allowed: for every kind of place the ids that may be drawn there, bool [vocab].

    Raises:
        VocabError: no token may come in some place.
    """
    while waiting := [draft for draft in drafts if draft.places]:
        places = [draft.places.pop(0) for draft in waiting]
        tables = filler.log_probabilities(
            [Gap(draft.ids, [place]) for draft, place in zip(waiting, places, strict=True)]
        )
        for start in range(0, len(waiting), _DRAWN):
            some = slice(start, start + _DRAWN)
            _draw(waiting[some], places[some], torch.cat(tables[some]), temperature, best, allowed)


def _draw(
    drafts: Sequence[Draft],
    places: Sequence[int],
    table: Tensor,
    temperature: float,
    best: int,
    allowed: Mapping[Kind, Tensor],
) -> None:
    """Put a token into one place of every draft, given log-probabilities [drafts, vocab]."""
    pairs = list(zip(drafts, places, strict=True))
    may = torch.stack([_may_come(draft, place, allowed) for draft, place in pairs])
    if not bool(may.any(-1).all()):
        raise VocabError(
            "The vocabulary has no other token for a place that is to be varied.",
            "Is this the vocabulary of the model?",
        )
    # In double precision on the CPU, so that devices and batches draw the same.
    scores = table.cpu().double().masked_fill(~may, -torch.inf)
    # In the order of ids: that of scores could differ where two are nearly equal.
    ids = scores.topk(min(best, scores.shape[1]), dim=-1).indices.sort(-1).values
    scores = scores.gather(1, ids)
    heights = (scores / temperature).softmax(-1).cumsum(-1)
    for row, (draft, place) in enumerate(pairs):
        # Below the last height, so that what is drawn has a probability.
        point = draft.stream.random() * float(heights[row, -1])
        draw = int(torch.searchsorted(heights[row], point, right=True))
        draft.ids[place] = int(ids[row, draw])


def _may_come(draft: Draft, place: int, allowed: Mapping[Kind, Tensor]) -> Tensor:
    """The ids that may come in a place, bool [vocab]: another token of its kind, or of any."""
    may = allowed[draft.kinds[place]].clone()
    for _ in range(2):
        if place in draft.never:
            may[draft.never[place]] = False
        if bool(may.any()):
            break
        may = allowed[FIRST] | allowed[INNER]
    return may
