"""Shards written on while they are made: in their order, each as far as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from uertool.engine.storage.manifest import shard_name
from uertool.engine.storage.store import Store
from uertool.engine.work import Message

_CHUNK = 1 << 20


class Emitter:
    """Takes the reports of workers and writes what is new of the shard whose turn it is.

    Args:
        store: where finished shards are.
        suffix: their format, some kind of text.
        write: gets the bytes.
        removes: delete shards that are written on.
    """

    def __init__(
        self, store: Store, suffix: str, write: Callable[[bytes], object], *, removes: bool = False
    ) -> None:
        self._store = store
        self._suffix = suffix
        self._write = write
        self._removes = removes
        self._ready: set[int] = set()
        self._next = 0  # the shard whose turn it is
        self._written = 0  # bytes of it

    def begin(self, finished: Iterable[int]) -> None:
        """Shards that an earlier run has finished."""
        self._ready.update(finished)
        self._write_ready()

    def take(self, message: Message) -> None:
        """A report: "lines" or "done"."""
        if message["kind"] == "done":
            self._ready.add(message["block"])
            self._write_ready()
        elif message["block"] == self._next:
            with suppress(FileNotFoundError), open(Path(message["path"]), "rb") as stream:
                self._copy(stream)

    def _write_ready(self) -> None:
        while self._next in self._ready:
            name = shard_name(self._next, self._suffix)
            with self._store.open(name) as stream:
                self._copy(stream)
            if self._removes:
                self._store.remove(name)
            self._ready.remove(self._next)
            self._next, self._written = self._next + 1, 0

    def _copy(self, stream: BinaryIO) -> None:
        stream.seek(self._written)
        while chunk := stream.read(_CHUNK):
            self._written += len(chunk)
            self._write(chunk)
