"""Where shards are written: a folder on this machine or on any file system that pyarrow knows."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from uertool.engine.storage.files import file_system, reason_of
from uertool.errors import OutputError
from uertool.io.atomic import OUTPUT_ERRNOS, PARTIAL, flush_to_disk

_THREADS = 16  # small files that are read at a time
_LOCK = ".lock"


class Store:
    """A folder for shards.

    On a local (or mounted) disk a file appears by being renamed; other file systems show a file
    only when it is complete. So whoever finds a file finds all of it, also if two workers wrote
    the same shard because one of them was thought dead.

    Args:
        path: a folder or a URI of one.
        output: what to call it in messages; the path if None.
        durable: whether files must survive a crash of the machine.

    Raises:
        UsageError: pyarrow does not know the file system.
    """

    def __init__(self, path: str, output: str | None = None, durable: bool = True) -> None:
        self.path = path
        self.durable = durable
        self.output = output or path
        self._system, inner = file_system(path)
        self._inner = inner.rstrip("/") or "/"

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine (or mounted on it)."""
        return self._system.is_local

    @property
    def local_path(self) -> Path:
        """Where it is on this machine, if it is local."""
        return Path(self._inner)

    def __reduce__(self) -> tuple[object, ...]:
        # The working directory of a worker may be another one.
        path = self._inner if self.is_local else self.path
        return (type(self), (path, self.output, self.durable))

    # -- the folder -------------------------------------------------------------------------------

    def create(self) -> None:
        """Create the folder.

        Raises:
            OutputError: it cannot be created, or a file is in its place.
        """
        with self._errors():
            there = self._system.entry(self._inner)
            if there is not None and there.is_file:
                raise OutputError(
                    f"The output {self.path} is a file, but shards are written into a folder.",
                    "Name another folder.",
                )
            if there is None:
                self._system.make_folder(self._inner)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of this folder while the block runs, if it is local.

        The system releases the lock of a process that dies, so a stale lock is taken over.

        Raises:
            OutputError: another run holds it.
        """
        if not self.is_local:
            yield
            return
        import filelock

        path = self.local_path / _LOCK
        lock = filelock.FileLock(path, timeout=0, thread_local=False)
        while True:
            self.create()
            try:
                lock.acquire()
            except filelock.Timeout:
                raise OutputError(
                    f"Another run is writing {self.output}.", "Wait for it, or end it first."
                ) from None
            except NotImplementedError:  # a file system without locks
                break
            except OSError as error:
                raise self._failed(error) from error
            # The run that held it may have removed the folder in between, with this file in it.
            if path.exists():
                break
            lock.release(force=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                os.rmdir(self._inner)  # fails if there is anything in it
            lock.release(force=True)

    def clean(self) -> None:
        """Delete what dead workers left unfinished; only while no worker writes here."""
        if not self.is_local:
            return
        for entry in self._system.entries(self._inner):
            if entry.name.startswith(".") and entry.name.endswith(PARTIAL) and not entry.is_file:
                shutil.rmtree(entry.path, ignore_errors=True)

    def remove_folder(self, folder: str = "") -> None:
        """Delete a folder in it with everything in it, or itself."""
        where = f"{self._inner}/{folder}" if folder else self._inner
        with contextlib.suppress(FileNotFoundError):
            self._system.remove_folder(where)

    # -- files ------------------------------------------------------------------------------------

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of the files in the folder (or one in it) by their names; empty without it."""
        where = f"{self._inner}/{folder}" if folder else self._inner
        with self._errors():
            found = self._system.entries(where)
        return {entry.name: entry.size for entry in found if entry.is_file and entry.name != _LOCK}

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if there is none."""
        entry = self._system.entry(f"{self._inner}/{name}")
        return 0 if entry is None else entry.size

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file, or None if there is none."""
        try:
            with self.open(name) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_all(self, names: list[str]) -> Iterator[bytes | None]:
        """The bytes of many small files, in order."""
        if len(names) < _THREADS or self.is_local:
            yield from map(self.read, names)
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from pool.map(self.read, names)

    def open(self, name: str) -> BinaryIO:
        """A file for reading.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._system.read(f"{self._inner}/{name}")

    def write(self, name: str, data: bytes, *, flush: bool = True) -> None:
        """Put a small file there, replacing an older one.

        Args:
            name: of the file.
            data: its bytes.
            flush: whether it must survive a crash of the machine right after.
        """
        with self.folder() as scratch:
            with self._errors():
                (scratch / "file").write_bytes(data)
            self.put(scratch / "file", name, flush=flush)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for files that will be `put`: in this one if that is local."""
        if self.is_local:
            scratch = self.local_path / f".{secrets.token_hex(6)}{PARTIAL}"
            with self._errors():
                scratch.mkdir(mode=0o700)
        else:
            scratch = Path(tempfile.mkdtemp(prefix="uertool-"))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def put(self, file: Path, name: str, *, flush: bool = True) -> None:
        """Move a file of `folder()` here under a name, replacing what is there.

        Raises:
            OutputError: the file system does not accept it.
        """
        target = f"{self._inner}/{name}"
        with self._errors():
            if self.is_local:
                if flush and self.durable:
                    with contextlib.suppress(OSError):
                        flush_to_disk(file)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.replace(file, target)
                return
            with open(file, "rb") as source, self._system.write(target) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._system.remove_file(f"{self._inner}/{name}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the refusal of a disk to take data into an OutputError; other errors pass."""
        try:
            yield
        except OSError as error:
            if error.errno not in OUTPUT_ERRNOS:
                raise
            raise self._failed(error) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        reason = OUTPUT_ERRNOS.get(error.errno or 0) or reason_of(error)
        message = f"The output {self.output} cannot be written: {reason}."
        if self.is_local and not self.local_path.exists():
            return OutputError(message, "Choose another path for the output.")
        if not self.durable:
            return OutputError(message, f"It is prepared in {self.path}.")
        how = "give `resume`" if self.path != self.output else "run the same command again"
        return OutputError(message, f"Finished parts are kept in {self.path}; {how} to go on.")
