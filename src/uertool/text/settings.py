"""Where lines of text come from, and how tokenizers are called: what commands with text share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from uertool.settings import Setting, Settings

_input = partial(Setting, panel="Input")

#: UER-py's names of tokenizers that a user may give.
TokenizerName = Literal["bert", "char", "space", "bpe", "xlmroberta"]

#: The setting of every command that reads text.
Encoding = Annotated[
    str,
    _input(
        "Encoding of the text: utf-8, gb18030, big5, utf-16, ...; a byte order mark is recognized",
        metavar="NAME",
    ),
]


@dataclass(frozen=True)
class InputSettings(Settings):
    """Which lines are read, and how."""

    test_path: Annotated[
        str | None,
        _input(
            "Input, one text a line, also .gz; - is standard input",
            names=("input", "i"),
            metavar="FILE",
        ),
    ] = None
    column: Annotated[
        str | None,
        _input(
            "Read a TSV or .csv table and take this column; a number counts from 0", metavar="NAME"
        ),
    ] = None
    field: Annotated[
        str | None, _input("Read JSON lines and take this field", metavar="NAME", rare=True)
    ] = None
    shard: Annotated[
        str | None, _input("Take part I of N parts of the input", metavar="I/N", rare=True)
    ] = None
    encoding: Encoding = "utf-8"
    skip_bad: Annotated[
        bool, _input("Leave out lines that cannot be read, and count them", rare=True)
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
