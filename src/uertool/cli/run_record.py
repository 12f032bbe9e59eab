"""--save-run: a record of the run, written next to its output as `<output>.run.json`."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from uertool.settings import Settings, fields_of

#: The libraries whose versions may change a result.
LIBRARIES = ("torch", "numpy", "tokenizers", "safetensors", "sentencepiece", "tensorflow")

_arguments: list[str] = []
_settings: dict[str, Any] = {}


def begin(argv: Iterable[str]) -> None:
    """Remember the arguments of this run, as they were typed."""
    _arguments[:] = argv
    _settings.clear()


def remember(settings: Settings) -> None:
    """Remember the values of settings that this run uses; those not given (None) are left out."""
    values = {field.name: getattr(settings, field.name) for field in fields_of(type(settings))}
    _settings.update({name: value for name, value in values.items() if value is not None})


def record_path(output: str | Path) -> Path:
    """The path of an output's record."""
    return Path(f"{output}.run.json")


def write(
    output: str | Path,
    *,
    inputs: Iterable[str | Path | None] = (),
    settings: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Write the record of a finished run next to its output, replacing an older one.

    Args:
        output: the file or folder that the run wrote.
        inputs: files and folders that it read; None and "-" are left out, and what is no path
            (a bundled name, hf:owner/name) is recorded without a hash.
        settings: further settings than those of the command's options.
        results: figures of the run.

    Returns:
        The path of the record.
    """
    from uertool.io.atomic import atomic_text
    from uertool.version import __version__

    path = record_path(output)
    record = {
        "command": ["uertool", *_arguments],
        "settings": {**_settings, **(settings or {})},
        "results": dict(results or {}),
        "inputs": {str(item): _digest(item) for item in inputs if item not in (None, "-")},
        "output": str(output),
        "versions": {
            "uertool": __version__,
            "python": platform.python_version(),
            **{name: found for name in LIBRARIES if (found := _version(name)) is not None},
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    with atomic_text(path, overwrite=True) as stream:
        json.dump(record, stream, ensure_ascii=False, indent=1, default=str)
        stream.write("\n")
    return path


def _digest(item: str | Path | None) -> str | None:
    from uertool.io.atomic import sha256_of

    if item is None or not Path(item).exists():
        return None
    return sha256_of(item)


def _version(name: str) -> str | None:
    # Only what is loaded had a part in the result; asking for the version must not load anything.
    if name not in sys.modules:
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules[name], "__version__", "unknown"))
