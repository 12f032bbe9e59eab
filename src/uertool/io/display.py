"""How results look in Python: a short repr, and a table in a notebook."""

from __future__ import annotations

import dataclasses
import html
import reprlib
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Results that a repr shows, and tables or rows that a notebook shows.
MOST_IN_REPR = 10
MOST_IN_NOTEBOOK = 50

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 4
_short.maxstring = _short.maxother = 80


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """An HTML table."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_text(cell))}</td>' for cell in row)}</tr>"
        for row in rows
    )
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else _short.repr(value)


class Report:
    """Base of dataclasses (with `repr=False`) that hold results: what is empty is not shown."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """What was found, as JSON types."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={_short.repr(value)}" for name, value in self._shown())
        return f"{type(self).__name__}({parts})"

    def _repr_html_(self) -> str:
        return table(("", type(self).__name__), self._shown())

    def _shown(self) -> list[tuple[str, Any]]:
        """What is shown: names with values."""
        values = [
            (field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.repr
        ]
        return [
            (name, str(value) if isinstance(value, Path) else value)
            for name, value in values
            if value is not None and not (isinstance(value, Sized) and len(value) == 0)
        ]


class Results(list[T]):
    """Results in order: a list with a short repr, and with tables in a notebook."""

    def __repr__(self) -> str:
        shown = [repr(result) for result in self[:MOST_IN_REPR]]
        more = len(self) - len(shown)
        return "[" + ",\n ".join(shown) + (f",\n ... and {more:,} more" if more else "") + "]"

    def _repr_html_(self) -> str:
        some = self[:MOST_IN_NOTEBOOK]
        more = f"<p>... and {len(self) - len(some):,} more</p>" if len(some) < len(self) else ""
        default = Report._repr_html_
        if not all(getattr(type(one), "_repr_html_", default) is default for one in some):
            return "".join(one._repr_html_() for one in some) + more  # type: ignore[attr-defined]
        shown = [dict(_values(one)) for one in some]
        header = list(dict.fromkeys(name for values in shown for name in values))
        rows = [[values.get(name, "") for name in header] for values in shown]
        return table(header, rows) + more


def _values(result: Any) -> list[tuple[str, Any]]:
    """What is shown of a dataclass: names with values."""
    if isinstance(result, Report):
        return result._shown()
    return [(field.name, getattr(result, field.name)) for field in dataclasses.fields(result)]
