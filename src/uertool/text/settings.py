"""Where lines of text come from: the settings that every command with text shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from uertool.settings import Setting, Settings

_INPUT = "Input"

#: The setting of every command that reads text.
Encoding = Annotated[
    str,
    Setting(
        "Encoding of the text: utf-8, gb18030, big5, utf-16, ...; a byte order mark is recognized",
        panel=_INPUT,
    ),
]


@dataclass(frozen=True)
class InputSettings(Settings):
    """Which lines are read, and how."""

    test_path: Annotated[
        str | None,
        Setting(
            "One text a line, also .gz; - is standard input",
            names=("input", "i"),
            panel=_INPUT,
            metavar="FILE",
        ),
    ] = None
    column: Annotated[
        str | None, Setting("Read a TSV or .csv table and take this column", panel=_INPUT)
    ] = None
    field: Annotated[
        str | None, Setting("Read JSON lines and take this field", panel=_INPUT, rare=True)
    ] = None
    shard: Annotated[
        str | None,
        Setting("Take the i-th of n parts of the input", panel=_INPUT, metavar="I/N", rare=True),
    ] = None
    encoding: Encoding = "utf-8"
    skip_bad: Annotated[
        bool,
        Setting("Leave out lines that cannot be read, and count them", panel=_INPUT, rare=True),
    ] = False

    def parts(self) -> tuple[int, int] | None:
        """The shard as a pair (i, n), or None for the whole input.

        Raises:
            UsageError: it is not of the form i/n.
        """
        if self.shard is None:
            return None
        from uertool.text.readers import parse_shard

        return parse_shard(self.shard)
