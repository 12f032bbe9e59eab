"""Models that read a prompt once and then continue it token by token.

`make_incremental` picks the way that fits the model:

- a causal transformer or a transformer decoder keeps keys and values (`uertool.models.cache`);
- rnn, lstm and gru keep their recurrent state;
- anything else (convolutions, bidirectional or residual attention) reads everything again at each
  step, which is slow and right.

All of them know ids only, no text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.models.attention import SelfAttention, scaled_bias
from uertool.models.cache import CHUNK, STRIDE, KeyValueCache, SourceMemory
from uertool.models.decoder import ContextAttention, DecoderLayer, TransformerDecoder, memory_seen
from uertool.models.embeddings import Embedding
from uertool.models.encoders import RecurrentEncoder, TransformerEncoder, TransformerLayer
from uertool.models.feed_forward import FeedForward
from uertool.models.linear import Linear, Precision, make_linear
from uertool.models.model import UerModel
from uertool.models.positions import RelativePositionBias


class State(Protocol):
    """Texts in progress. `logits` [rows, vocab] are the scores of each row's next token."""

    logits: Tensor

    @property
    def rows(self) -> int:
        """Number of texts."""

    def select(self, rows: Sequence[int]) -> None:
        """Keeps the rows named, in that order; a row may be named several times."""

    def join(self, other: Any) -> None:
        """Adds the rows of another state of the same model below these."""


class IncrementalModel(Protocol):
    """What generation needs of a model."""

    vocab_size: int
    #: Tokens that fit the side that is generated, its start included; None without a limit.
    max_length: int | None
    #: Tokens that fit a prompt or source; None without a limit.
    max_prompt: int | None

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> Any:
        """Reads the prompts (sources, for an encoder-decoder).

        Args:
            prompts: ids, at least one each.
            room: new tokens that will be asked for; more is allowed but may copy.

        Returns:
            A State whose `logits` stand for the first new token.
        """

    def step(self, state: Any, ids: Tensor) -> Tensor:
        """Adds ids [rows], one a row; gives, and stores in the state, logits [rows, vocab]."""


# -- linear layers of one transformer layer -------------------------------------------------------


class _Packed:
    """Turns weights into fast layers, each weight once even where layers share it.

    Args:
        precision: of the fast layers.
        consume: let go of the plain weights at each `release`.
    """

    def __init__(self, precision: Precision, consume: bool = False) -> None:
        self.precision = precision
        self.consume = consume
        self.known: dict[tuple[int, int, int], Linear] = {}
        self.used: list[nn.Linear] = []

    def rows(self, layer: nn.Linear, start: int, end: int) -> Linear:
        """Output channels start to end of a linear layer."""
        key = (id(layer), start, end)
        if key not in self.known:
            bias = None if layer.bias is None else layer.bias[start:end]
            self.known[key] = make_linear(layer.weight[start:end], bias, self.precision)
            self.used.append(layer)
        return self.known[key]

    def whole(self, layer: nn.Linear) -> Linear:
        """All of a linear layer."""
        return self.rows(layer, 0, layer.out_features)

    def release(self) -> None:
        """Lets go of the weights of all layers so far; their other rows must be packed already."""
        if self.consume:
            for layer in self.used:
                layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
        self.used.clear()


@dataclass(frozen=True)
class _Group:
    """Consecutive tokens of prompts of one length."""

    rows: Tensor  # their numbers in the batch
    start: int
    end: int
    length: int


class _Prompts:
    """Prompts as one long list of tokens, those of equal length together.

    So padding costs nothing, and what is computed of a prompt does not depend on the others. On a
    GPU, where a few large products are better than many small ones, prompts are padded to one
    length instead.

    Attributes:
        lengths: tokens of each prompt.
        groups: prompts of equal length.
        ids, positions: [tokens].
        ends: where each prompt ends in the list.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.lengths = [len(prompt) for prompt in prompts]
        widths = self.lengths
        if device.type != "cpu":
            widths = [max(self.lengths)] * len(prompts)
        self.groups: list[_Group] = []
        self.ends = [0] * len(prompts)
        ids: list[int] = []
        positions: list[int] = []
        order = sorted(range(len(prompts)), key=widths.__getitem__)
        for width, members in itertools.groupby(order, key=widths.__getitem__):
            rows, start = list(members), len(ids)
            for row in rows:
                self.ends[row] = len(ids) + self.lengths[row]
                ids.extend(prompts[row])
                ids.extend([0] * (width - self.lengths[row]))
                positions.extend(range(width))
            index = torch.tensor(rows, device=device)
            self.groups.append(_Group(index, start, len(ids), width))
        self.ids = torch.tensor(ids, device=device)
        self.positions = torch.tensor(positions, device=device)


def attend_one(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Attention of one token per row.

    Spelled out, because torch's fused kernel on CPUs takes a coarser exponential, which shows where
    scores are large (T5 does not scale them).

    Args:
        q: [rows, heads, head size].
        keys: [rows, heads, seen, head size].
        values: likewise.
        mask: what is added to the scores [rows or 1, heads or 1, 1, seen], or None.
        scale: factor on the scores.

    Returns:
        [rows, heads * head size].
    """
    rows, heads, size = q.shape
    if scale != 1.0:
        q = q * scale
    scores = torch.matmul(q.unsqueeze(2), keys.transpose(2, 3))
    if mask is not None:
        scores = scores.add_(mask)
    weights = torch.softmax(scores, -1)
    return torch.matmul(weights, values).view(rows, heads * size)


class _SelfStep:
    """Self-attention of one new token per row."""

    def __init__(self, attention: SelfAttention, pack: _Packed) -> None:
        self.heads, self.head_size = attention.heads, attention.head_size
        self.inner = attention.inner
        self.scale = attention.scale
        self.qkv = pack.whole(attention.qkv)
        self.out = pack.whole(attention.final_linear)

    def gather(self, x: Tensor, layer: int, cache: KeyValueCache, mask: Tensor | None) -> Tensor:
        """[rows, hidden] to [rows, inner], writing keys and values."""
        parts = self.qkv(x).view(-1, 3, self.heads, self.head_size)
        keys, values = cache.append(layer, parts[:, 1:])
        return attend_one(parts[:, 0], keys, values, mask, self.scale)

    def gather_prompts(
        self, x: Tensor, layer: int, cache: KeyValueCache, prompts: _Prompts, mask: Tensor | None
    ) -> Tensor:
        """[tokens, hidden] to [tokens, inner], writing keys and values."""
        parts = self.qkv(x)
        out = torch.empty_like(parts[:, : self.inner])
        for group in prompts.groups:
            part = parts[group.start : group.end]
            part = part.view(-1, group.length, 3, self.heads, self.head_size)
            cache.write_prompts(layer, group.rows, part[:, :, 1:])
            q, k, v = (each.transpose(1, 2) for each in part.unbind(2))
            own = None if mask is None else mask[..., : group.length, : group.length]
            found = scaled_dot_product_attention(
                q, k, v, attn_mask=own, is_causal=own is None, scale=self.scale
            )
            out[group.start : group.end] = found.transpose(1, 2).reshape(-1, self.inner)
        return out


class _ContextStep:
    """Attention of one new token per row to the source."""

    def __init__(self, attention: ContextAttention, pack: _Packed) -> None:
        self.heads, self.head_size = attention.heads, attention.head_size
        self.inner = attention.inner
        self.scale = attention.scale
        self.query = pack.rows(attention.qkv, 0, self.inner)
        self.keys_values = pack.rows(attention.qkv, self.inner, 3 * self.inner)
        self.out = pack.whole(attention.final_linear)

    def remember(self, source: Tensor) -> Tensor:
        """Keys and values [2, rows, heads, source, head size] of the encoder's output."""
        rows, length, hidden = source.shape
        both = self.keys_values(source.reshape(-1, hidden))
        both = both.view(rows, length, 2, self.heads, self.head_size)
        return both.permute(2, 0, 3, 1, 4).contiguous()

    def gather(self, x: Tensor, layer: int, memory: SourceMemory) -> Tensor:
        """[rows, hidden] to [rows, inner]."""
        q = self.query(x).view(-1, self.heads, self.head_size)
        keys, values = memory.store[layer].unbind(0)
        return attend_one(q, keys, values, memory.mask, self.scale)


class _FeedForwardStep:
    """The feed-forward layer on [rows, hidden]."""

    def __init__(self, layer: FeedForward, config: ModelConfig, pack: _Packed) -> None:
        self.activation = config.hidden_act
        self.gate = None if layer.linear_gate is None else pack.whole(layer.linear_gate)
        self.inner = pack.whole(layer.linear_1)
        self.out = pack.whole(layer.linear_2)

    def widen(self, x: Tensor) -> Tensor:
        """[rows, hidden] to [rows, feed-forward size]."""
        if self.gate is None:
            return self.inner.activated(x, self.activation)
        return self.gate.activated(x, self.activation).mul_(self.inner(x))


class _LayerStep:
    """One layer of an encoder or a decoder, for new tokens."""

    def __init__(
        self, layer: TransformerLayer | DecoderLayer, config: ModelConfig, pack: _Packed
    ) -> None:
        self.pre = layer.pre
        self.attention = _SelfStep(layer.self_attn, pack)
        self.feed_forward = _FeedForwardStep(layer.feed_forward, config, pack)
        self.norm_1 = layer.layer_norm_1
        self.context: _ContextStep | None = None
        if isinstance(layer, DecoderLayer):
            self.context = _ContextStep(layer.context_attn, pack)
            self.norm_context = layer.layer_norm_2
            self.norm_last = layer.layer_norm_3
        else:
            self.norm_last = layer.layer_norm_2

    def step(
        self,
        x: Tensor,
        number: int,
        cache: KeyValueCache,
        mask: Tensor | None,
        memory: SourceMemory | None,
    ) -> Tensor:
        """[rows, hidden] to the same."""
        if self.pre:
            x = self.attention.out.added(
                self.attention.gather(self.norm_1(x), number, cache, mask), x
            )
            if self.context is not None and memory is not None:
                read = self.context.gather(self.norm_context(x), number, memory)
                x = self.context.out.added(read, x)
            return self.feed_forward.out.added(self.feed_forward.widen(self.norm_last(x)), x)
        x = self.norm_1(self.attention.out.added(self.attention.gather(x, number, cache, mask), x))
        if self.context is not None and memory is not None:
            x = self.norm_context(self.context.out.added(self.context.gather(x, number, memory), x))
        wide = self.feed_forward.widen(x)
        normed: Tensor = self.norm_last(self.feed_forward.out.added(wide, x))
        return normed

    def read_prompts(
        self, x: Tensor, number: int, cache: KeyValueCache, prompts: _Prompts, mask: Tensor | None
    ) -> Tensor:
        """[tokens, hidden] to the same, without context attention."""
        if self.pre:
            gathered = self.attention.gather_prompts(self.norm_1(x), number, cache, prompts, mask)
            x = self.attention.out.added(gathered, x)
            return self.feed_forward.out.added(self.feed_forward.widen(self.norm_last(x)), x)
        gathered = self.attention.gather_prompts(x, number, cache, prompts, mask)
        x = self.norm_1(self.attention.out.added(gathered, x))
        normed: Tensor = self.norm_last(self.feed_forward.out.added(self.feed_forward.widen(x), x))
        return normed


class _Output:
    """The output layer: hidden states [rows, hidden] to float32 logits [rows, vocab]."""

    def __init__(self, model: UerModel, pack: _Packed) -> None:
        layer = _output_layer(model)
        self.linear = pack.whole(layer)
        self.scale = model.config.lm_scale
        self.vocab_size = layer.weight.shape[0]

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.scale != 1.0:
            hidden = hidden * self.scale
        return self.linear(hidden).float()


def _output_layer(model: UerModel) -> nn.Linear:
    head = model.lm
    if head is None:
        raise UsageError("This model has no language-model output layer, so it cannot generate.")
    layer = head.output_layer
    assert isinstance(layer, nn.Linear)
    return layer


# -- transformers ---------------------------------------------------------------------------------


class CachedState:
    """Texts whose keys and values are kept."""

    def __init__(self, cache: KeyValueCache, memory: SourceMemory | None) -> None:
        self.cache = cache
        self.memory = memory
        self.logits = torch.empty(0)

    @property
    def rows(self) -> int:
        return self.cache.rows

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        if list(rows) == list(range(self.rows)):
            return
        self.cache.select(rows)
        if self.memory is not None:
            self.memory.select(rows)
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.logits.device)
        self.logits = self.logits.index_select(0, index)

    @torch.inference_mode()
    def join(self, other: CachedState) -> None:
        self.cache.join(other.cache)
        if self.memory is not None and other.memory is not None:
            self.memory.join(other.memory)
        self.logits = torch.cat([self.logits, other.logits])


class _Stack:
    """What a decoder-only model and a decoder share: embedding, layers, norm and output layer."""

    def __init__(
        self,
        model: UerModel,
        stack: TransformerEncoder | TransformerDecoder,
        embedding: Embedding,
        pack: _Packed,
    ) -> None:
        config = model.config
        self.config = config
        self.embedding = embedding
        self.factor = None
        if isinstance(stack, TransformerEncoder) and config.factorized_embedding_parameterization:
            self.factor = pack.whole(stack.linear)
        self.layers: list[_LayerStep] = []
        for layer in stack.layers:
            self.layers.append(_LayerStep(layer, config, pack))
            pack.release()
        self.norm = stack.layer_norm if config.layernorm_positioning == "pre" else None
        self.output = _Output(model, pack)
        pack.release()
        self.bias: RelativePositionBias | None = None
        if config.relative_position_embedding:
            self.bias = (
                stack.relative_pos_emb
                if isinstance(stack, TransformerEncoder)
                else stack.self_pos_emb
            )
        self.bias_table = torch.empty(0)
        self.max_length = embedding.max_length
        self.vocab_size = self.output.vocab_size

    def new_cache(self, rows: int, capacity: int) -> KeyValueCache:
        """An empty cache for so many rows and tokens."""
        like = next(self.embedding.parameters())
        return KeyValueCache(
            len(self.layers),
            rows,
            self.config.heads_num,
            self.config.head_size,
            capacity,
            like,
        )

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[rows, length] to [rows, length, hidden]."""
        x: Tensor = self.embedding(ids, torch.ones_like(ids), positions)
        if self.factor is not None:
            x = self.factor(x.reshape(-1, x.shape[-1])).view(*ids.shape, -1)
        return x

    def step(self, state: CachedState, ids: Tensor) -> Tensor:
        """See IncrementalModel.step."""
        cache = state.cache
        cache.open()
        x = self.embed(ids[:, None], cache.positions[:, None])[:, 0]
        mask = self._mask(cache)
        for number, layer in enumerate(self.layers):
            x = layer.step(x, number, cache, mask, state.memory)
        cache.close()
        if self.norm is not None:
            x = self.norm(x)
        state.logits = self.output(x)
        return state.logits

    def _mask(self, cache: KeyValueCache) -> Tensor | None:
        """What is added to the scores [rows or 1, heads or 1, 1, seen]; None for nothing."""
        if self.bias is None and cache.seen - 1 == cache.common:
            return None
        # Column c of the table is the bias at distance size - 1 - c, so that a row's biases lie in
        # the order of its keys; then follow columns for keys that are not there.
        table = self._biases(cache.seen, cache.store[0])
        size = table.shape[1] - STRIDE
        if cache.common is not None:
            first = size - 1 - cache.common
            return table[None, :, None, first : first + cache.seen]
        keys = torch.arange(cache.seen, device=table.device)
        columns = (size - 1 - cache.positions[:, None] + keys).clamp(max=size)
        return table[:, columns].transpose(0, 1)[:, :, None, :]

    def _biases(self, length: int, like: Tensor) -> Tensor:
        """Position biases [heads or 1, size + STRIDE] by falling distance, then STRIDE times -inf.

        Args:
            length: distances below it are there.
            like: has the device and type.
        """
        if self.bias_table.dim() < 2 or self.bias_table.shape[1] < length + STRIDE:
            size = (length // CHUNK + 1) * CHUNK
            table = like.new_zeros(1, size)
            if self.bias is not None:
                distance = torch.arange(1 - size, 1, device=like.device)
                table = scaled_bias(self.config, self.bias.at(distance)).to(like.dtype).t()
            nothing = table.new_full((table.shape[0], STRIDE), float("-inf"))
            self.bias_table = torch.cat([table, nothing], dim=1)
        return self.bias_table


class CachedLm(_Stack):
    """A causal transformer (GPT-2) that keeps keys and values."""

    def __init__(self, model: UerModel, pack: _Packed) -> None:
        encoder = model.encoder
        assert isinstance(encoder, TransformerEncoder)
        assert isinstance(model.embedding, Embedding)
        super().__init__(model, encoder, model.embedding, pack)
        self.max_prompt = self.max_length

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> CachedState:
        """See IncrementalModel.start."""
        read = _Prompts(prompts, next(self.embedding.parameters()).device)
        cache, hidden = self._read(read, room)
        last = hidden[torch.tensor(read.ends, device=hidden.device) - 1]
        if self.norm is not None:
            last = self.norm(last)
        state = CachedState(cache, None)
        state.logits = self.output(last)
        return state

    @torch.inference_mode()
    def step(self, state: CachedState, ids: Tensor) -> Tensor:
        return super().step(state, ids)

    @torch.inference_mode()
    def log_probabilities(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per text, the log-probability of each of its tokens after the first, [length - 1]."""
        read = _Prompts(texts, next(self.embedding.parameters()).device)
        _, hidden = self._read(read, 0)
        found = []
        for end, ids in zip(read.ends, texts, strict=True):
            x = hidden[end - len(ids) : end - 1]
            if self.norm is not None:
                x = self.norm(x)
            found.append(_picked(self.output, x, ids[1:]))
        return found

    def _read(self, prompts: _Prompts, room: int) -> tuple[KeyValueCache, Tensor]:
        """Keys and values, and hidden states [tokens, hidden] after the last layer."""
        length = max(prompts.lengths)
        cache = self.new_cache(len(prompts.lengths), length + min(room, 2 * CHUNK))
        cache.set_lengths(prompts.lengths)
        x = self.embed(prompts.ids[None], prompts.positions[None])[0]
        mask = None
        if self.bias is not None:
            mask = scaled_bias(self.config, self.bias(length, length)).to(x.dtype)
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            mask = mask.masked_fill(later, float("-inf"))
        for number, layer in enumerate(self.layers):
            x = layer.read_prompts(x, number, cache, prompts, mask)
        return cache, x


class CachedSeq2seq(_Stack):
    """An encoder-decoder: the source is read once, the target grows.

    Args:
        model: with a decoder.
        prefix: target ids that every text starts with, at least one.
        pack: for the decoder's weights; the encoder keeps its own.
    """

    def __init__(self, model: UerModel, prefix: Sequence[int], pack: _Packed) -> None:
        assert isinstance(model.decoder, TransformerDecoder)
        assert isinstance(model.tgt_embedding, Embedding)
        super().__init__(model, model.decoder, model.tgt_embedding, pack)
        self.model = model
        self.prefix = list(prefix)
        assert isinstance(model.embedding, Embedding)
        self.max_prompt = model.embedding.max_length

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> CachedState:
        """See IncrementalModel.start; the prompts are sources."""
        device = next(self.embedding.parameters()).device
        ids = _padded(prompts, device)
        segs = _padded([[1] * len(prompt) for prompt in prompts], device)
        source = self.model.encode(ids, segs)
        store = []
        for layer in self.layers:
            assert layer.context is not None
            store.append(layer.context.remember(source))
        memory = SourceMemory(store, memory_seen(self.config, ids, segs))
        capacity = len(self.prefix) + min(room, 2 * CHUNK)
        state = CachedState(self.new_cache(len(prompts), capacity), memory)
        for token in self.prefix:
            super().step(state, torch.full((len(prompts),), token, device=device))
        return state

    @torch.inference_mode()
    def step(self, state: CachedState, ids: Tensor) -> Tensor:
        return super().step(state, ids)


# -- recurrent ------------------------------------------------------------------------------------


class RecurrentState:
    """Texts of a recurrent model. `hidden` is a list of tensors [layers, rows, size]."""

    def __init__(self, hidden: list[Tensor], lengths: list[int], logits: Tensor) -> None:
        self.hidden = hidden
        self.lengths = lengths
        self.logits = logits

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.logits.device)
        self.hidden = [part.index_select(1, index) for part in self.hidden]
        self.lengths = [self.lengths[row] for row in rows]
        self.logits = self.logits.index_select(0, index)

    @torch.inference_mode()
    def join(self, other: RecurrentState) -> None:
        pairs = zip(self.hidden, other.hidden, strict=True)
        self.hidden = [torch.cat([mine, theirs], dim=1) for mine, theirs in pairs]
        self.lengths += other.lengths
        self.logits = torch.cat([self.logits, other.logits])


class RecurrentLm:
    """An rnn, lstm or gru language model: its state is all it needs to remember."""

    def __init__(self, model: UerModel, pack: _Packed) -> None:
        assert isinstance(model.encoder, RecurrentEncoder)
        assert isinstance(model.embedding, Embedding)
        self.embedding = model.embedding
        self.rnn = model.encoder.rnn
        self.output = _Output(model, pack)
        pack.release()
        self.vocab_size = self.output.vocab_size
        self.max_length = self.max_prompt = self.embedding.max_length

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> RecurrentState:
        """See IncrementalModel.start."""
        packed = self._embed(prompts)
        _, hidden = self.rnn(packed)
        parts = list(hidden) if isinstance(hidden, tuple) else [hidden]
        logits = self.output(parts[0][-1])
        return RecurrentState(parts, [len(prompt) for prompt in prompts], logits)

    @torch.inference_mode()
    def step(self, state: RecurrentState, ids: Tensor) -> Tensor:
        """See IncrementalModel.step."""
        positions = torch.tensor(state.lengths, device=ids.device)[:, None]
        x = self.embedding(ids[:, None], torch.ones_like(ids)[:, None], positions)
        before = tuple(state.hidden) if len(state.hidden) > 1 else state.hidden[0]
        out, hidden = self.rnn(x, before)
        state.hidden = list(hidden) if isinstance(hidden, tuple) else [hidden]
        state.lengths = [length + 1 for length in state.lengths]
        state.logits = self.output(out[:, 0])
        return state.logits

    @torch.inference_mode()
    def log_probabilities(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per text, the log-probability of each of its tokens after the first, [length - 1]."""
        packed, _ = self.rnn(self._embed(texts))
        hidden, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        return [
            _picked(self.output, hidden[row, : len(ids) - 1], ids[1:])
            for row, ids in enumerate(texts)
        ]

    def _embed(self, texts: Sequence[Sequence[int]]) -> nn.utils.rnn.PackedSequence:
        ids = _padded(texts, next(self.embedding.parameters()).device)
        lengths = [len(text) for text in texts]
        return nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids, torch.ones_like(ids)),
            torch.tensor(lengths),
            batch_first=True,
            enforce_sorted=False,
        )


# -- everything else ------------------------------------------------------------------------------


class RereadState:
    """Texts that are read again from the start at every step."""

    def __init__(self, texts: list[list[int]], logits: Tensor) -> None:
        self.texts = texts
        self.logits = logits

    @property
    def rows(self) -> int:
        return len(self.texts)

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        self.texts = [list(self.texts[row]) for row in rows]
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.logits.device)
        self.logits = self.logits.index_select(0, index)

    @torch.inference_mode()
    def join(self, other: RereadState) -> None:
        self.texts += other.texts
        self.logits = torch.cat([self.logits, other.logits])


class RereadLm:
    """A language model without a state to keep: the whole text is read for every token.

    Rows of one length run together and rows of different length apart, since padding changes what
    some of these encoders compute.
    """

    def __init__(self, model: UerModel, pack: _Packed) -> None:
        assert isinstance(model.embedding, Embedding)
        self.model = model
        self.output = _Output(model, pack)
        pack.release()
        self.vocab_size = self.output.vocab_size
        self.max_length = self.max_prompt = model.embedding.max_length

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], room: int) -> RereadState:
        """See IncrementalModel.start."""
        state = RereadState([list(prompt) for prompt in prompts], torch.empty(0))
        state.logits = self._last(state.texts)
        return state

    @torch.inference_mode()
    def step(self, state: RereadState, ids: Tensor) -> Tensor:
        """See IncrementalModel.step."""
        for text, token in zip(state.texts, ids.tolist(), strict=True):
            text.append(token)
        state.logits = self._last(state.texts)
        return state.logits

    @torch.inference_mode()
    def log_probabilities(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per text, the log-probability of each of its tokens after the first, [length - 1]."""
        found = []
        for text in texts:
            hidden = self._hidden([text])[0, :-1]
            found.append(_picked(self.output, hidden, text[1:]))
        return found

    def _hidden(self, texts: Sequence[Sequence[int]]) -> Tensor:
        ids = _padded(texts, next(self.model.parameters()).device)
        hidden = self.model.encode(ids, torch.ones_like(ids))
        assert isinstance(hidden, Tensor)
        return hidden

    def _last(self, texts: Sequence[Sequence[int]]) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for row, text in enumerate(texts):
            by_length.setdefault(len(text), []).append(row)
        found: Tensor | None = None
        for rows in by_length.values():
            logits = self.output(self._hidden([texts[row] for row in rows])[:, -1])
            if found is None:
                found = logits.new_empty(len(texts), logits.shape[1])
            found[rows] = logits
        assert found is not None
        return found


# -- shared ---------------------------------------------------------------------------------------


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Ids [rows, longest], zeros at the right."""
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return out.to(device)


def _picked(output: _Output, hidden: Tensor, ids: Sequence[int]) -> Tensor:
    """Log-probabilities [n] of ids after hidden states [n, hidden], a slice at a time."""
    wanted = torch.tensor(ids, dtype=torch.int64, device=hidden.device)
    found = [torch.empty(0, device=hidden.device)]
    for start in range(0, len(ids), 64):  # a row of logits may have 250,000 columns
        logits = output(hidden[start : start + 64])
        chosen = logits.gather(1, wanted[start : start + 64, None])[:, 0]
        found.append(chosen - logits.logsumexp(1))
    return torch.cat(found)


def make_incremental(
    model: UerModel,
    *,
    precision: Precision = "native",
    prefix: Sequence[int] = (),
    consume: bool = False,
) -> CachedLm | CachedSeq2seq | RecurrentLm | RereadLm:
    """The fastest exact way to generate with a model.

    Args:
        model: with an output layer for words.
        precision: "int8" rounds the weights that every step reads (CPU only).
        prefix: for an encoder-decoder, the ids that every target starts with.
        consume: let go of the plain weights, layer by layer, as fast ones are made of them. It
            saves half of the memory; the model itself can then do nothing else.

    Raises:
        UsageError: the model has no output layer, or int8 is not to be had here.
    """
    _output_layer(model)
    config = model.config
    model.eval()
    pack = _Packed(precision, consume)
    try:
        with torch.inference_mode():
            if config.decoder is not None:
                return CachedSeq2seq(model, prefix, pack)
            if isinstance(model.encoder, TransformerEncoder):
                if config.mask == "causal" and not config.has_residual_attention:
                    return CachedLm(model, pack)
            elif isinstance(model.encoder, RecurrentEncoder) and not config.bidirectional:
                return RecurrentLm(model, pack)
            return RereadLm(model, pack)
    except (RuntimeError, AttributeError) as error:
        if precision != "int8":
            raise
        raise UsageError(
            "This build of torch has no 8-bit kernels for this processor.",
            "Use `dtype` bfloat16 or float32.",
        ) from error
