"""UerModel: one configurable model for all of UER-py's architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import torch
from torch import Tensor, nn

from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.models.embeddings import (
    DualEmbedding,
    Embedding,
    main_embedding,
    stream_config,
    target_embedding,
)
from uertool.models.encoders import make_encoder
from uertool.models.heads import (
    LmHead,
    MlmHead,
    PooledHead,
    Pooler,
    RtdHead,
    SiameseHead,
    TokenHead,
)
from uertool.models.transformer import TransformerDecoder, TransformerEncoder, source_mask


class DualEncoder(nn.Module):
    """The two encoders of a siamese model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder_0 = TransformerEncoder(stream_config(config))
        self.encoder_1 = TransformerEncoder(stream_config(config))

    def stream(self, number: int) -> TransformerEncoder:
        """One of the two."""
        return self.encoder_0 if number == 0 else self.encoder_1


class UerModel(nn.Module):
    """Embedding, encoder, optional decoder, and the output heads that were loaded.

    Args:
        config: sizes and switches.
        heads: which heads to build: "mlm", "rtd", "lm", "sp", "cls", "token_cls", "qa",
            "siamese", "pooler". A decoder is built for "lm" only.
        label_counts: number of labels of "sp", "cls", "token_cls", "qa" and "siamese".

    The attribute of a head that was not built is None.
    """

    def __init__(
        self,
        config: ModelConfig,
        heads: Sequence[str] = (),
        label_counts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        labels = dict(label_counts or {})
        self.config = config
        self.embedding: Embedding | DualEmbedding
        if config.encoder == "dual":
            self.embedding = DualEmbedding(config)
            self.encoder: nn.Module = DualEncoder(config)
        else:
            self.embedding = main_embedding(config)
            self.encoder = make_encoder(config)
        decodes = config.decoder is not None and "lm" in heads
        self.tgt_embedding = target_embedding(config) if decodes else None
        self.decoder = TransformerDecoder(config) if decodes else None
        self.mlm = MlmHead(config) if "mlm" in heads else None
        self.rtd = RtdHead(config) if "rtd" in heads else None
        self.lm = LmHead(config) if "lm" in heads else None
        self.sp = PooledHead(config, labels["sp"]) if "sp" in heads else None
        self.classifier = PooledHead(config, labels["cls"]) if "cls" in heads else None
        self.token_classifier = (
            TokenHead(config, labels["token_cls"]) if "token_cls" in heads else None
        )
        self.qa = TokenHead(config, labels["qa"]) if "qa" in heads else None
        self.siamese = SiameseHead(config, labels["siamese"]) if "siamese" in heads else None
        self.pooler = Pooler(config) if "pooler" in heads else None

    @overload
    def encode(
        self,
        ids: Tensor,
        segs: Tensor,
        layers: None = None,
        positions: Tensor | None = None,
        *,
        stream: int = 0,
    ) -> Tensor: ...

    @overload
    def encode(
        self,
        ids: Tensor,
        segs: Tensor,
        layers: Sequence[int],
        positions: Tensor | None = None,
        *,
        stream: int = 0,
    ) -> list[Tensor]: ...

    def encode(
        self,
        ids: Tensor,
        segs: Tensor,
        layers: Sequence[int] | None = None,
        positions: Tensor | None = None,
        *,
        stream: int = 0,
    ) -> Tensor | list[Tensor]:
        """Hidden states of a batch of texts.

        Args:
            ids: token ids [batch, length].
            segs: 0 for padding, 1 or 2 for the first or second text [batch, length].
            layers: numbers of layers: 0 is what enters the first layer, -1 the last. None returns
                the last one alone, not in a list.
            positions: [batch, k]: compute the states of the last layer there only.
            stream: which side of a siamese model reads the text, 0 or 1.

        Returns:
            [batch, length, hidden] of the last layer, after the final norm where there is one;
            [batch, k, hidden] with `positions`; with `layers` a list, one for each, in their order.

        Raises:
            UsageError: unknown layer, or layers of an encoder that returns its last one only;
                `positions` together with `layers`.
            InputError: the texts are longer than the position table.
        """
        last = self.config.layers_num
        wanted = [last] if layers is None else [self._layer(layer) for layer in layers]
        if positions is not None and wanted != [last]:
            raise UsageError("Positions can be selected in the last layer only.")
        encoder = self.encoder
        if isinstance(self.embedding, DualEmbedding):
            vectors = self.embedding.stream(stream, ids, segs)
            assert isinstance(encoder, DualEncoder)
            encoder = encoder.stream(stream)
        else:
            vectors = self.embedding(ids, segs)
        found = encoder(vectors, segs, sorted(set(wanted)), positions)
        by_layer = dict(zip(sorted(set(wanted)), found, strict=True))
        if layers is None:
            return by_layer[last]
        return [by_layer[layer] for layer in wanted]

    def decode(self, ids: Tensor, segs: Tensor, tgt_ids: Tensor) -> Tensor:
        """Hidden states of whole targets [batch, target, hidden], for teacher forcing.

        Args:
            ids, segs: the source, see `encode`.
            tgt_ids: the target [batch, target].

        Raises:
            UsageError: the model has no decoder.
        """
        if self.decoder is None or self.tgt_embedding is None:
            raise UsageError("This model has no decoder.")
        source = self.encode(ids, segs)
        vectors = self.tgt_embedding(tgt_ids, torch.ones_like(tgt_ids))
        hidden: Tensor = self.decoder(vectors, source, source_mask(self.config, ids, segs))
        return hidden

    def _layer(self, number: int) -> int:
        last = self.config.layers_num
        layer = number + last + 1 if number < 0 else number
        if not 0 <= layer <= last:
            raise UsageError(
                f"There is no layer {number}: the model has {last}.",
                f"Choose from 0 (what enters the first layer) to {last}, or -1 to {-last - 1}.",
            )
        return layer
