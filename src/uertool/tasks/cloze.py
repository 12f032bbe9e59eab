"""Cloze tests: lines with masked tokens, and what a masked-language model puts there.

    model = uertool.load_model("zh-mlm-small")
    for result in model.cloze(["今天天气很[MASK]。"]):
        print(result)

`cloze_lines` streams over any number of lines and devices; `cloze` is for a few texts in hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from uertool.engine.batching import Batch, Encoded, Limits
from uertool.engine.device import token_budget
from uertool.engine.workers import run_job
from uertool.errors import ConfigError, UsageError, VocabError
from uertool.tasks.cloze_filling import Draft, Filler, Order, sample, score_words
from uertool.tasks.cloze_masking import Masked, Masker, MaskRule, Unmasked
from uertool.text.readers import Line

if TYPE_CHECKING:
    from uertool.models.registry import LoadedModel

#: Tokens of a line that are read unless something else is asked for.
DEFAULT_LENGTH = 128

_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass(frozen=True)
class ClozeSettings:
    """What is asked of a cloze test.

    Attributes:
        topn: how many guesses for each mask.
        seq_length: most tokens of a line, special ones included; longer lines are cut. None is 128,
            or as many as the model has positions for.
        batch_size: most lines of a batch; None leaves it to the number of tokens.
        rule: what is masked where a line does not say so itself.
        targets: words to be scored in the place of the masks; neighbouring masks are one place.
        order: in which order the tokens of a longer word are filled.
        augment: write this many variants of every line, with the masked tokens drawn anew.
        temperature: of the draws; below 1 prefers the likely.
    """

    topn: int = 10
    seq_length: int | None = None
    batch_size: int | None = 64
    rule: MaskRule = field(default_factory=MaskRule)
    targets: tuple[str, ...] = ()
    order: Order = "left-to-right"
    augment: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("topn", "seq_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(
                    f"--{name.replace('_', '-')} {value} is too small; give 1 or more."
                )
        if self.augment < 0:
            raise UsageError(f"--augment {self.augment} is no number of variants.")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UsageError(f"--temperature {self.temperature} is not a number above 0.")
        if self.augment and self.targets:
            raise UsageError(
                "--augment and --targets were both given.", "Draw variants, or score given words."
            )
        if not all(word.strip() for word in self.targets):
            raise UsageError("One of the words of --targets is empty.")


# -- results --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that may stand in a masked place."""

    id: int
    token: str
    probability: float


@dataclass(frozen=True, slots=True)
class MaskResult:
    """What the model says about one mask.

    Attributes:
        position: its place among the ids of the line.
        guesses: the best tokens, most probable first.
        label: the token that stood there; None where the user wrote the mask.
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
    """A given word in the place of masks.

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


@dataclass(frozen=True, slots=True)
class ClozeResult:
    """One line (or one variant of it) and what was found.

    Attributes:
        line: the line's place in the input, from 0.
        text: the line.
        ids: what the model saw, special tokens included.
        tokens: the same as tokens.
        masks: one for each masked token; none for a line without.
        slots: scores of given words.
        filled: the line with sampled tokens in the place of the masks, if that was asked for.
        variant: which variant it is, from 0.
        was_cut: whether the line was longer than what fits.
        reason: why nothing was masked, or None.
        fields: the other columns or fields of the line.
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

    def __str__(self) -> str:
        found = [
            f"{guess.token} {guess.probability:.1%}" for m in self.masks for guess in m.guesses
        ]
        words = [f"{word.text} {word.share:.1%}" for slot in self.slots for word in slot.words]
        return f"{self.text}  {self.filled or ', '.join(words or found)}"


@dataclass
class ClozeSummary:
    """Figures of a run, added up result by result."""

    lines: int = 0
    masks: int = 0
    known: int = 0  # masks whose true token is known
    right: int = 0  # of these: the best guess
    among_best: int = 0  # of these: one of the guesses
    cut: int = 0
    unmasked: dict[str, int] = field(default_factory=dict)

    def add(self, result: ClozeResult) -> None:
        """Count one result."""
        if result.variant == 0:
            self.lines += 1
            self.cut += result.was_cut
            if result.reason is not None:
                self.unmasked[result.reason] = self.unmasked.get(result.reason, 0) + 1
        self.masks += len(result.masks)
        for mask in result.masks:
            if mask.rank is not None:
                self.known += 1
                self.right += mask.rank == 1
                self.among_best += mask.rank <= len(mask.guesses)


# -- running --------------------------------------------------------------------------------------


class ClozeJob:
    """A loaded model doing cloze tests on one device; see `uertool.engine.workers.Job`.

    Raises:
        ConfigError: the model has no masked-language head.
        VocabError: the vocabulary lacks [MASK], or a character of a given word.
        UsageError: seq_length is beyond the position table.
    """

    def __init__(self, loaded: LoadedModel, settings: ClozeSettings) -> None:
        if loaded.model.mlm is None:
            raise ConfigError(
                f"{loaded.reference} has no MLM head, so it cannot guess masked tokens.",
                "A cloze test needs a model trained with --target bert, mlm or albert.",
            )
        self.settings = settings
        self.tokenizer = loaded.tokenizer
        self.seq_length = length_for(loaded, settings.seq_length)
        self.limits = Limits(
            tokens=max(token_budget(loaded.device), self.seq_length),
            rows=settings.batch_size,
            pad_id=loaded.tokenizer.pad_id or 0,
            pad_to=self.seq_length if loaded.config.needs_full_length else None,
        )
        self._masker = Masker(self.tokenizer, settings.rule, self.seq_length)
        self._filler = Filler(
            loaded.model, loaded.device, self.limits.tokens, self.limits.pad_id, self.limits.pad_to
        )
        self._words = self._words_as_ids()
        self._forbidden = self._never_drawn() if settings.augment else []

    def encode(self, items: list[Line]) -> list[Encoded]:
        """Lines to masked ids, with the line and the masks beside them."""
        found: list[Encoded] = []
        for line, ids in zip(
            items, self._masker.encode([line.text for line in items]), strict=True
        ):
            for variant in range(max(1, self.settings.augment)):
                masked = self._masker.mask(line.number, ids, variant)
                row = masked.ids if masked.positions else ()
                found.append(Encoded(line.number, row, payload=(line, masked, variant)))
        return found

    @torch.inference_mode()
    def step(self, batch: Batch) -> list[ClozeResult]:
        """What the model says about every row of a batch."""
        if self.settings.augment:
            return self._variants(batch)
        if self.settings.targets:
            return self._scores(batch)
        return self._guesses(batch)

    def empty(self, item: Encoded) -> ClozeResult:
        """The result of a line in which nothing is masked."""
        return self._result(item)

    def _result(self, item: Encoded, **found: Any) -> ClozeResult:
        line, masked, variant = item.payload
        return ClozeResult(
            line=line.number,
            text=line.text,
            ids=masked.ids,
            tokens=tuple(self.tokenizer.tokens(masked.ids)),
            variant=variant,
            was_cut=masked.was_cut,
            reason=masked.reason,
            fields=line.fields,
            **found,
        )

    def _guesses(self, batch: Batch) -> list[ClozeResult]:
        batch = batch.to(self._filler.device)
        maskeds: list[Masked] = [item.payload[1] for item in batch.items]
        rows = [n for n, masked in enumerate(maskeds) for _ in masked.positions]
        places = [place for masked in maskeds for place in masked.positions]
        scores = self._filler.at(batch.ids, batch.segs, rows, places)
        labels = [label for masked in maskeds for label in masked.labels]
        wanted = torch.tensor(
            [0 if label is None else label for label in labels], device=scores.device
        )[:, None]
        true = scores.gather(1, wanted)
        ranks = ((scores > true).sum(-1) + 1).tolist()
        chances = true[:, 0].exp().tolist()
        best, ids = scores.topk(min(self.settings.topn, scores.shape[1]), dim=-1)
        table = list(zip(best.exp().tolist(), ids.tolist(), ranks, chances, labels, strict=True))
        tokens = self.tokenizer.vocab.tokens
        results: list[ClozeResult] = []
        start = 0
        for item, masked in zip(batch.items, maskeds, strict=True):
            masks = []
            for place in masked.positions:
                probabilities, found, rank, chance, label = table[start]
                start += 1
                guesses = tuple(
                    Guess(i, tokens[i] if i < len(tokens) else f"<{i}>", p)
                    for i, p in zip(found, probabilities, strict=True)
                )
                known = () if label is None else (tokens[label], label, rank, chance)
                masks.append(MaskResult(place, guesses, *known))
            results.append(self._result(item, masks=tuple(masks)))
        return results

    def _scores(self, batch: Batch) -> list[ClozeResult]:
        slots: list[tuple[Sequence[int], int, int]] = []
        rows: list[list[tuple[int, int]]] = []
        for item in batch.items:
            masked: Masked = item.payload[1]
            found = neighbours(masked.positions)
            rows.append(found)
            slots.extend((masked.ids, start, stop) for start, stop in found)
        scores = iter(
            score_words(
                self._filler,
                slots,
                self._words,
                most=self.seq_length,
                mask_id=self._masker.mask_id,
                order=self.settings.order,
            )
        )
        results = []
        for item, guessed, found in zip(batch.items, self._guesses(batch), rows, strict=True):
            ranked = tuple(
                SlotResult(start, stop, self._ranked(next(scores))) for start, stop in found
            )
            results.append(self._result(item, masks=guessed.masks, slots=ranked))
        return results

    def _ranked(self, scores: Sequence[float]) -> tuple[WordScore, ...]:
        best = max(scores)
        weights = [math.exp(score - best) for score in scores]
        words = [
            WordScore(text, score, weight / sum(weights))
            for text, score, weight in zip(self.settings.targets, scores, weights, strict=True)
        ]
        return tuple(sorted(words, key=lambda word: -word.log_probability))

    def _variants(self, batch: Batch) -> list[ClozeResult]:
        drafts = []
        for item in batch.items:
            line, masked, variant = item.payload
            never = {
                place: label
                for place, label in zip(masked.positions, masked.labels, strict=True)
                if label is not None
            }
            stream = np.random.default_rng([self.settings.rule.seed, line.number, variant])
            drafts.append(Draft(list(masked.ids), list(masked.positions), never, stream))
        sample(
            self._filler,
            drafts,
            temperature=self.settings.temperature,
            forbidden=self._forbidden,
        )
        return [
            self._result(item, filled=self.tokenizer.decode(draft.ids))
            for item, draft in zip(batch.items, drafts, strict=True)
        ]

    def _words_as_ids(self) -> list[list[int]]:
        words: list[list[int]] = self.tokenizer.encode_batch(list(self.settings.targets))
        wrong = [
            text
            for text, ids in zip(self.settings.targets, words, strict=True)
            if not ids or self.tokenizer.unk_id in ids
        ]
        if wrong:
            raise VocabError(
                f"The vocabulary {self.tokenizer.vocab.source} cannot spell "
                f"{', '.join(map(repr, wrong))}.",
                "Leave these words out of --targets.",
            )
        return words

    def _never_drawn(self) -> list[int]:
        vocab = self.tokenizer.vocab
        unused = {
            n for n, token in enumerate(vocab.tokens) if _UNUSED.fullmatch(token) or not token
        }
        return sorted(vocab.special_ids | unused)


def length_for(loaded: LoadedModel, wanted: int | None) -> int:
    """Most tokens of a line: what is wanted, or 128 where the model has positions for them.

    Raises:
        UsageError: more are wanted than the model has positions for.
    """
    rows = loaded.config.max_seq_length if "pos" in loaded.config.embedding else None
    if wanted is None:
        return DEFAULT_LENGTH if rows is None else min(DEFAULT_LENGTH, rows)
    if rows is not None and wanted > rows:
        raise UsageError(
            f"--seq-length {wanted} is beyond the position table of {loaded.reference}, which has "
            f"{rows} rows.",
            f"Give --seq-length {rows} or less.",
        )
    return wanted


def neighbours(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring positions as (start, stop)."""
    runs: list[tuple[int, int]] = []
    for place in positions:
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs


def cloze_lines(
    lines: Iterable[Line],
    make_job: Callable[[torch.device], ClozeJob],
    devices: Sequence[torch.device],
    *,
    threads: int | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Iterator[ClozeResult]:
    """Cloze tests over a stream of lines, on one device or several, results in input order.

    Args:
        lines: see `uertool.text.readers.read_lines`.
        make_job: loads the model for a device; picklable where there are several devices.
        devices: where to run.
        threads: CPU threads in all.
        on_notice: told what is worth knowing, in sentences.
    """
    return run_job(lines, make_job, devices, threads=threads, on_notice=on_notice)


def cloze(
    loaded: LoadedModel,
    texts: Iterable[str],
    settings: ClozeSettings | None = None,
    **changes: Any,
) -> list[ClozeResult]:
    """Cloze tests of a few texts with a model in hand.

    Args:
        loaded: a model with a masked-language head.
        texts: lines; write [MASK] where something is to be guessed.
        settings: what is asked; or its fields by name, for example `topn=3`.
        changes: fields of `ClozeSettings`; `mask_word`, `mask_ratio`, `whole_words` and `seed`
            stand for those of its rule.

    Returns:
        One result for each text, in their order; with `augment` one for each variant.

    Raises:
        UertoolError: the model has no such head, or a setting cannot be meant.
    """
    if settings is None:
        names = {"mask_word": "word", "mask_ratio": "ratio"}
        rule = {
            names.get(name, name): changes.pop(name)
            for name in ("mask_word", "mask_ratio", "whole_words", "seed")
            if name in changes
        }
        changes.setdefault("rule", MaskRule(**rule))
        settings = ClozeSettings(**{**changes, "targets": tuple(changes.get("targets", ()))})
    chosen = settings
    lines = (Line(number, text) for number, text in enumerate(texts))
    return list(cloze_lines(lines, lambda _: ClozeJob(loaded, chosen), [loaded.device]))
