"""Reading small files whole: regular files only, up to a limit, every failure one sentence.

A device such as /dev/zero never ends, opening a FIFO waits for ever, and a JSON file may hold
numbers and strings that Python itself cannot print; none of them may harm who reads them.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uertool.errors import InputError, UertoolError, shown
from uertool.io.encodings import encoding_hint

#: The most bytes of a configuration, an index of shards and the like.
JSON_LIMIT = 64 << 20

_BOM = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_file(
    path: str | Path,
    limit: int,
    *,
    what: str = "file",
    error: type[UertoolError] = InputError,
) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Args:
        path: the file.
        limit: the most bytes that are read.
        what: what the file is to the user, for messages: "vocabulary", "configuration".
        error: the class of the errors raised.

    Raises:
        UertoolError: of the class `error`; the file is missing, not a regular file, too large or
            cannot be read.
    """
    name = f"The {what} {shown(path)}"
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise error(f"{name} is not a regular file.", "Give the path of a file.")
            data = stream.read(limit + 1)
    except FileNotFoundError:
        raise error(f"{name} does not exist.", "Check the path.") from None
    except IsADirectoryError:
        raise error(f"{name} is a folder.", "Give the path of a file in it.") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{name} cannot be read: {reason}.") from None
    if len(data) > limit:
        raise error(f"{name} is larger than {limit >> 20} MiB, the most that is read.")
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting, as a FIFO without a writer would make it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text_file(
    path: str | Path,
    limit: int,
    *,
    what: str = "file",
    error: type[UertoolError] = InputError,
    hint: str | None = None,
) -> str:
    """The text of a UTF-8 file, without its byte order mark; arguments and errors as `read_file`.

    Args:
        hint: what to do about a file that is not UTF-8; by default what it seems to be.
    """
    data = read_file(path, limit, what=what, error=error)
    if data.startswith(_UTF16_MARKS):
        raise error(f"The {what} {shown(path)} is UTF-16 text.", "Save it as UTF-8.")
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error(
            f"The {what} {shown(path)} is not UTF-8 text: line {line}, byte {problem.start} is "
            f"0x{problem.object[problem.start]:02x}.",
            hint or encoding_hint(str(path), data, can_choose=False),
        ) from None


def read_json_object(
    path: str | Path,
    *,
    what: str = "configuration",
    error: type[UertoolError] = InputError,
) -> dict[str, Any]:
    """The JSON object in a file; arguments and errors as `read_file`."""
    text = read_text_file(path, JSON_LIMIT, what=what, error=error)
    found = parse_json(text, f"The {what} {shown(path)}", error=error)
    if not isinstance(found, dict):
        raise error(f"The {what} {shown(path)} is not a JSON object.")
    return found


def parse_json(
    text: str | bytes,
    name: str,
    *,
    error: type[UertoolError] = InputError,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value of a JSON text whose strings are valid Unicode.

    Args:
        text: the JSON.
        name: what it is, the beginning of a sentence.
        error: the class of the errors raised.
        pairs: makes the objects, as json's `object_pairs_hook`.

    Raises:
        UertoolError: of the class `error`; it is not JSON, is nested too deep, or holds lone
            surrogates or integers of thousands of digits.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(decoded, object_pairs_hook=pairs)
        if "\\ud" in decoded or "\\uD" in decoded:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise error(f"{name} holds half of a surrogate pair, which is not a character.") from None
    except RecursionError:
        raise error(f"{name} is nested too deep.") from None
    except ValueError as problem:
        raise error(f"{name} is not valid JSON ({shown(problem)}).") from None
    return value
