"""The errors that uertool raises on purpose, each one sentence with a way forward.

    UertoolError            exit 1
    ├── UsageError          exit 2: an invalid option or argument
    │   └── SettingError    a setting whose value is invalid
    ├── CheckpointError     a weight file that is missing, broken, unsafe or not understood
    ├── ConfigError         a configuration that contradicts itself or the tensors
    ├── VocabError          a vocabulary or tokenizer that does not fit
    ├── InputError          text or data that cannot be read
    ├── OutputError         a result that cannot be written
    └── MissingExtraError   an optional dependency that is not installed

Library code raises them; only `uertool.cli.app.main` catches them. `shown` and `listed` spell names
that come from files, which may be of any length and hold any character; `counted` spells numbers of
things. `import_extra` imports optional dependencies.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

#: The most characters of a name, or of a list of names, in a message.
_WIDTH = 200


def shown(name: object, width: int = _WIDTH) -> str:
    """A name from a file as a message may print it: cut at `width`, control characters escaped."""
    text = str(name)
    cut = text if len(text) <= width else f"{text[:width]}..."
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


def counted(number: int, what: str, several: str | None = None) -> str:
    """A count with its noun: 1 line, 2 lines; `several` is an irregular plural."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {several or what + 's'}"


def listed(names: Iterable[object], most: int = 6) -> str:
    """The first names, separated by commas, and how many more there are."""
    found = list(names)
    words: list[str] = []
    for name in found[:most]:
        word = shown(name, _WIDTH // 2)
        if words and sum(map(len, words)) + len(word) > _WIDTH:
            break
        words.append(word)
    more = len(found) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")


class UertoolError(Exception):
    """An expected failure.

    Args:
        message: one sentence: the file or option, what was found, what was expected.
        hint: what to do next, or None where the message already says it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (engine.workers), so they must pickle with their hint.
        return (type(self), (self.message, self.hint))


class UsageError(UertoolError):
    """An invalid option or argument, or a combination of them."""

    exit_code = 2


class SettingError(UsageError):
    """A setting whose value is invalid.

    Args:
        field: the name of the setting.
        value: what was given.
        reason: what is expected, for example "must be at least 1".
        hint: what to do next, where the reason does not say it.
    """

    def __init__(self, field: str, value: object, reason: str, hint: str | None = None) -> None:
        found = shown(repr(value) if isinstance(value, str) else value)
        super().__init__(f"Invalid `{field}`: {found} ({reason}).", hint)
        self.field = field
        self.value = value
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.field, self.value, self.reason, self.hint))


class CheckpointError(UertoolError):
    """A weight file that is missing, broken, unsafe or not understood."""


class ConfigError(UertoolError):
    """A configuration that contradicts itself or the tensors."""


class VocabError(UertoolError):
    """A vocabulary or tokenizer that does not fit."""


class InputError(UertoolError):
    """Text or data that cannot be read."""


class OutputError(UertoolError):
    """A result that cannot be written."""


class MissingExtraError(UertoolError):
    """An optional dependency that is not installed.

    Args:
        package: the import that failed, for example "tensorflow".
        extra: the extra of uertool that brings it, for example "google".
        purpose: what needs it, for example "reading Google checkpoints".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed.",
            f"Install it with: pip install 'uertool[{extra}]'",
        )
        self.package = package
        self.extra = extra
        self.purpose = purpose

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.package, self.extra, self.purpose))


def import_extra(module: str, extra: str, purpose: str, package: str | None = None) -> Any:
    """An optional module.

    Args:
        module: what is imported.
        extra, purpose: see `MissingExtraError`.
        package: what to call it, if not by the name of the module.

    Raises:
        MissingExtraError: it is not installed, or lacks a library of the system.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise MissingExtraError(package or module, extra, purpose) from error
