"""What a run does, and the callbacks for its progress."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uertool.engine.inputs.reading import LineStream
from uertool.engine.inputs.sources import Reading
from uertool.engine.work import Work
from uertool.errors import SettingError


@dataclass(frozen=True)
class Resources:
    """What a run takes of a cluster.

    Attributes:
        actors: workers, each of which holds the model once; None for as many as fit.
        cpus, gpus: of each; gpus None is one where the cluster has any.
    """

    actors: int | None = None
    cpus: float = 1.0
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise SettingError("actors", self.actors, "must be at least 1")
        if self.cpus <= 0:
            raise SettingError("cpus_per_actor", self.cpus, "must be above 0")
        if self.gpus is not None and self.gpus < 0:
            raise SettingError("gpus_per_actor", self.gpus, "must be at least 0")


@dataclass(frozen=True)
class Room:
    """What a run got: workers, what each of them takes, and what a user should know about it."""

    actors: int
    cpus: float
    gpus: float
    nodes: int
    notice: str | None = None

    @property
    def threads(self) -> int:
        """Processor threads of each worker."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class Order:
    """What is to be done, on what, and where.

    Attributes:
        work: what becomes of lines.
        output: a file, "-" for standard output, or with `in_shards` a folder or the URI of one.
        inputs: files, folders, globs; "-" is standard input, which only this machine can read.
        texts: lines instead of inputs.
        stream: reads the input in another way than line by line, on this machine.
        sides: further files that are written with the output.
        identity: everything else that decides the results (settings, the model's fingerprint), as
            JSON types: a run is not continued with another, and the manifest holds it.
        reading: how text is taken from files.
        engine: "local" for this machine, "ray" for a cluster.
        devices: names of the devices of this machine, with a process for each if there are
            several. (None,) for work without a model.
        resources, address, device: workers on a cluster, see `uertool.engine.executors.cluster`;
            device None is the GPU if workers have one, else the CPU.
        threads: of all workers of this machine, or of each on a cluster; None for all there are.
        in_shards: whether the output is a folder of shards.
        joins: whether the output is made of shards by joining them; otherwise the block that uses
            `gather` makes it.
        block_lines: lines of a shard; None for a fitting number.
        strict: end at the first line that cannot be processed.
        overwrite: replace what is there.
        resume: continue an interrupted run; on a cluster this is the default.
        keep_partial: leave what is done as the output on Ctrl-C.
        emit: takes the bytes that go to standard output, instead of it.
        most_tries: how often a block is begun whose worker dies, on a cluster.
    """

    work: Work
    output: str
    inputs: Sequence[str] = ()
    texts: Sequence[str] | None = None
    stream: LineStream | None = None
    sides: Sequence[str | Path] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    engine: Literal["local", "ray"] = "local"
    devices: Sequence[str | None] = ("cpu",)
    resources: Resources = field(default_factory=Resources)
    address: str | None = None
    device: str | None = None
    threads: int | None = None
    in_shards: bool = False
    joins: bool = True
    block_lines: int | None = None
    strict: bool = False
    overwrite: bool = False
    resume: bool = False
    keep_partial: bool = False
    emit: Callable[[bytes], object] | None = None
    most_tries: int = 10

    def __post_init__(self) -> None:
        for name in ("block_lines", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = "shard_lines" if name == "block_lines" else name
                raise SettingError(option, value, "must be at least 1")

    @property
    def streams_out(self) -> bool:
        """Whether the output is standard output, a pipe or a device."""
        if self.in_shards:
            return False
        with suppress(OSError):
            return self.output == "-" or not stat.S_ISREG(os.stat(self.output).st_mode)
        return False

    @property
    def continues(self) -> bool:
        """Whether to continue an interrupted run."""
        return self.resume or self.engine == "ray"

    def fingerprint(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """What determines the result; a run is resumed only if all of it is the same."""
        found = {
            "command": self.work.name,
            "format": self.work.suffix,
            "shard_lines": self.block_lines,
            "column": self.reading.column,
            "field": self.reading.field,
            "encoding": self.reading.encoding,
            **({} if self.engine == "ray" else {"part": self.reading.part, "engine": "local"}),
            **self.identity,
            "input": inputs,
        }
        return dict(json.loads(json.dumps(found, default=str)))


@dataclass(frozen=True)
class Watch:
    """The callbacks of a run.

    Attributes:
        total: with the number of lines, once it is known.
        lines: with how many more lines are done; first with what an earlier run had done.
        notice: with what is worth knowing, in sentences.
        hint: with what is worth knowing for the next run, in sentences.
        detail: with sentences for a user who wants to know more.
    """

    total: Callable[[int], None] = lambda _: None
    lines: Callable[[int], None] = lambda _: None
    notice: Callable[[str], None] = lambda _: None
    hint: Callable[[str], None] = lambda _: None
    detail: Callable[[str], None] = lambda _: None
