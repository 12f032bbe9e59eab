"""The cosines of nearest lines as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from uertool.tasks.pictures import drawing
from uertool.tasks.search.vectors import Floats


def draw_nearest(
    path: Path, cosines: Floats, threshold: float | None, *, overwrite: bool = False
) -> None:
    """How near the nearest other line is, for a sample of lines.

    Args:
        path: .png, .svg or .pdf.
        cosines: of the sampled lines with their nearest ones.
        threshold: is marked, if there is one.
        overwrite: whether an existing file may be replaced.
    """
    low = float(np.floor(min(0.99, *cosines) * 20) / 20)
    bins = np.linspace(low, 1, 81)
    with drawing(path, 9, 5, overwrite=overwrite) as axes:
        axes.hist(np.clip(cosines, low, 1), bins=bins.tolist(), color="#1f77b4", alpha=0.75)
        axes.set(xlabel="cosine with the nearest other line", ylabel="lines", xlim=(low, 1.005))
        mark = "" if threshold is None else f", threshold {threshold:g}"
        axes.set_title(f"Nearest neighbours of {len(cosines):,} lines{mark}")
        axes.spines[["top", "right"]].set_visible(False)
        # The share above each cosine is what a threshold leaves out, or a little more.
        above = axes.twinx()
        ordered = np.sort(cosines)
        shares = 100 * (1 - np.arange(len(ordered)) / len(ordered))
        above.plot(ordered, shares, color="#d62728")
        above.set_ylabel("lines with a cosine above, in percent", color="#d62728")
        above.set_ylim(0, 100)
        above.spines["top"].set_visible(False)
        if threshold is not None:
            axes.axvline(threshold, color="black", linestyle="--")
