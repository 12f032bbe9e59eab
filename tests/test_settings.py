"""Settings dataclasses: declarations, and validation from Python."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from uertool.errors import SettingError
from uertool.settings import Setting, Settings, fields_of


@dataclass(frozen=True)
class Example(Settings):
    """One setting of each kind."""

    count: Annotated[int, Setting("How many", min=1)] = 10
    share: Annotated[float, Setting("A share", above=0, max=1)] = 0.5
    name: Annotated[Literal["a", "b"], Setting("A choice")] = "a"
    path: Annotated[Path | None, Setting("A file", names=("p",))] = None
    sizes: Annotated[tuple[int, ...], Setting("Sizes", min=1)] = ()
    on: Annotated[bool, Setting("A switch")] = False
    internal: int = 0


def test_fields_know_their_type_choices_and_default() -> None:
    found = {field.name: field for field in fields_of(Example)}
    assert "internal" not in found
    assert (found["count"].kind, found["count"].default) == (int, 10)
    assert found["name"].choices == ("a", "b")
    assert found["path"].optional and found["path"].setting.names == ("p",)
    assert found["sizes"].is_tuple and found["sizes"].kind is int


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"count": 0}, "Invalid `count`: 0 (must be at least 1)."),
        ({"count": 1.5}, "Invalid `count`: 1.5 (must be a whole number)."),
        ({"count": True}, "Invalid `count`: True (must be a whole number)."),
        ({"count": None}, "Invalid `count`: None (must be a whole number)."),
        ({"share": 0}, "Invalid `share`: 0 (must be in (0, 1])."),
        ({"share": 1.5}, "Invalid `share`: 1.5 (must be in (0, 1])."),
        ({"share": float("nan")}, "Invalid `share`: nan (must be in (0, 1])."),
        ({"name": "c"}, "Invalid `name`: 'c' (must be one of a, b)."),
        ({"path": 3}, "Invalid `path`: 3 (must be a path)."),
        ({"sizes": (1, 0)}, "Invalid `sizes`: 0 (must be at least 1)."),
        ({"sizes": 1}, "Invalid `sizes`: 1 (must be a tuple)."),
        ({"on": "yes"}, "Invalid `on`: 'yes' (must be true or false)."),
    ],
    ids=str,
)
def test_an_invalid_value_is_named_with_its_setting(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError) as caught:
        Example(**given)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "given",
    [{"count": 1}, {"share": 1}, {"path": "a"}, {"path": Path("a")}, {"sizes": (1, 2)}],
    ids=str,
)
def test_valid_values_are_kept(given: dict[str, Any]) -> None:
    made = Example(**given)
    assert all(getattr(made, name) == value for name, value in given.items())


def test_an_error_crosses_processes() -> None:
    error = SettingError("count", 0, "must be at least 1", "Give more.")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.field, again.value) == (str(error), "count", 0)
