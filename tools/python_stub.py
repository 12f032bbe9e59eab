"""Write src/uertool/__init__.pyi: the signatures of the functions in Python, for type checkers.

    python tools/python_stub.py            # rewrite the stub
    python tools/python_stub.py --check    # only report whether it is out of date

Functions of settings (`uertool.settings.as_keywords`) get their keywords when they are imported;
type checkers and editors read them here.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uertool

STUB = Path(uertool.__file__).with_suffix(".pyi")
HEAD = '''"""The public names with their types; written by `python tools/python_stub.py`."""

from __future__ import annotations

'''


class Names:
    """Writes types as text, and knows what must be imported for them."""

    def __init__(self) -> None:
        self.modules: dict[str, set[str]] = {}

    def use(self, module: str, name: str) -> str:
        """A name of a module, which is imported unless the stub itself defines it."""
        is_here = module.startswith("uertool.api.") and name in uertool.PUBLIC
        if module != "builtins" and not is_here:
            self.modules.setdefault(module.replace("pathlib._local", "pathlib"), set()).add(name)
        return name

    def written(self, kind: Any) -> str:
        """A type as text."""
        origin, given = typing.get_origin(kind), typing.get_args(kind)
        if kind in (None, type(None)):
            return "None"
        if kind is Any:
            return self.use("typing", "Any")
        if origin in (typing.Union, types.UnionType):
            return " | ".join(map(self.written, given))
        if origin is typing.Literal:
            return f"{self.use('typing', 'Literal')}[{', '.join(map(repr, given))}]"
        if getattr(origin, "__name__", "") == "ndarray":
            self.modules.setdefault("numpy", set())
            number = typing.get_args(given[1])[0].__name__
            return f"{self.use('numpy.typing', 'NDArray')}[numpy.{number}]"
        if getattr(kind, "__module__", "") == "torch":
            self.modules.setdefault("torch", set())
            return f"torch.{kind.__name__}"
        if origin is not None:
            inner = ", ".join("..." if one is ... else self.written(one) for one in given)
            return f"{self.use(origin.__module__, origin.__name__)}[{inner}]"
        return self.use(kind.__module__, kind.__name__)

    def function(self, name: str, function: Any, indent: str = "") -> str:
        """The stub of a function."""
        signature = inspect.signature(function)
        lines = [f"{indent}def {name}("]
        starred = False
        for number, one in enumerate(signature.parameters.values()):
            if one.kind is one.KEYWORD_ONLY and not starred:
                lines.append(f"{indent}    *,")
                starred = True
            own = indent and number == 0
            kind = "" if own else f": {self.written(one.annotation)}"
            default = "" if one.default is one.empty else f" = {_value(one.default)}"
            lines.append(f"{indent}    {'self' if own else one.name}{kind}{default},")
        result = self.written(signature.return_annotation)
        lines.append(f"{indent}) -> {result}: ...")
        return "\n".join(lines) + "\n"

    def imports(self) -> Iterator[str]:
        """The import statements."""
        for module, names in sorted(self.modules.items()):
            if names:
                yield f"from {module} import {', '.join(sorted(names))}\n"
            else:
                yield f"import {module}\n"


def _value(default: Any) -> str:
    return repr(default) if isinstance(default, (bool, int, float, str, tuple)) else "None"


def resolved(function: Any) -> Any:
    """A plain function with its annotations as types."""
    if not hasattr(function, "__signature__"):
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function)
        function.__signature__ = signature.replace(
            parameters=[
                p.replace(annotation=hints.get(n)) for n, p in signature.parameters.items()
            ],
            return_annotation=hints["return"],
        )
    return function


def stub() -> str:
    """The text of the stub."""
    names = Names()
    parts = []
    for name, module in uertool.PUBLIC.items():
        value = getattr(uertool, name)
        if not (module.startswith("uertool.api.") or hasattr(value, "__signature__")):
            names.use(module, name)
        elif inspect.isclass(value):
            (base,) = value.__bases__
            parts.append(f"class {name}({names.written(base)}):\n")
            for method, function in vars(value).items():
                if inspect.isfunction(function):
                    parts[-1] += names.function(method, resolved(function), "    ")
        else:
            parts.append(names.function(name, resolved(value)))
    listed = "".join(f'    "{name}",\n' for name in uertool.__all__)
    version = "__version__: str\n"
    body = "\n".join([version, f"__all__ = [\n{listed}]\n", *parts])
    return HEAD + "".join(names.imports()) + "\n" + body


def main() -> int:
    """Rewrite the stub, or with --check report whether that would change it."""
    text = stub()
    stale = not STUB.exists() or STUB.read_text("utf-8") != text
    if stale and "--check" not in sys.argv:
        STUB.write_text(text, "utf-8")
    print(f"{STUB.name} {'was out of date' if stale else 'is up to date'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
