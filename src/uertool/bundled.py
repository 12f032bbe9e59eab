"""Paths of what the package contains: models, presets of configurations, a demo text."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_ASSETS = _PACKAGE / "assets"
#: A wheel has the presets next to the code, a checkout at its root.
_PRESET_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")
_SUFFIX = "_config.json"

DEMO_TEXT = _ASSETS / "demo_zh.txt"


def bundled_models() -> dict[str, Path]:
    """The models that need no download: name -> folder of weights, config.json and vocab.txt."""
    return {folder.parent.name: folder.parent for folder in sorted(_ASSETS.glob("*/config.json"))}


def presets() -> dict[str, Path]:
    """The configurations of known sizes: "bert/base" -> its JSON file."""
    for folder in _PRESET_FOLDERS:
        if (folder / "bert").is_dir():
            return {
                path.relative_to(folder).as_posix().removesuffix(_SUFFIX): path
                for path in sorted(folder.rglob(f"*{_SUFFIX}"))
            }
    return {}


def find_config(reference: str | Path) -> Path | None:
    """The file of a configuration: a path that exists, or a preset.

    A preset is `bert/base` or, as in UER-py's documentation, `models/bert/base_config.json`, so
    that old command lines run outside of its checkout. None if there is neither.
    """
    path = Path(reference)
    if path.exists():
        return path
    name = path.as_posix().removesuffix(_SUFFIX).removeprefix("./").removeprefix("models/")
    return presets().get(name)
