"""Argument forms of the old scripts, rewritten for the parser.

Typer takes one value after an option, or the option several times. UER-py's users also write
`--embedding word pos seg`, `--model_list_path a.bin b.bin`, `--do_lower_case false` and
`--tie_weight`. `normalize` rewrites these forms; everything else passes as it is. That
`--snake_case` equals `--kebab-case` needs no rewriting: the parser compares names after `kebab`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uertool.settings import Field

_TRUTH_WORDS = {"true": "true", "false": "false", "1": "true", "0": "false"}


def kebab(name: str) -> str:
    """The name of an option, command or choice with hyphens: what the parser compares."""
    return name.replace("_", "-")


def nearest(typed: str, names: Sequence[str]) -> list[str]:
    """The names with the fewest edits from what was typed, at most two; none that differs by half.

    An edit inserts, deletes or replaces a character, or exchanges two neighbours.
    """
    edits = {name: _edits(typed, name) for name in names}
    fewest = min(edits.values(), default=0)
    close = [name for name, count in edits.items() if count == fewest]
    return close[:2] if fewest <= max(1, (len(typed) - 2) // 2) else []


def _edits(one: str, other: str) -> int:
    """The optimal string alignment distance."""
    before, row = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]


def normalize(argv: Sequence[str], fields: Sequence[Field]) -> list[str]:
    """The arguments with the old forms of these fields rewritten; nothing after `--` is touched.

    - several values after one option (`Setting.several`) become one value with commas, or the
      option once for each where a value may hold commas itself;
    - a truth (`Setting.valued`) without a value means true, and `--no-...` means false.
    """
    several = {flag: field for field in fields if field.setting.several for flag in _flags(field)}
    truths = {flag for field in fields if field.setting.valued for flag in _flags(field)}
    done: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token == "--":
            return [*done, token, *rest]
        written, equals, attached = token.partition("=")
        name = kebab(written)
        if name in several:
            values = [attached] if equals else []
            while rest and _is_value(rest[0]) and (not values or _belongs(several[name], rest[0])):
                values.append(rest.pop(0))
            done.extend(_written_out(written, values, several[name]))
        elif name in truths and not equals:
            word = rest[0].lower() if rest else ""
            if word in _TRUTH_WORDS:
                rest.pop(0)
            done.extend([written, _TRUTH_WORDS.get(word, "true")])
        elif name.startswith("--no-") and "--" + name[5:] in truths:
            done.extend(["--" + name[5:], "false"])
        else:
            done.append(token)
    return done


def _flags(field: Field) -> list[str]:
    """The long options of a field."""
    return ["--" + kebab(name) for name in (field.name, *field.setting.names) if len(name) > 1]


def _belongs(field: Field, word: str) -> bool:
    """Whether a word is one more value of a field, not an argument."""
    if field.choices:
        parts = word.replace(",", " ").split()
        return all(
            part in field.choices or set(part.split("_")) <= set(field.choices) for part in parts
        )
    return field.kind is str or _number(word)


def _is_value(token: str) -> bool:
    return not token.startswith("-") or token == "-" or _number(token)


def _written_out(option: str, values: list[str], field: Field) -> list[str]:
    """The option with its values: once with commas, or once for each text."""
    if not values:
        return [option]
    if field.kind is str and not field.choices:
        return [part for value in values for part in (option, value)]
    return [option, ",".join(values)]


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
