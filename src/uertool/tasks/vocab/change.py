"""One change of vocabulary: from which to which, and where every new row comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uertool.checkpoints.model_folder import SPIECE_FILES
from uertool.checkpoints.reader import Checkpoint
from uertool.errors import UsageError, VocabError
from uertool.loading.tokenizers import PADDING_ROWS
from uertool.tasks.vocab.rows import joining_of, plan_rows, read_similar, surface
from uertool.tasks.vocab.settings import AdaptSettings
from uertool.text.detokenize import Joining
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.factory import make_tokenizer
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder
from uertool.text.vocab import Vocab

Side = Literal["source", "target"]


@dataclass(frozen=True)
class VocabChange:
    """From which vocabulary to which.

    Attributes:
        old: a vocabulary file, or a folder with a tokenizer of Hugging Face.
        new: the same, of the vocabulary that the model gets.
        old_spm: a sentencepiece model in place of `old`.
        new_spm: a sentencepiece model in place of `new`.
    """

    old: str | Path | None = None
    new: str | Path | None = None
    old_spm: str | Path | None = None
    new_spm: str | Path | None = None

    @property
    def asked(self) -> bool:
        """Whether a new vocabulary is named."""
        return self.new is not None or self.new_spm is not None


@dataclass(frozen=True)
class SideReport:
    """What became of one vocabulary: numbers of words, and the words themselves.

    Attributes:
        side: "source", or "target" for a decoder with a vocabulary of its own.
        old_size: rows before.
        new_size: rows after.
        copied: words of both vocabularies, their rows copied bit for bit.
        renamed: special tokens with the row of the one that had their role.
        composed: words made of the rows of others.
        drawn: words with a row drawn at random.
        zero: words with a row of zeros.
        dropped: words that the new vocabulary does not have.
        words: the words of "composed", "drawn", "zero", "renamed" and "dropped".
    """

    side: Side
    old_size: int
    new_size: int
    copied: int
    renamed: int
    composed: int
    drawn: int
    zero: int
    dropped: int
    words: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)


class Change:
    """One change of vocabulary with its plan of rows."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        change: VocabChange,
        side: Side,
        rows: int,
        settings: AdaptSettings,
    ) -> None:
        self.side: Side = side
        self.asked = change
        self.old, self.new = _old_tokenizer(checkpoint, change, side, settings), _new_vocab(change)
        _check_rows(checkpoint, self.old.vocab, rows, side)
        self.joining: Joining = (
            self.new.joining if isinstance(self.new, Tokenizer) else joining_of(self.new)
        )
        similar = None
        if settings.similar_path is not None:
            wanted = _spellings(self.old.vocab, self.old.joining)
            wanted |= _spellings(self.vocab, self.joining)
            similar = read_similar(
                settings.similar_path,
                wanted,
                neighbours=settings.neighbours,
                temperature=settings.temperature,
            )
        self.rows = rows
        self.plan = plan_rows(
            self.old.vocab,
            self.vocab,
            self.old,
            rows=rows,
            init=settings.init,
            similar=similar,
            new_joining=self.joining,
            seed=settings.seed,
        )

    @property
    def vocab(self) -> Vocab:
        """The new vocabulary."""
        return self.new.vocab if isinstance(self.new, Tokenizer) else self.new

    def moved(self, index: int) -> int | None:
        """The new id of what had this id: the same word, or the special token of its role."""
        old = self.old.vocab
        if not 0 <= index < len(old):
            return None
        found = self.vocab.find(old.token(index))
        if found is not None:
            return found
        return next((new for new, before in self.plan.copied if before == index), None)

    def report(self) -> SideReport:
        """The numbers of this side."""
        plan, tokens = self.plan, self.vocab.tokens
        renamed = tuple(
            tokens[new] for new, old in plan.copied if tokens[new] not in self.old.vocab
        )
        words = {
            "renamed": renamed,
            "composed": tuple(tokens[index] for index in plan.composed),
            "drawn": tuple(tokens[index] for index in plan.drawn),
            "zero": tuple(tokens[index] for index in plan.zero),
            "dropped": plan.dropped,
        }
        return SideReport(
            side=self.side,
            old_size=self.rows,
            new_size=plan.size,
            copied=len(plan.copied) - plan.renamed,
            renamed=plan.renamed,
            composed=len(plan.composed),
            drawn=len(plan.drawn),
            zero=len(plan.zero),
            dropped=len(plan.dropped),
            words=words,
        )


def _spellings(vocab: Vocab, joining: Joining) -> set[str]:
    """Under which spellings a word2vec file may have the words of a vocabulary."""
    plain = {surface(token, joining)[0].strip() for token in vocab.tokens} | set(vocab.tokens)
    return plain | {text.lower() for text in plain}


def _new_vocab(change: VocabChange) -> Vocab | Tokenizer:
    if is_folder(change.new):
        assert change.new is not None
        return tokenizer_from_hf_folder(change.new)
    return Vocab.load(change.new, spm=change.new_spm)


def _old_tokenizer(
    checkpoint: Checkpoint, change: VocabChange, side: Side, settings: AdaptSettings
) -> Tokenizer:
    """The tokenizer that the model was made for: what was named, or what lies in its folder."""
    spm = change.old_spm
    old = change.old
    if old is None and spm is None and side == "source" and checkpoint.path.is_dir():
        if checkpoint.layout == "hf":
            return tokenizer_from_hf_folder(checkpoint.path)
        spm = next(
            (checkpoint.path / n for n in SPIECE_FILES if (checkpoint.path / n).is_file()), None
        )
        plain = checkpoint.path / "vocab.txt"
        old, spm = (plain, None) if plain.is_file() else (None, spm)
    if old is None and spm is None:
        name = "`old_vocab_path`" if side == "source" else "`old_tgt_vocab_path`"
        raise UsageError("The vocabulary of the model is unknown.", f"Name it with {name}.")
    if is_folder(old):
        assert old is not None
        return tokenizer_from_hf_folder(old)
    return make_tokenizer(
        settings.tokenizer,
        vocab_path=old,
        spm_model_path=spm,
        merges_path=settings.merges_path,
        do_lower_case=settings.do_lower_case,
    )


def _check_rows(checkpoint: Checkpoint, vocab: Vocab, rows: int, side: Side) -> None:
    """Refuse a vocabulary that cannot be the model's."""
    if vocab.distinct > rows or rows - len(vocab) > PADDING_ROWS:
        raise VocabError(
            f"{vocab.source} has {len(vocab)} words, the {side} table of {checkpoint.path} "
            f"{rows} rows: it is not the vocabulary of this model.",
            "Name the one that it was trained with.",
        )


def is_folder(path: str | Path | None) -> bool:
    """Whether a path is named and a folder."""
    return path is not None and Path(path).is_dir()
