"""Transformers: the layer and the stack that encoders and decoders share, and both of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.models.attention import ContextAttention, SelfAttention, attention_scale
from uertool.models.cache import KeyValueCache, LayerCache, SourceMemory
from uertool.models.feed_forward import FeedForward
from uertool.models.layout import Layout, PackedLayout, PaddedLayout, Reach, StepLayout, make_layout
from uertool.models.linear import Dense
from uertool.models.norm import make_norm
from uertool.models.positions import RelativePositionBias, sinusoid_legacy
from uertool.models.rotary import Rotary


class TransformerLayer(nn.Module):
    """Self-attention, attention to a source (decoders) and feed-forward.

    Args:
        config: sizes and switches; the norm is after (post) or before (pre) each part.
        first: whether it reads the embedding.
        decoder: whether it attends to a source.
    """

    def __init__(self, config: ModelConfig, *, first: bool = False, decoder: bool = False) -> None:
        super().__init__()
        self.pre = config.layernorm_positioning == "pre"
        # With pre layer norm and no norm in the embedding, the first layer norms raw embeddings.
        near = self.pre and first and config.remove_embedding_layernorm
        self.self_attn = SelfAttention(config)
        self.layer_norm_1: nn.Module = (
            nn.Identity()
            if first and config.remove_first_layernorm
            else make_norm(config, config.hidden_size, near_embedding=near)
        )
        self.context_attn = ContextAttention(config) if decoder else None
        self.layer_norm_2 = make_norm(config, config.hidden_size)
        self.feed_forward = FeedForward(config)
        self.layer_norm_3 = make_norm(config, config.hidden_size) if decoder else None

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        *,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
        source: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The layer's output [tokens..., hidden], or [batch, k, hidden] with `positions`.

        Args:
            x: [tokens..., hidden].
            layout: how the tokens lie in memory.
            positions: [batch, k]: compute the output there only.
            cache: keys and values of the tokens before, and of the source, in generation.
            source: hidden states [batch, source, hidden] and their mask, see `attend`, where the
                cache does not have them.
        """
        pre, last_norm = self.pre, self.layer_norm_2
        residual = x if positions is None else layout.select(x, positions)
        read = self.layer_norm_1(x) if pre else x
        x = self.self_attn(read, layout, residual, positions, cache)
        if not pre:
            x = self.layer_norm_1(x)
        if self.context_attn is not None and self.layer_norm_3 is not None:
            if cache is not None:
                memory, mask = cache.source
            else:
                assert source is not None
                memory, mask = self.context_attn.memory(source[0]), source[1]
            read = self.layer_norm_2(x) if pre else x
            x = self.context_attn(read, memory, mask, x)
            if not pre:
                x = self.layer_norm_2(x)
            last_norm = self.layer_norm_3
        if pre:
            return self.feed_forward(last_norm(x), x)
        return last_norm(self.feed_forward(x, x))


class Transformer(nn.Module):
    """A stack of transformer layers, or one layer run several times (ALBERT).

    Args:
        config: sizes and switches.
        layers: how often a layer runs.
        decoder: whether the layers attend to a source.
    """

    transformer: TransformerLayer | nn.ModuleList

    def __init__(self, config: ModelConfig, layers: int, *, decoder: bool = False) -> None:
        super().__init__()
        self.config = config
        self.layers_num = layers
        if config.parameter_sharing and not decoder:
            self.transformer = TransformerLayer(config, first=True)
        else:
            self.transformer = nn.ModuleList(
                TransformerLayer(config, first=number == 0, decoder=decoder)
                for number in range(layers)
            )
        pre = config.layernorm_positioning == "pre"
        self.layer_norm = make_norm(config, config.hidden_size) if pre else None
        self.rotary = None if decoder else Rotary.of(config)
        self.relative_pos_emb = None
        if config.relative_position_embedding:
            self.relative_pos_emb = RelativePositionBias(
                config.heads_num,
                config.relative_attention_buckets_num,
                config.relative_attention_max_distance,
                bidirectional=not decoder,
            )

    @property
    def layers(self) -> list[TransformerLayer]:
        """The layers in the order in which they run."""
        if isinstance(self.transformer, TransformerLayer):
            return [self.transformer] * self.layers_num
        return [layer for layer in self.transformer if isinstance(layer, TransformerLayer)]

    def bias_of(self, distance: Tensor) -> Tensor:
        """The position bias [..., heads] at distances [...], key position minus query position.

        UER-py adds it before the scores are scaled, so it is scaled as they are.
        """
        assert self.relative_pos_emb is not None
        return self.relative_pos_emb(distance) * attention_scale(self.config)

    def bias(self, length: int, like: Tensor) -> Tensor | None:
        """The position bias [1, heads, length, length] of a text, or None without one."""
        if self.relative_pos_emb is None:
            return None
        places = torch.arange(length, device=like.device)
        bias = self.bias_of(places[None, :] - places[:, None])
        return bias.permute(2, 0, 1)[None].to(like.dtype)

    def normed(self, x: Tensor) -> Tensor:
        """The last layer's output after the final norm, where there is one."""
        return x if self.layer_norm is None else self.layer_norm(x)

    def new_cache(self, rows: int, capacity: int, like: Tensor) -> KeyValueCache:
        """An empty cache; see KeyValueCache."""
        return KeyValueCache(
            self.layers_num,
            rows,
            self.config.kv_heads,
            self.config.head_size,
            capacity,
            like,
            None if self.relative_pos_emb is None else self.bias_of,
        )

    def step(self, vectors: Tensor, cache: KeyValueCache) -> Tensor:
        """Runs one more token of every row, whose keys and values are added to the cache.

        Args:
            vectors: output of the embedding [rows, hidden].
            cache: of all tokens before; in a decoder with its `source`.

        Returns:
            Hidden states [rows, hidden].
        """
        cache.open()
        places = cache.positions
        layout = StepLayout(None if self.rotary is None else self.rotary(places, places + 1))
        for number, layer in enumerate(self.layers):
            vectors = layer(vectors, layout, cache=cache.layer(number))
        cache.close()
        return self.normed(vectors)


class TransformerEncoder(Transformer):
    """UER-py's transformer encoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.layers_num)
        factorized = config.factorized_embedding_parameterization
        self.linear = Dense(config.word_size, config.hidden_size) if factorized else None
        self.local_rotary = Rotary.of(config.replace(rope_theta=config.local_rope_theta))

    def forward(
        self,
        vectors: Tensor,
        segs: Tensor,
        wanted: Sequence[int],
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> list[Tensor]:
        """Hidden states after the layers in `wanted`.

        Args:
            vectors: output of the embedding [batch, length, emb].
            segs: [batch, length], 0 for padding.
            wanted: layer numbers, 0 for what enters the first layer.
            positions: [batch, k]: give the last layer's states there only.
            cache: an empty one, which is filled with the keys and values of the texts.

        Returns:
            One tensor [batch, length, hidden] ([batch, k, hidden]) per wanted layer, in ascending
            order of layers.
        """
        if self.linear is not None:
            vectors = self.linear(vectors)
        layouts = self._layouts(segs, vectors)
        if cache is not None:
            cache.set_lengths((segs > 0).sum(1).tolist())
        x = layouts[0].pack(vectors)
        found = [vectors] if 0 in wanted else []
        stack = zip(self.layers, layouts, strict=True)
        for number, (layer, layout) in enumerate(stack, start=1):
            last = number == self.layers_num
            x = layer(
                x,
                layout,
                positions=positions if last else None,
                cache=None if cache is None else cache.layer(number - 1),
            )
            if last:
                x = self.normed(x)
            if number in wanted:
                found.append(x if last and positions is not None else layout.unpack(x))
        return found

    def _layouts(self, segs: Tensor, vectors: Tensor) -> list[PaddedLayout | PackedLayout]:
        """The layout of every layer; local ones have a window, and rotary positions of their own.

        They order tokens alike, so that what one has packed another can read.
        """
        config = self.config
        layout = make_layout(
            segs,
            Reach(config.mask, self.bias(segs.shape[1], vectors), clipped=self._clipped(vectors)),
            residual=config.has_residual_attention,
            rotary=self.rotary,
        )
        if not config.local_attention:
            return [layout] * self.layers_num
        window = config.local_attention // 2
        local = make_layout(segs, Reach(config.mask, window=window), rotary=self.local_rotary)
        return [local if config.is_local(layer) else layout for layer in range(self.layers_num)]

    def _clipped(self, like: Tensor) -> Tensor | None:
        """NEZHA's vectors of distances [2m + 1, head size], or None without them."""
        most = self.config.max_relative_position
        table = sinusoid_legacy(2 * most + 1, self.config.head_size) if most else None
        return None if table is None else table.to(like)

    def step(self, vectors: Tensor, cache: KeyValueCache) -> Tensor:
        return super().step(vectors if self.linear is None else self.linear(vectors), cache)


class TransformerDecoder(Transformer):
    """UER-py's transformer decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.decoder_layers_num, decoder=True)

    def forward(self, vectors: Tensor, source: Tensor, visible: Tensor) -> Tensor:
        """Hidden states of whole targets, for teacher forcing.

        Args:
            vectors: output of the target embedding [batch, target, hidden].
            source: the encoder's output [batch, source, hidden].
            visible: [batch, source] bool, see `source_mask`.

        Returns:
            [batch, target, hidden], after the final norm where there is one.
        """
        segs = torch.ones(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
        layout = PaddedLayout(segs, Reach("causal", self.bias(vectors.shape[1], vectors)))
        mask = visible[:, None, None, :]
        for layer in self.layers:
            vectors = layer(vectors, layout, source=(source, mask))
        return self.normed(vectors)

    def memory(self, source: Tensor, visible: Tensor) -> SourceMemory:
        """Keys and values of the source for all layers; arguments as in `forward`."""
        attentions = [layer.context_attn for layer in self.layers]
        store = [each.memory(source) for each in attentions if each is not None]
        return SourceMemory(store, visible)


def source_mask(config: ModelConfig, ids: Tensor, segs: Tensor) -> Tensor:
    """Which source positions the decoder may read, [batch, source] bool.

    UER-py masks every source token with id 0, which is [PAD] in its vocabularies. Other families
    give id 0 to a real token (BART's <s>), so there only padding is masked.
    """
    visible = segs > 0
    if config.norm == "uer":
        visible = visible & (ids != 0)
        # A source of nothing else must not divide zero by zero; UER-py then reads all of it.
        visible = visible | (~visible.any(1, keepdim=True) & (segs > 0))
    return visible
