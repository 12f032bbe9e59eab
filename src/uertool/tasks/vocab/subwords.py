"""Training subword vocabularies: the trainers of the tokenizers library, made deterministic.

The reserved tokens come first; the others follow in the order in which the trainer found them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uertool.errors import InputError, UsageError, listed
from uertool.tasks.vocab.building import BuiltVocab, reserved_for
from uertool.tasks.vocab.counting import corpus_files
from uertool.tasks.vocab.settings import BuildSettings
from uertool.text.readers import read_lines


@dataclass(frozen=True)
class _Order:
    """The settings of a trainer: `BuildSettings` with the reserved tokens."""

    size: int
    reserved: list[str]
    unk: str
    min_count: int
    do_lower_case: bool
    form: Literal["NFC", "NFKC"] | None

    def normalizers(self) -> list[Any]:
        """The normalizer of the form, if there is one."""
        from tokenizers import normalizers

        return [getattr(normalizers, self.form)()] if self.form else []


def train_vocab(
    corpus: Iterable[str | Path],
    settings: BuildSettings,
    *,
    reserved: Sequence[str] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> BuiltVocab:
    """A trained subword vocabulary.

    "wordpiece" is BERT's: text is cleaned as its tokenizer does, so Chinese characters and
    punctuation are separate tokens. "bpe" is GPT-2's byte-level one, with its merges in `files`.
    "unigram" is sentencepiece's model, with its scores in the tokenizer.json that each model has.

    Args:
        corpus: files, folders, or "-"; gzip or not.
        settings: with `model` and `vocab_size`; a small corpus may give fewer entries.
        reserved: tokens to start with; by default those that the settings name, or UER-py's.
        on_bytes: called with the number of further bytes that have been read.

    Raises:
        UsageError: there is no room for the reserved tokens, or they lack [UNK].
        InputError: the corpus is missing, without text, or not UTF-8 text.
    """
    assert settings.model is not None and settings.vocab_size is not None
    start = reserved_for(settings, reserved)
    size = settings.vocab_size
    if size <= len(start):
        raise UsageError(
            f"A vocabulary of {size} entries has room only for the {len(start)} reserved ones.",
            "Give a larger `vocab_size`.",
        )
    unk = next((token for token in start if token in ("[UNK]", "<unk>")), None)
    if unk is None:
        raise UsageError(
            "The reserved tokens have no [UNK], which a subword vocabulary needs.",
            "Add it to the reserved tokens.",
        )
    order = _Order(
        size, list(start), unk, settings.min_count, settings.do_lower_case, settings.form
    )
    lines = _corpus_lines(corpus_files(corpus), settings.encoding, on_bytes)
    rust = _TRAINERS[settings.model](lines, order)
    table: dict[str, int] = rust.get_vocab(with_added_tokens=True)
    tokens = sorted(table, key=table.__getitem__)
    if len(tokens) <= len(start):
        raise InputError("The corpus has no text to train on.", "All its lines are blank.")
    files = {".tokenizer.json": rust.to_str(pretty=True) + "\n"}
    if settings.model == "bpe":
        merges = json.loads(rust.to_str())["model"]["merges"]
        pairs = "".join(f"{left} {right}\n" for left, right in merges)
        files[".merges.txt"] = "#version: 0.2\n" + pairs
    return BuiltVocab(tokens=tokens, reserved=len(start), files=files)


def _corpus_lines(
    files: Sequence[str | Path], encoding: str, on_bytes: Callable[[int], None] | None
) -> Iterator[str]:
    """The lines that are not blank.

    Raises:
        InputError: there are none.
    """
    blank = True
    for file in files:
        for line in read_lines(file, on_bytes=on_bytes, limit=None, encoding=encoding):
            if line.text.strip():
                blank = False
                yield line.text
    if blank:
        raise InputError(f"The corpus ({listed(files)}) has no text.", "All its lines are blank.")


def _train_wordpiece(lines: Iterator[str], order: _Order) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    bert = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=order.do_lower_case,
        lowercase=order.do_lower_case,
    )
    normalizer = normalizers.Sequence([*order.normalizers(), bert])
    splitter = pre_tokenizers.BertPreTokenizer()
    marks = _Continuations()

    def marked_words() -> Iterator[str]:
        for line in lines:
            words = splitter.pre_tokenize_str(normalizer.normalize_str(line))
            yield " ".join(word[0] + word[1:].translate(marks) for word, _ in words)

    # The library's own ## numbers the pieces in the order of a hash table, so that two runs choose
    # differently between equally frequent pairs. With marked characters in the place of ## there
    # is nothing left for it to number.
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=order.size,
        min_frequency=order.min_count,
        special_tokens=order.reserved,
        show_progress=False,
    )
    raw.train_from_iterator(marked_words(), trainer)
    found: dict[str, int] = raw.get_vocab()
    if len(found) > order.size:
        raise _too_small(order.size, len(found))
    pieces = {marks.written(piece): index for piece, index in found.items()}
    rust = Tokenizer(models.WordPiece(pieces, unk_token=order.unk, max_input_chars_per_word=200))
    rust.normalizer = normalizer
    rust.pre_tokenizer = splitter
    rust.decoder = decoders.WordPiece(prefix="##")
    rust.add_special_tokens(order.reserved)
    return rust


def _too_small(size: int, needed: int | None = None) -> UsageError:
    return UsageError(
        f"A vocabulary of {size} entries has no room for every character of the corpus.",
        f"Give a `vocab_size` of more than {needed}." if needed else "Give a larger `vocab_size`.",
    )


class _Continuations(dict[int, int]):
    """For `str.translate`: a character within a word to a private one that replaces it.

    Private characters cannot come from the text, since BERT's cleaning takes them out.
    """

    _FIRST = 0xF0000
    _PLANE = 0xFFFE  # usable characters of each of the two private planes

    def __init__(self) -> None:
        super().__init__()
        self._back: dict[str, str] = {}

    def __missing__(self, code: int) -> int:
        plane, place = divmod(len(self), self._PLANE)
        if plane > 1:
            raise InputError("The corpus has too many different characters within words.")
        private = self._FIRST + (plane << 16) + place
        self[code] = private
        self._back[chr(private)] = chr(code)
        return private

    def written(self, piece: str) -> str:
        """A piece as a vocabulary has it, with ## where it continues a word."""
        lead = "##" if piece[0] in self._back else ""
        return lead + "".join(self._back.get(char, char) for char in piece)


def _train_bpe(lines: Iterator[str], order: _Order) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    rust = Tokenizer(models.BPE())
    if order.form:
        rust.normalizer = normalizers.Sequence(order.normalizers())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if order.size < len(order.reserved) + len(alphabet):
        raise UsageError(
            f"A byte-level vocabulary of {order.size} entries has no room for the "
            f"{len(order.reserved)} reserved ones and the {len(alphabet)} bytes.",
            "Give a larger `vocab_size`.",
        )
    trainer = trainers.BpeTrainer(
        vocab_size=order.size,
        min_frequency=order.min_count,
        special_tokens=order.reserved,
        show_progress=False,
        initial_alphabet=sorted(alphabet),
    )
    rust.train_from_iterator(lines, trainer)
    return rust


def _train_unigram(lines: Iterator[str], order: _Order) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    raw = Tokenizer(models.Unigram())
    if order.form:
        raw.normalizer = normalizers.Sequence(order.normalizers())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=order.size,
        special_tokens=order.reserved,
        unk_token=order.unk,
        show_progress=False,
    )
    try:
        raw.train_from_iterator(lines, trainer)
    except Exception as error:
        # The library raises nothing narrower; a bad line of the corpus must pass as it is.
        if "not large enough" not in str(error):
            raise
        raise _too_small(order.size) from None
    rust = Tokenizer(
        models.Unigram(_settled(raw, len(order.reserved)), order.reserved.index(order.unk), False)
    )
    rust.normalizer, rust.pre_tokenizer, rust.decoder = (
        raw.normalizer,
        raw.pre_tokenizer,
        raw.decoder,
    )
    rust.add_special_tokens(order.reserved)
    return rust


def _settled(raw: Any, reserved: int) -> list[tuple[str, float]]:
    """Pieces and scores of a trained unigram model, independent of the order of a hash table.

    That order shows in the last digits of the scores, and in the characters that are kept only for
    completeness: their scores go up from the lowest in steps of 0.0001, in any order. The scores
    on these steps are dealt out again in the order of the characters.
    """
    pieces = [(piece, score) for piece, score in json.loads(raw.to_str())["model"]["vocab"]]
    head, body = pieces[:reserved], pieces[reserved:]
    lowest = min(score for _, score in body)

    def is_filler(piece: str, score: float) -> bool:
        steps = (score - lowest) / 1e-4
        return len(piece) == 1 and abs(steps - round(steps)) < 1e-4

    places = [place for place, entry in enumerate(body) if is_filler(*entry)]
    fillers = sorted(body[place][0] for place in places)
    scores = [body[place][1] for place in places]
    for place, piece, score in zip(places, fillers, sorted(scores, reverse=True), strict=True):
        body[place] = (piece, score)
    rounded = [(piece, round(score, 6)) for piece, score in body]
    return head + sorted(rounded, key=lambda entry: (-entry[1], entry[0]))


_TRAINERS: Mapping[str, Callable[..., Any]] = {
    "wordpiece": _train_wordpiece,
    "bpe": _train_bpe,
    "unigram": _train_unigram,
}
