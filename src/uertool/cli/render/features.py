"""Summaries of vectors for people: size, norm and first numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from uertool.cli import console

#: Numbers of a vector that are shown.
_FIRST = 6


def show_vector(record: Mapping[str, Any]) -> None:
    """A record of JSON lines on a terminal: the text or token, and a summary of its vector."""
    vector = record["vector"]
    name = record.get("text", record.get("token", ""))
    norm = math.sqrt(sum(number * number for number in vector))
    start = "  ".join(f"{number:.4f}" for number in vector[:_FIRST])
    more = "  …" if len(vector) > _FIRST else ""
    console.out(f"{name}")
    console.out(f"    {console.counted(len(vector), 'number')}, norm {norm:.4f}: {start}{more}")


def cosines(before: float | None, after: float | None) -> str:
    """The mean cosine of all pairs before and after a whitening, if there are pairs."""
    if before is None or after is None or math.isnan(before):
        return ""
    return f"; mean cosine of all pairs {before:.4f} before, {after:.4f} after"
