"""extract-embeddings: the embedding layer of a model as a file of word vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from uertool.checkpoints.writer import save_tensors
from uertool.errors import CheckpointError, UsageError, counted
from uertool.io.atomic import atomic_bytes, atomic_text, refuse_existing
from uertool.io.display import Report
from uertool.io.float_text import ROWS, text_lines
from uertool.tasks.embeddings.word_files import escape, words_path
from uertool.tasks.embeddings.word_vectors import WordTable

Block = npt.NDArray[np.float32]

_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|\[UNUSED\d+\]")


@dataclass(frozen=True, repr=False)
class ExportReport(Report):
    """What was written.

    Attributes:
        words, size: rows, and numbers in each.
        dropped: rows that were left out.
        notices: what readers should know, one sentence each.
    """

    words: int
    size: int
    dropped: int = 0
    notices: list[str] = field(default_factory=list)


def unused_rows(table: WordTable) -> list[int]:
    """Rows of [unusedN], special tokens and empty entries."""
    return [
        row
        for row, word in enumerate(table.words)
        if row in table.special or not word.strip() or _UNUSED.fullmatch(word)
    ]


def export_words(
    table: WordTable,
    path: str | Path,
    *,
    binary: bool = False,
    drop_unused: bool = False,
    overwrite: bool = False,
) -> ExportReport:
    """Write word vectors.

    The suffix selects the format: .npy (a matrix, and the words next to it in `<stem>.vocab.txt`),
    .safetensors (the tensor `vectors`, the words as JSON in its metadata), .bin (word2vec's binary
    format); anything else is word2vec's text format, which gensim reads and Chinese-Word-Vectors
    uses: a line `words size`, then a word and its numbers on each line. Numbers have the shortest
    form that reads back to the same float32.

    Args:
        table: see `uertool.tasks.embeddings.word_vectors.table_of`.
        path: where to write; "-" writes text to standard output.
        binary: the binary format, regardless of the suffix.
        drop_unused: leave out what `unused_rows` finds.
        overwrite: whether an existing file may be replaced.

    Raises:
        CheckpointError: a vector holds NaN or infinity.
        UsageError: the binary format with the suffix of another one.
        OutputError: the file exists already or cannot be written.
    """
    dropped = unused_rows(table) if drop_unused else []
    if dropped:
        table = table.without(dropped)
    _check_finite(table)
    form = _form_of(path, binary)
    FORMS[form](table, path, overwrite)
    return ExportReport(len(table), table.size, len(dropped), _notices(table))


def check_export(path: str | Path, *, binary: bool = False, overwrite: bool = False) -> None:
    """Check before the work that the output can be written; raises as `export_words`."""
    _form_of(path, binary)
    refuse_existing(path, overwrite)
    if str(path).lower().endswith(".npy"):
        refuse_existing(words_path(Path(path)), overwrite)


def _form_of(path: str | Path, binary: bool) -> str:
    suffix = Path(path).suffix.lower()
    form = suffix if suffix in FORMS else ".txt"
    if not binary:
        return form
    if form in (".npy", ".safetensors") or str(path) == "-":
        raise UsageError(
            f"`binary` is a format of word2vec, but the output is {path}.",
            "Name it .bin, or leave `binary` out.",
        )
    return ".bin"


def _check_finite(table: WordTable) -> None:
    bad: list[str] = []
    for start in range(0, len(table), ROWS):
        block = table.vectors[start : start + ROWS]
        rows = np.flatnonzero(~np.isfinite(block).all(axis=1))
        bad.extend(table.words[start + row] for row in rows.tolist())
    if bad:
        raise CheckpointError(
            f"{len(bad)} of {len(table)} vectors of {table.name} hold NaN or infinity, "
            f"among them those of {', '.join(map(repr, bad[:5]))}.",
            "Look at the checkpoint with: uertool check",
        )


def _notices(table: WordTable) -> list[str]:
    found = list(table.notes)
    twice = len(table.words) - len(set(table.words))
    if twice:
        found.append(f"{counted(twice, 'repeated word')}; most readers keep the first of each.")
    escaped = [word for word in table.words if escape(word) != word]
    if escaped:
        found.append(
            f"White space and empty words ({len(escaped):,}) are written with \\u escapes, "
            f"for example {escape(escaped[0])}."
        )
    return found


def _blocks(table: WordTable) -> Iterator[tuple[Sequence[str], Block]]:
    for start in range(0, len(table), ROWS):
        part = slice(start, start + ROWS)
        yield [escape(word) for word in table.words[part]], table.vectors[part]


def _write_text(table: WordTable, path: str | Path, overwrite: bool) -> None:
    with atomic_bytes(path, overwrite=overwrite) as stream:
        stream.write(f"{len(table)} {table.size}\n".encode())
        for words, vectors in _blocks(table):
            stream.write(text_lines(words, vectors))


def _write_binary(table: WordTable, path: str | Path, overwrite: bool) -> None:
    with atomic_bytes(path, overwrite=overwrite) as stream:
        stream.write(f"{len(table)} {table.size}\n".encode())
        for words, vectors in _blocks(table):
            rows = np.ascontiguousarray(vectors, dtype="<f4")
            parts = (
                b"%b %b" % (w.encode(), row.tobytes()) for w, row in zip(words, rows, strict=True)
            )
            stream.write(b"".join(parts))


def _write_npy(table: WordTable, path: str | Path, overwrite: bool) -> None:
    with (
        atomic_text(words_path(Path(path)), overwrite=overwrite) as words,
        atomic_bytes(path, overwrite=overwrite) as stream,
    ):
        words.writelines(escape(word) + "\n" for word in table.words)
        np.save(stream, np.ascontiguousarray(table.vectors, dtype="<f4"))


def _write_safetensors(table: WordTable, path: str | Path, overwrite: bool) -> None:
    tensors = {"vectors": torch.from_numpy(np.ascontiguousarray(table.vectors, dtype=np.float32))}
    metadata = {"words": json.dumps(table.words, ensure_ascii=False)}
    save_tensors(tensors, path, format="safetensors", metadata=metadata, overwrite=overwrite)


#: What writes a file, by its suffix.
FORMS: Mapping[str, Callable[[WordTable, str | Path, bool], None]] = {
    ".txt": _write_text,
    ".bin": _write_binary,
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
}
