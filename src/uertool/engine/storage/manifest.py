"""The manifest of a folder of shards: what it holds, what it was made of, and how."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

#: Where in the folder of shards the records of finished ones are during a run.
RECORDS = "_run"

MANIFEST = "manifest.json"
ERRORS = "errors.jsonl"
FORMAT = "uertool-shards-1"

#: The libraries whose versions may change a result.
LIBRARIES = ("torch", "numpy", "tokenizers", "pyarrow", "ray")


def make_manifest(
    *,
    command: str,
    suffix: str,
    fingerprint: Mapping[str, Any],
    identity: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    shards: Sequence[Mapping[str, Any]],
    errors: int,
    versions: bool = True,
) -> dict[str, Any]:
    """The manifest as plain data; the same run gives the same one, however it went.

    Args:
        command: what was done.
        suffix: of the shards.
        fingerprint: what decides the results; another run with the same has nothing to do.
        identity: of these, options and model.
        inputs: the files, with bytes and lines.
        shards: records of the shards in order.
        errors: lines of errors.jsonl.
        versions: whether the versions of libraries are in it; looking them up takes time.
    """
    from uertool.version import __version__

    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(shard["counts"])
    return {
        "format": FORMAT,
        "command": command,
        "suffix": suffix,
        "lines": sum(shard["lines"] for shard in shards),
        "rows": sum(shard["rows"] for shard in shards),
        "errors": errors,
        "counts": dict(counts),
        "options": dict(identity),
        "versions": {
            "uertool": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in LIBRARIES if versions},
        },
        "input": [dict(entry) for entry in inputs],
        "shards": [dict(shard) for shard in shards],
        "fingerprint": dict(fingerprint),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def shard_name(index: int, suffix: str) -> str:
    """The name of a shard's file; names sort as the shards do."""
    return f"part-{index:06d}{suffix}"


def record_name(index: int) -> str:
    """Where the record of a finished shard is."""
    return f"{RECORDS}/part-{index:06d}.json"


def tries_name(index: int) -> str:
    """Where is counted how often a block was begun."""
    return f"{RECORDS}/tries-{index:06d}"
