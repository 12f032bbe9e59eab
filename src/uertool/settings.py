"""Settings dataclasses: each setting is declared once, with its help, bounds and other names.

    @dataclass(frozen=True)
    class SearchSettings(Settings):
        topn: Annotated[int, Setting("Results for each query", min=1, names=("n",))] = 10

The command line makes an option of every field (`uertool.cli.options`), Python validates values
when the dataclass is made, and the tables in docs/ are generated from the same declarations.
Modules that declare settings import nothing heavy, so that help needs no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from uertool.errors import SettingError


@dataclass(frozen=True)
class Setting:
    """The declaration of a field: the annotation `Annotated[type, Setting(...)]`.

    Attributes:
        help: what it does; one sentence without a full stop.
        min, max: inclusive bounds of a number, or of each number of a tuple.
        above: exclusive lower bound.
        names: other names: a former spelling, or one letter for a short option.
        panel: the heading that lists it in help.
        metavar: the placeholder of the value in help.
        default: what happens if it is not given, where the default value alone does not say.
        several: on the command line, several values may follow the option, as in layers 1 12.
            Without it a tuple of strings repeats the option, and other tuples take one value with
            commas.
        valued: a truth that is written as a value on the command line, as in do_lower_case false.
        hidden: not listed in help.
        rare: listed by `--help-all` only: few people need it.
    """

    help: str
    _: dataclasses.KW_ONLY
    min: float | None = None
    max: float | None = None
    above: float | None = None
    names: tuple[str, ...] = ()
    panel: str | None = None
    metavar: str | None = None
    default: str | None = None
    several: bool = False
    valued: bool = False
    hidden: bool = False
    rare: bool = False

    @property
    def range(self) -> str:
        """The bounds in words, or an empty string."""
        if self.max is not None and self.above is not None:
            return f"in ({self.above:g}, {self.max:g}]"
        if self.max is not None and self.min is not None:
            return f"in [{self.min:g}, {self.max:g}]"
        if self.above is not None:
            return f"above {self.above:g}"
        if self.min is not None:
            return f"at least {self.min:g}"
        return "" if self.max is None else f"at most {self.max:g}"

    def contains(self, number: float) -> bool:
        """Whether a number is within the bounds; NaN never is."""
        return (
            number == number
            and (self.min is None or number >= self.min)
            and (self.max is None or number <= self.max)
            and (self.above is None or number > self.above)
        )


@dataclass(frozen=True)
class Field:
    """A declared field of a settings dataclass.

    Attributes:
        name: of the field.
        kind: the type of one value: bool, int, float, str or Path.
        choices: the values it may have; empty if there are no fixed ones.
        is_tuple: whether it holds several values.
        optional: whether None is a value.
        default: the default value.
        setting: its declaration.
    """

    name: str
    kind: type
    choices: tuple[Any, ...]
    is_tuple: bool
    optional: bool
    default: Any
    setting: Setting


class Settings:
    """Base of settings dataclasses, which are validated when they are made.

    A subclass that checks combinations of fields extends `__post_init__`.
    """

    def __post_init__(self) -> None:
        check(self)


def fields_of(kind: type[Settings]) -> tuple[Field, ...]:
    """The declared fields of a settings dataclass, in order.

    Fields without a `Setting` are internal: neither the command line nor the documentation knows
    them.
    """
    return _fields_of(typing.cast("Hashable", kind))


@functools.cache
def _fields_of(kind: Any) -> tuple[Field, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        annotated, *extras = get_args(hints[field.name])
        setting = next((extra for extra in extras if isinstance(extra, Setting)), None)
        if setting is None:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append(Field(field.name, *_type_of(annotated), default, setting))
    return tuple(found)


def _type_of(annotation: Any) -> tuple[type, tuple[Any, ...], bool, bool]:
    """The type of one value, its choices, whether it is a tuple, and whether None is allowed."""
    optional = False
    if get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        optional = len(members) < len(get_args(annotation))
        annotation = members[0]
    is_tuple = get_origin(annotation) is tuple
    if is_tuple:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return type(choices[0]), choices, is_tuple, optional
    return annotation, (), is_tuple, optional


def check(settings: Settings) -> None:
    """Validate every declared field by type, choices and bounds.

    Raises:
        SettingError: the first value that is not valid, with the name of its field.
    """
    for field in fields_of(type(settings)):
        value = getattr(settings, field.name)
        if value is None and field.optional:
            continue
        if field.is_tuple and not isinstance(value, tuple):
            raise SettingError(field.name, value, "must be a tuple")
        for one in value if field.is_tuple else (value,):
            reason = _fault(field, one)
            if reason:
                raise SettingError(field.name, one, reason)


def _fault(field: Field, value: Any) -> str | None:
    """What is wrong with one value of a field, or None."""
    if field.choices:
        known = ", ".join(map(str, field.choices))
        return None if value in field.choices else f"must be one of {known}"
    if not isinstance(value, _ACCEPTED.get(field.kind, field.kind)) or (
        isinstance(value, bool) and field.kind is not bool
    ):
        return f"must be {_NAMES.get(field.kind, field.kind.__name__)}"
    if isinstance(value, (int, float)) and not field.setting.contains(value):
        return f"must be {field.setting.range or 'a number'}"
    return None


#: Types of Python values that a field of a type accepts, and what that type is called.
_ACCEPTED: dict[type, tuple[type, ...]] = {float: (int, float), Path: (str, Path)}
_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}
