"""Lines of text in, generated texts out: what `uertool generate` does, as functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uertool.errors import InputError, UsageError
from uertool.models.linear import Precision
from uertool.models.states import make_incremental
from uertool.tasks.generation.beam import Hypothesis
from uertool.tasks.generation.filling import Gaps
from uertool.tasks.generation.logits import (
    ForbiddenWords,
    ForcedToken,
    MinNewTokens,
    NoRepeatNgram,
    RepetitionPenalty,
    Rule,
)
from uertool.tasks.generation.marks import Marks, find_marks, stop_ids, word_ids
from uertool.tasks.generation.search import (
    Beams,
    Independent,
    Request,
    Result,
    Row,
    search,
)
from uertool.tasks.generation.settings import Decoding, Truncate
from uertool.tasks.generation.stopping import Reason, Stopping
from uertool.tasks.generation.text import Growing, continuation

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel
    from uertool.text.tokenizers.base import Tokenizer

#: How many lines are tokenized together.
_CHUNK = 256

#: Texts in progress at once: on a CPU more of them are no faster each, a GPU wants to be busy.
_ROWS = {"cpu": 16}
_ROWS_ELSEWHERE = 64

#: Told of text as it comes: the prompt, which of its texts, and what is new of it.
OnText = Callable[["Prompt", int, str], None]


@dataclass(frozen=True)
class Prompt:
    """A line to continue or to transform.

    Attributes:
        number: its line number; decides its random stream.
        text: the line.
        fields: what else is known of the line, kept for the output.
    """

    number: int
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Generated:
    """One generated text.

    Attributes:
        prompt: what it was made from.
        number: which of the prompt's texts it is, from 0.
        prompt_ids: the ids that the model read.
        ids: the new ids, a stop token included.
        new_text: the readable new text, without a stop token and cut at a stop string.
        text: prompt and new text together; the new text alone for an encoder-decoder.
        raw: all tokens joined as the old scripts did, special ones and ## included.
        log_probability: sum over the new ids, under the model's own distribution.
        score: what beams were compared by; otherwise the log-probability.
        reason: why it ended.
        truncated: how many tokens of the prompt were cut off.
    """

    prompt: Prompt
    number: int
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    new_text: str
    text: str
    raw: str
    log_probability: float
    score: float
    reason: Reason
    truncated: int = 0


class Generator:
    """A model made ready to generate many texts.

    Args:
        loaded: a model with an output layer for words.
        precision: "int8" rounds the weights that every step reads.
        consume: use the loaded model up, which saves half of the memory; see `make_incremental`.

    Raises:
        UsageError: the model cannot generate; the message says which command fits.
    """

    def __init__(
        self, loaded: LoadedModel, precision: Precision = "native", *, consume: bool = False
    ) -> None:
        _refuse_unfit(loaded)
        self.name = str(loaded.reference)
        self.config = loaded.config
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.marks: Marks = find_marks(loaded)
        self.seq2seq = loaded.config.decoder is not None
        self.target_tokenizer: Tokenizer = (
            loaded.tgt_tokenizer or loaded.tokenizer if self.seq2seq else loaded.tokenizer
        )
        self.model = make_incremental(
            loaded.model, precision=precision, prefix=self.marks.target, release=consume
        )
        self.gaps = Gaps(self.tokenizer) if self.seq2seq else None
        self.rows = _ROWS.get(loaded.device.type, _ROWS_ELSEWHERE)

    # -- generating ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: Iterable[Prompt],
        decoding: Decoding,
        *,
        on_text: OnText | None = None,
        on_empty: Callable[[Prompt], None] | None = None,
    ) -> Iterator[list[Generated]]:
        """Generates texts for any number of prompts.

        Args:
            prompts: read as they are needed.
            decoding: how.
            on_text: told of every piece of readable text as it comes (not with beams).
            on_empty: told of every prompt without tokens.

        Yields:
            The texts of every prompt, in the order of the prompts.

        Raises:
            UsageError: settings that contradict each other or the model.
            InputError: a prompt that is too long while `truncate` is "error", or an empty one that
                the model has no start mark for.
        """
        live = _Live(self, on_text) if on_text is not None else None
        strategy = self.strategy(decoding, live)
        stopping = strategy.stopping
        if live is not None:
            live.stopping = stopping
        waiting: dict[int, Result] = {}
        results = search(
            self.model,
            _numbered(self._requests(prompts, decoding, on_empty)),
            strategy,
            rows=decoding.rows or self.rows,
            tokens=decoding.tokens,
            # Who watches wants to see the prompts in their order, not the longest first.
            window=None if live is None else 1,
        )
        following = 0
        for result in results:
            waiting[result.request.payload.place] = result
            while following in waiting:
                texts = self._texts(waiting.pop(following), stopping, decoding.returns)
                if live is not None:
                    live.finish(following, texts)
                yield texts
                following += 1

    def check(self, prompts: Iterable[Prompt], decoding: Decoding) -> int:
        """Sees that every prompt fits, without generating anything.

        Returns:
            The number of prompts.

        Raises:
            UsageError, InputError: what `generate` would raise later.
        """
        self.strategy(decoding)
        return sum(1 for _ in self._requests(prompts, decoding, None))

    def filled(self, generated: Generated) -> str:
        """A source with its gaps filled from the target that a T5 wrote for it."""
        if not self.gaps:
            return generated.prompt.text
        answers = self.gaps.answers(generated.ids, self.target_tokenizer)
        return self.gaps.fill(generated.prompt.text.strip(), answers)

    def strategy(self, decoding: Decoding, live: _Live | None = None) -> Independent | Beams:
        """The search that settings ask for. Raises UsageError for words the vocabulary lacks."""
        tokenizer, marks = self.target_tokenizer, self.marks
        stops = marks.stop
        if decoding.stop_tokens is not None:
            stops = stop_ids(tokenizer, decoding.stop_tokens)
        stopping = Stopping(stops, decoding.stop_strings, tokenizer.decode)
        rules: list[Rule] = []
        if decoding.repetition_penalty != 1.0:
            rules.append(RepetitionPenalty(decoding.repetition_penalty))
        if decoding.no_repeat_ngram > 0:
            rules.append(NoRepeatNgram(decoding.no_repeat_ngram))
        if decoding.forbid:
            rules.append(ForbiddenWords(word_ids(tokenizer, decoding.forbid)))
        if decoding.min_new_tokens > 0:
            rules.append(MinNewTokens(decoding.min_new_tokens, sorted(stops)))
        if marks.forced_first is not None:
            rules.append(ForcedToken(marks.forced_first))
        if marks.forced_last is not None:
            rules.append(ForcedToken(marks.forced_last, last=True))
        if decoding.beams is not None:
            if live is not None:
                raise UsageError(
                    "Beam search knows its text at the end only, so there is nothing to stream.",
                    "Leave out `stream` or `beam`.",
                )
            return Beams(decoding.beams, rules, stopping)
        return Independent(
            decoding.sampling,
            rules,
            stopping,
            seed=decoding.seed,
            width=decoding.returns,
            on_token=live,
        )

    def _texts(self, result: Result, stopping: Stopping, returns: int) -> list[Generated]:
        return [
            self._text(result.request, number, text, stopping)
            for number, text in enumerate(result.texts[:returns])
        ]

    def _text(
        self, request: Request, number: int, found: Hypothesis, stopping: Stopping
    ) -> Generated:
        tokenizer = self.target_tokenizer
        place: _Place = request.payload
        visible = stopping.visible(found.ids, found.reason)
        before = () if self.seq2seq else request.prompt
        new_text = stopping.cut(continuation(tokenizer, before, visible))
        return Generated(
            prompt=place.prompt,
            number=number,
            prompt_ids=tuple(request.prompt),
            ids=found.ids,
            new_text=new_text,
            text=new_text if self.seq2seq else place.prompt.text + new_text,
            raw=tokenizer.decode([*request.context, *found.ids], raw=True),
            log_probability=found.log_probability,
            score=found.score,
            reason=found.reason,
            truncated=place.truncated,
        )

    # -- scoring ------------------------------------------------------------------------------

    def score(
        self,
        prompts: Iterable[Prompt],
        *,
        seq_length: int | None = None,
        truncate: Truncate = "error",
        tokens: int = 2048,
    ) -> Iterator[Scored]:
        """How probable given lines are, the end mark not counted.

        Args:
            prompts: the lines.
            seq_length: most tokens of a line, its start included; None for what the model holds.
            truncate: what to do with longer lines.
            tokens: most tokens, padding counted, to read at once.

        Yields:
            One Scored per line, in order.

        Raises:
            UsageError: an encoder-decoder has no probability of a line by itself.
        """
        if self.seq2seq:
            raise UsageError(
                f"{self.name} is an encoder-decoder; `score` is for language models.",
                "Use uertool generate seq2seq `reference` FILE to judge its outputs.",
            )
        limit = _smallest(seq_length, self.model.max_prompt)
        batch: list[tuple[Prompt, list[int]]] = []
        longest = 0
        for prompt, body in self._encoded(prompts):
            ids, _ = self._fit(prompt, body, limit, 0, truncate)
            longest = max(longest, len(ids))
            if batch and longest * (len(batch) + 1) > tokens:
                yield from self._score_batch(batch)
                batch, longest = [], len(ids)
            batch.append((prompt, ids))
        if batch:
            yield from self._score_batch(batch)

    def _score_batch(self, batch: list[tuple[Prompt, list[int]]]) -> Iterator[Scored]:
        long = [ids for _, ids in batch if len(ids) > 1]
        found = iter(self.model.log_probabilities(long)) if long else iter(())
        for prompt, ids in batch:
            if len(ids) > 1:
                per_token = next(found)
                yield Scored(prompt, len(per_token), float(per_token.double().sum()))
            else:
                yield Scored(prompt, 0, 0.0)

    # -- prompts ------------------------------------------------------------------------------

    def _requests(
        self,
        prompts: Iterable[Prompt],
        decoding: Decoding,
        on_empty: Callable[[Prompt], None] | None,
    ) -> Iterator[Request]:
        self._check_lengths(decoding)
        room: int | None
        for prompt, body in self._encoded(prompts):
            if not body and on_empty is not None:
                on_empty(prompt)
            if self.seq2seq:
                limit = _smallest(decoding.seq_length, self.model.max_prompt)
                ids, cut = self._fit(prompt, body, limit, 0, decoding.truncate)
                room = self._target_room(decoding)
                context = list(self.marks.target)
            else:
                limit, reserve = self._line_limits(decoding)
                ids, cut = self._fit(prompt, body, limit, reserve, decoding.truncate)
                room = _smallest(
                    None if limit is None else limit - len(ids), decoding.max_new_tokens
                )
                context = ids
            assert room is not None
            yield Request(prompt.number, ids, context, room, _Place(prompt, cut))

    def _check_lengths(self, decoding: Decoding) -> None:
        for option, wanted, table in (
            ("`seq_length`", decoding.seq_length, self.model.max_prompt),
            ("`tgt_seq_length`", decoding.tgt_seq_length, self.model.max_length),
        ):
            if wanted is not None and table is not None and wanted > table:
                raise UsageError(
                    f"{option} {wanted} is beyond the position table of {self.name}, which has "
                    f"{table} places.",
                    f"Give {option} {table} or less.",
                )

    def _line_limits(self, decoding: Decoding) -> tuple[int | None, int]:
        """Most tokens of a prompt with its text, and how many of them a cut prompt must leave."""
        table = self.model.max_length
        if decoding.seq_length is None and decoding.max_new_tokens is not None:
            limit = table
        else:
            limit = _smallest(decoding.seq_length or 128, table)
        quarter = max(1, (limit or 4) // 4)
        return limit, decoding.max_new_tokens or quarter

    def _target_room(self, decoding: Decoding) -> int:
        """How many new tokens a target may have."""
        start = len(self.marks.target)
        table = self.model.max_length
        total = decoding.tgt_seq_length
        if total is None and decoding.max_new_tokens is None:
            total = 128
        limits = [limit - start for limit in (total, table) if limit is not None]
        if decoding.max_new_tokens is not None:
            limits.append(decoding.max_new_tokens)
        return max(1, min(limits))

    def _encoded(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, list[int]]]:
        source = iter(prompts)
        # The first lines one by one: a person at a terminal does not type 256 of them.
        for size in itertools.chain((1, 1), itertools.repeat(_CHUNK)):
            chunk = list(itertools.islice(source, size))
            if not chunk:
                return
            texts = [prompt.text.strip() for prompt in chunk]
            if self.gaps:
                encoded = [self.gaps.encode(text) for text in texts]
            else:
                encoded = self.tokenizer.encode_batch(texts)
            yield from zip(chunk, encoded, strict=True)

    def _fit(
        self, prompt: Prompt, body: list[int], limit: int | None, reserve: int, truncate: Truncate
    ) -> tuple[list[int], int]:
        """A prompt's ids with its marks, cut where it must be, and how many were cut."""
        before, after = self._around(prompt, body)
        count = len(before) + len(body) + len(after)
        needed = count + min(reserve, 1)
        if limit is None or needed <= limit:
            return [*before, *body, *after], 0
        if truncate == "error":
            text = "and needs room for at least one more " if reserve else ""
            table = self.model.max_prompt
            most = "" if table is None else f" (the model has places for {table})"
            more = "" if limit == table else f", or raise `seq_length`{most}"
            raise InputError(
                f"Line {prompt.number + 1} has {count} tokens with its marks {text}"
                f"but only {limit} are allowed.",
                f"Cut it with `truncate` left or `truncate` right{more}.",
            )
        reserve = min(reserve, max(1, limit // 2)) if reserve else 0
        keep = max(limit - reserve - len(before) - len(after), 0)
        kept = body[len(body) - keep :] if truncate == "left" else body[:keep]
        ids = [*before, *kept, *after]
        if not ids or len(ids) > limit:
            raise InputError(
                f"Line {prompt.number + 1} cannot be cut to {limit} tokens: its marks alone need "
                f"{len(before) + len(after)}.",
                "Raise `seq_length`.",
            )
        return ids, len(body) - len(kept)

    def _around(self, prompt: Prompt, body: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        before, after = self.marks.before, self.marks.after
        if before or after or body:
            return before, after
        start = self.tokenizer.bos_id
        if start is None:
            raise InputError(
                f"Line {prompt.number + 1} is empty, and the vocabulary has no start mark.",
                "Give it a word to begin with.",
            )
        return (start,), ()


class _Live:
    """Turns tokens as they come into readable text.

    Args:
        generator: whose tokens.
        on_text: told of it.
    """

    def __init__(self, generator: Generator, on_text: OnText) -> None:
        self.generator = generator
        self.on_text = on_text
        self.stopping = Stopping()
        self.growing: dict[tuple[int, int], Growing] = {}

    def __call__(self, row: Row, token: int) -> None:
        """One more token of a row."""
        request = row.group.request
        key = (request.payload.place, row.number)
        if key not in self.growing:
            before = () if self.generator.seq2seq else request.prompt
            tokenizer = self.generator.target_tokenizer
            self.growing[key] = Growing(tokenizer, before, self.stopping.strings)
        if token not in self.stopping.tokens:
            self._tell(request.payload.prompt, row.number, self.growing[key].add(token))

    def finish(self, place: int, texts: Sequence[Generated]) -> None:
        """The texts of a prompt are finished."""
        for text in texts:
            growing = self.growing.pop((place, text.number), None)
            if growing is not None:
                self._tell(text.prompt, text.number, growing.rest(text.new_text))

    def _tell(self, prompt: Prompt, number: int, more: str) -> None:
        if more:
            self.on_text(prompt, number, more)


@dataclass
class _Place:
    """Where a request came from."""

    prompt: Prompt
    truncated: int
    place: int = -1


@dataclass(frozen=True)
class Scored:
    """How probable a line is.

    Attributes:
        prompt: the line.
        tokens: how many of its tokens were predicted.
        log_probability: their sum of natural log-probabilities.
    """

    prompt: Prompt
    tokens: int
    log_probability: float

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability; nan for a line without tokens."""
        return perplexity(self.log_probability, self.tokens)


def perplexity(log_probability: float, tokens: int) -> float:
    """exp(-log_probability / tokens); nan without tokens, inf where it is beyond a float."""
    import math

    if tokens == 0:
        return math.nan
    try:
        return math.exp(-log_probability / tokens)
    except OverflowError:
        return math.inf


def _numbered(requests: Iterable[Request]) -> Iterator[Request]:
    for place, request in enumerate(requests):
        request.payload.place = place
        yield request


def _smallest(*limits: int | None) -> int | None:
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None


#: What a model is by what it was trained for, and which command fits it.
_FITTING: tuple[tuple[str, str, str], ...] = (
    ("mlm", "a masked-language model", "Fill in masked words with: uertool cloze."),
    ("cls", "a classifier", "Get sentence vectors with: uertool extract-features."),
    ("token_cls", "a token classifier", "Get vectors with: uertool extract-features."),
    ("qa", "a question-answering model", "Get vectors with: uertool extract-features."),
    ("siamese", "a model of sentence pairs", "Get vectors with: uertool extract-features."),
    ("", "an encoder alone", "Get sentence vectors with: uertool extract-features."),
)


def _refuse_unfit(loaded: LoadedModel) -> None:
    """Says what a model that cannot generate is, and which command fits it."""
    config = loaded.config
    # A word embedding that serves as output layer makes a language model of a causal body only.
    tied = config.tie_weights and (config.decoder is not None or config.mask == "causal")
    if loaded.model.lm is not None and ("lm" in config.target or tied):
        return
    what, hint = next(
        (what, hint) for name, what, hint in _FITTING if not name or name in config.target
    )
    raise UsageError(
        f"{loaded.reference} is {what}; it has no language-model output layer to generate with.",
        hint,
    )


__all__ = ["Generated", "Generator", "Prompt", "Scored", "perplexity"]
