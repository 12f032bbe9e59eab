"""Fill the option tables of docs/ from the declarations of the settings, and write the stub.

    python tools/option_tables.py            # rewrite the pages
    python tools/option_tables.py --check    # only report pages that are out of date

A page marks a table with the settings dataclass that it shows:

    <!-- options: uertool.loading.settings.ModelSettings -->
    <!-- end -->
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

from uertool.settings import Field, Settings, fields_of

DOCS = Path(__file__).parents[1] / "docs"
MARKED = re.compile(r"(<!-- options: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADER = "| option | value | default | meaning |\n|---|---|---|---|\n"
KINDS = {int: "integer", float: "number", str: "text", Path: "path"}


def page_with_tables(text: str) -> str:
    """The text of a page with every marked table written anew."""
    return MARKED.sub(lambda found: found[1] + table(settings_named(found[2])) + found[3], text)


def settings_named(name: str) -> type[Settings]:
    """The settings dataclass with a dotted name."""
    module, _, kind = name.rpartition(".")
    found: type[Settings] = getattr(importlib.import_module(module), kind)
    return found


def table(kind: type[Settings]) -> str:
    """A Markdown table with a row for each option that help lists."""
    return HEADER + "".join(row(field) for field in fields_of(kind) if not field.setting.hidden)


def row(field: Field) -> str:
    meaning = field.setting.help
    if field.setting.environment is not None:
        meaning += f" (environment: `{field.setting.environment}`)"
    cells = (names(field), values(field), default(field), meaning)
    escaped = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"


def names(field: Field) -> str:
    """The option's names as they are typed."""
    found = []
    for name in (field.name, *field.setting.names):
        found.append(("-" if len(name) == 1 else "--") + name.replace("_", "-"))
    if is_switch(field) and (field.default is True or field.optional):
        found.insert(1, "--no-" + found[0].removeprefix("--"))
    return ", ".join(f"`{name}`" for name in found)


def is_switch(field: Field) -> bool:
    return field.kind is bool and not field.setting.valued


def values(field: Field) -> str:
    """What the option takes: its choices, or its type and bounds; nothing for a switch."""
    if is_switch(field):
        return ""
    if field.kind is bool:
        return "`true`, `false`"
    if field.choices:
        found = ", ".join(f"`{choice}`" for choice in field.choices)
    else:
        kind = field.setting.metavar or KINDS[field.kind]
        found = " ".join(filter(None, (kind, field.setting.range)))
    return found + (" (several)" if field.is_tuple else "")


def default(field: Field) -> str:
    """What happens without the option."""
    if field.setting.default is not None:
        return field.setting.default
    if field.default is None or field.default == ():
        return ""
    if is_switch(field):
        return "on" if field.default else "off"
    value = field.default
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"`{str(value).lower() if field.kind is bool else value}`"


def main() -> int:
    """Rewrite the pages, or with --check report whether that would change them."""
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text("utf-8")
        if (new := page_with_tables(text)) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new, "utf-8")
    print(f"Pages with changed tables: {', '.join(stale) or 'none'}")
    # The stub of the Python functions has the same settings.
    stub = subprocess.run(
        [sys.executable, Path(__file__).with_name("python_stub.py"), *sys.argv[1:]]
    )
    return 1 if stub.returncode or (stale and "--check" in sys.argv) else 0


if __name__ == "__main__":
    sys.exit(main())
