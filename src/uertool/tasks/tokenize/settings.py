"""The settings of `tokenize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from uertool.errors import UsageError
from uertool.settings import Setting, Settings

_HOW = "Tokens"


@dataclass(frozen=True)
class TokenizeSettings(Settings):
    """What is tokenized, and what is written."""

    add_special: Annotated[
        bool,
        Setting("Put the special tokens of the model, such as [CLS] and [SEP], around", panel=_HOW),
    ] = False
    special_in_text: Annotated[
        bool,
        Setting("Read special tokens in a text, such as [MASK], as what they are", panel=_HOW),
    ] = False
    ids: Annotated[bool, Setting("Write ids in place of tokens as text", panel=_HOW)] = False
    decode: Annotated[
        bool, Setting("Lines are ids with blanks between: write their texts", panel=_HOW)
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("add_special", "special_in_text", "ids") if getattr(self, name)]
        if self.decode and given:
            raise UsageError(
                f"`decode` and `{given[0]}` were both given.", "Read ids, or write them."
            )
