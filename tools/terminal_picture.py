"""Draw docs/images/terminal.svg, the picture in the README, from real runs of uertool.

python tools/terminal_picture.py
"""

from __future__ import annotations

import html
import io
import os
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from uertool.cli import console
from uertool.cli.app import main

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "terminal.svg"
WIDTH = 76
#: Width of a cell in the picture.
CELL = 12.2
COMMANDS = (
    ("cloze", "今天天气很[MASK]，我们去公园。", "--topn", "4"),
    ("topn", "indep", "好", "--topn", "4"),
    ("generate", "lm", "酒店的服务", "--greedy", "--seq-length", "24"),
)


def shown(command: tuple[str, ...]) -> str:
    """What a terminal shows of a command's results."""
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with (
        redirect_stdout(stream),
        redirect_stderr(io.StringIO()),
        mock.patch.object(console, "out_is_terminal", lambda: True),
        mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH)}),
    ):
        assert main([*command, "--quiet"]) == 0
    return stream.buffer.getvalue().decode().rstrip() + "\n"


def typed(command: tuple[str, ...]) -> str:
    """A command as it is typed."""
    words = [f'"{word}"' if re.search(r"[^\w-]", word) else word for word in command]
    return " ".join(("uertool", *words))


def picture() -> str:
    """The picture as SVG."""
    screen = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for command in COMMANDS:
        screen.print(Text.assemble(("$ ", "green"), (typed(command), "bold")))
        screen.print(Text.from_ansi(shown(command)))
    drawn = screen.export_svg(title="uertool", unique_id="uertool")
    # Without the fonts that would be loaded from the network.
    drawn = re.sub(r"\s*@font-face \{.*?\}\n", "\n", drawn, flags=re.DOTALL)
    return re.sub(r'textLength="[\d.]+"([^>]*)>([^<]*)<', _measured, drawn) + "\n"


def _measured(found: re.Match[str]) -> str:
    """A text with its length in cells: rich counts a Chinese character as one, but it has two."""
    width = CELL * cell_len(html.unescape(found[2]))
    return f'textLength="{width:g}"{found[1]}>{found[2]}<'


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(), "utf-8")
    sys.stdout.write(f"wrote {PICTURE}\n")
