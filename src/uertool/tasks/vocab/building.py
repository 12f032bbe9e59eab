"""Building a vocabulary from a corpus: by counting, or by training subwords.

Every vocabulary starts with the reserved tokens. A counted one goes on by falling count, ties by
first appearance; a trained one in the order in which its trainer found the pieces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from uertool.errors import InputError, UsageError
from uertool.io.atomic import atomic_path, atomic_text, refuse_existing
from uertool.tasks.vocab.counting import corpus_files, count_corpus
from uertool.tasks.vocab.tallies import (
    NORMALIZATIONS,
    Counting,
    Delimiter,
    Normalization,
    Tally,
)
from uertool.text.readers import read_lines
from uertool.text.vocab import Vocab

SubwordModel = Literal["wordpiece", "bpe", "unigram"]
SUBWORD_MODELS: tuple[str, ...] = get_args(SubwordModel)


@dataclass(frozen=True)
class BuiltVocab:
    """A vocabulary and how it came about.

    Attributes:
        tokens: all entries, reserved tokens first.
        reserved: how many of them are reserved.
        total: tokens counted in the corpus (characters or words; 0 for a trained vocabulary).
        covered: how many of these are in the vocabulary.
        distinct: different tokens in the corpus.
        counts: tokens of the corpus and how often they are there, in the order of rank.
        cut: words of the vocabulary that hold a blank other than a space (a tab, U+3000). They
            stand in the file as they are, and whoever reads it cuts them there.
        files: further files that a trained vocabulary needs, by the end of their names.
    """

    tokens: list[str]
    reserved: int
    total: int = 0
    covered: int = 0
    distinct: int = 0
    counts: Sequence[tuple[str, int]] = ()
    cut: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """The share of the corpus' tokens that are in the vocabulary; 1 for an empty corpus."""
        return self.covered / self.total if self.total else 1.0


@cache
def reserved_tokens() -> tuple[str, ...]:
    """UER-py's reserved tokens: [PAD], [unused1] to [unused99], [UNK], [CLS], [SEP], [MASK]."""
    text = (resources.files("uertool") / "assets" / "reserved_vocab.txt").read_text("utf-8")
    return tuple(text.split())


def load_reserved(path: str | Path) -> tuple[str, ...]:
    """The reserved tokens of a file, one a line; blank lines are left out.

    Raises:
        VocabError: the file is missing or not text.
    """
    return tuple(token for token in Vocab.load(path).tokens if token.strip())


# -- by counting ----------------------------------------------------------------------------------


def build_vocab(
    corpus: Iterable[str | Path],
    *,
    delimiter: str = "char",
    reserved: Sequence[str] | None = None,
    min_count: int = 1,
    max_size: int | None = None,
    coverage: float | None = None,
    normalization: str | None = None,
    workers: int = 1,
    on_bytes: Callable[[int], None] | None = None,
    tally: Tally | None = None,
) -> BuiltVocab:
    """The vocabulary of a corpus' characters or words. It is the same with any number of workers.

    Args:
        corpus: files, folders, or "-"; gzip or not.
        delimiter: "char" or "space".
        reserved: tokens to start with, UER-py's by default.
        min_count: leave out what is rarer.
        max_size: the most entries, reserved ones included.
        coverage: stop at the most frequent tokens that together make up this share of the corpus.
        normalization: "NFC" or "NFKC"; full-width forms and the like are left alone without.
        workers: processes.
        on_bytes: told how many more bytes of the corpus are done.
        tally: the counts of the corpus, if it is counted already.

    Raises:
        UsageError: an option out of its range.
        InputError: the corpus is missing, empty of tokens, or not UTF-8 text.
    """
    if delimiter not in get_args(Delimiter):
        raise UsageError(f"There is no delimiter {delimiter!r}.", "Choose char or space.")
    _check_numbers(min_count, max_size, coverage)
    files = list(corpus)
    if tally is None:
        files = corpus_files(corpus)
        counting = counting_for(delimiter, normalization)
        tally = count_corpus(files, counting, workers=workers, on_bytes=on_bytes)
    if not tally.counts:
        raise InputError(
            f"The corpus ({', '.join(map(str, files))}) holds nothing to count.",
            "Every line of it is blank.",
        )
    start = reserved_tokens() if reserved is None else tuple(reserved)
    return _choose(tally, start, min_count, max_size, coverage)


def counting_for(delimiter: str, normalization: str | None) -> Counting:
    """How a corpus is counted for `build_vocab`."""
    return Counting(delimiter, _normalization(normalization))  # type: ignore[arg-type]


def _check_numbers(min_count: int, max_size: int | None, coverage: float | None) -> None:
    if min_count < 1:
        raise UsageError(f"A minimum count of {min_count} is below 1.", "Give `min_count` 1.")
    if max_size is not None and max_size < 1:
        raise UsageError(f"A vocabulary of {max_size} entries cannot be built.")
    if coverage is not None and not 0 < coverage <= 1:
        raise UsageError(
            f"A coverage of {coverage} is no share of a corpus.", "Give one such as 0.9995."
        )


def _normalization(name: str | None) -> Normalization | None:
    if name is None:
        return None
    if name.upper() not in NORMALIZATIONS:
        raise UsageError(
            f"There is no normalization {name!r}.", f"Choose {' or '.join(NORMALIZATIONS)}."
        )
    return name.upper()  # type: ignore[return-value]


def _choose(
    tally: Tally,
    reserved: Sequence[str],
    min_count: int,
    max_size: int | None,
    coverage: float | None,
) -> BuiltVocab:
    ranked = tally.ranked()
    total = tally.total
    if max_size is not None and max_size < len(reserved):
        raise UsageError(
            f"A vocabulary of {max_size} entries has no room for the {len(reserved)} reserved ones."
        )
    tokens = list(reserved)
    known = set(reserved)
    covered = sum(tally.counts.get(token, 0) for token in known)
    for token, count in ranked:
        if count < min_count or len(tokens) == max_size:
            break
        if coverage is not None and covered >= coverage * total:
            break
        if token not in known:
            tokens.append(token)
            covered += count
    return BuiltVocab(
        tokens=tokens,
        reserved=len(reserved),
        total=total,
        covered=covered,
        distinct=len(ranked),
        counts=ranked,
        cut=[token for token in tokens[len(reserved) :] if token.split() not in ([], [token])],
    )


# -- by training ----------------------------------------------------------------------------------


def train_vocab(
    corpus: Iterable[str | Path],
    *,
    model: str,
    size: int,
    reserved: Sequence[str] | None = None,
    min_count: int = 1,
    do_lower_case: bool = True,
    normalization: str | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> BuiltVocab:
    """A trained subword vocabulary.

    "wordpiece" is BERT's: text is cleaned as its tokenizer does, so Chinese characters and
    punctuation stay apart. "bpe" is GPT-2's byte-level one, with its merges in `files`. "unigram"
    is sentencepiece's model; its scores are in the tokenizer.json that each of them brings.

    Args:
        corpus: files, folders, or "-"; gzip or not.
        model: one of `SUBWORD_MODELS`.
        size: entries, reserved ones included; a small corpus may give fewer.
        reserved: tokens to start with, UER-py's by default.
        min_count: leave out pairs (wordpiece, bpe) that are rarer.
        do_lower_case: for "wordpiece": lower-case and strip accents.
        normalization: "NFC" or "NFKC", applied first.
        on_bytes: told how many more bytes of the corpus are read.

    Raises:
        UsageError: an option out of its range.
        InputError: the corpus is missing, without text, or not UTF-8 text.
    """
    if model not in SUBWORD_MODELS:
        raise UsageError(
            f"There is no subword model {model!r}.", f"Choose one of {', '.join(SUBWORD_MODELS)}."
        )
    _check_numbers(min_count, None, None)
    start = reserved_tokens() if reserved is None else tuple(reserved)
    if size <= len(start):
        raise UsageError(
            f"A vocabulary of {size} entries has room only for the {len(start)} reserved ones.",
            "Give a larger `vocab_size`.",
        )
    unk = next((token for token in start if token in ("[UNK]", "<unk>")), None)
    if unk is None:
        raise UsageError(
            "The reserved tokens hold no [UNK], which a subword vocabulary needs.",
            "Add it to the reserved tokens.",
        )
    lines = _corpus_lines(corpus_files(corpus), on_bytes)
    rust = _TRAINERS[model](
        lines, size, list(start), unk, min_count, do_lower_case, _normalization(normalization)
    )
    table: dict[str, int] = rust.get_vocab(with_added_tokens=True)
    tokens = sorted(table, key=table.__getitem__)
    if len(tokens) <= len(start):
        raise InputError("The corpus holds no text to train on.", "Every line of it is blank.")
    files = {".tokenizer.json": rust.to_str(pretty=True) + "\n"}
    if model == "bpe":
        merges = json.loads(rust.to_str())["model"]["merges"]
        pairs = "".join(f"{left} {right}\n" for left, right in merges)
        files[".merges.txt"] = "#version: 0.2\n" + pairs
    return BuiltVocab(tokens=tokens, reserved=len(start), files=files)


def _corpus_lines(
    files: Sequence[str | Path], on_bytes: Callable[[int], None] | None
) -> Iterator[str]:
    for file in files:
        for line in read_lines(file, on_bytes=on_bytes, limit=None):
            if line.text.strip():
                yield line.text


def _form(normalization: Normalization | None) -> list[Any]:
    from tokenizers import normalizers

    return [getattr(normalizers, normalization)()] if normalization else []


def _train_wordpiece(
    lines: Iterator[str],
    size: int,
    reserved: list[str],
    unk: str,
    min_count: int,
    do_lower_case: bool,
    normalization: Normalization | None,
) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    bert = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=do_lower_case,
        lowercase=do_lower_case,
    )
    normalizer = normalizers.Sequence([*_form(normalization), bert])
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
        vocab_size=size, min_frequency=min_count, special_tokens=reserved, show_progress=False
    )
    raw.train_from_iterator(marked_words(), trainer)
    found: dict[str, int] = raw.get_vocab()
    if len(found) > size:
        raise _too_small(size, len(found))
    pieces = {marks.written(piece): index for piece, index in found.items()}
    rust = Tokenizer(models.WordPiece(pieces, unk_token=unk, max_input_chars_per_word=200))
    rust.normalizer = normalizer
    rust.pre_tokenizer = splitter
    rust.decoder = decoders.WordPiece(prefix="##")
    rust.add_special_tokens(reserved)
    return rust


def _too_small(size: int, needed: int | None = None) -> UsageError:
    return UsageError(
        f"A vocabulary of {size} entries has no room for every character of the corpus.",
        f"Give a `vocab_size` of more than {needed}." if needed else "Give a larger `vocab_size`.",
    )


class _Continuations(dict[int, int]):
    """For `str.translate`: a character within a word to a private one that stands for it.

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
        """A piece as a vocabulary has it, with ## where it goes on a word."""
        lead = "##" if piece[0] in self._back else ""
        return lead + "".join(self._back.get(char, char) for char in piece)


def _train_bpe(
    lines: Iterator[str],
    size: int,
    reserved: list[str],
    unk: str,
    min_count: int,
    do_lower_case: bool,
    normalization: Normalization | None,
) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    rust = Tokenizer(models.BPE())
    if normalization:
        rust.normalizer = normalizers.Sequence(_form(normalization))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size < len(reserved) + len(alphabet):
        raise UsageError(
            f"A byte-level vocabulary of {size} entries has no room for the {len(reserved)} "
            f"reserved ones and the {len(alphabet)} bytes.",
            "Give a larger `vocab_size`.",
        )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_count,
        special_tokens=reserved,
        show_progress=False,
        initial_alphabet=sorted(alphabet),
    )
    rust.train_from_iterator(lines, trainer)
    return rust


def _train_unigram(
    lines: Iterator[str],
    size: int,
    reserved: list[str],
    unk: str,
    min_count: int,
    do_lower_case: bool,
    normalization: Normalization | None,
) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    raw = Tokenizer(models.Unigram())
    if normalization:
        raw.normalizer = normalizers.Sequence(_form(normalization))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=reserved, unk_token=unk, show_progress=False
    )
    try:
        raw.train_from_iterator(lines, trainer)
    except Exception as error:
        # The library raises nothing narrower; a bad line of the corpus must pass as it is.
        if "not large enough" not in str(error):
            raise
        raise _too_small(size) from None
    rust = Tokenizer(models.Unigram(_settled(raw, len(reserved)), reserved.index(unk), False))
    rust.normalizer, rust.pre_tokenizer, rust.decoder = (
        raw.normalizer,
        raw.pre_tokenizer,
        raw.decoder,
    )
    rust.add_special_tokens(reserved)
    return rust


def _settled(raw: Any, reserved: int) -> list[tuple[str, float]]:
    """Pieces and scores of a trained unigram model, freed of the order of a hash table.

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


# -- writing --------------------------------------------------------------------------------------


def side_file(path: str | Path, ending: str) -> Path:
    """Where a further file lies: vocab.txt and .merges.txt give vocab.merges.txt."""
    path = Path(path)
    return path.with_name(path.stem + ending)


def save_vocab(
    built: BuiltVocab,
    path: str | Path,
    *,
    counts_path: str | Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a vocabulary, one token a line, with its further files beside it.

    Args:
        built: what to write.
        path: the vocabulary file, or "-" for standard output.
        counts_path: also write the counts of all tokens of the corpus: token, tab, count.
        overwrite: whether existing files may be replaced.

    Returns:
        The files that were written.

    Raises:
        OutputError: a file exists or cannot be written; then none of them is touched.
        UsageError: a vocabulary of several files is to go to standard output.
    """
    if built.files and str(path) == "-":
        raise UsageError(
            "This vocabulary needs more than one file, so it cannot go to standard output.",
            "Give `output_path` a file name.",
        )
    sides = {side_file(path, ending): text for ending, text in built.files.items()}
    for target in (path, *sides, *((counts_path,) if counts_path else ())):
        refuse_existing(target, overwrite)
    for side, text in sides.items():
        with atomic_path(side, overwrite=overwrite) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    if counts_path is not None:
        with atomic_text(counts_path, overwrite=overwrite) as stream:
            stream.writelines(f"{token}\t{count}\n" for token, count in built.counts)
    with atomic_text(path, overwrite=overwrite) as stream:
        stream.writelines(f"{token}\n" for token in built.tokens)
    written = [*sides, *([Path(counts_path)] if counts_path else [])]
    with suppress(ValueError):
        written.remove(Path("-"))
    return written if str(path) == "-" else [Path(path), *written]
