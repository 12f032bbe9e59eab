"""The search loop: many prompts through one model, with continuous batching.

Finished rows leave the batch at once and new prompts take their places, so no row waits for
another. A result depends on its own prompt only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from uertool.errors import InputError
from uertool.models.states import IncrementalModel
from uertool.tasks.generation.beam import BeamGroup, Hypothesis
from uertool.tasks.generation.logits import Rule, apply_rules
from uertool.tasks.generation.sampling import Sampling, uniform
from uertool.tasks.generation.settings import Decoding
from uertool.tasks.generation.stopping import Stopping


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes:
        number: its line number; decides its random stream.
        prompt: ids that the model reads, at least one.
        context: ids that precede the new ones (the prompt, or the start of the target).
        room: most new tokens, at least one.
        payload: anything; returned with the result.
    """

    number: int
    prompt: Sequence[int]
    context: Sequence[int]
    room: int
    payload: Any = None


@dataclass
class Result:
    """All texts of one request."""

    request: Request
    texts: list[Hypothesis]


@dataclass
class Row:
    """One text in progress."""

    group: _Group
    number: int  # which of the group's texts it is
    context: list[int]
    length: int = 0
    log_probability: float = 0.0

    @property
    def room(self) -> int:
        """Maximum new tokens."""
        return self.group.request.room

    @property
    def new(self) -> list[int]:
        """The new tokens so far."""
        return self.context[len(self.context) - self.length :]


@dataclass
class _Group:
    """The texts of one request."""

    request: Request
    width: int
    found: list[Hypothesis | None] = field(default_factory=list)
    beams: BeamGroup | None = None

    def result(self) -> Result | None:
        """The result, once all texts are finished."""
        if self.beams is not None:
            return Result(self.request, self.beams.finished) if self.beams.done else None
        texts = [text for text in self.found if text is not None]
        return Result(self.request, texts) if len(texts) == self.width else None


#: A row that continues: its place in the batch, its next token, and the row.
Step = tuple[int, int, Row]


class Strategy(Protocol):
    """Chooses the next tokens of rows."""

    #: Rows of a prompt.
    width: int

    def group(self, request: Request) -> _Group:
        """An empty group for a request."""

    def advance(self, logits: Tensor, rows: list[Row]) -> list[Step]:
        """Chooses the next token of every row; finished rows are left out."""


class Independent:
    """Greedy decoding and sampling: rows do not depend on each other.

    Args:
        settings: how a token is drawn, and how many texts a prompt gets.
        rules: what changes the scores before.
        stopping: when a text ends.
        on_token: called with every row and its new token.
    """

    def __init__(
        self,
        settings: Decoding,
        rules: Sequence[Rule],
        stopping: Stopping,
        on_token: Callable[[Row, int], None] | None = None,
    ) -> None:
        self.settings = settings
        self.sampling = Sampling(settings)
        self.rules = rules
        self.stopping = stopping
        self.width = settings.num_return
        self.on_token = on_token

    def group(self, request: Request) -> _Group:
        return _Group(request, self.width, [None] * self.width)

    @torch.inference_mode()
    def advance(self, logits: Tensor, rows: list[Row]) -> list[Step]:
        scores = apply_rules(self.rules, logits, rows)
        uniforms = [0.0] * len(rows)
        if not self.settings.deterministic:
            uniforms = [
                uniform(self.settings.seed, row.group.request.number, row.number, row.length)
                for row in rows
            ]
        chosen = self.sampling.draw(scores, uniforms)
        gained = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        # Ids are exact in float32, so that one copy from the device brings both.
        tokens, gains = torch.stack((chosen.to(gained.dtype), gained)).tolist()
        steps: list[Step] = []
        for place, (row, number, gain) in enumerate(zip(rows, tokens, gains, strict=True)):
            token = int(number)
            row.context.append(token)
            row.length += 1
            row.log_probability += gain
            if self.on_token is not None:
                self.on_token(row, token)
            reason = self.stopping.reason(row.context, row.length, row.room)
            if reason is None:
                steps.append((place, token, row))
            else:
                row.group.found[row.number] = Hypothesis(
                    tuple(row.new), row.log_probability, row.log_probability, reason
                )
        return steps


class Beams:
    """Beam search, see `uertool.tasks.generation.beam`.

    Args:
        settings: with `beam`.
        rules: what changes the log-probabilities before beams are compared.
        stopping: when a text ends.
    """

    def __init__(self, settings: Decoding, rules: Sequence[Rule], stopping: Stopping) -> None:
        self.settings = settings
        self.rules = rules
        self.stopping = stopping
        self.width = settings.beam or 1

    def group(self, request: Request) -> _Group:
        return _Group(request, self.width, beams=BeamGroup(self.settings, request.room))

    @torch.inference_mode()
    def advance(self, logits: Tensor, rows: list[Row]) -> list[Step]:
        scores = apply_rules(self.rules, logits.log_softmax(-1), rows)
        vocab = scores.shape[1]
        groups = [row.group for row in rows[:: self.width]]
        beams = [group.beams for group in groups]
        running = [score for group in beams if group is not None for score in group.running]
        totals = scores + torch.tensor(running, device=scores.device)[:, None]
        totals = totals.view(len(groups), self.width * vocab)
        # So many of the best that enough of them do not end at a stop token.
        wanted = max(2, 1 + len(self.stopping.tokens)) * self.width
        best, places = totals.topk(min(wanted, totals.shape[1]))
        parents = places.div(vocab, rounding_mode="floor").tolist()
        tokens = (places % vocab).tolist()
        steps: list[Step] = []
        for at, (group, beam) in enumerate(zip(groups, beams, strict=True)):
            assert beam is not None
            steps += self._advance_group(
                group, beam, at * self.width, rows, best[at].tolist(), parents[at], tokens[at]
            )
        return steps

    def _advance_group(
        self,
        group: _Group,
        beam: BeamGroup,
        first: int,
        rows: list[Row],
        scores: list[float],
        parents: list[int],
        tokens: list[int],
    ) -> list[Step]:
        reasons = [
            self.stopping.reason([*beam.beams[parent], token], beam.length + 1, beam.room)
            for parent, token in zip(parents, tokens, strict=True)
        ]
        kept = beam.advance(scores, parents, tokens, reasons)
        if beam.done:
            return []
        steps: list[Step] = []
        for number, (parent, token) in enumerate(kept):
            old = rows[first + parent]
            row = Row(group, number, [*old.context, token], old.length + 1)
            steps.append((first + parent, token, row))
        return steps


class _Queue:
    """Waiting requests, sorted by length within a window."""

    def __init__(self, requests: Iterable[Request], window: int) -> None:
        self.source = iter(requests)
        self.window = window
        self.waiting: list[Request] = []
        self.failure: InputError | None = None

    def take(self, count: int, tokens: int) -> list[Request]:
        """Up to `count` requests with at most `tokens` tokens in their padded prompts."""
        if not self.waiting:
            self._fill()
        taken: list[Request] = []
        while self.waiting and len(taken) < count:
            longest = max(len(self.waiting[-1].prompt), len(taken[0].prompt) if taken else 0)
            if taken and longest * (len(taken) + 1) > tokens:
                break
            taken.append(self.waiting.pop())
        return taken

    def _fill(self) -> None:
        try:
            for request in self.source:
                self.waiting.append(request)
                if len(self.waiting) >= self.window:
                    break
        except InputError as error:  # raised when the requests before it have ended
            self.failure = error
        # The longest is taken first: what does not fit in memory fails at once.
        self.waiting.sort(key=lambda request: len(request.prompt))


def search(
    model: IncrementalModel,
    requests: Iterable[Request],
    strategy: Strategy,
    *,
    rows: int = 16,
    tokens: int = 8192,
    window: int | None = None,
) -> Iterator[Result]:
    """Runs every request to its end.

    Args:
        model: see `uertool.models.states`.
        requests: any number; read as they are needed.
        strategy: `Independent` or `Beams`.
        rows: texts in progress at once, all beams and texts of a prompt included.
        tokens: most prompt tokens, padding included, to read at once.
        window: number of requests that are sorted together by length.

    Yields:
        Results in the order in which they finish.

    Raises:
        InputError: a request cannot be read; those before it are finished first.
    """
    queue = _Queue(requests, window or 4 * rows)
    prompts = max(1, rows // strategy.width)
    state: Any = None
    live: list[Row] = []
    device = None
    while True:
        free = prompts + (-len(live) // strategy.width)
        # Reading prompts one by one would delay the others: some places must be free.
        if not live or free >= max(1, prompts // 4):
            admitted = queue.take(free, tokens)
            if admitted:
                fresh = model.start(
                    [request.prompt for request in admitted],
                    max(request.room for request in admitted),
                )
                fresh.select([at for at in range(len(admitted)) for _ in range(strategy.width)])
                groups = [strategy.group(request) for request in admitted]
                if live:
                    state.join(fresh)
                else:
                    state = fresh
                live += [
                    Row(group, number, list(group.request.context))
                    for group in groups
                    for number in range(strategy.width)
                ]
                device = state.logits.device
        if not live:
            if queue.failure is not None:
                raise queue.failure
            return
        steps = strategy.advance(state.logits, live)
        running = {id(row.group) for _, _, row in steps}
        ended = {id(row.group): row.group for row in live if id(row.group) not in running}
        live = [row for _, _, row in steps]
        for group in ended.values():
            result = group.result()
            assert result is not None
            yield result
        if live:
            state.select([place for place, _, _ in steps])
            model.step(state, torch.tensor([token for _, token, _ in steps], device=device))
