"""Language models that read a prompt once and then continue it token by token.

`make_incremental` chooses how:

- a causal transformer or a transformer decoder keeps keys and values (`uertool.models.cache`);
- rnn, lstm and gru keep their recurrent state;
- anything else (convolutions, bidirectional or residual attention) reads the whole text again at
  every step, which is slow but exact.

All of them run the layers of UerModel, and know ids only, no text.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uertool.errors import UsageError
from uertool.models.cache import CHUNK, KeyValueCache
from uertool.models.embeddings import Embedding
from uertool.models.encoders import RecurrentEncoder
from uertool.models.graphs import Places, uses_graphs
from uertool.models.heads import LmHead
from uertool.models.linear import Precision
from uertool.models.model import UerModel
from uertool.models.packing import packed
from uertool.models.transformer import TransformerDecoder, TransformerEncoder, source_mask


class State:
    """Texts in progress. `logits` [rows, vocab] are the scores of each row's next token."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def rows(self) -> int:
        """Number of texts."""
        return self.logits.shape[0]

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keeps the given rows, in that order; a row may be given several times."""
        if list(rows) != list(range(self.rows)):
            index = torch.tensor(list(rows), dtype=torch.int64, device=self.logits.device)
            self.logits = self.logits.index_select(0, index)
            self._select(list(rows), index)

    @torch.inference_mode()
    def join(self, other: Any) -> None:
        """Appends the rows of another state of the same model."""
        self.logits = torch.cat([self.logits, other.logits])
        self._join(other)

    def _select(self, rows: list[int], index: Tensor) -> None:
        raise NotImplementedError

    def _join(self, other: Any) -> None:
        raise NotImplementedError


class IncrementalModel:
    """A language model that generates.

    Args:
        model: with an output layer for words.

    Attributes:
        vocab_size: columns of the logits.
        max_length: tokens that fit the generated side, its start included; None without a limit.
        max_prompt: tokens that fit a prompt or source; None without a limit.
    """

    def __init__(self, model: UerModel) -> None:
        assert isinstance(model.embedding, Embedding)
        assert model.lm is not None
        self.model = model
        self.lm: LmHead = model.lm
        #: The embedding of the generated side.
        self.embedding: Embedding = model.tgt_embedding or model.embedding
        self.vocab_size = self.lm.vocab_size
        self.max_length = self.embedding.max_length
        self.max_prompt = model.embedding.max_length

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> Any:
        """Reads the prompts (sources, for an encoder-decoder).

        Args:
            prompts: ids, at least one each.
            room: expected number of new tokens; more are allowed, but may need a copy.

        Returns:
            A State with the `logits` of the first new token.
        """
        raise NotImplementedError

    def step(self, state: Any, ids: Tensor) -> Tensor:
        """Appends ids [rows], one per row; returns, and stores in the state, logits."""
        raise NotImplementedError

    @torch.inference_mode()
    def log_probabilities(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """The log-probability of each token of each text after the first, [length - 1]."""
        hidden = self._hidden(texts)
        return [
            self._chosen(states[: len(ids) - 1], ids[1:])
            for states, ids in zip(hidden, texts, strict=True)
        ]

    def _hidden(self, texts: Sequence[Sequence[int]]) -> Sequence[Tensor]:
        """Hidden states [length or more, hidden] of each text."""
        ids, segs = self._batch(texts)
        return list(self.model.encode(ids, segs))

    def _logits(self, hidden: Tensor) -> Tensor:
        """Float32 scores [rows, vocab] after hidden states [rows, hidden]."""
        return self.lm(hidden).float()

    def _chosen(self, hidden: Tensor, ids: Sequence[int]) -> Tensor:
        """Log-probabilities [n] of ids after hidden states [n, hidden], a slice at a time."""
        wanted = torch.tensor(ids, dtype=torch.int64, device=hidden.device)
        found = [torch.empty(0, device=hidden.device)]
        for start in range(0, len(ids), 64):  # a row of logits may have 250,000 columns
            logits = self._logits(hidden[start : start + 64])
            chosen = logits.gather(1, wanted[start : start + 64, None])[:, 0]
            found.append(chosen - logits.logsumexp(1))
        return torch.cat(found)

    def _batch(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and segment ids [rows, longest], zeros at the right."""
        ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
        segs = torch.zeros_like(ids)
        for number, text in enumerate(texts):
            ids[number, : len(text)] = torch.tensor(text, dtype=torch.int64)
            segs[number, : len(text)] = 1
        device = next(self.embedding.parameters()).device
        return ids.to(device), segs.to(device)


# -- transformers ---------------------------------------------------------------------------------


class CachedState(State):
    """Texts with their keys and values; on a GPU with `places`, see `uertool.models.graphs`."""

    def __init__(self, logits: Tensor, cache: KeyValueCache) -> None:
        super().__init__(logits)
        self.cache = cache
        self.places = Places(cache) if uses_graphs(logits.device) else None

    def _select(self, rows: list[int], index: Tensor) -> None:
        (self.places or self.cache).select(rows)

    def _join(self, other: CachedState) -> None:
        if self.places is not None and other.places is not None:
            self.places.join(other.places)
        else:
            self.cache.join(other.cache)


class CachedLm(IncrementalModel):
    """A causal transformer (GPT-2) that keeps keys and values."""

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> CachedState:
        """See IncrementalModel.start."""
        encoder = self.model.encoder
        assert isinstance(encoder, TransformerEncoder)
        ids, segs = self._batch(prompts)
        vectors = self.embedding(ids, segs)
        capacity = ids.shape[1] + min(room, 2 * CHUNK)
        cache = encoder.new_cache(len(prompts), capacity, vectors)
        hidden = encoder(vectors, segs, [encoder.layers_num], cache=cache)[0]
        last = hidden[cache.row_index, cache.positions - 1]
        return CachedState(self._logits(last), cache)

    @torch.inference_mode()
    def step(self, state: CachedState, ids: Tensor) -> Tensor:
        """See IncrementalModel.step."""
        return self._step(self.model.encoder, state, ids)

    def _step(self, stack: nn.Module, state: CachedState, ids: Tensor) -> Tensor:
        step = functools.partial(self._plain_step, stack, state.cache)
        state.logits = step(ids) if state.places is None else state.places.run(step, ids)
        return state.logits

    def _plain_step(self, stack: nn.Module, cache: KeyValueCache, ids: Tensor) -> Tensor:
        assert isinstance(stack, (TransformerEncoder, TransformerDecoder))
        vectors = self.embedding(ids, torch.ones_like(ids), cache.positions)
        return self._logits(stack.step(vectors, cache))


class CachedSeq2seq(CachedLm):
    """An encoder-decoder: the source is read once, the target grows.

    Args:
        model: with a decoder.
        prefix: target ids that every text starts with, at least one.
    """

    def __init__(self, model: UerModel, prefix: Sequence[int]) -> None:
        super().__init__(model)
        self.prefix = list(prefix)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> CachedState:
        """See IncrementalModel.start; the prompts are sources."""
        decoder = self.model.decoder
        assert decoder is not None
        ids, segs = self._batch(prompts)
        source = self.model.encode(ids, segs)
        cache = decoder.new_cache(len(prompts), len(self.prefix) + min(room, 2 * CHUNK), source)
        cache.source = decoder.memory(source, source_mask(self.model.config, ids, segs))
        state = CachedState(source.new_empty(len(prompts), 0), cache)
        for token in self.prefix:
            self.step(state, ids.new_full((len(prompts),), token))
        return state

    @torch.inference_mode()
    def step(self, state: CachedState, ids: Tensor) -> Tensor:
        """See IncrementalModel.step."""
        assert self.model.decoder is not None
        return self._step(self.model.decoder, state, ids)


# -- recurrent ------------------------------------------------------------------------------------


class RecurrentState(State):
    """Texts of a recurrent model. `hidden` is a list of tensors [layers, rows, size]."""

    def __init__(self, logits: Tensor, hidden: list[Tensor], lengths: list[int]) -> None:
        super().__init__(logits)
        self.hidden = hidden
        self.lengths = lengths

    def _select(self, rows: list[int], index: Tensor) -> None:
        self.hidden = [part.index_select(1, index) for part in self.hidden]
        self.lengths = [self.lengths[row] for row in rows]

    def _join(self, other: RecurrentState) -> None:
        pairs = zip(self.hidden, other.hidden, strict=True)
        self.hidden = [torch.cat([mine, theirs], dim=1) for mine, theirs in pairs]
        self.lengths += other.lengths


class RecurrentLm(IncrementalModel):
    """An rnn, lstm or gru language model: its recurrent state is all that it keeps."""

    def __init__(self, model: UerModel) -> None:
        super().__init__(model)
        assert isinstance(model.encoder, RecurrentEncoder)
        self.rnn = model.encoder.rnn

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> RecurrentState:
        """See IncrementalModel.start."""
        _, hidden = self._read(prompts)
        return RecurrentState(
            self._logits(hidden[0][-1]), hidden, [len(prompt) for prompt in prompts]
        )

    @torch.inference_mode()
    def step(self, state: RecurrentState, ids: Tensor) -> Tensor:
        """See IncrementalModel.step."""
        positions = torch.tensor(state.lengths, device=ids.device)[:, None]
        x = self.embedding(ids[:, None], torch.ones_like(ids)[:, None], positions)
        before = tuple(state.hidden) if len(state.hidden) > 1 else state.hidden[0]
        out, hidden = self.rnn(x, before)
        state.hidden = list(hidden) if isinstance(hidden, tuple) else [hidden]
        state.lengths = [length + 1 for length in state.lengths]
        state.logits = self._logits(out[:, 0])
        return state.logits

    def _hidden(self, texts: Sequence[Sequence[int]]) -> Sequence[Tensor]:
        out, _ = self._read(texts)
        return list(nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0])

    def _read(
        self, texts: Sequence[Sequence[int]]
    ) -> tuple[nn.utils.rnn.PackedSequence, list[Tensor]]:
        """Hidden states of all tokens, and the state after the last token of each text."""
        ids, _ = self._batch(texts)
        lengths = torch.tensor([len(text) for text in texts])
        vectors = self.embedding(ids, torch.ones_like(ids))
        out, hidden = self.rnn(
            nn.utils.rnn.pack_padded_sequence(
                vectors, lengths, batch_first=True, enforce_sorted=False
            )
        )
        return out, list(hidden) if isinstance(hidden, tuple) else [hidden]


# -- everything else ------------------------------------------------------------------------------


class RereadState(State):
    """Texts that are read again from the start at every step."""

    def __init__(self, logits: Tensor, texts: list[list[int]]) -> None:
        super().__init__(logits)
        self.texts = texts

    def _select(self, rows: list[int], index: Tensor) -> None:
        self.texts = [list(self.texts[row]) for row in rows]

    def _join(self, other: RereadState) -> None:
        self.texts += other.texts


class RereadLm(IncrementalModel):
    """A language model without a state to keep: the whole text is read for every token.

    Rows of one length run together and rows of different length apart, since padding changes what
    some of these encoders compute.
    """

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> RereadState:
        """See IncrementalModel.start."""
        texts = [list(prompt) for prompt in prompts]
        return RereadState(self._last(texts), texts)

    @torch.inference_mode()
    def step(self, state: RereadState, ids: Tensor) -> Tensor:
        """See IncrementalModel.step."""
        for text, token in zip(state.texts, ids.tolist(), strict=True):
            text.append(token)
        state.logits = self._last(state.texts)
        return state.logits

    def _hidden(self, texts: Sequence[Sequence[int]]) -> Sequence[Tensor]:
        return [self.model.encode(*self._batch([text]))[0] for text in texts]

    def _last(self, texts: Sequence[Sequence[int]]) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for row, text in enumerate(texts):
            by_length.setdefault(len(text), []).append(row)
        logits: Tensor | None = None
        for rows in by_length.values():
            hidden = self.model.encode(*self._batch([texts[row] for row in rows]))
            part = self._logits(hidden[:, -1])
            if logits is None:
                logits = part.new_empty(len(texts), self.vocab_size)
            logits[rows] = part
        assert logits is not None
        return logits


def make_incremental(
    model: UerModel,
    *,
    precision: Precision = "native",
    prefix: Sequence[int] = (),
    release: bool = False,
) -> IncrementalModel:
    """The fastest exact way to generate with a model.

    Args:
        model: with an output layer for words; not changed unless `release` is set.
        precision: "int8" rounds the weights that every step reads (CPU only).
        prefix: for an encoder-decoder, the ids that every target starts with.
        release: free the plain weights, layer by layer, as they are packed. It saves half of the
            memory; the model itself can then compute nothing more.

    Raises:
        UsageError: the model has no output layer, or int8 is not available here.
    """
    if model.lm is None:
        raise UsageError("This model has no language-model output layer, so it cannot generate.")
    config = model.config
    causal = config.mask == "causal" and not config.has_residual_attention
    cached = isinstance(model.encoder, TransformerEncoder) and causal
    stack = "decoder" if config.decoder is not None else "encoder" if cached else None
    twin = copy.copy(model.eval())
    twin._modules = dict(model._modules)
    for name in filter(None, (stack, "lm")):
        part = model.get_submodule(name)
        twin._modules[name] = packed(part, precision, release=release)
    if config.decoder is not None:
        return CachedSeq2seq(twin, prefix)
    if cached:
        return CachedLm(twin)
    if isinstance(model.encoder, RecurrentEncoder) and not config.bidirectional:
        return RecurrentLm(twin)
    return RereadLm(twin)
