"""Word vectors: the embedding layer of a model, and files of them as word2vec writes them.

A `WordTable` lies in memory, a `WordFile` is read block by block; both find words and give their
rows, which is all that looking for neighbours needs.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import warnings
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import torch

from uertool.checkpoints.reader import open_checkpoint
from uertool.errors import CheckpointError, InputError, UsageError, VocabError
from uertool.io.line_bytes import open_bytes
from uertool.loading.registry import LoadedModel, find_model
from uertool.text.tokenizers.factory import make_tokenizer
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder
from uertool.text.vocab import Vocab

Block = npt.NDArray[np.float32]

#: Where the table of words lies; of a siamese model that of its first side.
_TABLES = (
    "embedding.word.embedding.weight",
    "embedding.dual.embedding_0.word.embedding.weight",
)
_PROJECTION = "encoder.linear"

#: Rows that are read at a time, and bytes.
ROWS = 8192
_CHUNK = 1 << 22

#: Numbers that a vector may have; a first line that says more is no heading.
_MOST_NUMBERS = 1 << 20


class WordSource(Protocol):
    """Words with a vector each."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def size(self) -> int:
        """Numbers in a vector."""

    def __len__(self) -> int:
        """The number of words."""

    def find(self, words: Collection[str]) -> dict[str, tuple[int, Block]]:
        """Row number and vector [size] of those words that are there."""

    def blocks(self) -> Iterator[tuple[int, list[str], Block]]:
        """All words in blocks: number of the first row, words, vectors [rows, size]."""


@dataclass(frozen=True)
class WordTable:
    """Words and their vectors in memory.

    Attributes:
        words: the words, in the order of their rows.
        vectors: [words, size] float32.
        name: where they come from.
        special: rows of special tokens such as [PAD].
    """

    words: list[str]
    vectors: Block
    name: str = "word vectors"
    special: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.words)

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1])

    def find(self, words: Collection[str]) -> dict[str, tuple[int, Block]]:
        """See `WordSource`; of a word that stands twice, the later row, as UER-py has it."""
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
        return WordTable([self.words[row] for row in kept], self.vectors[kept], self.name)

    @classmethod
    def of(cls, loaded: LoadedModel) -> WordTable:
        """The embedding layer of a model that is loaded."""
        embedding: Any = loaded.model.embedding
        if hasattr(embedding, "dual"):
            embedding = embedding.dual.get_submodule("embedding_0")
        vectors = embedding.word.embedding.weight.detach().float().cpu().numpy()
        return _table(loaded.tokenizer.vocab, vectors, loaded.reference)


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
        vocab, spm: the vocabulary; by default what lies in the model's folder.
        tokenizer: UER-py's name of it, where that changes the order of ids (xlmroberta).
        projected: of a factorised embedding, the vectors as they enter the encoder [.., hidden].

    Raises:
        CheckpointError: there is no such model, or no table of words in it.
        VocabError: the vocabulary does not fit.
        UsageError: there is no vocabulary, or nothing to project with.
    """
    path = find_model(reference)
    with open_checkpoint(path) as checkpoint:
        name = next((name for name in _TABLES if checkpoint.has(name)), None)
        if name is None:
            raise CheckpointError(
                f"{path} has no word embedding ({_TABLES[0]}).", "Is it a whole model?"
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
        words = _vocab_of(path, checkpoint.layout, vocab, spm, tokenizer)
        return _table(words, table.numpy(), str(path))


def _vocab_of(
    path: Path,
    layout: str,
    vocab: str | Path | None,
    spm: str | Path | None,
    tokenizer: str | None,
) -> Vocab:
    if tokenizer == "xlmroberta" and spm is not None:
        return make_tokenizer(tokenizer, vocab_path=vocab, spm_model_path=spm).vocab
    if vocab is not None or spm is not None:
        return Vocab.load(vocab, spm=spm)
    folder = path if path.is_dir() else path.parent
    if layout == "hf":
        return tokenizer_from_hf_folder(folder).vocab
    if (folder / "vocab.txt").is_file():
        return Vocab.load(folder / "vocab.txt")
    raise UsageError(
        f"{path} brings no vocabulary.",
        "Name it with `vocab_path`, or a sentencepiece model with `spm_model_path`.",
    )


def _table(vocab: Vocab, vectors: Block, name: str) -> WordTable:
    if len(vocab) > len(vectors):
        raise VocabError(
            f"{vocab.source} has {len(vocab)} tokens, but the word embedding of {name} has "
            f"{len(vectors)} rows.",
            "Use the vocabulary that the model was trained with.",
        )
    return WordTable(vocab.tokens, vectors[: len(vocab)], name, vocab.special_ids)


# -- words as they are written --------------------------------------------------------------------

EMPTY = "\\empty"


def escape(word: str) -> str:
    r"""A word as it is written in a file that has blanks between words and numbers.

    White space becomes \uXXXX, an empty word \empty; a backslash that could be taken for the start
    of either becomes \u005c. Every other word stays as it is.
    """
    if not word:
        return EMPTY
    if "\\" in word:
        word = word.replace("\\u", "\\u005cu").replace("\\e", "\\u005ce")
    if any(char.isspace() for char in word):
        return "".join(f"\\u{ord(char):04x}" if char.isspace() else char for char in word)
    return word


def unescape(word: str) -> str:
    """The word that `escape` wrote so."""
    if "\\" not in word:
        return word
    if word == EMPTY:
        return ""
    first, *rest = word.split("\\u")
    return first + "".join(_unescaped(part) for part in rest)


def _unescaped(part: str) -> str:
    try:
        return chr(int(part[:4], 16)) + part[4:] if len(part) >= 4 else f"\\u{part}"
    except ValueError:
        return f"\\u{part}"


# -- files ----------------------------------------------------------------------------------------


class WordFile:
    """A file of word vectors, read block by block each time it is asked for something.

    Text and binary files of word2vec (gzip too, and without their first line, as GloVe has them),
    .npy beside its words, and .safetensors as `uertool extract-embeddings` writes them.

    Raises:
        InputError: it is missing or not understood.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        if not self.path.is_file():
            raise InputError(f"The word vectors {path} do not exist.", "Check the path.")
        self._matrix: Block | None = None
        self._words: list[str] = []
        suffix = self.path.suffix.lower()
        if suffix in (".npy", ".safetensors"):
            self._words, self._matrix = _matrix_file(self.path)
            self._count, self.size = self._matrix.shape
            return
        self._count, self.size, self._header, self._binary = _layout(self.path)

    def __len__(self) -> int:
        return int(self._count)

    def find(self, words: Collection[str]) -> dict[str, tuple[int, Block]]:
        """See `WordSource`; of a word that stands twice, the first row, as gensim has it."""
        wanted = set(words)
        found: dict[str, tuple[int, Block]] = {}
        for start, names, vectors in self._all(wanted):
            for place, word in enumerate(names):
                if word in wanted and word not in found:
                    found[word] = (start + place, np.array(vectors[place]))
            if len(found) == len(wanted):
                break
        return found

    def blocks(self) -> Iterator[tuple[int, list[str], Block]]:
        """See `WordSource`."""
        return self._all(None)

    def _all(self, wanted: set[str] | None) -> Iterator[tuple[int, list[str], Block]]:
        """All rows; of text files, with `wanted`, one block for each of these words."""
        if self._matrix is not None:
            for start in range(0, self._count, ROWS):
                part = slice(start, start + ROWS)
                yield start, self._words[part], np.array(self._matrix[part], dtype=np.float32)
        elif self._binary:
            yield from _binary_blocks(self.path, self._count, self.size)
        else:
            yield from _text_blocks(self.path, self.size, self._header, wanted)


def _matrix_file(path: Path) -> tuple[list[str], Block]:
    if path.suffix.lower() == ".npy":
        words_path = words_beside(path)
        if not words_path.is_file():
            raise InputError(
                f"{path} has no file of words: {words_path} does not exist.",
                "Name a file that extract-embeddings wrote.",
            )
        words = [unescape(word) for word in words_path.read_text("utf-8").split("\n")[:-1]]
        matrix: Block = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if "words" not in metadata or "vectors" not in file.keys():
                raise InputError(
                    f"{path} holds no word vectors.", "Name a file that extract-embeddings wrote."
                )
            words = json.loads(metadata["words"])
            matrix = file.get_tensor("vectors")
    if matrix.ndim != 2 or len(words) != len(matrix):
        raise InputError(f"{path} has {list(matrix.shape)} numbers, but {len(words)} words.")
    return words, matrix


def words_beside(path: Path) -> Path:
    """Where the words of a .npy file lie, one a line."""
    return path.with_suffix(".vocab.txt")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file; what is wrong with an archive is said in words."""
    try:
        with open_bytes(path) as stream:
            yield stream
    except EOFError:
        raise InputError(f"{path} is a truncated gzip file.", "Copy it again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is a broken gzip file: {error}.") from None


def _layout(path: Path) -> tuple[int, int, bool, bool]:
    """Number of words, numbers in a vector, whether a first line says so, whether it is binary."""
    with _opened(path) as stream:
        first = stream.readline(1 << 20)
        parts = first.split()
        if len(parts) == 2 and all(part.isdigit() for part in parts):
            count, size = int(parts[0]), int(parts[1])
            if not 1 <= size <= _MOST_NUMBERS:
                raise InputError(
                    f"{path} says that its vectors have {size} numbers.",
                    "It is damaged, or no file of word vectors.",
                )
            return count, size, True, _is_binary(stream.read(64 + 64 * size), size)
        if len(parts) < 3 or not _are_numbers(parts[1:]):
            raise InputError(
                f"{path} is no file of word vectors: its first line is {first[:60]!r}.",
                "Lines of a word and its numbers are expected, or word2vec's binary format.",
            )
        count = 1 + sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(_CHUNK), b""))
        return count, len(parts) - 1, False, False


def _is_binary(start: bytes, size: int) -> bool:
    """Whether what follows the first line is not a line of a word and numbers."""
    line, end, _ = start.partition(b"\n")
    if not end and len(start) >= 64 + 64 * size:
        return True
    parts = line.rstrip().split(b" ")
    return len(parts) <= size or not _are_numbers(parts[-size:])


def _are_numbers(parts: list[bytes]) -> bool:
    try:
        for part in parts:
            float(part)
    except ValueError:
        return False
    return True


def _text_blocks(
    path: Path, size: int, header: bool, wanted: set[str] | None
) -> Iterator[tuple[int, list[str], Block]]:
    keys = None if wanted is None else {escape(word).encode() for word in wanted}
    row = 0
    words: list[bytes] = []
    numbers: list[bytes] = []
    with _opened(path) as stream:
        if header:
            stream.readline()
        for line in stream:
            word, _, rest = line.rstrip(b"\r\n ").partition(b" ")
            if keys is not None and word in keys:
                yield (
                    row,
                    [unescape(word.decode("utf-8", "replace"))],
                    _parsed(path, row, [word], [rest], size),
                )
            elif keys is None and rest:
                words.append(word)
                numbers.append(rest)
                if len(words) == ROWS:
                    yield _text_block(path, row + 1 - ROWS, words, numbers, size)
                    words, numbers = [], []
            row += bool(rest)
    if words:
        yield _text_block(path, row - len(words), words, numbers, size)


def _text_block(
    path: Path, start: int, words: list[bytes], numbers: list[bytes], size: int
) -> tuple[int, list[str], Block]:
    block = _parsed(path, start, words, numbers, size)
    return start, [unescape(word.decode("utf-8", "replace")) for word in words], block


def _parsed(path: Path, start: int, words: list[bytes], rows: list[bytes], size: int) -> Block:
    """The numbers of some lines [rows, size]; a word with blanks in it is put together again."""
    with warnings.catch_warnings(), contextlib.suppress(ValueError):
        warnings.simplefilter("ignore")  # about what is no number: looked at below, line by line
        flat = np.fromstring(b" ".join(rows), dtype=np.float32, sep=" ")
        if flat.size == len(rows) * size:
            return flat.reshape(len(rows), size)
    block = np.empty((len(rows), size), dtype=np.float32)
    for place, row in enumerate(rows):
        parts = row.split()
        if len(parts) < size or not _are_numbers(parts[-size:]):
            raise InputError(
                f"{path}, vector {start + place + 1} ({words[place].decode('utf-8', 'replace')!r}):"
                f" {size} numbers were expected.",
                "Is the file complete?",
            )
        words[place] = b" ".join([words[place], *parts[:-size]])
        block[place] = [float(part) for part in parts[-size:]]
    return block


def _binary_blocks(path: Path, count: int, size: int) -> Iterator[tuple[int, list[str], Block]]:
    width = 4 * size
    row = at = 0
    words: list[str] = []
    vectors: list[bytes] = []
    start = 0
    with _opened(path) as stream:
        stream.readline()
        data = b""
        while row < count:
            space = data.find(b" ", at)
            if space < 0 or len(data) < space + 1 + width:
                more = stream.read(_CHUNK)
                if not more:
                    raise InputError(
                        f"{path} ends after {row} of {count} vectors.", "Copy it again."
                    )
                data, at = data[at:] + more, 0
                continue
            word = data[at:space].lstrip(b"\n")
            words.append(unescape(word.decode("utf-8", "replace")))
            at = space + 1 + width
            vectors.append(data[space + 1 : at])
            row += 1
            if len(words) == ROWS or row == count:
                block = np.frombuffer(b"".join(vectors), "<f4").reshape(-1, size)
                yield start, words, block.copy()
                start, words, vectors = row, [], []
