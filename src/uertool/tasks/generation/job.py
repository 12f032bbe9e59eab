"""Lines of text in, generated texts out: what `uertool generate` does, as functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from uertool.errors import InputError, UsageError
from uertool.models.incremental import (
    CachedLm,
    CachedSeq2seq,
    RecurrentLm,
    RereadLm,
    make_incremental,
)
from uertool.models.linear import Precision
from uertool.tasks.generation.beam import BeamSettings, Hypothesis
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
from uertool.tasks.generation.sampling import Sampling
from uertool.tasks.generation.search import (
    Beams,
    Independent,
    Request,
    Result,
    Row,
    Strategy,
    search,
)
from uertool.tasks.generation.stopping import Reason, Stopping
from uertool.tasks.generation.text import continuation

if TYPE_CHECKING:
    from uertool.models.registry import LoadedModel
    from uertool.text.tokenizers import Tokenizer

Truncate = Literal["left", "right", "error"]

#: How many lines are tokenized together.
_CHUNK = 256


@dataclass(frozen=True)
class Decoding:
    """How texts are generated.

    Attributes:
        sampling: how a token is drawn; not used by beam search.
        beams: beam search instead, or None.
        returns: texts per prompt.
        seed: of all random streams.
        seq_length: most tokens of prompt and text together, or of a source; None for what the model
            can hold.
        tgt_seq_length: most tokens of a target, its start included; None likewise.
        max_new_tokens: most new tokens, or None.
        min_new_tokens: no end mark before so many.
        repetition_penalty: see logits.RepetitionPenalty; 1 for none.
        no_repeat_ngram: no n tokens twice in the same order; 0 for none.
        forbid: words that are not to be written.
        stop_tokens: tokens that end a text; None for the model's end mark, () for none.
        stop_strings: text that ends a text and is cut off with what follows.
        truncate: what of a prompt that is too long is cut off; "error" refuses it.
        rows: texts in progress at once.
        tokens: most prompt tokens to read at once.
    """

    sampling: Sampling = field(default_factory=Sampling)
    beams: BeamSettings | None = None
    returns: int = 1
    seed: int = 7
    seq_length: int | None = None
    tgt_seq_length: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    forbid: Sequence[str] = ()
    stop_tokens: Sequence[str] | None = None
    stop_strings: Sequence[str] = ()
    truncate: Truncate = "error"
    rows: int = 16
    tokens: int = 8192

    def __post_init__(self) -> None:
        problems = []
        for name, value, least in (
            ("--num_return", self.returns, 1),
            ("--batch_size", self.rows, 1),
            ("--min_new_tokens", self.min_new_tokens, 0),
            ("--no_repeat_ngram", self.no_repeat_ngram, 0),
            ("--max_new_tokens", self.max_new_tokens, 1),
            ("--seq_length", self.seq_length, 1),
            ("--tgt_seq_length", self.tgt_seq_length, 2),
        ):
            if value is not None and value < least:
                problems.append(f"{name} is {value} and must be {least} or more")
        if self.repetition_penalty <= 0:
            problems.append(
                f"--repetition_penalty is {self.repetition_penalty} and must be above 0"
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            problems.append(
                f"--min_new_tokens {self.min_new_tokens} is more than --max_new_tokens "
                f"{self.max_new_tokens}"
            )
        if self.beams is not None and self.returns > self.beams.width:
            problems.append(
                f"--num_return {self.returns} is more than --beam {self.beams.width} can give"
            )
        if any(not string for string in self.stop_strings):
            problems.append("--stop_string is empty")
        if self.truncate not in ("left", "right", "error"):
            problems.append(f"--truncate is {self.truncate!r} and must be left, right or error")
        if problems:
            raise UsageError("; ".join(problems) + ".")


@dataclass(frozen=True)
class Prompt:
    """A line to continue or to transform.

    Attributes:
        number: its line number; decides its random stream.
        text: the line.
    """

    number: int
    text: str


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

    Raises:
        UsageError: the model cannot generate; the message says which command fits.
    """

    def __init__(self, loaded: LoadedModel, precision: Precision = "native") -> None:
        _refuse_unfit(loaded)
        self.name = str(loaded.reference)
        self.config = loaded.config
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.marks: Marks = find_marks(loaded)
        self.seq2seq = loaded.config.decoder is not None
        self.target_tokenizer: Tokenizer = (
            loaded.tgt_tokenizer or loaded.tokenizer if self.seq2seq else loaded.tokenizer
        )
        self.model: CachedLm | CachedSeq2seq | RecurrentLm | RereadLm = make_incremental(
            loaded.model, precision=precision, prefix=self.marks.target
        )
        self.gaps = Gaps(self.tokenizer) if self.seq2seq else None

    # -- generating ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: Iterable[Prompt],
        decoding: Decoding,
        *,
        on_token: Callable[[Row, int], None] | None = None,
        on_empty: Callable[[Prompt], None] | None = None,
    ) -> Iterator[list[Generated]]:
        """Generates texts for any number of prompts.

        Args:
            prompts: read as they are needed.
            decoding: how.
            on_token: called with every new token as it comes (not with beams).
            on_empty: told of every prompt without tokens.

        Yields:
            The texts of every prompt, in the order of the prompts.

        Raises:
            UsageError: settings that contradict each other or the model.
            InputError: a prompt that is too long while `truncate` is "error", or an empty one that
                the model has no start mark for.
        """
        strategy = self.strategy(decoding, on_token)
        requests = self._requests(prompts, decoding, on_empty)
        waiting: dict[int, Result] = {}
        results = search(
            self.model,
            _numbered(requests),
            strategy,
            rows=decoding.rows,
            tokens=decoding.tokens,
        )
        stopping = strategy.stopping
        following = 0
        for result in results:
            waiting[result.request.payload.place] = result
            while following in waiting:
                yield self._texts(waiting.pop(following), stopping, decoding.returns)
                following += 1

    def strategy(
        self, decoding: Decoding, on_token: Callable[[Row, int], None] | None = None
    ) -> Independent | Beams:
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
            return Beams(decoding.beams, rules, stopping)
        return Independent(
            decoding.sampling,
            rules,
            stopping,
            seed=decoding.seed,
            width=decoding.returns,
            on_token=on_token,
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
        if isinstance(self.model, CachedSeq2seq):
            raise UsageError(
                f"{self.name} is an encoder-decoder; --score is for language models.",
                "Use uertool generate seq2seq --reference FILE to judge its outputs.",
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
        assert not isinstance(self.model, CachedSeq2seq)
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
            raise InputError(
                f"Line {prompt.number + 1} has {count} tokens with its marks {text}"
                f"but only {limit} are allowed.",
                "Cut it with --truncate left or --truncate right, or raise --seq_length "
                f"({self._table()}).",
            )
        reserve = min(reserve, max(1, limit // 2)) if reserve else 0
        keep = max(limit - reserve - len(before) - len(after), 0)
        kept = body[len(body) - keep :] if truncate == "left" else body[:keep]
        ids = [*before, *kept, *after]
        if not ids or len(ids) > limit:
            raise InputError(
                f"Line {prompt.number + 1} cannot be cut to {limit} tokens: its marks alone need "
                f"{len(before) + len(after)}.",
                "Raise --seq_length.",
            )
        return ids, len(body) - len(kept)

    def _table(self) -> str:
        limit = self.model.max_prompt
        return "the model has no limit" if limit is None else f"the model holds {limit}"

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


def _refuse_unfit(loaded: LoadedModel) -> None:
    """Says what a model that cannot generate is, and which command fits it."""
    if loaded.model.lm is not None:
        return
    fits = {
        "mlm": ("a masked-language model", "Fill masks with: uertool cloze."),
        "classifier": ("a classifier", "Its sentence vectors: uertool extract-features."),
        "token_classifier": ("a token classifier", "Its vectors: uertool extract-features."),
        "qa": ("a question-answering model", "Its vectors: uertool extract-features."),
        "sp": ("an encoder", "Its sentence vectors: uertool extract-features."),
    }
    for head, (what, hint) in fits.items():
        if getattr(loaded.model, head, None) is not None:
            raise UsageError(
                f"{loaded.reference} is {what}; it has no language-model output layer to "
                "generate with.",
                hint,
            )
    raise UsageError(
        f"{loaded.reference} has no language-model output layer, so it cannot generate.",
        "Its sentence vectors: uertool extract-features.",
    )


__all__ = [
    "Decoding",
    "Generated",
    "Generator",
    "Prompt",
    "Scored",
    "Strategy",
    "perplexity",
]
