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
        Setting("Add the special tokens of the model, such as [CLS] and [SEP]", panel=_HOW),
    ] = False
    special_in_text: Annotated[
        bool,
        Setting("Recognize special tokens in the text, such as [MASK]", panel=_HOW),
    ] = False
    ids: Annotated[bool, Setting("Write ids instead of tokens", panel=_HOW)] = False
    decode: Annotated[
        bool, Setting("Decode: lines are ids separated by blanks; write their texts", panel=_HOW)
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("add_special", "special_in_text", "ids") if getattr(self, name)]
        if self.decode and given:
            raise UsageError(
                f"`decode` and `{given[0]}` were both given.", "Read ids, or write them."
            )
