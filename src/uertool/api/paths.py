"""Paths as functions take them: one or several, as texts or as `Path`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

#: One path or several.
Paths = str | Path | Sequence[str | Path]


def as_paths(paths: Paths) -> list[str]:
    """One path or several as a list of texts."""
    if isinstance(paths, (str, Path)):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]
