"""What uertool adds to Typer's commands: old forms of options, and two levels of help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from uertool.cli import console
from uertool.cli.argv import kebab, normalize

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
        try:
            left = super().parse_args(ctx, normalize(args, fields))
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:  # the message names the command's help
                error.ctx = ctx  # type: ignore[attr-defined]
            raise
        console.environment = {
            field.name: field.setting.environment
            for field in fields
            if field.setting.environment is not None
            and getattr(ctx.get_parameter_source(field.name), "name", None) == "ENVIRONMENT"
        }
        return left

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print help, and leave the parser's formatter empty."""
        _print_help(ctx, complete=False)


class Group(TyperGroup):
    """A group of commands; its help has the form of a command's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Answer `--help-all` before a command, then parse."""
        first = next((n for n, arg in enumerate(args) if not arg.startswith("-")), len(args))
        _answer_help_all(ctx, args[:first])
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print help, and leave the parser's formatter empty."""
        _print_help(ctx, complete=False)


def _answer_help_all(ctx: Any, args: Sequence[str]) -> None:
    end = args.index("--") if "--" in args else len(args)
    if HELP_ALL in map(kebab, args[:end]):
        _print_help(ctx, complete=True)
        raise typer.Exit


def _print_help(ctx: Any, *, complete: bool) -> None:
    from uertool.cli.render.help import help_of

    console.rich_print(help_of(ctx, complete=complete))
