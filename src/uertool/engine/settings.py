"""Where work runs: on this machine or on a Ray cluster, and in which portions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from uertool.settings import Setting, Settings

_engine = partial(Setting, panel="Engine (see docs/scaling.md)", rare=True)


@dataclass(frozen=True)
class EngineSettings(Settings):
    """Where a command runs; None means not given."""

    engine: Annotated[
        Literal["local", "ray"],
        _engine(
            "local, or ray for a cluster: results become a folder of shards, and the same command "
            "again continues an unfinished run"
        ),
    ] = "local"
    ray_address: Annotated[
        str | None,
        _engine(
            "local starts Ray here, auto finds one that runs here, HOST:PORT is a head node",
            metavar="auto|local|HOST:PORT",
            default="RAY_ADDRESS, or local",
        ),
    ] = None
    actors: Annotated[
        int | None,
        _engine("Number of workers; each holds the model", min=1, default="as many as fit"),
    ] = None
    gpus_per_actor: Annotated[
        float | None, _engine("GPUs per worker", min=0, default="1, if there are any")
    ] = None
    cpus_per_actor: Annotated[float | None, _engine("CPUs per worker", above=0, default="1")] = None
    shard_lines: Annotated[
        int | None, _engine("Lines per shard", min=1, default="by the input")
    ] = None
    strict: Annotated[
        bool,
        _engine(
            "Stop at a line that cannot be processed; on a cluster, such lines otherwise go to "
            "errors.jsonl"
        ),
    ] = False
    resume: Annotated[bool, _engine("Continue an interrupted run of the same output")] = False
    dry_run: Annotated[bool, _engine("Show blocks, workers and time estimated from a sample")] = (
        False
    )
