"""Building a vocabulary from the counts of a corpus, and writing any vocabulary.

It starts with the reserved tokens; the others follow in descending order of counts, ties by first
occurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from uertool.errors import InputError, UsageError, listed
from uertool.io.atomic import atomic_path, atomic_text, refuse_existing
from uertool.io.display import Report
from uertool.tasks.vocab.counting import corpus_files, count_corpus
from uertool.tasks.vocab.settings import BuildSettings
from uertool.tasks.vocab.tallies import Counting, Tally
from uertool.text.vocab import Vocab


@dataclass(frozen=True, repr=False)
class BuiltVocab(Report):
    """A vocabulary and its figures.

    Attributes:
        tokens: all entries, reserved tokens first.
        reserved: how many of them are reserved.
        total: tokens counted in the corpus (characters or words; 0 for a trained vocabulary).
        covered: how many of these are in the vocabulary.
        distinct: different tokens in the corpus.
        counts: tokens of the corpus and how often they occur, most frequent first.
        cut: words that contain white space other than a space (a tab, U+3000). They are written as
            they are, and readers of the file cut them there.
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
    settings: BuildSettings | None = None,
    *,
    reserved: Sequence[str] | None = None,
    tally: Tally | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> BuiltVocab:
    """The vocabulary of a corpus' characters or words. It is the same with any number of workers.

    Args:
        corpus: files, folders, or "-"; gzip or not.
        settings: what is counted, and which tokens are chosen.
        reserved: tokens to start with; by default those that the settings name, or UER-py's.
        tally: the counts of the corpus, if it is counted already.
        on_bytes: called with the number of further bytes that have been counted.

    Raises:
        UsageError: there is no room for the reserved tokens.
        InputError: the corpus is missing, has no tokens, or is not UTF-8 text.
    """
    settings = settings or BuildSettings()
    start = reserved_for(settings, reserved)  # before the work
    files = list(corpus)
    if tally is None:
        files = corpus_files(files)
        counting = Counting(settings.unit, settings.form, settings.encoding)
        tally = count_corpus(files, counting, workers=settings.workers_num, on_bytes=on_bytes)
    if not tally.counts:
        raise InputError(
            f"The corpus ({listed(files)}) has nothing to count.", "All its lines are blank."
        )
    return _choose(tally, start, settings)


def reserved_for(settings: BuildSettings, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The tokens that a vocabulary starts with: the given ones, those of a file, or UER-py's.

    Raises:
        UsageError: `max_size` has no room for them.
        VocabError: the file is missing or not text.
    """
    path, most = settings.reserved_vocab_path, settings.max_size
    if given is None:
        given = reserved_tokens() if path is None else load_reserved(path)
    if most is not None and most < len(given):
        raise UsageError(
            f"A vocabulary of {most} entries has no room for the {len(given)} reserved ones.",
            "Give a larger `max_size`.",
        )
    return tuple(given)


def _choose(tally: Tally, reserved: Sequence[str], settings: BuildSettings) -> BuiltVocab:
    """The reserved tokens, then the most frequent ones up to the limits of the settings."""
    ranked = tally.ranked()
    total = tally.total
    most, coverage = settings.max_size, settings.coverage
    tokens = list(reserved)
    known = set(reserved)
    covered = sum(tally.counts.get(token, 0) for token in known)
    for token, count in ranked:
        if count < settings.min_count or len(tokens) == most:
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


# -- writing --------------------------------------------------------------------------------------


def side_file(path: str | Path, ending: str) -> Path:
    """The path of a further file: vocab.txt and .merges.txt give vocab.merges.txt."""
    path = Path(path)
    return path.with_name(path.stem + ending)


def save_vocab(
    built: BuiltVocab,
    path: str | Path,
    *,
    counts_path: str | Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a vocabulary, one token a line, with its further files next to it.

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
