"""Settings dataclasses: each setting is declared once, with its help, bounds and other names.

    @dataclass(frozen=True)
    class SearchSettings(Settings):
        topn: Annotated[int, Setting("Results for each query", min=1, names=("n",))] = 10

The command line makes an option of every field (`uertool.cli.options`), functions in Python a
keyword (`as_keywords`), values are validated when the dataclass is made, and the tables in docs/
are generated from the same declarations. Modules that declare settings import nothing heavy, so
that help needs no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import numbers
import os
import re
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from uertool.errors import SettingError, UsageError

Result = TypeVar("Result")


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
        rare: listed in the complete help only: few people need it.
        environment: a variable of the environment that gives the default on the command line.
        is_output: a path that is written; two of them must not be the same.
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
    environment: str | None = None
    is_output: bool = False

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
_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    Iterable: "several of them",
    Sequence: "a sequence",
}


# -- settings as parameters of functions ----------------------------------------------------------


def spread(
    function: Callable[..., Result],
    *,
    parameter: Callable[[Field], inspect.Parameter],
    value: Callable[[Field, Any], Any],
    without: Collection[str] = (),
    made: Callable[[Settings], None] = lambda _: None,
) -> Callable[..., Result]:
    """A function with single settings as parameters, in the place of settings dataclasses.

    Args:
        function: some of its parameters are annotated with settings dataclasses.
        parameter: the parameter for a field.
        value: what the field holds, given its argument.
        without: names of fields that are no parameters; they keep their defaults.
        made: called with every settings dataclass that is made.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[type[Settings], list[Field]]] = {}
    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(function).parameters.values():
        kind = hints.get(own.name)
        if isinstance(kind, type) and issubclass(kind, Settings):
            fields = [field for field in fields_of(kind) if field.name not in without]
            groups[own.name] = kind, fields
            parameters.extend(map(parameter, fields))
        else:
            parameters.append(own.replace(annotation=hints.get(own.name, own.empty)))
    signature = inspect.Signature(parameters, return_annotation=hints.get("return"))
    names = {field.name for _, fields in groups.values() for field in fields}

    @functools.wraps(function)
    def spreading(*args: Any, **given: Any) -> Result:
        unknown = [name for name in given if name not in signature.parameters]
        if unknown:
            of_groups = (field for _, fields in groups.values() for field in fields)
            also = [field.name for field in of_groups if unknown[0] in field.setting.names]
            near = also or difflib.get_close_matches(unknown[0], signature.parameters, 2)
            hint = " or ".join(f"`{name}`" for name in near)
            raise UsageError(
                f"{function.__name__} has no setting `{unknown[0]}`.",
                f"Perhaps {hint} is meant." if near else None,
            )
        bound = signature.bind(*args, **given)
        bound.apply_defaults()
        arguments = bound.arguments
        for own in parameters:
            if own.name in arguments and own.name not in names:
                _require(own.name, arguments[own.name], own.annotation)
        for name, (kind, fields) in groups.items():
            arguments[name] = kind(**{f.name: value(f, arguments.pop(f.name)) for f in fields})
            made(arguments[name])
        _refuse_one_output(arguments[name] for name in groups)
        places = [arguments.pop(p.name) for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
        return function(*places, **arguments)

    spreading.__signature__ = signature  # type: ignore[attr-defined]
    spreading.__annotations__ = {one.name: one.annotation for one in parameters}
    spreading.settings = [field for _, fields in groups.values() for field in fields]  # type: ignore[attr-defined]
    del spreading.__wrapped__
    return spreading


def _refuse_one_output(groups: Iterable[Settings]) -> None:
    """Raise UsageError if two settings name the same file to write."""
    seen: dict[str, str] = {}
    for field, path in ((f, getattr(g, f.name)) for g in groups for f in fields_of(type(g))):
        if not field.setting.is_output or path in (None, "-"):
            continue
        other = seen.setdefault(os.path.realpath(path), field.name)
        if other != field.name and (os.path.isfile(path) or not os.path.exists(path)):
            raise UsageError(f"`{other}` and `{field.name}` are both {path}.", "Name two files.")


def as_keywords(*without: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Makes a function of settings dataclasses one of keywords, and documents them.

        @as_keywords("load_model_path")
        def search(texts: list[str], *, settings: SearchSettings, model: ModelSettings) -> Report:

    Args:
        without: names of fields that are no keywords; they keep their defaults.
    """

    def make(function: Callable[..., Result]) -> Callable[..., Result]:
        made = spread(function, parameter=_keyword, value=_plain, without=without)
        made.__doc__ = documented(function.__doc__ or "", map(entry, made.settings))  # type: ignore[attr-defined]
        return made

    return make


def _require(name: str, value: Any, kind: Any) -> None:
    """Raise SettingError unless an argument has its type; items of sequences are not checked."""
    if kind is not inspect.Parameter.empty and not _fits(value, kind):
        raise SettingError(name, value, f"must be {_in_words(kind)}")


def _fits(value: Any, kind: Any) -> bool:
    origin, given = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, given[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in given)
    if origin is Literal:
        return value in given
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    try:
        return isinstance(value, origin or kind)
    except TypeError:  # a protocol
        return True


def _in_words(kind: Any) -> str:
    origin, given = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _in_words(given[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(one) for one in given if one is not types.NoneType)
    if origin is Literal:
        return f"one of {', '.join(map(str, given))}"
    return _NAMES.get(origin or kind) or str((origin or kind).__name__)


def _keyword(field: Field) -> inspect.Parameter:
    kind: Any = Literal[field.choices] if field.choices else field.kind
    of_path = field.name.endswith("_path") or field.setting.metavar in _PATHS
    if kind is Path or (kind is str and of_path):
        kind = str | Path
    if field.is_tuple:
        kind = Sequence[kind]
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=typing.Optional[kind] if field.optional else kind,  # noqa: UP045
    )


#: Placeholders of values in help that are paths.
_PATHS = ("FILE", "PATH", "FOLDER", "MODEL")


def _plain(field: Field, given: Any) -> Any:
    """What a field holds, from a Python value: a tuple for any sequence, and so on."""
    if given is None:
        return None
    if not field.is_tuple:
        return _one(field, given)
    if isinstance(given, (str, os.PathLike)) or not isinstance(given, Iterable):
        given = (given,)
    return tuple(_one(field, value) for value in given)


def _one(field: Field, given: Any) -> Any:
    if isinstance(given, (str, os.PathLike)) and not field.choices:
        return Path(given) if field.kind is Path else os.fspath(given)
    if isinstance(given, bool) and field.kind is str:
        return str(given).lower()
    # The numbers of numpy are no int or float.
    return given.item() if hasattr(given, "item") and field.kind in (bool, int, float) else given


def documented(text: str, entries: Iterable[str]) -> str:
    """A docstring with more arguments, each as `entry` writes it."""
    parts = re.split(r"\n\n(?=(?:Returns|Yields|Raises):)", inspect.cleandoc(text), maxsplit=1)
    head, *rest = parts
    if "\nArgs:\n" not in head:
        head += "\n\nArgs:"
    return "\n\n".join(["\n".join([head, *entries]), *rest]) + "\n"


def entry(field: Field) -> str:
    """The argument of a field in a docstring."""
    setting = field.setting
    remarks = [setting.range, f"default: {setting.default}" if setting.default else ""]
    known = "; ".join(filter(None, remarks))
    text = f"{field.name}: {setting.help}" + (f" ({known})" if known else "") + "."
    return textwrap.fill(
        text, 96, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False
    )
