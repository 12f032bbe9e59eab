"""The embedding layer: word, position, segment, task and sinusoidal tables, summed and normed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from uertool.config import ModelConfig
from uertool.errors import InputError
from uertool.models.norm import make_normal_norm

#: Modular UER-py reads its sinusoidal table from this row on.
SINUSOID_OFFSET = 2


class Table(nn.Module):
    """A learned table under UER-py's name `<part>.embedding.weight`."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, size)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.embedding.weight)

    def vectors(self) -> Tensor:
        """All rows [rows, size]."""
        return self.embedding.weight


class SinusoidTable(nn.Module):
    """A computed position table [rows, size]; legacy checkpoints contain it as `pe`."""

    pe: Tensor

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.empty(rows, size))


class Embedding(nn.Module):
    """Sums the tables that `parts` names, in that order, then norms.

    Args:
        config: sizes and switches.
        parts: for example ("word", "pos", "seg").
        vocab_size: rows of the word table.
        positions: rows of the position table.
    """

    def __init__(
        self, config: ModelConfig, parts: tuple[str, ...], vocab_size: int, positions: int
    ) -> None:
        super().__init__()
        size = config.word_size
        self.parts = parts
        self.positions = positions
        self.modular = config.sinusoid == "modular"
        # Modular UER-py scales both sides if the encoder's has sinusoidal positions.
        deciding = config.embedding if self.modular else parts
        scaled = config.scale_embedding or "sinusoidalpos" in deciding
        self.scale = math.sqrt(size) if scaled else None
        if "word" in parts:
            self.word = Table(vocab_size, size)
        if "pos" in parts:
            self.pos = Table(positions, size)
        if "seg" in parts:
            self.seg = Table(config.segments_num, size)
        if "task" in parts:
            self.task = Table(config.task_types_num, size)
            self.task_type = config.task_type
        if "sinusoidalpos" in parts:
            self.sinusoidalpos = SinusoidTable(positions, size)
        self.layer_norm = (
            None
            if config.remove_embedding_layernorm
            else make_normal_norm(config, size, near_embedding=True)
        )

    @property
    def max_length(self) -> int | None:
        """Longest text that the position table can hold, or None without one."""
        if "pos" in self.parts:
            return self.positions
        if "sinusoidalpos" in self.parts:
            return self.positions - (SINUSOID_OFFSET if self.modular else 0)
        return None

    def forward(self, ids: Tensor, segs: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Vectors [batch, length, emb] of tokens [batch, length].

        Args:
            ids: token ids [batch, length], or with `position_ids` of any shape.
            segs: 0 for padding, 1 or 2 for the first or second text [batch, length].
            position_ids: [batch, length] or [1, length]; by default 0, 1, 2, ...

        Raises:
            InputError: the text is longer than the position table.
        """
        if position_ids is None:
            limit = self.max_length
            if limit is not None and ids.shape[1] > limit:
                raise InputError(
                    f"A text of {ids.shape[1]} tokens does not fit the position table, "
                    f"which has {limit} rows.",
                    f"Set `seq_length` to {limit} or less.",
                )
            position_ids = torch.arange(ids.shape[1], device=ids.device)[None]
        total: Tensor | None = None
        for part in self.parts:
            if part == "word":
                vectors = self.word(ids)
                if self.scale is not None:
                    vectors = vectors * self.scale
            elif part == "pos":
                vectors = self.pos(position_ids)
            elif part == "seg":
                vectors = self.seg(segs)
            elif part == "task":
                vectors = self.task(ids.new_full((1,), self.task_type))
            else:
                vectors = self._sinusoid(position_ids, segs)
            total = vectors if total is None else total + vectors
        assert total is not None
        return total if self.layer_norm is None else self.layer_norm(total)

    def _sinusoid(self, position_ids: Tensor, segs: Tensor) -> Tensor:
        if not self.modular:
            return self.sinusoidalpos.pe[position_ids]
        rows = self.sinusoidalpos.pe[(position_ids + SINUSOID_OFFSET).clamp(max=self.positions - 1)]
        return rows * (segs > 0)[..., None]


class DualEmbedding(nn.Module):
    """The two embeddings of a siamese model, each with a second norm after its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dual = nn.Module()
        for stream in range(2):
            self.dual.add_module(f"embedding_{stream}", main_embedding(stream_config(config)))
            if not config.remove_embedding_layernorm:
                norm = make_normal_norm(config, config.word_size)
                self.dual.add_module(f"stream_{stream}_layer_norm", norm)

    def stream(self, number: int, ids: Tensor, segs: Tensor) -> Tensor:
        """Vectors [batch, length, emb] of one of the two streams."""
        vectors = self.dual.get_submodule(f"embedding_{number}")(ids, segs)
        name = f"stream_{number}_layer_norm"
        if hasattr(self.dual, name):
            vectors = self.dual.get_submodule(name)(vectors)
        return vectors


def stream_config(config: ModelConfig) -> ModelConfig:
    """What one stream of a siamese model is made of: a BERT.

    `remove_embedding_layernorm` of the whole speaks of the streams' own second norms.
    """
    return config.replace(
        embedding=("word", "pos", "seg"), encoder="transformer", remove_embedding_layernorm=False
    )


def main_embedding(config: ModelConfig) -> Embedding:
    """The embedding on the encoder's side."""
    return Embedding(config, config.embedding, config.vocab_size, config.max_seq_length)


def target_embedding(config: ModelConfig) -> Embedding:
    """The embedding on the decoder's side."""
    return Embedding(
        config,
        config.tgt_embedding,
        config.tgt_vocab_size or config.vocab_size,
        config.tgt_max_seq_length or config.max_seq_length,
    )
