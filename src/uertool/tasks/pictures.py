"""Pictures as files: figures without a display, with a font that has Chinese characters."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uertool.errors import UsageError, import_extra
from uertool.io.atomic import atomic_path, refuse_existing

#: Formats that matplotlib writes.
SUFFIXES = (".png", ".svg", ".pdf")

#: Groups of bars that a picture has room for, and characters of a label.
MOST_GROUPS = 8
LABEL_LENGTH = 24

#: Fonts with Chinese characters, by the names they have on the usual systems.
_CHINESE = (
    "Noto Sans CJK SC",
    "Noto Serif CJK SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "STHeiti",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "SimHei",
    "SimSun",
    "Droid Sans Fallback",
)
#: Characters that a font must have; the "Last Resort" font has boxes for all.
_NEEDED = "中文汉語的一"
_BOXES = "Last Resort"

NO_FONT = (
    "No font of this system has Chinese characters, so the picture has line numbers or boxes in "
    "their place; install one, for example with: apt install fonts-noto-cjk"
)


def require_drawing(
    path: Path | None, *, overwrite: bool = False, suffixes: Sequence[str] = SUFFIXES
) -> None:
    """Check early that a picture with this name can be drawn, if one was requested.

    Raises:
        UsageError: another suffix.
        OutputError: it exists already.
        MissingExtraError: there is no matplotlib.
    """
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"A picture is written as {', '.join(suffixes)}, not as {path}.",
            f"For example: {path.with_suffix('.png')}",
        )
    refuse_existing(path, overwrite)
    import_extra("matplotlib", "plot", "Drawing pictures")


@contextmanager
def drawing(
    path: Path, width: float, height: float, *, overwrite: bool = False, **layout: Any
) -> Iterator[Any]:
    """Yield the axes of a figure that is saved when the block ends well.

    Args:
        path: its suffix is the format.
        width, height: in inches.
        overwrite: whether an existing file may be replaced.
        layout: arguments of matplotlib's `Figure.subplots`.
    """
    require_drawing(path, overwrite=overwrite)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    font = chinese_font()
    fonts = ["DejaVu Sans"] if font is None else [font, "DejaVu Sans"]
    with (
        rc_context({"axes.unicode_minus": False, "font.sans-serif": fonts}),
        warnings.catch_warnings(),
    ):
        # Emoji, for example, are boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        # A figure of its own, not pyplot's: no window, no state that others share.
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(**layout)
        with atomic_path(path, overwrite=overwrite) as partial:
            figure.savefig(partial, format=path.suffix.lower()[1:], dpi=130)


@functools.cache
def chinese_font() -> str | None:
    """A font of this system that has Chinese characters, or None."""
    from matplotlib import font_manager

    fonts = font_manager.fontManager
    found = _chosen({entry.name: entry.fname for entry in fonts.ttflist})
    if found is not None:
        return found
    known = {entry.fname for entry in fonts.ttflist}
    for path in font_manager.findSystemFonts():  # fonts that were installed after the last look
        if path not in known:
            try:
                fonts.addfont(path)
            except Exception:  # no font that matplotlib reads
                continue
    return _chosen({e.name: e.fname for e in fonts.ttflist if e.fname not in known})


def _chosen(fonts: Mapping[str, str]) -> str | None:
    """Of fonts by their names, the best one that has Chinese characters."""
    usual = [name for name in _CHINESE if name in fonts]
    others = sorted(name for name in fonts if name not in usual and _BOXES not in name)
    return next((name for name in [*usual, *others] if _has_chinese(fonts[name])), None)


def _has_chinese(path: str) -> bool:
    from matplotlib.ft2font import FT2Font

    try:
        characters = FT2Font(path).get_charmap()
    except Exception:  # no font that matplotlib reads
        return False
    return all(ord(char) in characters for char in _NEEDED)


def label(text: str, length: int = LABEL_LENGTH) -> str:
    """A text as a label: one line, cut at a length, without marks of formulas."""
    line = " ".join(text.split())
    return (line if len(line) <= length else line[: length - 1] + "…").replace("$", r"\$")


def bars(
    path: Path,
    groups: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    *,
    measure: str = "cosine",
    overwrite: bool = False,
) -> list[str]:
    """Groups of labels with their numbers, as bars that start at zero.

    Args:
        path: .png, .svg or .pdf.
        groups: titles with their labels and numbers; the first `MOST_GROUPS` are drawn.
        measure: what the numbers are.
        overwrite: whether an existing file may be replaced.

    Returns:
        What a user should know, in sentences.
    """
    groups = [group for group in groups if group[1]][:MOST_GROUPS]
    columns = min(2, max(1, len(groups)))
    rows = max(1, -(-len(groups) // columns))
    most = max((len(entries) for _, entries in groups), default=1)
    scores = [score for _, entries in groups for _, score in entries]
    low, high = min([0.0, *scores]), max([1e-9, *scores])
    size = (6.5 * columns, rows * (1.1 + 0.28 * most))
    grid = {"nrows": rows, "ncols": columns, "squeeze": False}
    with drawing(path, *size, overwrite=overwrite, **grid) as axes:
        places = axes.ravel().tolist()
        for place, (title, entries) in zip(places, groups, strict=False):
            names = [label(name) for name, _ in entries]
            drawn = place.barh(range(len(entries)), [score for _, score in entries], height=0.7)
            place.bar_label(drawn, fmt="%.3f", padding=3, fontsize=8)
            place.set_yticks(range(len(entries)), names, fontsize=9)
            place.invert_yaxis()
            place.set_xlim(1.15 * low, 1.15 * high)
            place.spines[["top", "right"]].set_visible(False)
            place.set_xlabel(measure, fontsize=9)
            place.set_title(label(title, 40), fontsize=11, loc="left")
        for place in places[len(groups) :]:
            place.set_axis_off()
    texts = [title + "".join(name for name, _ in entries) for title, entries in groups]
    return remarks("".join(texts))


def remarks(text: str) -> list[str]:
    """What a user should know if some text is drawn: that there is no font for it."""
    return [] if text.isascii() or chinese_font() is not None else [NO_FONT]


def histogram(axes: Any, sets: Sequence[tuple[str, Any]]) -> None:
    """Distributions of the cosines of all pairs, each with its name and mean in the legend."""
    import numpy as np

    low = min(0.99, *(float(values.min()) for _, values in sets))
    bins = np.linspace(np.floor(low * 10) / 10, 1, 81).tolist()
    for name, values in sets:
        legend = f"{name}, mean {_rounded(values)}"
        axes.hist(np.minimum(values, 1), bins=bins, alpha=0.6, density=True, label=legend)
    axes.set(xlabel="cosine", ylabel="density", title="Cosines of all pairs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _rounded(values: Any) -> str:
    """The mean to three digits, without the sign of a zero."""
    return f"{round(float(values.mean()), 3) + 0.0:.3f}"
