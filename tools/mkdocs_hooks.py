"""The documentation site: pages that are made of other files, and its two languages."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from rich.console import Console

from uertool.cli.app import COMMANDS, load_command
from uertool.cli.argv import kebab
from uertool.cli.render.help import help_of

ROOT = Path(__file__).parents[1]
#: Files outside of docs/ -> their pages; links to them are changed accordingly.
PAGES = {
    "README.md": "index.md",
    "README.zh.md": "zh/index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.md",
    **{
        f"src/uertool/assets/{name}/README.md": f"models/{name}.md"
        for name in ("zh-mlm-small", "zh-lm-small")
    },
}
CHINESE = "zh/"
WIDTH = 92


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    made = {page: moved(name, page) for name, page in PAGES.items()}
    made["reference.md"] = reference()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_context(
    context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Navigation
) -> dict[str, Any]:
    """Show a page with the menu and labels of its language, and switch to the same page."""
    chinese = is_chinese(page)
    config.theme["language"] = "zh" if chinese else "en"
    pages = {found.file.src_uri: found for found in nav.pages}
    twins = {CHINESE + uri: found for uri, found in pages.items()}
    english = twins.get(page.file.src_uri, page)
    both = english, pages.get(CHINESE + english.file.src_uri, pages[CHINESE + "index.md"])
    for choice, found in zip(config.extra["alternate"], both, strict=True):
        choice["link"] = found.url
    shown = [found for found in nav.pages if is_chinese(found) == chinese]
    menu = Navigation(list(shown), shown)
    menu.homepage = shown[0]
    return {**context, "nav": menu}


def is_chinese(page: Page) -> bool:
    return page.file.src_uri.startswith(CHINESE)


def moved(name: str, page: str) -> str:
    """The text of a file with its links as they are from its page."""
    text = (ROOT / name).read_text("utf-8")
    if name == "LICENSE":
        return f"# Licence\n\n```text\n{text}```\n"
    up = "../" * page.count("/")

    def link(found: re.Match[str]) -> str:
        target, mark, anchor = found[1].partition("#")
        there = PAGES.get(target, target.removeprefix("docs/"))
        return f"]({up}{there}{mark}{anchor})" if target else found[0]

    return re.sub(r"\]\((?!https?:)([^)]+)\)", link, text)


def slug(text: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", separator)


def reference() -> str:
    """Every command with all its options."""
    parts = ["# Command reference\n\nEvery command as `--help-all` prints it.\n"]
    for entry in COMMANDS:
        for path, context in contexts(load_command(entry.name), (entry.name,)):
            parts.append(f"## uertool {' '.join(path)}\n\n```text\n{printed(context)}```\n")
    return "\n".join(parts)


def contexts(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The parser's contexts of the commands of a group, or of a command."""
    below = getattr(command, "commands", None)
    if below:
        for name, found in below.items():
            yield from contexts(found, (*path, name))
        return
    name = " ".join(("uertool", *path))
    yield (
        path,
        command.make_context(name, [], resilient_parsing=True, token_normalize_func=kebab),
    )


def printed(context: Any) -> str:
    """The help of a command as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(help_of(context, complete=True))
    lines = console.file.getvalue().rstrip().splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)
