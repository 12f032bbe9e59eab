"""Which whitening suits a model and a task: poolings, sizes, beta and gamma on labelled pairs.

Pairs are divided into parts. For each part, whitenings are fitted on the texts of the other parts
and judged by its pairs. The best on average is chosen. Since it was chosen by all pairs, its
average is optimistic for new pairs; `Tuned.expected` therefore makes the choice for each part
from the other parts alone.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError
from uertool.io.display import Report
from uertool.loading.registry import LoadedModel
from uertool.tasks.evaluate.pairs import (
    Floats,
    Pairs,
    Places,
    Vectors,
    best_threshold,
    cosines,
    roc_auc,
    spearman,
    text_vectors,
)
from uertool.tasks.evaluate.settings import PairSettings, TuneSettings
from uertool.tasks.features.whitening import (
    Moments,
    Whitening,
    check_size,
    direction_weights,
)
from uertool.tasks.pictures import drawing

#: Sizes that are tried if they are smaller than the vectors.
_SIZES = (32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Trial:
    """One way to make vectors, and how well their cosines agree with the scores of each part.

    Attributes:
        pooling, size: of the vectors.
        beta, gamma: of the whitening; None for vectors that are not whitened.
        scores: of every part, Spearman's correlation or the area under the ROC curve.
        accuracies: of labels: share that is right with the threshold that is best for the other
            parts.
    """

    pooling: str
    size: int
    beta: float | None
    gamma: float | None
    scores: tuple[float, ...]
    accuracies: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """The mean score of all parts."""
        return statistics.fmean(self.scores)

    @property
    def accuracy(self) -> float | None:
        """The mean accuracy of all parts, None for scores that are no labels."""
        return statistics.fmean(self.accuracies) if self.accuracies else None


@dataclass(frozen=True, repr=False)
class Tuned(Report):
    """What was tried, and the best of it.

    Attributes:
        measure: "Spearman", or "AUC" of labels.
        pairs, folds: how many.
        plain: vectors without whitening, for each pooling.
        trials: whitenings.
        best: the one with the highest mean.
        expected: its mean score on pairs that it was not chosen by.
        whitening: the best one, fitted on the texts of all pairs.
    """

    measure: str
    pairs: int
    folds: int
    plain: Sequence[Trial]
    trials: Sequence[Trial]
    best: Trial
    expected: float
    whitening: Whitening

    def remarks(self) -> Iterator[str]:
        """What a user should know, in sentences."""
        yield from self.whitening.remarks()
        plain = max(self.plain, key=lambda trial: trial.mean)
        if plain.mean >= self.expected:
            yield (
                f"Whitening does not help here: plain vectors of the pooling {plain.pooling} have "
                f"{100 * plain.mean:.2f}, and {100 * self.expected:.2f} is expected of a whitening."
            )

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        shown = {name: getattr(self, name) for name in ("measure", "pairs", "folds", "expected")}
        rows = {"plain": self.plain, "trials": self.trials}
        found = {name: [_record(trial) for trial in trials] for name, trials in rows.items()}
        return {**shown, "best": _record(self.best), **found}


def _record(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "mean": trial.mean, "accuracy": trial.accuracy}


def tune(
    loaded: LoadedModel,
    pairs: Pairs,
    settings: PairSettings,
    grid: TuneSettings,
    *,
    about: Mapping[str, str] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Tuned:
    """Try whitenings by cross-validation and fit the best one.

    The vectors of all texts are computed once for each pooling, and one pooling is in memory.

    Args:
        loaded: the model.
        pairs: texts with scores.
        settings: which vectors.
        grid: what is tried, and in how many parts pairs are divided.
        about: what is stored in the whitening in addition to the pooling.
        advance: called with a number of texts that are done.

    Raises:
        InputError: there are too few pairs for so many parts, or their texts do not differ.
        UsageError: a size is larger than the vectors.
    """
    dims = loaded.config.hidden_size
    sizes = sorted(set(grid.sizes or [size for size in _SIZES if size < dims] + [dims]))
    check_size(sizes[-1], dims, "sizes")
    parts = divide(pairs, grid.folds, grid.seed)
    tried: list[Trial] = []
    moments: dict[str, Moments] = {}
    for features in settings.features():
        vectors = text_vectors(loaded, pairs.texts, features, advance)
        pooling = _Pooling(features.pooling, vectors, pairs, parts)
        moments[features.pooling] = _merged(pooling.moments)
        tried.extend(pooling.trials(sizes, grid))
    plain = [trial for trial in tried if trial.beta is None]
    trials = [trial for trial in tried if trial.beta is not None]
    best = max(trials, key=lambda trial: trial.mean)
    assert best.beta is not None and best.gamma is not None
    whitening = Whitening.from_moments(
        moments[best.pooling],
        best.size,
        beta=best.beta,
        gamma=best.gamma,
        about={**(about or {}), "pooling": best.pooling},
    )
    measure = "AUC" if pairs.are_labels else "Spearman"
    return Tuned(measure, len(pairs), grid.folds, plain, trials, best, _expected(trials), whitening)


def divide(pairs: Pairs, folds: int, seed: int) -> Places:
    """The part of every pair [pairs], each with about the same scores; equal pairs are together.

    Raises:
        InputError: there are too few different pairs, or a part would have one score only.
    """
    keys = np.sort(np.stack([pairs.first, pairs.second], axis=1), axis=1)
    _, example, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(example))
    order = order[np.argsort(pairs.scores[example][order], kind="stable")]
    parts = np.empty(len(example), dtype=np.int64)
    parts[order] = np.arange(len(example)) % folds
    found: Places = parts[place.reshape(-1)]
    if any(len(np.unique(pairs.scores[found == part])) < 2 for part in range(folds)):
        raise InputError(
            f"{len(example)} different pairs cannot be divided into {folds} parts in which scores "
            "differ.",
            "Give more pairs, or fewer `folds`.",
        )
    return found


class _Pooling:
    """The vectors of one pooling with all that is tried on them.

    Attributes:
        moments: of the texts of every part, as often as they occur.
    """

    def __init__(self, name: str, vectors: Vectors, pairs: Pairs, parts: Places) -> None:
        self.name = name
        self.vectors = vectors
        self.pairs = pairs
        self.parts = [parts == part for part in range(parts.max() + 1)]
        sides = (pairs.first, pairs.second)
        self.moments = [
            Moments.of(vectors[places[part]] for places in sides) for part in self.parts
        ]

    def trials(self, sizes: Sequence[int], grid: TuneSettings) -> Iterator[Trial]:
        """The plain vectors, then every whitening."""
        plain = cosines(self.vectors, self.pairs)
        judged = [self._judged(part, plain) for part in self.parts]
        yield Trial(self.name, self.vectors.shape[1], None, None, *zip(*judged, strict=True))
        betas, gammas = dict.fromkeys(grid.betas), dict.fromkeys(grid.gammas)
        keys = itertools.product(sizes, betas, gammas)
        found: dict[Any, list[tuple[float, ...]]] = {key: [] for key in keys}
        for number, part in enumerate(self.parts):
            rest = _merged([*self.moments[:number], *self.moments[number + 1 :]])
            turned = Whitening.from_moments(rest, gamma=0)
            for beta in betas:
                shifted = replace(turned, mean=beta * turned.mean)
                rows = shifted.transform(self.vectors, normalize=False)
                for gamma in gammas:
                    white = rows * direction_weights(turned.variances, turned.rank, gamma)
                    for size in sizes:
                        values = cosines(white[:, :size], self.pairs)
                        found[size, beta, gamma].append(self._judged(part, values))
        for key, judged in found.items():
            yield Trial(self.name, *key, *zip(*judged, strict=True))

    def _judged(self, here: npt.NDArray[np.bool_], values: Floats) -> tuple[float, ...]:
        """The score of a part, and for labels the accuracy with the threshold of the others."""
        scores = self.pairs.scores
        if not self.pairs.are_labels:
            found = spearman(values[here], scores[here])
            return (0.0 if math.isnan(found) else found,)
        matches = self.pairs.matches
        threshold = best_threshold(values[~here], matches[~here])
        right = (values[here] >= threshold) == matches[here]
        return roc_auc(values[here], matches[here]), float(right.mean())


def _merged(parts: Sequence[Moments]) -> Moments:
    moments = Moments(len(parts[0].mean))
    for part in parts:
        moments.merge(part)
    return moments


def _expected(trials: Sequence[Trial]) -> float:
    """The mean score of every part with what is best for the other parts."""
    scores = np.array([trial.scores for trial in trials])
    others = scores.sum(axis=1, keepdims=True) - scores
    return float(scores[others.argmax(axis=0), np.arange(scores.shape[1])].mean())


# -- outputs ---------------------------------------------------------------------------------------


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
