"""What may be imported at start-up, by layer; `make lint` checks the order of the layers."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TESTS

SOURCE = TESTS.parent / "src" / "uertool"
MODULES = sorted(SOURCE.rglob("*.py"))

#: What may be imported at module level besides the standard library, by layer or file.
AT_START = {
    "api": {"numpy", "torch"},
    "cli": {"typer"},
    "cli/render/help.py": {"rich"},  # imported when help is printed
    "io": {"torch", "numpy"},
    "checkpoints": {"torch"},
    "models": {"torch"},
    "loading": {"torch"},
    "engine": {"torch", "numpy"},
    "tasks": {"torch", "numpy"},
}

OURS_OR_STANDARD = {"uertool", *sys.stdlib_module_names}


def imports(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that importing the file loads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif not is_lazy(node):
            yield from imports(node)


def is_lazy(node: ast.AST) -> bool:
    """Whether importing the file does not run what is in the node."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def others_at_start(path: Path) -> set[str]:
    """The libraries of others that importing the file loads."""
    tree = ast.parse(path.read_text("utf-8"))
    return {name.split(".")[0] for name in imports(tree)} - OURS_OR_STANDARD


def layer_of(path: Path) -> str:
    name = path.relative_to(SOURCE).as_posix()
    return name if name in AT_START else name.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_importing_a_file_loads_only_what_its_layer_allows(path: Path) -> None:
    assert others_at_start(path) <= AT_START.get(layer_of(path), set())


@pytest.mark.parametrize("layer", AT_START)
def test_a_layer_is_allowed_only_what_it_uses(layer: str) -> None:
    used = {name for path in MODULES if layer_of(path) == layer for name in others_at_start(path)}
    assert used == AT_START[layer]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_opens_with_a_short_summary(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert text
    assert len(text.splitlines()[0]) <= 100
