"""Files that belong to a weight file: NAME.vocab.txt and NAME.config.json next to NAME.bin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def companion(path: Path, name: str) -> Path:
    """Where a weight file keeps a file of its own: model.bin, "vocab.txt" -> model.vocab.txt."""
    return path.with_name(f"{stem_of(path)}.{name}")


def find_companion(path: Path, *names: str) -> Path | None:
    """The first of `find_companions`, or None."""
    return next(find_companions(path, *names), None)


def find_companions(path: Path, *names: str) -> Iterator[Path]:
    """The existing files of the given names for a checkpoint.

    A file's own companions come first, then what else is in its folder. Of a folder, its files.
    """
    return (place for place in _places(path, names) if place.is_file())


def _places(path: Path, names: tuple[str, ...]) -> Iterator[Path]:
    if path.is_dir():
        yield from (path / name for name in names)
        return
    for stem in dict.fromkeys((stem_of(path), path.stem)):
        yield from (path.with_name(f"{stem}.{name}") for name in names)
    yield from (path.with_name(name) for name in names)


def stem_of(path: Path) -> str:
    """The name without its suffix; UER-py's training step stays: model.bin-1000 -> model-1000."""
    _, mark, step = path.suffix.partition("-")
    return path.stem + mark + step
