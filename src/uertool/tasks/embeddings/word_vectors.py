"""The embedding layer of a model as a table of words and vectors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.reader import WORD_TABLES, open_checkpoint, word_table
from uertool.errors import CheckpointError, UsageError, VocabError
from uertool.loading.references import find_model
from uertool.loading.registry import LoadedModel
from uertool.loading.tokenizers import TokenizerFiles, tokenizer_at
from uertool.tasks.embeddings.settings import TableSettings
from uertool.tasks.embeddings.word_files import ROWS, Block
from uertool.text.detokenize import Joining, readable
from uertool.text.tokenizers.base import Tokenizer

_PROJECTION = "encoder.linear"


@dataclass(frozen=True)
class WordTable:
    """Words and their vectors in memory.

    Attributes:
        words: the words, in the order of their rows.
        vectors: [words, size] float32.
        name: where they come from.
        special: rows of special tokens such as [PAD].
        notes: sentences that a user should read.
        joining: how its words become text, see `uertool.text.detokenize`.
    """

    words: list[str]
    vectors: Block
    name: str = "word vectors"
    special: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    joining: Joining = "characters"

    def __len__(self) -> int:
        return len(self.words)

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1])

    def find(self, words: Collection[str]) -> dict[str, tuple[int, Block]]:
        """See `WordSource`; of a word that occurs twice, the later row, as UER-py has it."""
        wanted = set(words)
        rows = {word: row for row, word in enumerate(self.words) if word in wanted}
        return {word: (row, self.vectors[row]) for word, row in rows.items()}

    def blocks(self) -> Iterator[tuple[int, list[str], Block]]:
        """See `WordSource`."""
        for start in range(0, len(self.words), ROWS):
            part = slice(start, start + ROWS)
            yield start, self.words[part], self.vectors[part]

    def without(self, rows: Collection[int]) -> WordTable:
        """The table without some rows."""
        gone = set(rows)
        kept = [row for row in range(len(self.words)) if row not in gone]
        words = [self.words[row] for row in kept]
        return replace(self, words=words, vectors=self.vectors[kept], special=frozenset())

    def readable(self) -> WordTable:
        """The table with words as people write them; those of byte-level BPE differ."""
        if self.joining != "bytes":
            return self
        words = [readable(word, self.joining) for word in self.words]
        return replace(self, words=words, joining="characters")

    @classmethod
    def of(cls, loaded: LoadedModel) -> WordTable:
        """The embedding layer of a model that is loaded."""
        embedding: Any = loaded.model.embedding
        if hasattr(embedding, "dual"):
            embedding = embedding.dual.get_submodule("embedding_0")
        vectors = embedding.word.vectors().detach().float().cpu().numpy()
        return _table(loaded.tokenizer, vectors, loaded.reference)


def table_of(
    reference: str | Path,
    *,
    vocab: str | Path | None = None,
    spm: str | Path | None = None,
    tokenizer: str | None = None,
    projected: bool = False,
) -> WordTable:
    """The embedding layer of a checkpoint, read without the rest of the model.

    Args:
        reference: see `load_model`.
        vocab, spm: the vocabulary; by default that of the model file, or the one in its folder.
        tokenizer: UER-py's name of it, where that changes the order of ids (xlmroberta).
        projected: of a factorised embedding, the vectors as they enter the encoder [.., hidden].

    Raises:
        CheckpointError: there is no such model, or no table of words in it.
        VocabError: the vocabulary does not fit.
        UsageError: there is no vocabulary, or nothing to project with.
    """
    path = find_model(reference)
    with open_checkpoint(path) as checkpoint:
        name = word_table(checkpoint)
        if name is None:
            raise CheckpointError(
                f"{path} has no word embedding ({WORD_TABLES[0]}).", "Is it a whole model?"
            )
        table = checkpoint.tensor(name).float()
        if projected:
            if not checkpoint.has(f"{_PROJECTION}.weight"):
                raise UsageError(
                    f"The embedding of {path} is not factorised, so there is nothing to project.",
                    "Leave `projected` out.",
                )
            weight = checkpoint.tensor(f"{_PROJECTION}.weight").float()
            bias = checkpoint.tensor(f"{_PROJECTION}.bias").float()
            table = torch.nn.functional.linear(table, weight, bias)
        # The other names make no difference to the words.
        kind = tokenizer if tokenizer == "xlmroberta" and spm is not None else None
        files = TokenizerFiles(vocab, kind, spm)
        notes: list[str] = []
        made = tokenizer_at(path, checkpoint.layout, files, notes)
        return _table(made, table.numpy(), str(path), notes)


def table_for(settings: TableSettings, *, projected: bool = False) -> WordTable:
    """The embedding layer of the model that settings name, see `table_of`."""
    return table_of(
        settings.reference,
        vocab=settings.vocab_path,
        spm=settings.spm_model_path,
        tokenizer=settings.tokenizer,
        projected=projected,
    )


def _table(tokenizer: Tokenizer, vectors: Block, name: str, notes: Sequence[str] = ()) -> WordTable:
    vocab = tokenizer.vocab
    if len(vocab) > len(vectors):
        raise VocabError(
            f"{vocab.source} has {len(vocab)} tokens, but the word embedding of {name} has "
            f"{len(vectors)} rows.",
            "Use the vocabulary that the model was trained with.",
        )
    return WordTable(
        vocab.tokens,
        vectors[: len(vocab)],
        name,
        vocab.special_ids,
        tuple(notes),
        tokenizer.joining,
    )
