"""Lines of text in, generated texts out: the Python side of `uertool generate`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uertool.errors import UsageError
from uertool.io.display import Report, Results
from uertool.loading.device import fitting_threads
from uertool.loading.registry import LoadedModel, forget_models, load_from_settings
from uertool.models.linear import Precision
from uertool.models.states import make_incremental
from uertool.settings import as_keywords
from uertool.tasks.generation.beam import Hypothesis
from uertool.tasks.generation.filling import Gaps
from uertool.tasks.generation.logits import rules_of
from uertool.tasks.generation.prompts import Origin, Prompt, PromptReader
from uertool.tasks.generation.search import Beams, Independent, Request, Result, search
from uertool.tasks.generation.settings import Decoding, LmModel, Truncate
from uertool.tasks.generation.special_tokens import find_special_tokens, stop_ids, word_ids
from uertool.tasks.generation.stopping import Reason, Stopping
from uertool.tasks.generation.text import LiveText, OnText, continuation
from uertool.text.readers import as_texts

if TYPE_CHECKING:
    from uertool.loading.settings import DeviceSettings
    from uertool.text.tokenizers.base import Tokenizer

#: Texts in progress at once: more are not faster per text on a CPU, but a GPU needs more.
_ROWS = {"cpu": 16}
_ROWS_ELSEWHERE = 64


@dataclass(frozen=True, repr=False)
class Generated(Report):
    """One generated text.

    Attributes:
        prompt: the prompt.
        number: which of the prompt's texts it is, from 0.
        prompt_ids: the ids that the model read.
        ids: the new ids, a stop token included.
        new_text: the readable new text, without a stop token and cut at a stop string.
        text: prompt and new text together; the new text alone for an encoder-decoder.
        raw: all tokens joined as UER-py's scripts do, special tokens and ## included.
        log_probability: sum over the new ids, under the model's own distribution.
        score: what beams were compared by; otherwise the log-probability.
        reason: why it ended.
        truncated: number of tokens that were cut off the prompt.
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

    def _shown(self) -> list[tuple[str, object]]:
        return [(name, getattr(self, name)) for name in ("text", "log_probability", "reason")]


class Generator:
    """A model ready to generate many texts.

    Args:
        loaded: a model with an output layer for words.
        precision: "int8" rounds the weights that every step reads.
        release: free the plain weights of the loaded model, which saves half of the memory; see
            `make_incremental`.

    Raises:
        UsageError: the model cannot generate; the message names a command for it.
    """

    def __init__(
        self, loaded: LoadedModel, precision: Precision = "native", *, release: bool = False
    ) -> None:
        _refuse_unfit(loaded)
        self.name = str(loaded.reference)
        self.config = loaded.config
        self.notes = loaded.notes
        #: What was loaded, without the weights, which may be freed.
        self.loaded = dataclasses.replace(loaded, model=None)  # type: ignore[arg-type]
        self.described = self.loaded.described
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.special = find_special_tokens(loaded)
        self.seq2seq = loaded.config.decoder is not None
        self.target_tokenizer: Tokenizer = (
            loaded.tgt_tokenizer or loaded.tokenizer if self.seq2seq else loaded.tokenizer
        )
        self.model = make_incremental(
            loaded.model, precision=precision, prefix=self.special.target, release=release
        )
        self.gaps = Gaps(self.tokenizer) if self.seq2seq else None
        self.reader = PromptReader(
            self.name, self.model, self.tokenizer, self.special, self.gaps, self.seq2seq
        )
        self.rows = _ROWS.get(loaded.device.type, _ROWS_ELSEWHERE)

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
            on_text: called with every piece of readable text as it comes (not with beams).
            on_empty: called with every prompt without tokens.

        Yields:
            The texts of every prompt, in the order of the prompts.

        Raises:
            UsageError: settings contradict each other or the model.
            InputError: a prompt is too long while `truncate` is "error", or it is empty and the
                vocabulary has no start token.
        """
        stopping = self._stopping(decoding)
        live = None
        if on_text is not None:
            continues = not self.seq2seq
            live = LiveText(self.target_tokenizer, on_text, stopping, continues=continues)
        strategy = self._strategy(decoding, stopping, live)
        waiting: dict[int, Result] = {}
        results = search(
            self.model,
            self.reader.requests(prompts, decoding, on_empty),
            strategy,
            rows=decoding.batch_size or self.rows,
            tokens=decoding.tokens,
            # A reader who watches wants the prompts in their order, not the longest first.
            window=None if live is None else 1,
        )
        following = 0
        for result in self._with_fitting_threads(results):
            waiting[result.request.payload.place] = result
            while following in waiting:
                result = waiting.pop(following)
                texts = [
                    self._text(result.request, number, text, stopping)
                    for number, text in enumerate(result.texts[: decoding.num_return])
                ]
                if live is not None:
                    live.finish(result.request, [text.new_text for text in texts])
                yield texts
                following += 1

    def _with_fitting_threads(self, results: Iterator[Result]) -> Iterator[Result]:
        while True:
            with fitting_threads(self.config, self.rows):
                result = next(results, None)
            if result is None:
                return
            yield result

    def check(self, prompts: Iterable[Prompt], decoding: Decoding) -> int:
        """Checks that every prompt fits, without generating anything.

        Returns:
            The number of prompts.

        Raises:
            UsageError, InputError: what `generate` would raise later.
        """
        self._strategy(decoding, self._stopping(decoding))
        return sum(1 for _ in self.reader.requests(prompts, decoding, None))

    def filled(self, generated: Generated) -> str:
        """A source with its gaps filled from the target that a T5 generated."""
        if not self.gaps:
            return generated.prompt.text
        answers = self.gaps.answers(generated.ids, self.target_tokenizer)
        return self.gaps.fill(generated.prompt.text.strip(), answers)

    def _stopping(self, decoding: Decoding) -> Stopping:
        """When texts end; raises UsageError if the vocabulary lacks a stop token."""
        stops = self.special.stop
        if decoding.stops is not None:
            stops = stop_ids(self.target_tokenizer, decoding.stops)
        return Stopping(stops, decoding.stop_string, self.target_tokenizer.decode)

    def _strategy(
        self, decoding: Decoding, stopping: Stopping, live: LiveText | None = None
    ) -> Independent | Beams:
        """The search for some settings.

        Raises:
            UsageError: the vocabulary lacks a word, or beams cannot be streamed.
        """
        tokenizer = self.target_tokenizer
        # A word table may be padded with rows that are no tokens.
        padding = [[row] for row in range(len(tokenizer), self.model.vocab_size)]
        forbidden = [*word_ids(tokenizer, decoding.forbid), *padding]
        rules = rules_of(decoding, forbidden, stopping.tokens, self.special)
        if decoding.beam is None:
            return Independent(decoding, rules, stopping, live)
        if live is not None:
            raise UsageError(
                "Beam search knows its text only at the end, so there is nothing to stream.",
                "Leave out `stream` or `beam`.",
            )
        return Beams(decoding, rules, stopping)

    def _text(
        self, request: Request, number: int, found: Hypothesis, stopping: Stopping
    ) -> Generated:
        tokenizer = self.target_tokenizer
        origin: Origin = request.payload
        visible = stopping.visible(found.ids, found.reason)
        before = () if self.seq2seq else request.prompt
        new_text = stopping.cut(continuation(tokenizer, before, visible))
        return Generated(
            prompt=origin.prompt,
            number=number,
            prompt_ids=tuple(request.prompt),
            ids=found.ids,
            new_text=new_text,
            text=new_text if self.seq2seq else origin.prompt.text + new_text,
            raw=tokenizer.decode([*request.context, *found.ids], raw=True),
            log_probability=found.log_probability,
            score=found.score,
            reason=found.reason,
            truncated=origin.truncated,
        )

    def score(
        self,
        prompts: Iterable[Prompt],
        *,
        seq_length: int | None = None,
        truncate: Truncate = "error",
        tokens: int = 2048,
    ) -> Iterator[Scored]:
        """The probability of given lines, without an end token.

        Args:
            prompts: the lines.
            seq_length: most tokens of a line, its start included; None for what the model holds.
            truncate: which end of a longer line is cut off.
            tokens: most tokens, padding included, to read at once.

        Yields:
            One Scored per line, in order.

        Raises:
            UsageError: an encoder-decoder gives a line no probability by itself.
        """
        if self.seq2seq:
            raise UsageError(
                f"{self.name} is an encoder-decoder; `score` is for language models.",
                "Use uertool generate seq2seq with `reference` to evaluate its outputs.",
            )
        batch: list[tuple[Prompt, list[int]]] = []
        longest = 0
        for prompt, ids in self.reader.read(prompts, seq_length, truncate):
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


@dataclass(frozen=True, repr=False)
class Scored(Report):
    """The probability of a line.

    Attributes:
        prompt: the line.
        tokens: number of its tokens that were predicted.
        log_probability: sum of their natural log-probabilities.
    """

    prompt: Prompt
    tokens: int
    log_probability: float

    def _shown(self) -> list[tuple[str, object]]:
        shown = (("text", self.prompt.text), ("tokens", self.tokens))
        return [*shown, ("perplexity", self.perplexity)]

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability; nan for a line without tokens."""
        return perplexity(self.log_probability, self.tokens)


def perplexity(log_probability: float, tokens: int) -> float:
    """exp(-log_probability / tokens); nan without tokens, inf where it overflows."""
    if tokens == 0:
        return math.nan
    try:
        return math.exp(-log_probability / tokens)
    except OverflowError:
        return math.inf


# -- models that generate -------------------------------------------------------------------------


def load_generator(model: LmModel, device: DeviceSettings) -> Generator:
    """Load a model that generates.

    Args:
        model: which model.
        device: where it runs; one device only.

    Raises:
        UertoolError: there is no such model, or it cannot generate.
    """
    from uertool.loading.device import resolve_devices

    if len(resolve_devices(device.device)) > 1:
        raise UsageError(
            f"`device` {device.device} names several devices; one run generates on one of them.",
            "Start a run for each, with `shard` 1/2 and so on.",
        )
    # Its weights are freed below, so the registry must not keep the model, before and after.
    forget_models()
    loaded = load_from_settings(model, device, heads=("lm",))
    forget_models()
    return Generator(loaded, release=True)


#: What a model is by its training target, and a command for it.
_FITTING: tuple[tuple[str, str, str], ...] = (
    ("mlm", "a masked-language model", "Fill in masked words with: uertool cloze."),
    ("cls", "a classifier", "Get sentence vectors with: uertool extract-features."),
    ("token_cls", "a token classifier", "Get vectors with: uertool extract-features."),
    ("qa", "a question-answering model", "Get vectors with: uertool extract-features."),
    ("siamese", "a model of sentence pairs", "Get vectors with: uertool extract-features."),
    ("", "an encoder alone", "Get sentence vectors with: uertool extract-features."),
)


def _refuse_unfit(loaded: LoadedModel) -> None:
    """Refuse a model that cannot generate, with a command for it."""
    config = loaded.config
    # A tied word embedding makes a language model of a causal encoder only.
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


@as_keywords()
def generate(
    loaded: LoadedModel,
    prompts: str | Path | Iterable[str],
    *,
    decoding: Decoding,
    precision: Precision = "native",
    tokens: int = 8192,
) -> Results[Results[Generated]]:
    """Continue prompts, or transform sources if the model is an encoder-decoder.

    Tokens are drawn from the 70 best unless other settings are given.

    Args:
        prompts: a text or several, or the `Path` of a file with one a line.
        precision: "int8" rounds the weights that every step reads (CPU only).
        tokens: most prompt tokens, padding included, to read at once.

    Returns:
        For each prompt, in their order, its texts: one, or `num_return`, beams best first.

    Raises:
        UertoolError: the model cannot generate, a setting is invalid, a prompt is too long.
    """
    numbered = (Prompt(number, text) for number, text in enumerate(as_texts(prompts)))
    chosen = dataclasses.replace(decoding, tokens=tokens)
    return Results(map(Results, Generator(loaded, precision).generate(numbered, chosen)))


@as_keywords()
def score(
    loaded: LoadedModel,
    texts: str | Path | Iterable[str],
    *,
    seq_length: int | None = None,
    truncate: Truncate = "error",
) -> Results[Scored]:
    """The probability and perplexity of texts under a language model.

    Args:
        texts: a text or several, or the `Path` of a file with one a line.
        seq_length: most tokens of a text; None for what the model holds.
        truncate: which end of a longer text is cut off: left, right, or error.

    Raises:
        UertoolError: the model is no language model, or a text is too long.
    """
    numbered = (Prompt(number, text) for number, text in enumerate(as_texts(texts)))
    return Results(Generator(loaded).score(numbered, seq_length=seq_length, truncate=truncate))
