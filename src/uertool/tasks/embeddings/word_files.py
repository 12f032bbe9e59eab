"""Files of word vectors as word2vec writes them, read block by block.

Text and binary files of word2vec (gzip too, and without their first line, as GloVe has them), .npy
next to its words, and .safetensors as `uertool extract-embeddings` writes them.
"""

from __future__ import annotations

import contextlib
import gzip
import warnings
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, counted, shown
from uertool.io.line_bytes import open_bytes
from uertool.io.small_files import parse_json, read_text_file

Block = npt.NDArray[np.float32]

#: Rows that are read at a time, and bytes.
ROWS = 8192
_CHUNK = 1 << 22

#: The most bytes of the words of a .npy file.
_WORDS_LIMIT = 1 << 30

#: The most numbers of a vector; a first line with a larger one is no header.
_MOST_NUMBERS = 1 << 20


@runtime_checkable
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


# -- words as they are written --------------------------------------------------------------------

EMPTY = "\\empty"


def escape(word: str) -> str:
    r"""A word as it is written in a file that has spaces between words and numbers.

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
    """A file of word vectors, read block by block each time.

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
        """See `WordSource`; of a word that occurs twice, the first row, as gensim has it."""
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
    """The words and vectors of a .npy or .safetensors file.

    Raises:
        InputError: it is damaged, or there are no words for it.
    """
    from safetensors import SafetensorError

    read = _npy if path.suffix.lower() == ".npy" else _safetensors
    try:
        words, matrix = read(path)
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise InputError(f"{shown(path)} cannot be read: {shown(error)}.") from None
    if matrix.ndim != 2 or len(words) != len(matrix):
        raise InputError(
            f"{shown(path)} has vectors of shape {list(matrix.shape)}, but "
            f"{counted(len(words), 'word')}."
        )
    return words, matrix


def _npy(path: Path) -> tuple[list[str], Block]:
    place = words_path(path)
    if not place.is_file():
        raise InputError(
            f"The words of {shown(path)} are missing: {shown(place)} does not exist.",
            "Name a file that extract-embeddings wrote.",
        )
    text = read_text_file(place, _WORDS_LIMIT, what="list of words").replace("\r\n", "\n")
    matrix: Block = np.load(path, mmap_mode="r", allow_pickle=False)
    return [unescape(word) for word in text.split("\n")[:-1]], matrix


def _safetensors(path: Path) -> tuple[list[str], Block]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if "words" not in metadata or "vectors" not in file.keys():
            raise InputError(
                f"{shown(path)} has no word vectors.", "Name a file that extract-embeddings wrote."
            )
        words = parse_json(metadata["words"], f"The list of words in {shown(path)}")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError(f"The words in {shown(path)} are not a list of texts.")
        return words, file.get_tensor("vectors")


def words_path(path: Path) -> Path:
    """The path of the words of a .npy file, one a line."""
    return path.with_suffix(".vocab.txt")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file; a damaged archive is an InputError."""
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
                    f"{path} says that its vectors have {counted(size, 'number')}.",
                    "The file is damaged, or it does not contain word vectors.",
                )
            return count, size, True, _is_binary(stream.read(64 + 64 * size), size)
        if len(parts) < 3 or not _are_numbers(parts[1:]):
            start = shown(first.decode("utf-8", "replace").rstrip(), 40)
            raise InputError(
                f"{path} does not contain word vectors: its first line is {start!r}.",
                "Each line must be a word and its numbers, or the file word2vec's binary format.",
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
    keys: set[bytes] | None = None
    if wanted is not None:  # other programs do not escape the blanks within words
        keys = {form.encode() for word in wanted for form in (escape(word), word.split(" ")[0])}
    row = 0
    words: list[bytes] = []
    numbers: list[bytes] = []
    with _opened(path) as stream:
        if header:
            stream.readline()
        for line in stream:
            word, _, rest = line.rstrip(b"\r\n ").partition(b" ")
            if keys is not None and word in keys:
                yield _text_block(path, row, [word], [rest], size)
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
    """The numbers of some lines [rows, size]; a word that contains spaces is put together again."""
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
                f" {counted(size, 'number')} expected.",
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
