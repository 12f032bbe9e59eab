"""The settings of `tokenize`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from uertool.errors import UsageError
from uertool.settings import Setting, Settings

_how = partial(Setting, panel="Tokens")


@dataclass(frozen=True)
class TokenizeSettings(Settings):
    """What is tokenized, and what is written."""

    add_special: Annotated[
        bool, _how("Add the special tokens of the model, such as [CLS] and [SEP]")
    ] = False
    special_in_text: Annotated[
        bool, _how("Recognize special tokens in the text, such as [MASK]")
    ] = False
    ids: Annotated[bool, _how("Write ids instead of tokens")] = False
    decode: Annotated[
        bool, _how("Decode: lines are ids separated by blanks; write their texts")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("add_special", "special_in_text", "ids") if getattr(self, name)]
        if self.decode and given:
            raise UsageError(
                f"`decode` and `{given[0]}` were both given.", "Read ids, or write them."
            )
