"""Encodings of text: their names, text of UTF-16 as UTF-8, and guesses about what is not UTF-8.

In most encodings, UTF-8 and GB18030 among them, a line feed is the byte 0x0a and that byte is
nothing else. Such text is split into lines as bytes, and each line is decoded. Other encodings
(UTF-16, UTF-32) are decoded as a stream and passed on as UTF-8.
"""

from __future__ import annotations

import codecs
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from uertool.errors import InputError, SettingError

UTF8 = "utf-8"

#: Byte order marks, longer ones first: that of UTF-32 begins with that of UTF-16.
_MARKS: Mapping[bytes, str] = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: UTF8,
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LONGEST_MARK = 4

#: Names that are read as a superset: files that claim to be GB2312 often hold other characters.
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "utf-8-sig": UTF8}

#: What a file that is not UTF-8 may be, as charset-normalizer calls it.
_CANDIDATES = ["gb18030", "big5", "big5hkscs", "utf_16", "shift_jis", "euc_jp", "euc_kr", "cp1252"]

#: First bytes of files that are not text, and what they are.
_BINARY: Mapping[bytes, str] = {
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a zip archive, such as a PyTorch checkpoint",
    b"\x80\x02": "a pickle, such as a PyTorch checkpoint",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"%PDF": "a PDF document",
}

_SAMPLE = 1 << 16


def encoding_named(name: str) -> str:
    """The encoding of a name as Python spells it; names of subsets of GB18030 mean GB18030.

    Raises:
        SettingError: Python knows no text encoding of that name.
    """
    try:
        found = codecs.lookup(name).name
        "".encode(found)
    except (LookupError, ValueError):
        raise SettingError(
            "encoding", name, "must name a text encoding, such as utf-8, gb18030, big5 or utf-16"
        ) from None
    return _SUPERSETS.get(found, found)


@functools.cache
def has_byte_lines(encoding: str) -> bool:
    """Whether lines of the encoding can be found in its bytes, see above."""
    return "\n".encode(encoding) == b"\n"


def line_encoding(encoding: str) -> str:
    """The encoding of lines that come from `as_lines_of_bytes`."""
    return encoding if has_byte_lines(encoding) else UTF8


def encoding_by_mark(start: bytes) -> str | None:
    """The encoding that a byte order mark at the start of a text names, if there is one."""
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)


def as_lines_of_bytes(blocks: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Blocks of a text as they are, or as UTF-8 where lines cannot be found in its bytes.

    A byte order mark of UTF-16 or UTF-32 decides, unless another encoding was given.

    Args:
        blocks: all bytes of the text, or of whole lines of it.
        encoding: a name from `encoding_named`.
        name: what to call the text.

    Raises:
        InputError: the text is not of that encoding, or its byte order mark names another one.
    """
    stream = iter(blocks)
    start = b""
    for block in stream:
        start += block
        if len(start) >= _LONGEST_MARK:
            break
    marked = encoding_by_mark(start)
    if marked == "utf-32" and encoding.startswith("utf-16"):
        marked = "utf-16"  # the mark of UTF-32 is that of UTF-16 and a NUL
    if marked is not None and encoding != UTF8 and not encoding.startswith(marked):
        raise InputError(
            f"{name} begins with the byte order mark of {marked}, but `encoding` is {encoding}.",
            "Leave `encoding` out.",
        )
    if marked is not None and encoding == UTF8:
        encoding = marked
    if has_byte_lines(encoding):
        if start:
            yield start
        yield from stream
        return
    hint = "Is the file complete?" if marked else None
    yield from _recoded(itertools.chain([start], stream), encoding, name, hint)


def as_utf8(blocks: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Blocks of a text of any encoding as UTF-8; see `as_lines_of_bytes`."""
    found = as_lines_of_bytes(blocks, encoding, name)
    coded = line_encoding(encoding)
    return found if coded == UTF8 else _recoded(found, coded, name, None)


def _recoded(
    blocks: Iterable[bytes], encoding: str, name: str, hint: str | None
) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    block = b""
    try:
        for block in blocks:
            yield decoder.decode(block).encode()
        yield decoder.decode(b"", final=True).encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(
            f"{name} is not {encoding} text: {error.reason}.", hint or encoding_hint(name, block)
        ) from None


def decoded(data: bytes, encoding: str, *, cut: bool = False) -> str:
    """The text of a line; of one that was cut, without half a character at its end.

    Raises:
        UnicodeDecodeError: it is not text of that encoding.
    """
    if cut and encoding != UTF8:
        return codecs.getincrementaldecoder(encoding)("strict").decode(data)
    return data.decode(encoding)


def encoding_hint(name: str, data: bytes, *, can_choose: bool = True) -> str:
    """What to do about a text that cannot be decoded: what it seems to be.

    Args:
        name: its path, or what else it is called.
        data: a part of it, which is looked at where there is no such file.
        can_choose: whether the user can say which `encoding` it is; otherwise it must be UTF-8.
    """
    data = _sample(name) or data
    for start, what in _BINARY.items():
        if data.startswith(start):
            return f"The file is {what}, not text; name a text file."
    if b"\0" in data:
        wide = _wide_guess(data)
        if wide is None:
            return "The file is binary, not text; name a text file."
        return _advice(wide, can_choose)
    chinese = _chinese_guess(data)
    if chinese is not None:
        return _advice(chinese, can_choose)
    from charset_normalizer import from_bytes

    best = from_bytes(data, cp_isolation=_CANDIDATES).best()
    if (best is None or best.encoding == "ascii") and not can_choose:
        return "Convert it to UTF-8."
    if best is None or best.encoding == "ascii":
        return "Give its `encoding`, for example gb18030, big5 or utf-16, if the file is text."
    return _advice(encoding_named(best.encoding), can_choose)


def _advice(guess: str, can_choose: bool) -> str:
    what = f"give `encoding` {guess}" if can_choose else f"convert it: iconv -f {guess} -t utf-8"
    return f"It looks like {guess} text; {what}."


#: Encodings of Chinese, each with the first bytes of its frequent characters: the first level of
#: GB 2312 and of Big5.
_FREQUENT = {"gb18030": range(0xB0, 0xD8), "big5": range(0xA4, 0xC7)}
_MOST = 0.8


def _chinese_guess(data: bytes) -> str | None:
    """The encoding in which most characters are frequent Chinese ones; None for other text."""
    shares = {}
    for encoding, first in _FREQUENT.items():
        try:
            text = codecs.getincrementaldecoder(encoding)("strict").decode(data)
        except UnicodeDecodeError:
            continue
        coded = [char.encode(encoding) for char in text if char.isalpha() and not char.isascii()]
        shares[encoding] = sum(char[0] in first for char in coded) / max(len(coded), 1)
    best = max(shares, key=lambda encoding: shares[encoding], default=None)
    return best if best is not None and shares[best] >= _MOST else None


def _wide_guess(data: bytes) -> str | None:
    """UTF-16 without a byte order mark, by its line feeds and ASCII characters; None for others."""
    counts = [data[parity::2].count(0) for parity in (0, 1)]
    if min(counts) > max(counts) // 10:
        return None
    guess = "utf-16-le" if counts[1] > counts[0] else "utf-16-be"
    try:
        text = codecs.getincrementaldecoder(guess)("strict").decode(data)
    except UnicodeDecodeError:
        return None
    return guess if "\0" not in text and all(c.isprintable() or c.isspace() for c in text) else None


def _sample(name: str) -> bytes:
    """The first bytes of a file, without its last line, which may be torn; empty for others."""
    try:
        if not Path(name).is_file():
            return b""
        with open(name, "rb") as stream:
            data = stream.read(_SAMPLE)
    except (OSError, ValueError):
        return b""
    if len(data) < _SAMPLE:
        return data
    return data[: data.rfind(b"\n") + 1] or data
