"""Settings as options: spreads settings dataclasses over a command's parser.

A setting is declared once, as a field of a settings dataclass (`uertool.settings`). A command takes
such dataclasses as parameters; `with_settings` makes an option of each of their fields:

    @with_settings
    def cloze(texts: ..., *, model: ModelSettings, cloze: ClozeSettings) -> None: ...

An option has the kebab-case name of its field; the snake_case spelling, which UER-py's users know,
works as well because names are compared after `argv.kebab`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, TypeVar, cast

import typer

from uertool.cli import console, run_record
from uertool.errors import InputError, SettingError, UsageError
from uertool.settings import Field, Setting, Settings, spread

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel
    from uertool.tasks.generation.job import Generator
    from uertool.text.readers import BadLine, Line
    from uertool.text.settings import InputSettings

Result = TypeVar("Result")
F = TypeVar("F", bound=str)


# -- from settings to options ---------------------------------------------------------------------


def with_settings(command: Callable[..., Result]) -> Callable[..., Result]:
    """Spread every settings parameter of a command into its options.

    The parser sees the single options; the command receives the dataclasses filled in and
    validated.
    """
    made = spread(command, parameter=_parameter, value=_value, made=run_record.remember)
    signature: inspect.Signature = made.__signature__  # type: ignore[attr-defined]
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values()]
    made.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return made


def _parameter(field: Field) -> inspect.Parameter:
    """The parser's view of a field."""
    default = field.default
    if field.is_tuple and default is not None:
        default = list(default) if _is_repeated(field) else ",".join(map(str, default)) or None
    elif field.setting.valued and default is not None:
        default = str(default).lower()
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[_annotation(field), _option(field)],
    )


def _option(field: Field) -> Any:
    setting = field.setting
    name = "--" + field.name.replace("_", "-")
    switch = field.kind is bool and not setting.valued
    if switch and (field.default is True or field.optional):
        name += f"/--no-{name[2:]}"
    more = [("-" if len(other) == 1 else "--") + other.replace("_", "-") for other in setting.names]
    text = setting.help
    if field.choices and field.is_tuple:
        text += f": {', '.join(map(str, field.choices))}"
    text += several(field)
    default = setting.default
    if default is None and default_is_shown(field):
        default = ",".join(map(str, field.default)) if field.is_tuple else str(field.default)
        if field.default is True:
            default = "true" if setting.valued else "on"
    if default is not None:
        text += f" [default: {default}]"
    if setting.environment is not None:
        text += f" [environment: {setting.environment}]"
    return typer.Option(
        name,
        *more,
        help=text,
        envvar=setting.environment,
        rich_help_panel=setting.panel,
        metavar=None if switch else _metavar(field),
        hidden=setting.hidden or setting.rare,
        show_default=False,
    )


def _metavar(field: Field) -> str:
    """What the value of an option is called in help: its choices, or its type."""
    if field.setting.metavar is not None:
        return field.setting.metavar
    if field.setting.valued:
        return "true|false"
    if field.is_tuple and not _is_repeated(field):
        return "A,B,..."
    if field.choices:
        return "|".join(map(str, field.choices))
    return _METAVARS[field.kind]


_METAVARS = {bool: "true|false", int: "N", float: "X", str: "TEXT", Path: "FILE"}


def several(field: Field) -> str:
    """How an option is given several values, for help; empty for one that takes one value."""
    if not field.is_tuple:
        return ""
    apart = field.setting.several
    if _is_repeated(field):
        return " [several after blanks, or repeated]" if apart else " [may be repeated]"
    return " [separated by commas or blanks]" if apart else " [separated by commas]"


def default_is_shown(field: Field) -> bool:
    """Whether the default value says something; that a switch is off by default does not."""
    return field.default is not False and field.default not in (None, ())


def _annotation(field: Field) -> Any:
    """The type that the parser converts a value to."""
    if field.is_tuple:
        return list[str] | None if _is_repeated(field) else str | None
    if field.setting.valued:
        return str | None
    kind: Any = Literal[field.choices] if field.choices else field.kind
    return kind | None if field.optional else kind


def _is_repeated(field: Field) -> bool:
    """Whether the option is given once for each value, not once with commas."""
    return field.is_tuple and field.kind is str and not field.choices


def _value(field: Field, given: Any) -> Any:
    """What the field holds, from what the parser found.

    Raises:
        SettingError: a list or a truth is not written as one.
    """
    if given is None:
        return field.default
    if field.setting.valued:
        if given.lower() not in ("true", "false"):
            raise SettingError(field.name, given, "must be true or false")
        return given.lower() == "true"
    if not field.is_tuple:
        return given
    if _is_repeated(field):
        return tuple(given)
    return tuple(_elements(field, given))


def _elements(field: Field, text: str) -> Iterator[Any]:
    """The values in a text that separates them by commas, blanks or, as UER-py does, by `_`."""
    for part in text.replace(",", " ").split():
        if field.choices:
            yield from [part] if part in field.choices else part.split("_")
            continue
        try:
            yield field.kind(part)
        except ValueError:
            what = "whole numbers" if field.kind is int else "numbers"
            raise SettingError(field.name, text, f"must be {what}, separated by commas") from None


# -- what commands share --------------------------------------------------------------------------


@dataclass(frozen=True)
class ConsoleSettings(Settings):
    """How much is reported on standard error."""

    quiet: Annotated[bool, Setting("No progress and no summary", names=("q",), panel="Output")] = (
        False
    )
    verbose: Annotated[
        bool, Setting("Report what was read and assumed", names=("v",), panel="Output", rare=True)
    ] = False

    def apply(self) -> None:
        """Set the console's level; with --verbose report what the environment says."""
        console.set_level(quiet=self.quiet, verbose=self.verbose)
        for name, variable in console.environment.items():
            console.detail(f"`{name}` is {os.environ[variable]}, from {variable}.")


@dataclass(frozen=True)
class JsonSettings(Settings):
    """Whether results are for programs."""

    json: Annotated[bool, Setting("Print JSON, one object a line", panel="Output")] = False


@dataclass(frozen=True)
class JsonReportSettings(JsonSettings, ConsoleSettings):
    """How much is reported, and in which form, by commands without an output file."""


@dataclass(frozen=True)
class ReportSettings(ConsoleSettings):
    """How much is reported about a run, in a file too."""

    save_run: Annotated[
        bool,
        Setting(
            "Write arguments, versions and hashes of the inputs next to the output",
            panel="Output",
            rare=True,
        ),
    ] = False

    def record(
        self,
        output: str | Path | None,
        inputs: Iterable[str | Path | None],
        *,
        settings: Mapping[str, Any] | None = None,
        results: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the record of the run next to a file, if it is wanted; see `run_record.write`."""
        if self.save_run and output not in (None, "-"):
            run_record.write(output, inputs=inputs, settings=settings, results=results)


@dataclass(frozen=True)
class WriteSettings(JsonSettings, ReportSettings):
    """How outputs are written that the command names itself."""

    overwrite: Annotated[bool, Setting("Replace an existing output", panel="Output")] = False


@dataclass(frozen=True)
class OutputSettings(WriteSettings):
    """Where results are written, and how much is reported about them."""

    prediction_path: Annotated[
        str | None,
        Setting(
            "Write results to this file; - is standard output",
            names=("output", "o"),
            panel="Output",
            metavar="FILE",
            is_output=True,
        ),
    ] = None

    @property
    def to_file(self) -> bool:
        """Whether results go to a file, not to standard output."""
        return self.prediction_path not in (None, "-")

    def form_for(self, form: F, *, shown: F, stored: F) -> F:
        """The given format, or the one that fits the destination.

        Args:
            form: as it was given; "auto" leaves it open.
            shown, stored: of standard output, and of a file that is not named .jsonl.

        Raises:
            UsageError: `json` says otherwise.
        """
        jsonl = cast("F", "jsonl")
        if self.json:
            if form not in ("auto", "jsonl"):
                raise UsageError(
                    f"`json` and `format` {form} were both given.", "Give one of them."
                )
            return jsonl
        if form != "auto":
            return form
        if not self.to_file:
            return shown
        return jsonl if str(self.prediction_path).endswith((".jsonl", ".json")) else stored

    def form_with_table(self, form: F, plain: F) -> F:
        """The same for results that are a table on a terminal, and otherwise `plain`.

        Raises:
            UsageError: `json` says otherwise, or a table would go into a file.
        """
        table = cast("F", "table")
        shown = table if console.out_is_terminal() else plain
        chosen = self.form_for(form, shown=shown, stored=plain)
        if chosen == "table" and self.to_file:
            raise UsageError(
                "A table is for a terminal, but `prediction_path` names a file.",
                f"Use `format` {plain} or jsonl.",
            )
        return chosen

    @contextlib.contextmanager
    def opened(self, done: Callable[[], int] = lambda: 0) -> Iterator[TextIO]:
        """Where results are written: standard output, or a file that appears when it is whole.

        Args:
            done: the number of results so far; if there are some, a file keeps them after Ctrl-C.
        """
        from uertool.io.atomic import atomic_text

        if self.prediction_path is None:
            yield sys.stdout
            return
        stopped: KeyboardInterrupt | None = None
        with atomic_text(self.prediction_path, overwrite=self.overwrite) as stream:
            try:
                yield stream
            except KeyboardInterrupt as stop:
                if not done():
                    raise
                stopped = stop
        if stopped is not None:
            if self.to_file:
                stopped.args = (f"{self.prediction_path} holds the first {done():,} results",)
            raise stopped

    def apply(self, *, check: bool = True) -> None:
        """Set the console's level; with `check`, see that the output may be written."""
        super().apply()
        if check and self.prediction_path is not None:
            from uertool.io.atomic import refuse_existing

            refuse_existing(self.prediction_path, self.overwrite)
        if self.save_run and not self.to_file:
            raise UsageError(
                "--save-run writes next to the output, but there is no output file.",
                "Name one with --prediction-path.",
            )


@dataclass(frozen=True)
class ResultSettings(OutputSettings):
    """An output of results that people read on a terminal, too."""

    format: Annotated[
        Literal["auto", "table", "text", "jsonl"],
        Setting("auto is a table on a terminal, otherwise UER-py's text", panel="Output"),
    ] = "auto"

    @property
    def form(self) -> str:
        """The given format, or the one that fits the destination: table, text or jsonl.

        Raises:
            UsageError: `json` says otherwise, or a table would go into a file.
        """
        return self.form_with_table(self.format, "text")


def is_typed(name: str, value: object) -> bool:
    """Whether a setting was given on the command line, not by the environment or not at all."""
    return value is not None and name not in console.environment


def given_once(place: str, setting: str, argument: str | None, value: str | None) -> str:
    """What was named by an argument or by a setting; an error for neither, or for two names."""
    if argument is not None and value is not None and argument != value:
        raise UsageError(f"{place} is {argument}, but `{setting}` is {value}.", "Give it once.")
    found = argument or value
    if found is None:
        raise UsageError(f"{place} is missing.", f"Give it as an argument or as `{setting}`.")
    return found


def report_model(loaded: LoadedModel | Generator) -> None:
    """Report what was assumed about a model; with --verbose all that is known of it."""
    console.warn(*loaded.notes)
    console.detail(*loaded.described())


def source_of(text: InputSettings, arguments: Sequence[str] | None, what: str) -> str | None:
    """Where text comes from: a path or "-", or None if it is the arguments themselves.

    Without any of them standard input is read.

    Args:
        text: how input was named.
        arguments: texts on the command line.
        what: what is missing if there is nothing, for example "text".

    Raises:
        UsageError: there is no text at all, or two kinds of it.
        InputError: the path does not exist.
    """
    given = [argument for argument in arguments or () if argument != "-"]
    if given and text.test_path is not None:
        raise UsageError(
            "Texts were given on the command line and in --test-path.", "Give one of the two."
        )
    if given:
        return None
    if text.test_path is not None:
        if not (text.test_path == "-" or _is_there(text.test_path)):
            raise InputError(f"The input {text.test_path} does not exist.", "Check the path.")
        return text.test_path
    if not arguments and sys.stdin.isatty():
        raise UsageError(
            f"There is no {what}.",
            "Write it on the command line, name a file with --test-path, or pipe it in.",
        )
    return "-"


def _is_there(path: str) -> bool:
    """Whether a path exists, as far as can be known here: a URI or a glob may."""
    return "://" in path or any(mark in path for mark in "*?[") or Path(path).exists()


def lines_of(
    text: InputSettings,
    arguments: Sequence[str] | None,
    what: str = "text",
    bad: list[BadLine] | None = None,
) -> Iterator[Line]:
    """The lines to work on, streamed: arguments, a file or standard input.

    Args:
        text: how input was named.
        arguments: texts on the command line, each a line.
        what: see `source_of`.
        bad: with `skip_bad`, the lines that could not be read are appended here.
    """
    from uertool.text.readers import Line, read_lines

    source = source_of(text, arguments, what)
    if source is None:
        part, parts = text.parts() or (1, 1)
        numbered = (Line(n, argument) for n, argument in enumerate(arguments or ()))
        return (line for line in numbered if line.number % parts == part - 1)
    kept: list[BadLine] = [] if bad is None else bad
    return read_lines(
        source,
        column=text.column,
        field=text.field,
        shard=text.parts(),
        on_bad=kept.append if text.skip_bad else None,
        encoding=text.encoding,
    )


def report_empty(lines: int) -> None:
    """Warn if there was nothing to do, which an empty output leaves open."""
    if not lines:
        console.warn("The input is empty: no lines were read.")


def report_bad(bad: Sequence[BadLine]) -> None:
    """Report how many lines were left out, and why the first of them."""
    if bad:
        console.warn(
            f"{console.counted(len(bad), 'line')} left out; the first is line "
            f"{bad[0].number + 1}: {bad[0].reason}"
        )
