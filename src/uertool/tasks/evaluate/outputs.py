"""What `whiten tune` writes: the best whitening, and a picture of what was tried."""

from __future__ import annotations

from pathlib import Path

from uertool.tasks.evaluate.settings import TuneSettings
from uertool.tasks.evaluate.tuning import Tuned
from uertool.tasks.pictures import drawing


def write_tuned(tuned: Tuned, settings: TuneSettings, *, overwrite: bool = False) -> None:
    """Write what settings ask for; `TuneSettings.check` sees early that it can be written."""
    if settings.plot is not None:
        draw_tuning(settings.plot, tuned, overwrite=overwrite)
    if settings.save_whitening is not None:
        tuned.whitening.save(settings.save_whitening, overwrite=overwrite)


def draw_tuning(path: Path, tuned: Tuned, *, overwrite: bool = False) -> None:
    """Scores by size for every pooling, beta (line style) and gamma (colour).

    Args:
        path: .png, .svg or .pdf.
        tuned: what was tried.
        overwrite: whether an existing file may be replaced.

    Raises:
        MissingExtraError: there is no matplotlib.
    """
    sizes = sorted({trial.size for trial in tuned.trials})
    betas = sorted({trial.beta for trial in tuned.trials if trial.beta is not None})
    gammas = sorted({trial.gamma for trial in tuned.trials if trial.gamma is not None})
    means = {(t.pooling, t.size, t.beta, t.gamma): 100 * t.mean for t in tuned.trials}
    panels = len(tuned.plain)
    grid = {"ncols": panels, "sharey": True, "squeeze": False}
    with drawing(path, 2.5 + 3.5 * panels, 4.5, overwrite=overwrite, **grid) as (row,):
        from matplotlib import colormaps

        colours = colormaps["viridis"].resampled(len(gammas) + 1)
        styles = ["solid", "dashed", "dotted", "dashdot"] * len(betas)
        for axes, plain in zip(row, tuned.plain, strict=True):
            for number, gamma in enumerate(gammas):
                for beta, style in zip(betas, styles, strict=False):
                    axes.plot(
                        sizes,
                        [means[plain.pooling, size, beta, gamma] for size in sizes],
                        linestyle=style,
                        color=colours(number),
                        marker=".",
                        label=f"beta {beta:g}, gamma {gamma:g}",
                    )
            axes.axhline(100 * plain.mean, color="crimson", linewidth=1.5, label="not whitened")
            if plain.pooling == tuned.best.pooling:
                best = 100 * tuned.best.mean
                axes.plot(tuned.best.size, best, "*", color="crimson", markersize=14)
            axes.set(title=plain.pooling, xlabel="dimensions", xscale="log")
            axes.set_xticks(sizes, map(str, sizes))
            axes.minorticks_off()
        row[0].set_ylabel(f"{tuned.measure} x 100, mean of {tuned.folds} parts")
        handles = row[0].get_legend_handles_labels()
        row[0].figure.legend(*handles, loc="outside right upper", fontsize=8)
