"""Cloze tests: lines with masked tokens, and what a masked-language model puts there.

    model = uertool.load_model("zh-mlm-small")
    for result in model.cloze(["今天天气很[MASK]。"]):
        print(result)

`cloze` is for a few texts in hand, `uertool.engine.jobs.run_job` streams over any number of lines,
and `uertool.tasks.cloze.work` writes files, on several devices or on a cluster.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from uertool.engine.batching import Batch, Encoded, Later, Limits
from uertool.engine.jobs import run_job
from uertool.errors import ConfigError, UsageError, VocabError
from uertool.io.display import Results
from uertool.loading.device import to_cpu, to_device, token_budget
from uertool.loading.registry import LoadedModel
from uertool.settings import as_keywords
from uertool.tasks.cloze.masking import Masked, Masker, words_of
from uertool.tasks.cloze.results import ClozeResult, Guess, MaskResult, SlotResult, WordScore
from uertool.tasks.cloze.scoring import FIRST, INNER, Draft, Filler, Kind, sample, score_words
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.text.detokenize import UNDERLINE
from uertool.text.readers import Line, as_texts

#: Default maximum of tokens per line.
DEFAULT_LENGTH = 128

#: Names of entries that a vocabulary keeps free.
UNUSED = re.compile(r"\[unused\d+\]")


# -- running --------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """What a row of a batch is: a line, or one variant of it."""

    line: Line
    masked: Masked
    variant: int | None  # None for the line itself
    spans: list[tuple[int, int]] | None  # of the line's tokens, for variants


#: For some masks: chances and ids of the best tokens, rank and chance of the true one; on their way
#: from a device.
_Columns = list[Callable[[], Tensor]]
#: The same for one mask.
_MaskRow = tuple[list[float], list[int], int, float]


def _rows(columns: _Columns) -> Iterator[_MaskRow]:
    return zip(*(column().tolist() for column in columns), strict=True)


class ClozeJob:
    """A loaded model doing cloze tests on one device; see `uertool.engine.executors.processes.Job`.

    Raises:
        ConfigError: the model has no masked-language head.
        VocabError: the vocabulary lacks [MASK], or a character of a given word.
        UsageError: seq_length is beyond the position table.
    """

    def __init__(self, loaded: LoadedModel, settings: ClozeSettings) -> None:
        if loaded.model.mlm is None:
            raise ConfigError(
                f"{loaded.reference} has no MLM head, so it cannot guess masked tokens.",
                "A cloze test needs a model trained with `target` bert, mlm or albert.",
            )
        self.settings = settings
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.seq_length = length_for(loaded, settings.seq_length)
        self.limits = Limits(
            tokens=max(token_budget(loaded.device), self.seq_length),
            rows=settings.batch_size,
            pad_id=loaded.tokenizer.pad_id or 0,
            pad_to=self.seq_length if loaded.config.needs_full_length else None,
        )
        self._masker = Masker(self.tokenizer, settings, self.seq_length)
        self._filler = Filler(
            loaded.model, loaded.device, self.limits.tokens, self.limits.pad_id, self.limits.pad_to
        )
        self._words = self._words_as_ids()
        self._vocab_size = loaded.config.vocab_size
        self._allowed = self._drawn_from() if settings.augment else {}

    def encode(self, items: list[Line]) -> list[Encoded]:
        """Lines to masked ids, each with its line and masks as payload."""
        found: list[Encoded] = []
        for line, ids in zip(
            items, self._masker.encode([line.text for line in items]), strict=True
        ):
            spans = self._masker.spans(line.text) if self.settings.augment else None
            for variant in range(self.settings.augment or 1):
                masked = self._masker.mask(line.number, ids, variant)
                if variant == 0 and self.settings.keep_original:
                    payload = _Row(line, masked, None, spans)
                    found.append(Encoded(line.number, (), payload=payload))
                row = masked.ids if masked.positions else ()
                payload = _Row(line, masked, variant, spans)
                found.append(Encoded(line.number, row, payload=payload))
        return found

    @torch.inference_mode()
    def step(self, batch: Batch) -> list[ClozeResult] | Later[ClozeResult]:
        """What the model says about every row of a batch."""
        if self.settings.augment:
            return self._variants(batch)
        if self.settings.targets:
            return self._scores(batch)
        return self._guesses(batch)

    def empty(self, item: Encoded) -> ClozeResult:
        """The result of a line in which nothing is masked, or that is kept next to its variants."""
        line, _, variant, _ = item.payload
        if variant is None:
            return ClozeResult(line.number, line.text, filled=line.text, fields=line.fields)
        return self._result(item)

    def _result(self, item: Encoded, **found: Any) -> ClozeResult:
        line, masked, variant, _ = item.payload
        return ClozeResult(
            line=line.number,
            text=line.text,
            ids=masked.ids,
            tokens=tuple(self.tokenizer.tokens(masked.ids)),
            variant=variant + 1 if self.settings.augment else 0,
            was_cut=masked.was_cut or line.cut,
            reason=masked.reason,
            fields=line.fields,
            joining=self.tokenizer.joining,
            **found,
        )

    def _guesses(self, batch: Batch) -> Later[ClozeResult]:
        batch = batch.to(self._filler.device)
        maskeds: list[Masked] = [item.payload.masked for item in batch.items]
        rows = [n for n, masked in enumerate(maskeds) for _ in masked.positions]
        places = [place for masked in maskeds for place in masked.positions]
        labels = [label for masked in maskeds for label in masked.labels]
        wanted = to_device(torch.tensor([label or 0 for label in labels]), self._filler.device)
        found: list[_Columns] = []
        start = 0
        for scores in self._filler.parts_at(batch.ids, batch.segs, rows, places):
            found.append(self._best(scores, wanted[start : start + len(scores)]))
            start += len(scores)

        def results() -> list[ClozeResult]:
            rows = itertools.chain.from_iterable(map(_rows, found))
            masks = map(self._named, places, labels, rows)
            return [
                self._result(item, masks=tuple(next(masks) for _ in masked.positions))
                for item, masked in zip(batch.items, maskeds, strict=True)
            ]

        return Later(results)

    def _best(self, scores: Tensor, wanted: Tensor) -> _Columns:
        """The best tokens of log-probabilities [places, vocab], and the ranks of wanted ones."""
        true = scores.gather(1, wanted[:, None])
        ranks = (scores > true).sum(-1) + 1
        best, ids = scores.topk(min(self.settings.best, scores.shape[1]), dim=-1)
        return [to_cpu(column) for column in (best.exp(), ids, ranks, true[:, 0].exp())]

    def _named(self, place: int, label: int | None, row: _MaskRow) -> MaskResult:
        chances, found, rank, chance = row
        tokens = self.tokenizer.vocab.tokens
        # A table may have more rows than the vocabulary has tokens.
        names = [tokens[i] if i < len(tokens) else f"<{i}>" for i in found]
        guesses = tuple(map(Guess, found, names, chances))
        if label is None:
            return MaskResult(place, guesses)
        return MaskResult(place, guesses, tokens[label], label, rank, chance)

    def _scores(self, batch: Batch) -> list[ClozeResult]:
        slots: list[tuple[Sequence[int], int, int]] = []
        rows: list[list[tuple[int, int]]] = []
        for item in batch.items:
            masked: Masked = item.payload.masked
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
                order=self.settings.fill_order,
            )
        )
        results = []
        for item, guessed, found in zip(batch.items, self._guesses(batch).get(), rows, strict=True):
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
        seed = self.settings.seed
        for item in batch.items:
            line, masked, variant, _ = item.payload
            labels = dict(zip(masked.positions, masked.labels, strict=True))
            never = {place: label for place, label in labels.items() if label is not None}
            kinds = {place: self._kind_of_label(label) for place, label in labels.items()}
            stream = np.random.default_rng([abs(seed), int(seed < 0), line.number, variant])
            drafts.append(Draft(list(masked.ids), list(masked.positions), never, kinds, stream))
        sample(
            self._filler,
            drafts,
            temperature=self.settings.temperature,
            best=self.settings.best,
            allowed=self._allowed,
        )
        return [
            self._result(item, filled=self._written(item.payload, draft.ids))
            for item, draft in zip(batch.items, drafts, strict=True)
        ]

    def _written(self, row: _Row, ids: Sequence[int]) -> str:
        """The line with drawn tokens in place of its masks; the rest is unchanged."""
        if row.spans is None:
            return self.tokenizer.decode(ids)
        text = self._masker.canonical(row.line.text)
        for place in reversed(row.masked.positions):
            start, stop = row.spans[place - len(self.tokenizer.prefix_ids)]
            token = self.tokenizer.vocab.tokens[ids[place]]
            text = text[:start] + self._surface(token) + text[stop:]
        return text

    def _kind_of_label(self, label: int | None) -> Kind:
        if label is not None:
            return self._kind(self.tokenizer.vocab.tokens[label])
        # Of a written mask nothing is known; a piece that begins a word would bring a blank.
        return INNER if self.tokenizer.joining == "pieces" else FIRST

    def _kind(self, token: str) -> Kind:
        """Whether a token begins or continues a word; variants keep this."""
        joining = self.tokenizer.joining
        if joining == "wordpieces":
            return INNER if token.startswith("##") and len(token) > 2 else FIRST
        if joining == "pieces":
            return FIRST if token.startswith(UNDERLINE) else INNER
        return FIRST

    def _surface(self, token: str) -> str:
        return token[2:] if self._kind(token) == INNER else token

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
                "Leave these words out of `targets`.",
            )
        return words

    def _drawn_from(self) -> dict[Kind, Tensor]:
        """For both kinds of tokens the ids that a variant may get, bool [vocab]."""
        vocab = self.tokenizer.vocab
        kinds = [
            None
            if n in vocab.special_ids or not token.strip() or UNUSED.fullmatch(token)
            else self._kind(token)
            for n, token in enumerate(vocab.tokens)
        ]
        kinds += [None] * (self._vocab_size - len(kinds))
        return {kind: torch.tensor([k == kind for k in kinds]) for kind in (FIRST, INNER)}


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
            f"`seq_length` {wanted} is beyond the position table of {loaded.reference}, which has "
            f"{rows} rows.",
            f"Give `seq_length` {rows} or less.",
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


@as_keywords("target", "word_list")
def cloze(
    loaded: LoadedModel,
    texts: str | Path | Iterable[str],
    *,
    settings: ClozeSettings,
    word_list: str | Path | Iterable[str] = (),
) -> Results[ClozeResult]:
    """Fill in masked tokens, score given words in their place, or write variants of texts.

    Args:
        texts: a text or several, or the `Path` of a file with one a line; write [MASK] where
            something is to be guessed. In a text without, a random token is masked.
        word_list: for `whole_word`: words, or a file with one a line.

    Returns:
        One result for each text, in their order; with `augment` one for each variant.

    Raises:
        UertoolError: the model has no masked-language head, or a setting is invalid.
    """
    chosen = dataclasses.replace(
        settings,
        targets=tuple(word for given in settings.targets for word in split_words(given)),
        words=words_of(word_list),
    )
    lines = (Line(number, text) for number, text in enumerate(as_texts(texts)))
    return Results(run_job(ClozeJob(loaded, chosen), lines))


def split_words(words: str | Iterable[str]) -> tuple[str, ...]:
    """Words as they are, or those of a text with commas of any kind between."""
    if not isinstance(words, str):
        return tuple(words)
    return tuple(word.strip() for word in re.split("[,，、]", words))
