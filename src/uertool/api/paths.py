"""Paths as functions take them: one or several, as texts or as `Path`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from uertool.errors import InputError

#: One path or several.
Paths = str | Path | Sequence[str | Path]


def as_paths(paths: Paths) -> list[str]:
    """One path or several as a list of texts."""
    if isinstance(paths, (str, Path)):
        return [os.fspath(paths)]
    found = list(paths)
    for path in found:
        if not isinstance(path, (str, Path)):
            raise InputError(f"A path is expected, not {path!r:.100}.")
    return [os.fspath(path) for path in found]
