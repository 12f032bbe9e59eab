"""Help: usage, description, examples, and options under headings, in two columns.

Typer's own help cuts long names of options at 80 columns, and has no second level.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

#: Names that are longer than this push their text to the next line.
_NAMES_WIDTH = 28
#: Examples that the short help shows.
_EXAMPLES = 2
_HEADING = "bold"
_NAME = "cyan"
_QUOTED = re.compile(r"`([^`]+)`")

Row = tuple[str, str]


def help_of(ctx: Any, *, complete: bool) -> Group:
    """The help of a command or a group.

    Args:
        ctx: the parser's context of the command.
        complete: whether rare options and further examples are listed, too.
    """
    command = ctx.command
    paragraphs, examples = parts_of(command.help or "")
    blocks: list[Any] = [_usage(ctx)]
    blocks.extend(_prose(paragraph) for paragraph in paragraphs)
    sections: dict[str, list[Row]] = {}
    for heading, row in _rows(ctx, complete=complete):
        sections.setdefault(heading, []).append(row)
    if examples:
        lines = "\n".join(examples if complete else examples[:_EXAMPLES])
        blocks.append(_section("Examples", Padding(Text(lines, no_wrap=True), (0, 0, 0, 2))))
    blocks.extend(_section(heading, _columns(rows)) for heading, rows in sections.items())
    more = 0 if complete else sum(1 for param in command.get_params(ctx) if _is_rare(param, ctx))
    if more:
        blocks.append(_prose(f"`{ctx.command_path} --help-all` lists {more} more options."))
    elif command.epilog:
        blocks.append(_prose(command.epilog))
    return Group(*(Padding(block, (0, 0, 1, 0)) for block in blocks))


def _usage(ctx: Any) -> Text:
    found = ctx.command.collect_usage_pieces(ctx)
    # The parser has braces around what is required.
    pieces = [re.sub("[{}]", "", piece).upper() for piece in found]
    return Text.assemble(("Usage: ", _HEADING), " ".join([ctx.command_path, *pieces]))


def parts_of(docstring: str) -> tuple[list[str], list[str]]:
    """The paragraphs of a docstring, each on one line, and its examples.

    An example is indented, or begins with the name of the program.
    """
    paragraphs, examples = [], []
    for part in docstring.strip().split("\n\n"):
        if part.startswith(("    ", "uertool ")):
            examples.append(textwrap.dedent(part))
        elif part:
            paragraphs.append(" ".join(line.strip() for line in part.splitlines()))
    return paragraphs, examples


def _rows(ctx: Any, *, complete: bool) -> Iterator[tuple[str, Row]]:
    """The heading and the columns of each argument, option and command."""
    command, last = ctx.command, []
    for param in command.get_params(ctx):
        if param.param_type_name == "argument":
            if param.help:
                yield "Arguments", (str(param.metavar or param.name.upper()), param.help)
        elif param.name == "help":
            last.append(("Help", (_names(param), "Show this help")))
        elif not param.hidden or (complete and _is_rare(param, ctx)):
            yield param.rich_help_panel or "Options", (_names(param), param.help or "")
    for entry in getattr(command, "commands", {}).values():
        if not entry.hidden:
            about = (entry.help or "").strip().partition("\n")[0]
            yield entry.rich_help_panel or "Commands", (str(entry.name), about)
    yield from last


def _is_rare(param: Any, ctx: Any) -> bool:
    fields = getattr(ctx.command.callback, "settings", ())
    return any(field.name == param.name and field.setting.rare for field in fields)


def _names(param: Any) -> str:
    """The names of an option, short ones first, and what its value is called."""
    options = sorted((*param.opts, *param.secondary_opts), key=lambda name: name.startswith("--"))
    return " ".join(filter(None, (", ".join(options), None if param.is_flag else param.metavar)))


def _section(heading: str, body: Any) -> Group:
    return Group(Text(f"{heading}:", style=_HEADING), body)


def _columns(rows: list[Row]) -> Group:
    """Names and texts side by side; a long name has its text below it."""
    lengths = [len(names) for names, _ in rows]
    width = max((length for length in lengths if length <= _NAMES_WIDTH), default=_NAMES_WIDTH)
    lines: list[Any] = []
    for names, about in rows:
        if len(names) > width:
            lines.append(Padding(Text(names, style=_NAME), (0, 0, 0, 2)))
            lines.append(Padding(_prose(about), (0, 0, 0, width + 4)))
            continue
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=width, no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_row(Text(names, style=_NAME), _prose(about))
        lines.append(Padding(grid, (0, 0, 0, 2)))
    return Group(*lines)


def _prose(text: str) -> Text:
    """Text in which what is between backquotes is shown as code."""
    from uertool.cli import console

    done = Text()
    for number, part in enumerate(_QUOTED.split(console.spell(text))):
        done.append(part, style=_NAME if number % 2 else "")
    return done
