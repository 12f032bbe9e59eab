"""The order of names with numbers in them: 2 before 10."""

from __future__ import annotations

import re
from pathlib import Path


def natural(path: str | Path) -> list[int | str]:
    """A key for sorting by the numbers in a path."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
