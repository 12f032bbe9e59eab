"""The one pipeline: an input in blocks, blocks through workers into shards, shards into an output.

    manifest = run(Order(work, output="features.npy", inputs=["lines.txt"]))

Workers are this process, one process for each device, or actors on a Ray cluster. During a run a
folder (`<output>.resume`, or the output itself where it is a folder of shards) holds the plan and a
record of every finished shard. A run that was stopped in any way continues from there; blocks
are cut the same, so the output is the same as if it had never been stopped.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uertool.engine.executors.choosing import Executor, Summary, executor_of
from uertool.engine.order import Order, Watch
from uertool.engine.storage.emitting import Emitter
from uertool.engine.storage.folder import RunFolder, is_ours, resume_folder
from uertool.engine.storage.manifest import ERRORS, MANIFEST, make_manifest
from uertool.engine.storage.shards import Shards
from uertool.engine.storage.store import Store
from uertool.engine.work import Message
from uertool.errors import InputError, OutputError, counted
from uertool.io.atomic import announced, atomic_path, atomic_text, refuse_existing


@dataclass(frozen=True)
class Gathered:
    """All shards of a run.

    Attributes:
        manifest: what they hold and what they were made of.
        shards: the shards.
        errors: lines that could not be processed, as errors.jsonl has them.
        overwrite: whether existing outputs may be replaced.
        is_complete: whether the output is there already.
        earlier_lines: lines that an earlier run had done.
    """

    manifest: dict[str, Any]
    shards: Shards
    errors: Sequence[Mapping[str, Any]]
    overwrite: bool
    is_complete: bool = False
    earlier_lines: int = 0


def run(order: Order, watch: Watch | None = None) -> Gathered:
    """Do the work, or what is left of it, and write the output.

    Raises:
        UertoolError: the output belongs to something else, a line fails and that is to end the run,
            or the work fails.
    """
    with gather(order, watch) as found:
        put_together(order, found)
    return found


def put_together(order: Order, found: Gathered) -> None:
    """Make the output of shards that have its format, where that is a file."""
    if order.output == "-" or order.in_shards or found.is_complete:
        return
    from uertool.engine.storage.joining import join, move_single

    if not move_single(found.shards, order.output, overwrite=found.overwrite):
        join(found.shards, order.output, overwrite=found.overwrite)


@contextmanager
def gather(order: Order, watch: Watch | None = None) -> Iterator[Gathered]:
    """As `run`, but the block that this is used with makes the output of the shards.

    When the block ends well, the folder in which shards were gathered is deleted.
    """
    watch = watch or Watch()
    if not order.streams_out:
        _require_folder(order)
    executor = executor_of(order, watch)
    with _store(order) as store:
        folder = RunFolder(store, order.fingerprint(executor.inputs))
        store.clean()
        finished = _finished(order, folder)
        if finished is not None:
            watch.notice(f"{order.output} is finished already; nothing was done.")
            yield _gathered(order, folder, finished, [], is_complete=True)
        else:
            with _kept_if_any(order, folder):
                _clear_the_way(order, folder)
                found = _work(order, folder, executor, watch)
                with announced(folder.remember_output), _nothing_kept_of_wrong_input(folder):
                    yield found
                _write_errors(order, found.errors)
        if not order.in_shards:
            folder.delete()


# -- what is there already ------------------------------------------------------------------------


def _require_folder(order: Order) -> None:
    parent = Path(os.path.realpath(order.output)).parent
    if "://" not in order.output and not order.in_shards and not parent.is_dir():
        raise OutputError(
            f"The folder {parent} of the output {order.output} does not exist.",
            f"Create it with: mkdir -p {parent}",
        )


@contextmanager
def _store(order: Order) -> Iterator[Store]:
    """Where shards are gathered, closed to other runs."""
    if order.streams_out:
        with tempfile.TemporaryDirectory(prefix="uertool-", ignore_cleanup_errors=True) as folder:
            yield Store(folder, "standard output" if order.output == "-" else order.output, False)
        return
    store = Store(order.output if order.in_shards else resume_folder(order.output), order.output)
    with store.locked():
        yield store


def _outputs(order: Order) -> list[str | Path]:
    main = [] if order.streams_out or order.in_shards else [order.output]
    return [*main, *order.sides]


def _finished(order: Order, folder: RunFolder) -> dict[str, Any] | None:
    """The manifest of a run that had the same fingerprint, if it has nothing more to do."""
    if order.streams_out:
        return None
    if not order.in_shards:
        return folder.complete(_outputs(order)) if order.continues else None
    manifest = folder.parsed(MANIFEST) if not order.overwrite else None
    if manifest is None:
        return None
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != folder.fingerprint:
        raise OutputError(
            f"The output {order.output} holds the shards of another run.",
            "Choose another path, or give `overwrite` to replace it.",
        )
    if _intact(folder, manifest):
        return manifest
    # Damaged shards are made again, as if the run had been interrupted.
    folder.reopen(manifest)
    return None


def _intact(folder: RunFolder, manifest: Mapping[str, Any]) -> bool:
    from uertool.engine.storage.folder import damage

    there = folder.store.sizes()
    files = [entry for shard in manifest["shards"] for entry in shard["files"]]
    return all(damage(folder.store, entry, there) is None for entry in files)


def _clear_the_way(order: Order, folder: RunFolder) -> None:
    """Refuse what would be lost, and delete what may be."""
    store = folder.store
    begins_again = order.overwrite and not order.resume
    if order.in_shards and folder.earlier_plan() is None:
        names = store.sizes()
        foreign = sorted(name for name in names if not is_ours(name))
        if foreign or (names and not order.overwrite):
            raise OutputError(
                f"The output {order.output} holds {'other ' if foreign else ''}files "
                f"({', '.join((foreign or sorted(names))[:3])}).",
                "Name a new folder for the shards.",
            )
    if begins_again:
        folder.clear()
    elif folder.has_records() and not order.continues:
        raise OutputError(
            f"{order.output} has the results of an interrupted run, in {store.path}.",
            "Give `resume` to continue that run, or `overwrite` to start again.",
        )
    for path in _outputs(order):
        if folder.wrote(path):
            Path(path).unlink()  # it is written again
        refuse_existing(path, order.overwrite)


@contextmanager
def _kept_if_any(order: Order, folder: RunFolder) -> Iterator[None]:
    """After a failure: keep what is finished; without a finished shard leave nothing."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError, OutputError):
            if not order.streams_out:
                if not folder.has_records():
                    folder.clear()
                    folder.store.clean()
                elif isinstance(error, KeyboardInterrupt):
                    error.args = (_kept(order, folder),)
                elif isinstance(error, InputError):
                    kept = _kept(order, folder)
                    error.hint = f"{error.hint or ''} {kept[0].upper()}{kept[1:]}.".strip()
        raise


def _kept(order: Order, folder: RunFolder) -> str:
    lines = sum(record["lines"] for record in folder.records(checked=False).values())
    # An input that is not read line by line counts something else.
    of = f"the results of {counted(lines, 'line')}" if order.stream is None else "finished parts"
    how = "run the same command again" if order.engine == "ray" else "give `resume`"
    return f"{of} are kept. To continue, {how}"


@contextmanager
def _nothing_kept_of_wrong_input(folder: RunFolder) -> Iterator[None]:
    """Delete finished shards if no output can be made of them, however often that is tried."""
    try:
        yield
    except InputError:
        folder.clear()
        raise


# -- working --------------------------------------------------------------------------------------


def _work(order: Order, folder: RunFolder, executor: Executor, watch: Watch) -> Gathered:
    earlier = folder.earlier_plan() if not order.streams_out else None
    records = folder.records() if earlier is not None else {}
    done = sum(record["lines"] for record in records.values())
    with executor.begin(folder, earlier, watch), _emitter(order, folder, records) as emitter:
        watch.lines(done)
        if records and order.in_shards:
            watch.notice(f"Done already: {len(records):,} of {counted(executor.count, 'shard')}.")
        _listen(executor.messages(folder.store, set(records)), emitter, watch)
        summary: Summary = executor.summary()
    found = _all_records(folder, summary.blocks)
    errors = [*summary.problems]
    for record in found.values():
        errors.extend(record.pop("errors"))
    if errors and not order.in_shards and not _any_good(found.values(), errors):
        folder.clear()
        first = errors[0]
        raise InputError(
            f"None of {counted(len(errors), 'line')} could be processed; the first is line "
            f"{first['line']} of {first['file']}: {first['reason']}.",
            "Check that the input is text, and how it is read.",
        )
    manifest = make_manifest(
        command=order.work.name,
        suffix=order.work.suffix,
        fingerprint=folder.fingerprint,
        identity=order.identity,
        inputs=summary.inputs,
        shards=list(found.values()),
        errors=len(errors),
        versions=order.in_shards,
    )
    if order.in_shards:
        if errors:
            folder.store.write(ERRORS, _lines(errors))
        text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
        folder.store.write(MANIFEST, text.encode())
        folder.store.remove_folder("_run")
    else:
        folder.finish(manifest)
    return _gathered(order, folder, manifest, errors, earlier_lines=done)


def _listen(messages: Iterable[Message], emitter: Emitter | None, watch: Watch) -> None:
    """Show the messages of the workers, some of them once, and pass on the finished parts."""
    said: set[str] = set()
    tells = {"notice": watch.notice, "hint": watch.hint, "detail": watch.detail}
    for message in messages:
        if message["kind"] in tells:
            if not message["once"] or message["text"] not in said:
                said.add(message["text"])
                tells[message["kind"]](message["text"])
            continue
        if emitter is not None:
            emitter.take(message)
        watch.lines(message["lines"])


def _all_records(folder: RunFolder, blocks: int) -> dict[int, dict[str, Any]]:
    """The records of all blocks; each was written, but perhaps where nobody else can see it."""
    found = folder.records(checked=False)
    missing = [index for index in range(blocks) if index not in found]
    if missing:
        raise OutputError(
            f"{counted(len(missing), 'written shard')} missing in {folder.store.path}; "
            f"the first is part {missing[0]}.",
            "Every worker must see the same folder; name one on a shared disk, or a URI.",
        )
    return found


def _any_good(records: Iterable[Mapping[str, Any]], errors: Sequence[object]) -> bool:
    """Whether a line could be processed; an output without any would look like a success."""
    lines = rows = 0
    for record in records:  # lines that could not be read are in none
        lines, rows = lines + record["lines"], rows + record["rows"]
    return rows > 0 or lines > len(errors)


def _gathered(
    order: Order,
    folder: RunFolder,
    manifest: dict[str, Any],
    errors: Sequence[Mapping[str, Any]],
    **more: Any,
) -> Gathered:
    shards = Shards(folder.store, order.work.suffix, manifest["shards"])
    return Gathered(manifest, shards, errors, order.overwrite, **more)


@contextmanager
def _emitter(
    order: Order, folder: RunFolder, records: Mapping[int, Any]
) -> Iterator[Emitter | None]:
    """What writes shards while they are made, where that is wanted."""
    if order.output == "-" and order.joins:
        sys.stdout.flush()
        emit = order.emit or _to_stdout
        yield Emitter(folder.store, order.work.suffix, emit, removes=True)
        return
    if not (order.joins and order.keep_partial) or order.streams_out:
        yield None
        return
    with tempfile.TemporaryFile(dir=folder.store.local_path) as kept:
        emitter = Emitter(folder.store, order.work.suffix, kept.write)
        emitter.begin(records)
        try:
            yield emitter
        except KeyboardInterrupt:
            kept.seek(0)
            text = kept.read()
            if text:
                with (
                    announced(folder.remember_output),
                    atomic_path(order.output, overwrite=order.overwrite) as partial,
                ):
                    partial.write_bytes(text[: text.rfind(b"\n") + 1])
            raise


def _to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _lines(errors: Sequence[Mapping[str, Any]]) -> bytes:
    text = "".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors)
    return text.encode("utf-8", "surrogatepass")


def _write_errors(order: Order, errors: Sequence[Mapping[str, Any]]) -> None:
    """errors.jsonl, next to an output that is a file."""
    if not errors or order.in_shards or order.streams_out:
        return
    with atomic_text(f"{order.output}.{ERRORS}", overwrite=True) as stream:
        stream.write(_lines(errors).decode("utf-8", "surrogatepass"))
