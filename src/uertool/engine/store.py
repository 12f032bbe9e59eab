"""Where shards are written: a folder on any file system that pyarrow knows."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uertool.errors import MissingExtraError, OutputError, UsageError
from uertool.io.atomic import PARTIAL

_THREADS = 16  # small files that are read at a time
_WORDS_OF_ERRNO = re.compile(r"\[errno \d+\] ", re.IGNORECASE)


def require_pyarrow() -> None:
    """Raise MissingExtraError unless pyarrow is installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtraError("pyarrow", "ray", "`engine` ray") from None


def file_system(path: str) -> tuple[Any, str]:
    """The file system of a path or URI, and what the path is called there.

    Raises:
        UsageError: the URI names a file system that pyarrow does not know.
    """
    from pyarrow import fs

    if "://" not in path:
        return _local(), os.path.abspath(path)
    scheme, _, rest = path.partition("://")
    if scheme == "file":
        return _local(), rest
    try:
        system, inner = fs.FileSystem.from_uri(path)
    except (ValueError, OSError) as error:
        raise UsageError(
            f"The path {path} cannot be reached: {reason_of(error)}.",
            "Paths are local ones, or URIs that pyarrow's file systems read, such as s3://...",
        ) from None
    return system, inner


@functools.cache
def _local() -> Any:
    from pyarrow import fs

    return fs.LocalFileSystem()


def reason_of(error: BaseException) -> str:
    """What pyarrow says about a file, short."""
    text = _WORDS_OF_ERRNO.sub("", str(error)).strip().split("\n")[0]
    strerror = getattr(error, "strerror", None)
    return (strerror or text or type(error).__name__).rstrip(".")


class Store:
    """A folder for shards.

    On a local (or mounted) disk a file appears by being renamed; other file systems show a file
    only when it is complete. So whoever finds a file finds all of it, also where two workers wrote
    the same shard because one of them was thought dead.

    Args:
        path: a folder or a URI of one.

    Raises:
        UsageError: pyarrow does not know the file system.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._system, self._inner = file_system(path)
        self._inner = self._inner.rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine (or mounted on it)."""
        from pyarrow import fs

        return isinstance(self._system, fs.LocalFileSystem)

    @property
    def local_path(self) -> Path:
        """Where it is on this machine, if it is local."""
        return Path(self._inner)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._inner.rpartition("/")[2]

    def __getstate__(self) -> dict[str, str]:
        # A worker may stand in another folder than who sent it.
        return {"path": self._inner if self.is_local else self.path}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def beside(self, suffix: str) -> str:
        """The path of something that is called like this folder with a suffix."""
        return self.path.rstrip("/") + suffix

    def create(self) -> None:
        """Make the folder.

        Raises:
            OutputError: it cannot be made, or a file is in its place.
        """
        from pyarrow import fs

        with self._errors():
            if self._system.get_file_info(self._inner).type == fs.FileType.File:
                raise OutputError(
                    f"The output {self.path} is a file; shards are written into a folder.",
                    "Name another folder.",
                )
            self._system.create_dir(self._inner, recursive=True)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Names of the files in the folder (or one in it) and their bytes; empty without it."""
        from pyarrow import fs

        where = f"{self._inner}/{folder}" if folder else self._inner
        with self._errors():
            found = self._system.get_file_info(fs.FileSelector(where, allow_not_found=True))
        return {entry.base_name: entry.size for entry in found if entry.type == fs.FileType.File}

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self._system.get_file_info(f"{self._inner}/{name}").size or 0)

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file, or None where there is none."""
        try:
            with self.open(name) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def read_all(self, names: list[str]) -> Iterator[bytes | None]:
        """The bytes of many small files, in order."""
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from pool.map(self.read, names)

    def open(self, name: str) -> Any:
        """A file for reading, as pyarrow's stream.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._system.open_input_file(f"{self._inner}/{name}")

    def write(self, name: str, data: bytes, *, flush: bool = True) -> None:
        """Put a small file there, replacing an older one.

        Args:
            name: of the file.
            data: its bytes.
            flush: whether it must be there even if the machine stops at once.
        """
        with self.folder() as scratch:
            (scratch / "file").write_bytes(data)
            self.put(scratch / "file", name, flush=flush)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for files that shall be `put`: beside their target where that is local."""
        if self.is_local:
            scratch = Path(self._inner) / f".{secrets.token_hex(6)}{PARTIAL}"
            with self._errors():
                scratch.mkdir()
        else:
            scratch = Path(tempfile.mkdtemp(prefix="uertool-"))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def put(self, file: Path, name: str, *, flush: bool = True) -> None:
        """Move a file of `folder()` here under a name, replacing what is there.

        Raises:
            OutputError: the file system will not take it.
        """
        target = f"{self._inner}/{name}"
        with self._errors():
            if self.is_local:
                if flush:
                    _flush(file)
                Path(target).parent.mkdir(exist_ok=True)
                os.replace(file, target)
                return
            with open(file, "rb") as source, self._system.open_output_stream(target) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_file(f"{self._inner}/{name}")

    def remove_folder(self, folder: str = "") -> None:
        """Take a folder in it away with all that is in it, or itself."""
        where = f"{self._inner}/{folder}" if folder else self._inner
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_dir(where)

    def remove_if_empty(self) -> None:
        """Take the folder itself away if nothing is in it."""
        from pyarrow import fs

        if not self._system.get_file_info(fs.FileSelector(self._inner, allow_not_found=True)):
            self.remove_folder()

    def clean(self) -> None:
        """Take away what dead workers left half done; only while no worker writes here."""
        if not self.is_local or not Path(self._inner).is_dir():
            return
        for item in Path(self._inner).iterdir():
            if item.name.startswith(".") and item.name.endswith(PARTIAL) and item.is_dir():
                shutil.rmtree(item, ignore_errors=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"The output {self.path} cannot be written: {reason_of(error)}.",
                "Shards that are finished are kept; the same command goes on with them.",
            ) from error


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
