"""The layers keep their arrows: who may import whom, and what may be imported at start-up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TESTS

SOURCE = TESTS.parent / "src" / "uertool"
MODULES = sorted(SOURCE.rglob("*.py"))

#: Layer -> the layers that it may import from, besides itself.
BELOW = {
    "errors": set(),
    "files": {"errors"},
    "bundled": {"errors"},
    "text": {"errors", "files"},
    "checkpoints": {"errors", "files"},
    "models": {"errors", "files", "bundled", "text", "checkpoints"},
    "engine": {"errors", "files", "text", "checkpoints", "models"},
    "tasks": {"errors", "files", "bundled", "text", "checkpoints", "models", "engine"},
    "cli": {"errors", "files", "bundled", "text", "checkpoints", "models", "engine", "tasks"},
}

#: Arrows against the order that are meant: the weight tables speak of ModelConfig, which is plain
#: data, a loaded model's methods hand over to the tasks when they are called, and a model is asked
#: for by the name of a device, which the engine understands.
MEANT = {
    ("checkpoints", "uertool.models.config"),
    ("models/registry.py", "uertool.engine.device"),
    ("models/registry.py", "uertool.tasks"),
}

#: What may be imported at module level besides the standard library, by layer.
AT_START = {
    "cli": {"typer"},
    "checkpoints": {"torch", "numpy"},
    "models": {"torch", "numpy"},
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


def is_meant(path: Path, module: str) -> bool:
    place = path.relative_to(SOURCE).as_posix()
    return any(place.startswith(where) and module.startswith(what) for where, what in MEANT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    layer = layer_of(path)
    if layer not in BELOW:
        return  # __init__ and __main__ open the house
    tree = ast.parse(path.read_text("utf-8"))
    used = {name for name in imports(tree, nested=True) if name.startswith("uertool.")}
    allowed = BELOW[layer] | {layer}
    wrong = {n for n in used if n.split(".")[1] not in allowed and not is_meant(path, n)}
    assert wrong == set()


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
