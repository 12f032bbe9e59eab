"""What may be imported at start-up, by layer; `make lint` checks the order of the layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TESTS

SOURCE = TESTS.parent / "src" / "uertool"
MODULES = sorted(SOURCE.rglob("*.py"))

#: What may be imported at module level besides the standard library, by layer.
AT_START = {
    "api": {"numpy"},
    "cli": {"typer"},
    "io": {"torch", "numpy"},
    "checkpoints": {"torch", "numpy"},
    "models": {"torch", "numpy"},
    "loading": {"torch", "numpy"},
    "engine": {"torch", "numpy"},
    "tasks": {"torch", "numpy"},
}

OURS_OR_STANDARD = {"uertool", *__import__("sys").stdlib_module_names}


def imports(tree: ast.AST, *, nested: bool) -> Iterator[str]:
    """Names of imported modules; without `nested` only those that importing the file loads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            and not nested
            or isinstance(node, ast.If)
            and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            continue
        else:
            yield from imports(node, nested=nested)


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_importing_a_file_loads_only_what_its_layer_stands_on(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    roots = {name.split(".")[0] for name in imports(tree, nested=False)}
    assert roots - OURS_OR_STANDARD - AT_START.get(layer_of(path), set()) == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_opens_with_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    text = ast.get_docstring(tree)
    assert text
    assert len(text.splitlines()[0]) <= 100
