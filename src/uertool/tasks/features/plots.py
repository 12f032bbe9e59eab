"""Pictures of vectors: a map in two dimensions, and how similar pairs of them are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, MissingExtraError, UsageError
from uertool.io.atomic import atomic_path, refuse_existing
from uertool.io.vector_writer import Note
from uertool.tasks.features.whitening import unit_rows

Block = npt.NDArray[np.float32]

#: What matplotlib may be asked to write.
SUFFIXES = (".png", ".svg", ".pdf")
#: Points that get their text, and characters of it.
LABELS = 24
LABEL_LENGTH = 12

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


def require_drawing(path: Path, *, overwrite: bool = False) -> None:
    """See early that a picture of this name can be drawn.

    Raises:
        UsageError: another suffix.
        OutputError: it exists already.
        MissingExtraError: there is no matplotlib.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"A picture is written as {', '.join(SUFFIXES)}, not as {path}.",
            f"For example: {path.with_suffix('.png')}",
        )
    refuse_existing(path, overwrite)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "Drawing a map of vectors") from None


def flatten(vectors: Block) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Vectors [n, size] along the two directions of largest variance [n, 2], and their shares [2].

    Principal components by singular values of the centred vectors (Pearson 1901).
    """
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    shares = np.zeros(2)
    kept = min(2, len(values))
    points[:, :kept] = left[:, :kept] * values[:kept]
    total = float((values**2).sum())
    shares[:kept] = (values[:kept] ** 2) / total if total > 0 else 0.0
    return points, shares


def similarities(vectors: Block) -> npt.NDArray[np.float32]:
    """The cosines of all pairs of vectors [n, size], each pair once."""
    units = unit_rows(vectors)
    chosen: npt.NDArray[np.float32] = (units @ units.T)[np.triu_indices(len(units), k=1)]
    return chosen


def draw_vectors(
    path: Path, before: Block, after: Block, notes: list[Note], *, overwrite: bool = True
) -> None:
    """A map of the vectors with some of their texts, and histograms of cosines.

    Args:
        path: .png, .svg or .pdf.
        before: vectors as the model gave them [n, size].
        after: the same vectors as they are written [n, size]; the same ones if nothing was done.
        notes: what each is of.
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: there are fewer than three vectors.
        MissingExtraError: there is no matplotlib.
    """
    if len(after) < 3:
        raise InputError(f"A map of {len(after)} vectors shows nothing.", "Give more lines.")
    require_drawing(path, overwrite=overwrite)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    font = chinese_font()
    settings: dict[str, Any] = {"axes.unicode_minus": False}
    if font is not None:
        settings["font.sans-serif"] = [font, "DejaVu Sans"]
    with rc_context(settings):
        # A figure of its own, not pyplot's: no window, no state that others share.
        figure = Figure(figsize=(13, 6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _map(left, before, notes, font is not None)
        _histogram(right, before, after)
        with atomic_path(path, overwrite=overwrite) as partial:
            figure.savefig(partial, format=path.suffix.lower()[1:], dpi=130)


def chinese_font() -> str | None:
    """A font of this system that has Chinese characters, or None."""
    from matplotlib import font_manager

    there = {entry.name for entry in font_manager.fontManager.ttflist}
    return next((name for name in _CHINESE if name in there), None)


def _map(axes: Any, vectors: Block, notes: list[Note], has_font: bool) -> None:
    points, shares = flatten(vectors)
    axes.scatter(points[:, 0], points[:, 1], s=8, alpha=0.5, linewidths=0)
    for row in _spread(points):
        note = notes[row]
        text = note.text.strip()
        # Without such a font Chinese would be drawn as boxes; the number finds the line.
        shown = text[:LABEL_LENGTH] if has_font or text.isascii() else f"line {note.line + 1}"
        axes.annotate(shown.replace("$", r"\$"), points[row], fontsize=7, alpha=0.9)
    axes.set(
        xlabel=f"first direction, {shares[0]:.1%} of the variance",
        ylabel=f"second direction, {shares[1]:.1%}",
        title=f"{len(vectors):,} vectors",
    )


def _spread(points: npt.NDArray[np.float64]) -> list[int]:
    """Rows of points that lie far from each other: each is the farthest from those before it."""
    middle = np.abs(points - np.median(points, axis=0)).sum(axis=1)
    chosen = [int(middle.argmin())]
    distance = np.full(len(points), np.inf)
    for _ in range(min(LABELS, len(points)) - 1):
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        if distance.max() == 0:
            break
        chosen.append(int(distance.argmax()))
    return chosen


def _histogram(axes: Any, before: Block, after: Block) -> None:
    bins = np.linspace(-1, 1, 81).tolist()
    changed = before.shape != after.shape or not np.array_equal(before, after)
    both = [(before, "as the model gives them"), (after, "as written")]
    for vectors, name in both if changed else both[:1]:
        cosines = similarities(vectors)
        axes.hist(
            cosines, bins=bins, alpha=0.6, density=True, label=f"{name}, mean {cosines.mean():.3f}"
        )
    axes.set(xlabel="cosine of a pair", ylabel="density", title="Similarity of all pairs")
    axes.legend()
