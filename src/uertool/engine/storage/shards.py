"""Finished shards, read with their digests verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uertool.engine.storage.folder import damage, verified_chunks
from uertool.engine.storage.store import Store
from uertool.errors import InputError

OnBytes = Callable[[int], None]


def _ignore(_: int) -> None:
    return


@dataclass(frozen=True)
class Shards:
    """Finished shards in their order.

    Attributes:
        store: where they are.
        suffix: their format.
        records: one for each.
        on_bytes: called with how many more bytes are done.
    """

    store: Store
    suffix: str
    records: Sequence[Mapping[str, Any]]
    on_bytes: OnBytes = _ignore

    def files(self, ending: str | None = None) -> list[dict[str, Any]]:
        """Name, size and digest of the shards' own files.

        Args:
            ending: what else was written next to a shard, by the end of its name after `part-N`.
        """
        wanted = self.suffix if ending is None else ending
        return [
            entry
            for record in self.records
            for entry in record["files"]
            if entry["name"][_STEM:] == wanted
        ]

    def chunks(self, ending: str | None = None) -> Iterator[bytes]:
        """The bytes of all shards one after the other.

        Raises:
            InputError: a file is not as it was written.
        """
        for entry in self.files(ending):
            for chunk in verified_chunks(self.store, entry):
                yield chunk
                self.on_bytes(len(chunk))

    @contextmanager
    def file(self, entry: Mapping[str, Any]) -> Iterator[Path]:
        """A file of a shard as one of this machine, copied if it is elsewhere.

        Raises:
            InputError: it is not as it was written.
        """
        wrong = damage(self.store, entry, {entry["name"]: self.store.size(entry["name"])})
        if wrong is not None:
            raise InputError(
                f"{wrong}, in {self.store.path}.", "Run the command that wrote it once more."
            )
        if self.store.is_local:
            yield self.store.local_path / entry["name"]
            return
        with self.store.folder() as folder:
            with open(folder / entry["name"], "wb") as sink:
                sink.writelines(verified_chunks(self.store, entry))
            yield folder / entry["name"]


_STEM = len("part-000000")
