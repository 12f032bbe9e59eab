"""Pictures of vectors: maps of sentences, cosines of pairs, and the spectrum of a whitening."""

from __future__ import annotations

import html
import json
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.engine.inputs.sources import Reading, list_sources
from uertool.errors import InputError, import_extra
from uertool.io.atomic import atomic_text
from uertool.io.vector_reader import open_vectors, sampled, spread_rows
from uertool.io.vector_writer import Note
from uertool.tasks import pictures
from uertool.tasks.features.whitening import BLOCK, Whitening, real_rows, unit_rows

Block = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

#: Suffixes of maps.
SUFFIXES = (*pictures.SUFFIXES, ".html")

#: Vectors on a map, points that get their text, and characters of it.
MAP_ROWS = 1000
LABELS = 24
LABEL_LENGTH = 12

#: Colours of classes (those of matplotlib's tab10); further classes share the last one.
_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#bcbd22", "#17becf", "#7f7f7f"),
)
_OTHERS = "other"


@dataclass(frozen=True)
class Classes:
    """Classes of points.

    Attributes:
        names: the most frequent ones, then the rest as one; a single empty name if there are none.
        of: the number of the class of every point.
    """

    names: Sequence[str]
    of: Sequence[int]

    @classmethod
    def of_values(cls, values: Sequence[str] | None, count: int) -> Classes:
        """The classes of `count` points with these values."""
        if values is None:
            return cls([""], [0] * count)
        most = len(_COLOURS) - 1
        names = [name for name, _ in Counter(values).most_common(most)]
        names = sorted(names)
        if set(values) - set(names):
            names.append(_OTHERS)
        return cls(names, [names.index(v if v in names else _OTHERS) for v in values])


def flatten(vectors: Block) -> Points:
    """Vectors [n, size] along the two directions of largest variance [n, 2].

    Principal components by singular values of the centred vectors (Pearson 1901).
    """
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    kept = min(2, len(values))
    points[:, :kept] = left[:, :kept] * values[:kept]
    return points


def positions(vectors: Block) -> Points:
    """Places of vectors [n, size] on a map [n, 2], between 0 and 1: near ones stay near.

    t-SNE of cosine distances (van der Maaten and Hinton 2008), which begins with the principal
    components. These alone would show nothing after a whitening, since no direction has more
    variance than others.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    import_extra("sklearn", "plot", "Drawing a map of vectors", "scikit-learn")
    from sklearn.manifold import TSNE

    points = flatten(unit_rows(vectors))
    spread = points.std() or 1.0
    tsne = TSNE(
        metric="cosine",
        init=(points / spread * 1e-4).astype(np.float32),
        perplexity=min(30.0, (len(vectors) - 1) / 3),
        random_state=0,
    )
    placed = tsne.fit_transform(unit_rows(vectors)).astype(np.float64)
    placed -= placed.min(axis=0)
    scaled: Points = placed / (placed.max(axis=0) + 1e-12)
    return scaled


def similarities(vectors: Block) -> npt.NDArray[np.float32]:
    """The cosines of all pairs of vectors [n, size], each pair once."""
    units = unit_rows(vectors)
    chosen: npt.NDArray[np.float32] = (units @ units.T)[np.triu_indices(len(units), k=1)]
    return chosen


def require_map(path: Path) -> None:
    """Check early that a map with this name can be drawn; see `pictures.require_drawing`."""
    pictures.require_drawing(path, overwrite=True, suffixes=SUFFIXES)


def draw_vectors(
    path: Path,
    before: Block,
    after: Block,
    notes: list[Note],
    *,
    classes_of: Callable[[Sequence[int]], Mapping[int, str]] | None = None,
    overwrite: bool = True,
) -> list[str]:
    """A map of the vectors and histograms of cosines; if they are whitened, before and after.

    Args:
        path: .png, .svg or .pdf; .html is a map that shows the text under the pointer.
        before: vectors as the model gave them [n, size].
        after: the same vectors as they are written [n, size]; the same ones if nothing was done.
        notes: what each is of.
        classes_of: the classes of lines by their numbers, or None.
        overwrite: whether an existing file may be replaced.

    Returns:
        What a user should know, in sentences.

    Raises:
        InputError: there are fewer than three vectors.
        MissingExtraError: there is no matplotlib or scikit-learn.
    """
    if len(after) < 3:
        raise InputError(f"A map of {len(after)} vectors shows nothing.", "Give more lines.")
    require_map(path)
    rows = spread_rows(len(after), MAP_ROWS)
    notes = [notes[row] for row in rows.tolist()]
    values = None
    if classes_of is not None:
        known = classes_of([note.line for note in notes])
        values = [known.get(note.line, "") for note in notes]
    classes = Classes.of_values(values, len(rows))
    sets = [("original", before)]
    if before.shape != after.shape or not np.allclose(unit_rows(before), unit_rows(after)):
        sets.append(("whitened", after))
    maps = [(name, positions(vectors[rows])) for name, vectors in sets]
    if path.suffix.lower() == ".html":
        _write_html(path, maps, notes, classes, overwrite)
        return []
    widths = [*(3 for _ in maps), 2.4]
    size = (2.1 * sum(widths), 5.6)
    with pictures.drawing(
        path, *size, overwrite=overwrite, ncols=len(widths), width_ratios=widths
    ) as axes:
        for place, (name, points) in zip(axes, maps, strict=False):
            _map(place, points, notes, classes)
            place.set_title(f"{len(points):,} {name} vectors (t-SNE)")
        cosines = [(name, similarities(vectors)) for name, vectors in sets]
        pictures.histogram(axes[-1], cosines)
        if len(classes.names) > 1:
            axes[0].legend(fontsize=8, markerscale=2, loc="best")
    return pictures.remarks("".join(note.text for note in notes))


def _map(axes: Any, points: Points, notes: list[Note], classes: Classes) -> None:
    from matplotlib.patheffects import withStroke

    of = np.array(classes.of)
    for number, name in enumerate(classes.names):
        chosen = points[of == number]
        colour = _COLOURS[min(number, len(_COLOURS) - 1)]
        axes.scatter(*chosen.T, s=9, alpha=0.6, linewidths=0, color=colour, label=name)
    axes.set(xticks=[], yticks=[], xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.figure.draw_without_rendering()
    taken: list[Any] = []
    frame = axes.get_window_extent()
    for row in _spread(points):
        at_right = points[row, 0] > 0.5
        text = axes.annotate(
            _label(notes[row]),
            points[row],
            xytext=(-4 if at_right else 4, 0),
            textcoords="offset points",
            ha="right" if at_right else "left",  # into the axes, not out of them
            va="center",
            fontsize=7.5,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        text.set_in_layout(False)
        box = text.get_window_extent().expanded(1.04, 1.3)
        inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
        if not inside or any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


def _label(note: Note) -> str:
    # Without such a font Chinese would be drawn as boxes; the number finds the line.
    if note.text.isascii() or pictures.chinese_font() is not None:
        return pictures.label(note.text, LABEL_LENGTH)
    return f"line {note.line + 1}"


def _spread(points: Points) -> list[int]:
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


def _write_html(
    path: Path,
    maps: Sequence[tuple[str, Points]],
    notes: list[Note],
    classes: Classes,
    overwrite: bool,
) -> None:
    data = {
        "maps": [
            {"title": f"{name} vectors", "points": points.round(4).tolist()}
            for name, points in maps
        ],
        "lines": [note.line + 1 for note in notes],
        "texts": [note.text for note in notes],
        "names": classes.names,
        "classes": classes.of,
        "colours": _COLOURS,
    }
    template = string.Template(Path(__file__).with_name("map.html").read_text("utf-8"))
    page = template.substitute(
        title=html.escape(f"Map of {len(notes):,} sentences"),
        about="Near points have similar vectors (t-SNE of cosines). Point at one to read it.",
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
    )
    with atomic_text(path, overwrite=overwrite) as stream:
        stream.write(page)


def read_sample(paths: Sequence[str], rows: int) -> Block:
    """At most `MAP_ROWS` rows of files, evenly spread over all of their `rows` rows."""
    sources = list_sources(paths, Reading(whole=True))
    blocks = (block for one in sources for block in open_vectors(one.path).blocks(BLOCK))
    sample, _ = sampled(blocks, rows, MAP_ROWS)
    return sample[real_rows(sample)]


def draw_whitening(path: Path, whitening: Whitening, sample: Block, *, overwrite: bool) -> None:
    """The spectrum of the covariance that a whitening was fitted on, and cosines before and after.

    Args:
        path: .png, .svg or .pdf.
        whitening: the whitening.
        sample: vectors that are not whitened [n, dims].
        overwrite: whether an existing file may be replaced.
    """
    shares = (whitening.variances / whitening.variances.sum())[: whitening.rank]
    numbers = np.arange(1, len(shares) + 1)  # directions that vary
    with pictures.drawing(path, 11, 4.6, overwrite=overwrite, ncols=2) as (left, right):
        left.semilogy(numbers, shares, label="variance of a direction")
        left.semilogy(numbers, np.cumsum(shares), label="sum so far")
        left.axvline(whitening.size, color="grey", linestyle="--", linewidth=1)
        kept = f"{whitening.size} of {whitening.dims} directions"
        kept += f": {whitening.explained:.1%} of the variance"
        left.set(xlabel="direction", ylabel="share of the variance", title=kept)
        left.spines[["top", "right"]].set_visible(False)
        left.legend(frameon=False)
        sets = [("original", sample), ("whitened", whitening.transform(sample))]
        cosines = [(name, similarities(vectors)) for name, vectors in sets]
        pictures.histogram(right, cosines)
