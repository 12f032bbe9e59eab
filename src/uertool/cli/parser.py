"""What uertool adds to Typer's commands: old forms of options, their checks, two levels of help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from uertool.cli import console
from uertool.cli.argv import kebab, nearest, normalize
from uertool.errors import UsageError

if TYPE_CHECKING:
    from uertool.settings import Field

HELP_ALL = "--help-all"


class Command(TyperCommand):
    """A command that accepts several values after an option where the old scripts did.

    `--help` lists the usual options, `--help-all` every option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite the old forms of this command's options, then parse."""
        _answer_help_all(ctx, args)
        fields: Sequence[Field] = getattr(self.callback, "settings", ())
        args = normalize(args, fields)
        try:
            self._refuse_repeated(ctx, args, fields)
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:  # the message names the command's help
                error.ctx = ctx  # type: ignore[attr-defined]
            raise
        finally:
            console.environment = {
                field.name: field.setting.environment
                for field in fields
                if field.setting.environment is not None
                and getattr(ctx.get_parameter_source(field.name), "name", None) == "ENVIRONMENT"
            }

    def _refuse_repeated(self, ctx: Any, args: list[str], fields: Sequence[Field]) -> None:
        """Raise if an option that takes one value has several; the parser would keep the last.

        Messages will name options as they are typed here.
        """
        if ctx.resilient_parsing:
            return
        given: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in given:
            typed = [name for name in map(_name_of, args) if kebab(name) in option.opts]
            names = list(dict.fromkeys(typed or option.opts[:1]))
            console.remember_alias(option.name, names[0])
            if given.count(option) == 1 or option.multiple or option.is_flag:
                continue
            same = " are the same option, which" if len(names) > 1 else ""
            is_list = any(field.is_tuple for field in fields if field.name == option.name)
            raise UsageError(
                f"{' and '.join(names)}{same} must be given once.",
                "Separate several values by commas." if is_list else "Keep one of them.",
            )

    def invoke(self, ctx: Any) -> Any:
        """Run the command; wrong usage without a hint gets one."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            origin = console.origin(getattr(error, "field", ""))
            error.hint = error.hint or origin or f"See: {ctx.command_path} --help"
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print help, and leave the parser's formatter empty."""
        _print_help(ctx, complete=False)


class Group(TyperGroup):
    """A group of commands; its help has the form of a command's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Answer `help` as `--help`, and `--help-all` before a command, then parse."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        first = next((n for n, arg in enumerate(args) if not arg.startswith("-")), len(args))
        _answer_help_all(ctx, args[:first])
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called; an unknown one is an error that names the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            near = nearest(kebab(args[0]), list(self.commands))
            if near:
                error.message = (
                    f"No such command {args[0]!r}. Did you mean {' or '.join(map(repr, near))}?"
                )
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print help, and leave the parser's formatter empty."""
        _print_help(ctx, complete=False)


def _name_of(arg: str) -> str:
    return arg.partition("=")[0]


def _answer_help_all(ctx: Any, args: Sequence[str]) -> None:
    end = args.index("--") if "--" in args else len(args)
    if HELP_ALL in map(kebab, args[:end]):
        _print_help(ctx, complete=True)
        raise typer.Exit


def _print_help(ctx: Any, *, complete: bool) -> None:
    from uertool.cli.render.help import help_of

    console.rich_print(help_of(ctx, complete=complete))
