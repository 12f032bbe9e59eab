"""A picture of what `whiten tune` tried."""

from __future__ import annotations

from pathlib import Path

from uertool.io.atomic import atomic_path
from uertool.tasks.evaluate.tuning import Tuned
from uertool.tasks.pictures import require_drawing


def draw_tuning(path: Path, tuned: Tuned, *, overwrite: bool = False) -> None:
    """Scores by size for every pooling, beta (line style) and gamma (colour).

    Args:
        path: .png, .svg or .pdf.
        tuned: what was tried.
        overwrite: whether an existing file may be replaced.

    Raises:
        MissingExtraError: there is no matplotlib.
    """
    require_drawing(path, overwrite=overwrite)
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    poolings = [trial.pooling for trial in tuned.plain]
    sizes = sorted({trial.size for trial in tuned.trials})
    betas = sorted({trial.beta for trial in tuned.trials if trial.beta is not None})
    gammas = sorted({trial.gamma for trial in tuned.trials if trial.gamma is not None})
    figure = Figure(figsize=(2.5 + 3.5 * len(poolings), 4.5), layout="constrained")
    panels = figure.subplots(1, len(poolings), sharey=True, squeeze=False)[0]
    colours = colormaps["viridis"].resampled(len(gammas) + 1)
    styles = ["solid", "dashed", "dotted", "dashdot"]
    for axes, plain in zip(panels, tuned.plain, strict=True):
        for number, gamma in enumerate(gammas):
            for beta, style in zip(betas, styles * len(betas), strict=False):
                line = [
                    100 * trial.mean
                    for size in sizes
                    for trial in tuned.trials
                    if (trial.pooling, trial.size, trial.beta, trial.gamma)
                    == (plain.pooling, size, beta, gamma)
                ]
                label = f"beta {beta:g}, gamma {gamma:g}"
                axes.plot(
                    sizes, line, linestyle=style, color=colours(number), marker=".", label=label
                )
        axes.axhline(100 * plain.mean, color="crimson", linewidth=1.5, label="not whitened")
        if plain.pooling == tuned.best.pooling:
            best = 100 * tuned.best.mean
            axes.plot(tuned.best.size, best, "*", color="crimson", markersize=14)
        axes.set(title=plain.pooling, xlabel="dimensions", xscale="log")
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
    panels[0].set_ylabel(f"{tuned.measure} x 100, mean of {tuned.folds} parts")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    with atomic_path(path, overwrite=overwrite) as partial:
        figure.savefig(partial, format=path.suffix.lower()[1:], dpi=130)
