"""One change of vocabulary: from which to which, and where every new row comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uertool.checkpoints.companions import find_companion
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
    """The files of an old vocabulary and of a new one.

    Attributes:
        old: a vocabulary file, or a folder with a tokenizer of Hugging Face.
        new: the same, of the vocabulary that the model gets.
        old_spm: a sentencepiece model in place of `old`.
        new_spm: a sentencepiece model in place of `new`.
    """

    old: Path | None = None
    new: Path | None = None
    old_spm: Path | None = None
    new_spm: Path | None = None

    @property
    def new_folder(self) -> Path | None:
        """`new`, if it is a folder."""
        return self.new if self.new is not None and self.new.is_dir() else None

    @property
    def new_file(self) -> Path | None:
        """`new`, if it is not a folder."""
        return None if self.new_folder else self.new


def asked_changes(settings: AdaptSettings) -> dict[Side, VocabChange]:
    """The vocabularies that the settings change, by side."""

    def change(*names: str) -> VocabChange:
        values = [getattr(settings, name) for name in names]
        return VocabChange(*(None if value is None else Path(value) for value in values))

    source = change("old_vocab_path", "new_vocab_path", "old_spm_model_path", "new_spm_model_path")
    changes: dict[Side, VocabChange] = {
        "source": source,
        "target": change("old_tgt_vocab_path", "new_tgt_vocab_path"),
    }
    return {side: found for side, found in changes.items() if found.new or found.new_spm}


@dataclass(frozen=True)
class SideReport:
    """What became of one vocabulary.

    Attributes:
        side: "source", or "target" for a decoder with a vocabulary of its own.
        old_size: rows before.
        new_size: rows after.
        copied: the number of words of both vocabularies, whose rows are copied bit for bit.
        words: the other words. "renamed": special tokens with the row of the one that had their
            role; "composed": made of the rows of others; "drawn": at random; "zero": with a row of
            zeros; "dropped": words that the new vocabulary does not have.
    """

    side: Side
    old_size: int
    new_size: int
    copied: int
    words: Mapping[str, tuple[str, ...]] = field(repr=False)

    @property
    def numbers(self) -> dict[str, int]:
        """The number of copied words, and of those in each entry of `words`."""
        return {"copied": self.copied} | {name: len(found) for name, found in self.words.items()}


class Change:
    """One change of vocabulary with its plan of rows."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        asked: VocabChange,
        side: Side,
        rows: int,
        settings: AdaptSettings,
    ) -> None:
        self.side: Side = side
        self.asked = asked
        self.rows = rows
        self.old, new = _old_tokenizer(checkpoint, asked, side, settings), _new_vocab(asked)
        _check_rows(checkpoint, self.old.vocab, rows, side)
        self.vocab = new.vocab if isinstance(new, Tokenizer) else new
        self.joining: Joining = new.joining if isinstance(new, Tokenizer) else joining_of(new)
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
        """The numbers and words of this side."""
        plan, tokens = self.plan, self.vocab.tokens
        made = {
            "renamed": [new for new, old in plan.copied if tokens[new] not in self.old.vocab],
            "composed": plan.composed,
            "drawn": plan.drawn,
            "zero": plan.zero,
        }
        words = {name: tuple(tokens[index] for index in ids) for name, ids in made.items()}
        return SideReport(
            side=self.side,
            old_size=self.rows,
            new_size=plan.size,
            copied=len(plan.copied) - len(words["renamed"]),
            words={**words, "dropped": plan.dropped},
        )


def _spellings(vocab: Vocab, joining: Joining) -> set[str]:
    """The spellings that a word2vec file may have for the words of a vocabulary."""
    plain = {surface(token, joining)[0].strip() for token in vocab.tokens} | set(vocab.tokens)
    return plain | {text.lower() for text in plain}


def _new_vocab(asked: VocabChange) -> Vocab | Tokenizer:
    if asked.new_folder is not None:
        return tokenizer_from_hf_folder(asked.new_folder)
    return Vocab.load(asked.new, spm=asked.new_spm)


def _old_tokenizer(
    checkpoint: Checkpoint, asked: VocabChange, side: Side, settings: AdaptSettings
) -> Tokenizer:
    """The tokenizer of the model: what was named, or what is in its folder."""
    old, spm, folder = asked.old, asked.old_spm, checkpoint.path
    if old is None and spm is None and side == "source":
        if checkpoint.layout == "hf" and folder.is_dir():
            return tokenizer_from_hf_folder(folder)
        old = find_companion(folder, "vocab.txt")
        spm = None if old else find_companion(folder, *SPIECE_FILES)
    if old is None and spm is None:
        raise UsageError(
            f"The vocabulary of {folder} is unknown.", "Name it with `old_vocab_path`."
        )
    if old is not None and old.is_dir():
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
