"""What a cloze test found: guesses and scores of one line, and figures of a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from uertool.engine.work import Figures
from uertool.io.display import Report, table
from uertool.tasks.cloze.masking import Unmasked
from uertool.text.detokenize import Joining, join, readable


class Guess(NamedTuple):
    """A token that the model proposes for a mask."""

    id: int
    token: str
    probability: float


@dataclass(frozen=True, slots=True)
class MaskResult:
    """What the model says about one mask.

    Attributes:
        position: its place among the ids of the line.
        guesses: the best tokens, most probable first.
        label: the token that was replaced; None where the user wrote the mask.
        label_id, rank, probability: of that token; rank 1 is the best guess.
    """

    position: int
    guesses: tuple[Guess, ...]
    label: str | None = None
    label_id: int | None = None
    rank: int | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class WordScore:
    """A given word in place of masks.

    Attributes:
        text: the word.
        log_probability: joint, natural logarithm, of all its tokens.
        share: its probability among the given words.
    """

    text: str
    log_probability: float
    share: float


@dataclass(frozen=True, slots=True)
class SlotResult:
    """Neighbouring masks as one place, and the given words by falling probability."""

    start: int
    stop: int
    words: tuple[WordScore, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ClozeResult(Report):
    """One line (or one variant of it) and what was found.

    Attributes:
        line: the line's place in the input, from 0.
        text: the line.
        ids: what the model saw, special tokens included.
        tokens: the same as tokens.
        masks: one for each masked token; none for a line without.
        slots: scores of given words.
        filled: the line with sampled tokens in place of the masks, with `augment`.
        variant: which variant it is, from 1; 0 for the line itself.
        was_cut: whether the line was longer than what fits.
        reason: why nothing was masked, or None.
        fields: the other columns or fields of the line.
        joining: how tokens become text, see `uertool.text.detokenize`.
    """

    line: int
    text: str
    ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    masks: tuple[MaskResult, ...] = ()
    slots: tuple[SlotResult, ...] = ()
    filled: str | None = None
    variant: int = 0
    was_cut: bool = False
    reason: Unmasked | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    joining: Joining = "characters"

    def shown(self, token: str) -> str:
        """A token for people; only those of byte-level BPE differ."""
        return readable(token, self.joining)

    def sentence(self) -> str:
        """All tokens in a row, for people."""
        return join(self.tokens, "bytes" if self.joining == "bytes" else "characters")

    def __str__(self) -> str:
        found = [
            f"{self.shown(guess.token)} {guess.probability:.1%}"
            for m in self.masks
            for guess in m.guesses
        ]
        words = [f"{word.text} {word.share:.1%}" for slot in self.slots for word in slot.words]
        return f"{self.text}  {self.filled or ', '.join(words or found)}"

    def __repr__(self) -> str:
        found = [self.shown(guess.token) for mask in self.masks for guess in mask.guesses]
        words = [word.text for slot in self.slots for word in slot.words]
        shown = self.filled or " ".join((words or found)[:10]) or self.reason
        return f"ClozeResult({self.text[:80]!r}: {shown})"

    def _repr_html_(self) -> str:
        columns = [
            [f"{word.text} {word.share:.1%}" for word in slot.words] for slot in self.slots
        ] or [
            [f"{self.shown(guess.token)} {guess.probability:.1%}" for guess in mask.guesses]
            for mask in self.masks
        ]
        header = [f"mask {number}" for number in range(1, len(columns) + 1)]
        header[:1] = [self.filled or self.reason or "mask"] if len(columns) < 2 else header[:1]
        return table(header, zip_longest(*columns, fillvalue=""), caption=self.text)


@dataclass
class ClozeSummary(Figures):
    """Figures of a run, added up result by result."""

    lines: int = 0
    masks: int = 0
    variants: int = 0
    known: int = 0  # masks whose true token is known
    right: int = 0  # of these: the best guess
    among_best: int = 0  # of these: one of the guesses
    cut: int = 0
    unmasked: dict[str, int] = field(default_factory=dict)

    def add(self, result: ClozeResult) -> None:
        """Count one result."""
        is_original = result.variant == 0 and result.filled is not None
        if result.variant <= 1 and not is_original:
            self.lines += 1
            self.cut += result.was_cut
            if result.reason is not None:
                self.unmasked[result.reason] = self.unmasked.get(result.reason, 0) + 1
        self.variants += result.filled is not None and not is_original
        self.masks += len(result.masks)
        for mask in result.masks:
            if mask.rank is not None:
                self.known += 1
                self.right += mask.rank == 1
                self.among_best += mask.rank <= len(mask.guesses)
