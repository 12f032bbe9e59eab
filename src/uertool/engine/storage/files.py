"""One way to files on this machine and, by pyarrow, to files elsewhere (s3://, gs://, hdfs://).

A path without a scheme, and file://, need nothing but the standard library.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from uertool.errors import UsageError, import_extra

_WORDS_OF_ERRNO = re.compile(r"\[errno \d+\] ", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """A file or folder.

    Attributes:
        path: as its file system takes it.
        is_file: False for a folder.
        size: bytes of a file.
        changed: when it was last modified, in seconds since 1970, or None if unknown.
    """

    path: str
    is_file: bool
    size: int = 0
    changed: float | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class FileSystem(Protocol):
    """What the engine asks of a file system. Missing files raise FileNotFoundError."""

    is_local: bool

    def entry(self, path: str) -> Entry | None:
        """What is at a path, or None."""

    def entries(self, folder: str, *, deep: bool = False) -> list[Entry]:
        """What is in a folder (and, with `deep`, below it); empty if there is no folder."""

    def read(self, path: str) -> BinaryIO:
        """A file opened for reading, which can seek."""

    def write(self, path: str) -> Any:
        """A file opened for writing bytes."""

    def make_folder(self, path: str) -> None:
        """Create a folder and those above it."""

    def remove_file(self, path: str) -> None:
        """Delete a file."""

    def remove_folder(self, path: str) -> None:
        """Delete a folder with everything in it."""


def file_system(path: str) -> tuple[FileSystem, str]:
    """The file system of a path or URI, and the path within it.

    Raises:
        UsageError: pyarrow does not know the URI's scheme.
        MissingExtraError: a URI, and pyarrow is not installed.
    """
    if "://" not in path:
        return _LOCAL, os.path.abspath(path)
    scheme, _, rest = path.partition("://")
    if scheme == "file":
        return _LOCAL, rest
    return _remote(path)


def require_pyarrow(purpose: str = "`engine` ray") -> None:
    """Raise MissingExtraError unless pyarrow is installed."""
    import_extra("pyarrow", "ray", purpose)


def reason_of(error: BaseException) -> str:
    """The reason of a file error, short."""
    text = _WORDS_OF_ERRNO.sub("", str(error)).strip().split("\n")[0]
    strerror = getattr(error, "strerror", None)
    return (strerror or text or type(error).__name__).rstrip(".")


class _Local:
    """Files of this machine."""

    is_local = True

    def entry(self, path: str) -> Entry | None:
        try:
            state = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(path, not os.path.isdir(path), state.st_size, state.st_mtime)

    def entries(self, folder: str, *, deep: bool = False) -> list[Entry]:
        return list(self._walk(folder, deep))

    def _walk(self, folder: str, deep: bool) -> Iterator[Entry]:
        try:
            found = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for item in found:
            entry = self.entry(item.path)
            if entry is None:
                continue  # gone meanwhile, or a broken link
            yield entry
            if deep and not entry.is_file and not item.is_symlink():
                yield from self._walk(item.path, deep)

    def read(self, path: str) -> BinaryIO:
        return open(path, "rb")

    def write(self, path: str) -> Any:
        return open(path, "wb")

    def make_folder(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def remove_file(self, path: str) -> None:
        os.unlink(path)

    def remove_folder(self, path: str) -> None:
        shutil.rmtree(path)


_LOCAL = _Local()


class _Arrow:
    """Files that pyarrow reaches."""

    is_local = False

    def __init__(self, system: Any) -> None:
        from pyarrow import fs

        self._fs = fs
        self._system = system

    def _entry(self, info: Any) -> Entry:
        changed = None if info.mtime_ns is None else info.mtime_ns / 1e9
        return Entry(info.path, info.type == self._fs.FileType.File, info.size or 0, changed)

    def entry(self, path: str) -> Entry | None:
        info = self._system.get_file_info(path)
        return None if info.type == self._fs.FileType.NotFound else self._entry(info)

    def entries(self, folder: str, *, deep: bool = False) -> list[Entry]:
        selector = self._fs.FileSelector(folder, allow_not_found=True, recursive=deep)
        return [self._entry(info) for info in self._system.get_file_info(selector)]

    def read(self, path: str) -> BinaryIO:
        stream: BinaryIO = self._system.open_input_file(path)
        return stream

    def write(self, path: str) -> Any:
        return self._system.open_output_stream(path)

    def make_folder(self, path: str) -> None:
        self._system.create_dir(path, recursive=True)

    def remove_file(self, path: str) -> None:
        self._system.delete_file(path)

    def remove_folder(self, path: str) -> None:
        self._system.delete_dir(path)


@functools.lru_cache(maxsize=8)
def _remote(path: str) -> tuple[FileSystem, str]:
    require_pyarrow(f"Reading {path}")
    from pyarrow import fs

    try:
        system, inner = fs.FileSystem.from_uri(path)
    except (ValueError, OSError) as error:
        raise UsageError(
            f"The path {path} cannot be reached: {reason_of(error)}.",
            "Paths are local ones, or URIs that pyarrow's file systems read, such as s3://...",
        ) from None
    return _Arrow(system), inner
