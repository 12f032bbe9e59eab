"""Tokens of a text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uertool.cli import console


def table(record: Mapping[str, Any]) -> None:
    """A text and a row for each of its tokens (a record of `uertool.tasks.tokenize.work`)."""
    console.heading(record["text"])
    spans = record.get("offsets") or [None] * len(record["tokens"])
    rows = []
    for token, index, span in zip(record["tokens"], record["ids"], spans, strict=True):
        place = "" if span is None else f"{span[0]}-{span[1]}"
        part = "" if span is None else record["text"][span[0] : span[1]]
        rows.append((token, str(index), place, part if part != token else ""))
    columns = ["token", "id", "characters", "in the text"]
    console.table(columns, rows, right=["id"])
    if not record["round_trip"]:
        console.out(f"decoded: {record['decoded']}")
    console.out()
