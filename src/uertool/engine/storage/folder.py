"""The folder of a run: its plan, finished shards and their records, and which outputs it wrote.

features.npy.resume/        (or the output itself, where shards stay as they are)
part-000000.npy         a finished shard
_run/plan.json          what decides the results, and how the input is cut
_run/part-000000.json   the record of a finished shard: counts, sizes, digests, errors
_run/outputs.json       the outputs that were written, when that was done
_run/complete.json      that all is written, while the folder is being deleted
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uertool.engine.storage.manifest import ERRORS, MANIFEST, RECORDS, record_name
from uertool.engine.storage.store import Store
from uertool.errors import InputError, OutputError, UsageError

#: The end of the name of the folder in which an output is prepared.
SUFFIX = ".resume"

_PLAN = f"{RECORDS}/plan.json"
_OUTPUTS = f"{RECORDS}/outputs.json"
_FINISHED = f"{RECORDS}/{MANIFEST}"
_COMPLETE = f"{RECORDS}/complete.json"
_CHUNK = 1 << 20

#: Settings by which a run stops at certain lines. No finished shard has such a line, so the run may
#: be continued with another value.
_STOPPED_AT = (("truncate", "error"), ("skip_bad", False), ("blank", "error"))


def resume_folder(output: str | Path) -> str:
    """Where an output is prepared, and left when the run is interrupted."""
    return f"{os.path.realpath(output)}{SUFFIX}"


class RunFolder:
    """A `Store` with the state of a run in it.

    Args:
        store: where.
        fingerprint: everything that decides the results, as JSON types; a run goes on only with
            the same.
    """

    def __init__(self, store: Store, fingerprint: Mapping[str, Any]) -> None:
        self.store = store
        self.fingerprint = fingerprint

    # -- the plan ---------------------------------------------------------------------------------

    def earlier_plan(self) -> dict[str, Any] | None:
        """The plan of the run that is to be continued, or None if there is none.

        Raises:
            UsageError: the earlier run was another one.
            OutputError: what is there is not a plan.
        """
        plan: dict[str, Any] | None = self.parsed(_PLAN)
        if plan is None:
            return None
        before = plan.get("fingerprint") if isinstance(plan, dict) else None
        if not isinstance(before, dict):
            raise self.broken(_PLAN)
        after = self.fingerprint
        changed = [
            name
            for name in {**before, **after}
            if before.get(name) != after.get(name) and (name, before.get(name)) not in _STOPPED_AT
        ]
        if changed and not self.has_records():
            return None  # nothing was finished, so nothing is lost
        if changed:
            differences = "; ".join(_difference(name, before, after) for name in changed)
            raise UsageError(
                f"The unfinished run of {self.store.output} was another one: {differences}.",
                "Give the same options and files, or `overwrite` to begin again.",
            )
        if before != after:
            self.write_plan({name: plan[name] for name in plan if name != "fingerprint"})
        return plan

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Begin: from now on the run can be continued."""
        data = {"fingerprint": self.fingerprint, **plan}
        self.store.write(_PLAN, json.dumps(data, ensure_ascii=False).encode())

    def parsed(self, name: str) -> Any:
        """A JSON file of the folder, or None if there is none."""
        data = self.store.read(name)
        if data is None:
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise self.broken(name) from None

    def broken(self, name: str) -> OutputError:
        """What to raise for a file of the folder that is not what it should be."""
        return OutputError(
            f"{self.store.path}/{name} is broken.",
            "Give `overwrite` to begin again, or name another output.",
        )

    def reopen(self, manifest: Mapping[str, Any]) -> None:
        """Make a finished folder of shards one that can be continued, after it was damaged."""
        lines = (self.store.read(ERRORS) or b"").decode("utf-8", "surrogatepass").splitlines()
        errors = [json.loads(line) for line in lines]
        self.write_plan({})
        for shard in manifest["shards"]:
            numbers = range(shard["first"], shard["first"] + shard["lines"])
            own = [error for error in errors if error["number"] in numbers]
            record = json.dumps({**shard, "errors": own}, ensure_ascii=False)
            self.store.write(record_name(shard["shard"]), record.encode("utf-8", "surrogatepass"))
        for name in (MANIFEST, ERRORS):
            self.store.remove(name)

    # -- records ----------------------------------------------------------------------------------

    def has_records(self) -> bool:
        """Whether any shard was finished."""
        return any(name.startswith("part-") for name in self.store.sizes(RECORDS))

    def records(self, *, checked: bool = True) -> dict[int, dict[str, Any]]:
        """The records of finished shards by their numbers.

        Args:
            checked: leave out, and delete, those whose files are missing or do not have the size
                and digest of the record, so that they are made again.
        """
        names = sorted(n for n in self.store.sizes(RECORDS) if n.startswith("part-"))
        there = self.store.sizes()
        found: dict[int, dict[str, Any]] = {}
        paths = [f"{RECORDS}/{name}" for name in names]
        for path, data in zip(paths, self.store.read_all(paths), strict=True):
            record = _record(data)
            if record is not None and checked:
                good = all(damage(self.store, entry, there) is None for entry in record["files"])
                record = record if good else None
            if record is None:
                self.store.remove(path)
            else:
                found[record["shard"]] = record
        return dict(sorted(found.items()))

    # -- outputs ----------------------------------------------------------------------------------

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """All shards are there; what follows are the outputs."""
        self.store.write(_FINISHED, json.dumps(manifest, ensure_ascii=False).encode())

    def remember_output(self, target: Path, partial: Path) -> None:
        """An output is about to be renamed into place; see `uertool.io.atomic.announced`."""
        outputs = self.parsed(_OUTPUTS) or {}
        state = partial.stat()
        outputs[str(target)] = [state.st_ino, state.st_size, state.st_mtime_ns]
        self.store.write(_OUTPUTS, json.dumps(outputs).encode("utf-8", "surrogatepass"))

    def wrote(self, path: str | Path) -> bool:
        """Whether a file is there as this run, or the one that it continues, has written it."""
        outputs = self.parsed(_OUTPUTS) if Path(self.store.path).is_dir() else None
        return _is_unchanged(path, outputs)

    def complete(self, outputs: Sequence[str | Path]) -> dict[str, Any] | None:
        """The manifest of a run that was killed when all was written but the clean-up."""
        state = self.parsed(_COMPLETE)
        if isinstance(state, dict):
            manifest, written = state.get("manifest"), state.get("outputs")
        else:
            manifest, written = self.parsed(_FINISHED), self.parsed(_OUTPUTS)
        if not isinstance(manifest, dict) or manifest.get("fingerprint") != self.fingerprint:
            return None
        return manifest if all(_is_unchanged(path, written) for path in outputs) else None

    def delete(self) -> None:
        """All outputs are written: delete the folder.

        The file that says so is deleted last: a run that is killed meanwhile is known as complete.
        """
        manifest, outputs = self.parsed(_FINISHED), self.parsed(_OUTPUTS)
        if manifest is not None:
            state = json.dumps({"manifest": manifest, "outputs": outputs}, ensure_ascii=False)
            self.store.write(_COMPLETE, state.encode("utf-8", "surrogatepass"))
            names = [f"{RECORDS}/{name}" for name in self.store.sizes(RECORDS)]
            for name in [*filter(is_ours, self.store.sizes()), *names]:
                if name != _COMPLETE and not name.startswith("."):
                    self.store.remove(name)
        self.store.remove_folder()

    def clear(self) -> None:
        """Delete everything that a run wrote here; other files stay."""
        for name in self.store.sizes():
            if is_ours(name):
                self.store.remove(name)
        self.store.remove_folder(RECORDS)


def _is_unchanged(path: str | Path, written: Any) -> bool:
    """Whether a file is there as it was written: by inode, size and time."""
    known = written.get(os.path.realpath(path)) if isinstance(written, dict) else None
    try:
        state = os.stat(path)
    except OSError:
        return False
    return bool(known == [state.st_ino, state.st_size, state.st_mtime_ns])


def is_ours(name: str) -> bool:
    """Whether a file of a folder of shards is one that runs write."""
    return name in (MANIFEST, ERRORS) or name.startswith(("part-", "."))


def _difference(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if name == "input":
        return "the input files are not the same, or were changed"
    return f"{name} was {before.get(name)!r} and is {after.get(name)!r}"


def _record(data: bytes | None) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(data or b"")
        complete = {"shard", "first", "lines", "rows", "counts", "files", "errors"} <= set(record)
    except (ValueError, TypeError):
        return None
    return record if complete else None


# -- shards ---------------------------------------------------------------------------------------


def damage(
    store: Store,
    entry: Mapping[str, Any],
    there: Mapping[str, int],
    *,
    digest: bool = True,
    on_bytes: Callable[[int], None] | None = None,
) -> str | None:
    """What is wrong with a file of a shard, or None.

    Args:
        store: where it is.
        entry: its name, size and digest from the record.
        there: sizes of all files by name.
        digest: whether to read it and compare its digest.
        on_bytes: called with how many more bytes are read.
    """
    name = entry["name"]
    if name not in there:
        return f"{name} is missing"
    if there[name] != entry["bytes"]:
        return f"{name} has {there[name]} bytes and not {entry['bytes']}"
    found: list[str] = []
    if digest:
        for chunk in verified_chunks(store, entry, found):
            if on_bytes is not None:
                on_bytes(len(chunk))
    return found[0] if found else None


def verified_chunks(
    store: Store, entry: Mapping[str, Any], found: list[str] | None = None
) -> Iterator[bytes]:
    """The bytes of a file of a shard; at their end the digest is compared.

    Args:
        store, entry: see `damage`.
        found: gets what is wrong, instead of an error.

    Raises:
        InputError: the file was changed, and there is no `found`.
    """
    digest = hashlib.sha256()
    with store.open(entry["name"]) as stream:
        while chunk := bytes(stream.read(_CHUNK)):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != entry["sha256"]:
        wrong = f"{entry['name']} was changed: its digest is not that of the manifest"
        if found is None:
            raise InputError(
                f"{wrong}, in {store.path}.", "Run the command that wrote it once more."
            )
        found.append(wrong)
