"""Vectors on their way to an output file, kept on disk so that an interrupted run can go on.

While a run lasts, a folder `<output>.resume` beside the output holds the raw float32 rows, what
belongs to each row, and a state that says how much of them counts. The state is replaced after
every window of input, so a run that is killed goes on from the window in which it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uertool.errors import OutputError, UsageError
from uertool.io.atomic import atomic_text

SUFFIX = ".resume"
#: Bytes left free before the rows: room for the header of a .npy file.
HEADER = 128

_VERSION = 1


class Note(NamedTuple):
    """What a row is of.

    Attributes:
        line: number of the input line, counted from 0.
        text: the line, or the token.
        position: place of the token in its line, or None for a vector of the whole line.
    """

    line: int
    text: str
    position: int | None = None


class Spool:
    """Rows [rows, size] and their notes, appended and committed.

    Args:
        target: the output for which the rows are meant.
        fingerprint: everything that decides what the rows are; a run goes on only where it left
            off with the same.
        resume: go on with what lies there. Where nothing lies there, begin anew.
        discard: begin anew although an interrupted run lies there.

    Attributes:
        rows: rows so far.
        size: numbers in a row; 0 until it is known.
        line: number of the last input line that is done, or -1.
        counts: whatever the task counts.
        resumed: whether an interrupted run is continued.

    Raises:
        UsageError: what lies there was made with other options or inputs.
        OutputError: the folder cannot be written, or an interrupted run lies there and neither
            `resume` nor `discard` says what is to become of it.
    """

    def __init__(
        self,
        target: str | Path,
        fingerprint: Mapping[str, Any],
        *,
        resume: bool = False,
        discard: bool = False,
    ) -> None:
        target = Path(os.path.realpath(target))
        if not target.parent.is_dir():
            raise OutputError(
                f"The folder {target.parent} of the output {target} does not exist.",
                f"Create it with: mkdir -p {target.parent}",
            )
        self.target = target
        self.folder = target.with_name(target.name + SUFFIX)
        self.size = 0
        self.fingerprint = json.loads(json.dumps(dict(fingerprint), default=str))
        self.rows = 0
        self.line = -1
        self.counts: dict[str, int] = {}
        self.resumed = False
        notes_end = 0
        if self._state_path.exists() and not (resume or discard):
            raise OutputError(
                f"An interrupted run of {target} left its work in {self.folder}.",
                "Give `resume` to go on with it, or `overwrite` to begin anew.",
            )
        if resume and self._state_path.exists():
            notes_end = self._restore()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        self._data = self._open(self._data_path, HEADER + self.rows * self.size * 4)
        self._notes = self._open(self.folder / "notes.jsonl", notes_end)

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.json"

    @property
    def _data_path(self) -> Path:
        return self.folder / "rows.f32"

    @staticmethod
    def _open(path: Path, end: int) -> Any:
        stream = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
        stream.truncate(end)  # what was written after the last commit does not count
        stream.seek(end)
        return stream

    def _restore(self) -> int:
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
            known = state["version"] == _VERSION
        except (ValueError, KeyError, TypeError, OSError):
            known = False
        if not known:
            raise OutputError(
                f"{self._state_path} is not the state of an interrupted run.",
                f"Remove the folder {self.folder}, or run without `resume`.",
            )
        before: dict[str, Any] = state["fingerprint"]
        after = self.fingerprint
        changed = [k for k in {**before, **after} if before.get(k) != after.get(k)]
        if changed:
            differences = "; ".join(
                f"{name} was {before.get(name)!r} and is {after.get(name)!r}" for name in changed
            )
            raise UsageError(
                f"The interrupted run of {self.target} was another one: {differences}.",
                "Give the same options and files as then, or run without `resume` to begin anew.",
            )
        self.rows, self.line, self.counts = state["rows"], state["line"], state["counts"]
        self.size = state["size"]
        self.resumed = True
        there = self._data_path.stat().st_size if self._data_path.exists() else 0
        if there < HEADER + self.rows * self.size * 4:
            raise OutputError(
                f"{self._data_path} is shorter than its state says.", "Run without `resume`."
            )
        return int(state["notes"])

    def append(self, vectors: npt.NDArray[np.float32], notes: list[Note]) -> None:
        """Add rows [n, size] and the note of each; the first block tells the size."""
        block = np.ascontiguousarray(vectors, dtype=np.float32)
        self.size = self.size or block.shape[1]
        assert block.shape == (len(notes), self.size), (block.shape, len(notes), self.size)
        self._data.write(block.tobytes())
        self._notes.write(
            b"".join(json.dumps(note, ensure_ascii=True).encode() + b"\n" for note in notes)
        )
        self.rows += len(notes)

    def commit(self, line: int) -> None:
        """Everything so far counts; `line` is the last input line that is done."""
        self.line = line
        for stream in (self._data, self._notes):
            stream.flush()
            os.fsync(stream.fileno())  # the state below must not speak of rows that are lost
        state = {
            "version": _VERSION,
            "rows": self.rows,
            "size": self.size,
            "line": self.line,
            "notes": self._notes.tell(),
            "counts": self.counts,
            "fingerprint": self.fingerprint,
        }
        with atomic_text(self._state_path, overwrite=True) as stream:
            json.dump(state, stream, ensure_ascii=False)

    def sample(self, count: int) -> tuple[npt.NDArray[np.float32], list[Note]]:
        """At most so many rows with their notes, evenly spread over all of them."""
        chosen = np.unique(np.linspace(0, self.rows - 1, min(count, self.rows)).astype(np.int64))
        wanted = set(chosen.tolist())
        notes = [note for row, note in enumerate(self.notes()) if row in wanted]
        rows = [self._read(row, 1) for row in chosen.tolist()]
        return np.concatenate([np.zeros((0, self.size), np.float32), *rows]), notes

    def notes(self) -> Iterator[Note]:
        """The notes of all rows."""
        self._notes.flush()
        with open(self.folder / "notes.jsonl", encoding="utf-8") as stream:
            for line in stream:
                yield Note(*json.loads(line))

    def blocks(self, rows: int) -> Iterator[tuple[npt.NDArray[np.float32], list[Note]]]:
        """All rows so far with their notes, so many at a time."""
        notes = self.notes()
        for block in self.vectors(rows):
            yield block, [next(notes) for _ in range(len(block))]

    def vectors(self, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """All rows so far in blocks [up to `rows`, size].

        They are read, not mapped: mapped pages would count as memory of this process.
        """
        for start in range(0, self.rows, rows):
            yield self._read(start, min(rows, self.rows - start))

    def _read(self, start: int, count: int) -> npt.NDArray[np.float32]:
        self._data.flush()
        offset = HEADER + start * self.size * 4
        flat = np.fromfile(self._data_path, "<f4", count * self.size, offset=offset)
        return flat.reshape(count, self.size)

    def become_npy(self) -> Path:
        """Turn the file of rows into a .npy file and give its path; nothing is copied.

        Whoever takes the file away calls `remove` afterwards.
        """
        self._data.seek(0)
        self._data.write(npy_header((self.rows, self.size), "<f4", HEADER))
        self._data.close()
        return self._data_path

    def close(self) -> None:
        """Close the files; what is committed stays for another run."""
        for stream in (self._data, self._notes):
            stream.close()
        if not self._state_path.exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove(self) -> None:
        """The output is complete: nothing is left to resume."""
        for stream in (self._data, self._notes):
            stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def npy_header(shape: tuple[int, ...], descr: str, length: int) -> bytes:
    """The header of a .npy file (format 1.0), filled up with blanks to `length` bytes.

    Source: numpy.lib.format. The length must be a multiple of 64.
    """
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    room = length - 10
    assert len(text) < room, text
    return (
        b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + (text.ljust(room - 1) + "\n").encode()
    )
