"""Text files that are read as lines although they look like tables or JSON lines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from uertool.errors import InputError, listed, shown
from uertool.io.encodings import UTF8
from uertool.io.small_files import parse_json
from uertool.text.readers import read_lines
from uertool.text.tables import BadContentError, cells_of, is_csv

_LINES = 20  # lines that are looked at
_LONGEST_NAME = 30  # characters of the name of a column


def table_notice(path: str | Path, encoding: str = UTF8) -> str | None:
    """A sentence about a file whose lines seem to be rows of a table or JSON records, or None.

    Args:
        path: a file that is about to be read without a column or field.
        encoding: of the file.
    """
    source = Path(path)
    if not source.is_file():
        return None
    try:
        found = read_lines(source, on_bad=lambda _: None, encoding=encoding)
        texts = [line.text for line in itertools.islice(found, _LINES) if line.text.strip()]
    except InputError:  # who reads the file reports it
        return None
    fields = _record_fields(texts)
    if fields is not None:
        return (
            f"{source} looks like JSON lines with the fields {_named(fields)}, but whole lines are "
            f"read; to read one field, give `field` {_longest(fields, list(fields.values()))}."
        )
    rows = _rows(texts, commas=is_csv(source.name))
    if rows is None:
        return None
    names = rows[0]
    if len(set(names)) < len(names) or not all(map(_may_be_name, names)):
        names = [str(number) for number in range(len(names))]  # there is no header
    column = _longest(names, ["".join(cells) for cells in zip(*rows[1:], strict=True)])
    return (
        f"{source} looks like a table with the columns {_named(names)}, but whole lines are read; "
        f"to read one column, give `column` {column}."
    )


def _record_fields(texts: Sequence[str]) -> dict[str, str] | None:
    """The fields of the first line with their text, if every line is a JSON object."""
    first: dict[str, str] | None = None
    for text in texts:
        if not text.startswith("{"):
            return None
        try:
            record = parse_json(text, "the record")
        except InputError:
            return None
        if not isinstance(record, dict) or not record:
            return None
        first = first or {k: v if isinstance(v, str) else "" for k, v in record.items()}
    return first


def _rows(texts: Sequence[str], *, commas: bool) -> list[list[str]] | None:
    """The rows of a table, or None if the lines do not look like one."""
    try:
        rows = [cells_of(text, commas=commas) for text in texts]
    except BadContentError:
        return None
    widths = {len(row) for row in rows}
    return rows if len(rows) > 1 and len(widths) == 1 and widths != {1} else None


def _may_be_name(cell: str) -> bool:
    return 0 < len(cell) <= _LONGEST_NAME and not cell.replace(".", "").isdecimal()


def _named(names: Sequence[str] | dict[str, str]) -> str:
    return listed((repr(shown(name, 40)) for name in names), 20)


def _longest(names: Sequence[str] | dict[str, str], values: Sequence[str]) -> str:
    """The name with the most text, which is probably what a user wants."""
    return max(zip(names, values, strict=True), key=lambda pair: len(pair[1]))[0]
