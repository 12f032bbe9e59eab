"""Where work runs: on this machine or on a Ray cluster, and in which portions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from uertool.settings import Setting, Settings

_ENGINE = "Engine (see docs/scaling.md)"


@dataclass(frozen=True)
class EngineSettings(Settings):
    """Where a command runs; None means not given."""

    engine: Annotated[
        Literal["local", "ray"],
        Setting(
            "local, or ray for a cluster: results become a folder of shards, and the same command "
            "again continues an unfinished run",
            panel=_ENGINE,
            rare=True,
        ),
    ] = "local"
    ray_address: Annotated[
        str | None,
        Setting(
            "local starts Ray here, auto finds one that runs here, HOST:PORT is a head node",
            panel=_ENGINE,
            metavar="auto|local|HOST:PORT",
            default="RAY_ADDRESS, or local",
            rare=True,
        ),
    ] = None
    actors: Annotated[
        int | None,
        Setting(
            "Number of workers; each holds the model",
            min=1,
            panel=_ENGINE,
            default="as many as fit",
            rare=True,
        ),
    ] = None
    gpus_per_actor: Annotated[
        float | None,
        Setting("GPUs per worker", min=0, panel=_ENGINE, default="1, if there are any", rare=True),
    ] = None
    cpus_per_actor: Annotated[
        float | None,
        Setting("CPUs per worker", above=0, panel=_ENGINE, default="1", rare=True),
    ] = None
    shard_lines: Annotated[
        int | None,
        Setting("Lines per shard", min=1, panel=_ENGINE, default="by the input", rare=True),
    ] = None
    strict: Annotated[
        bool,
        Setting(
            "Stop at a line that cannot be processed; on a cluster, such lines otherwise go to "
            "errors.jsonl",
            panel=_ENGINE,
            rare=True,
        ),
    ] = False
    resume: Annotated[
        bool, Setting("Continue an interrupted run of the same output", panel=_ENGINE, rare=True)
    ] = False
    dry_run: Annotated[
        bool,
        Setting("Show blocks, workers and time estimated from a sample", panel=_ENGINE, rare=True),
    ] = False
