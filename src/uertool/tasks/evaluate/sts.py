"""Evaluation of sentence vectors on pairs with scores (semantic textual similarity)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from uertool.errors import UsageError
from uertool.io.display import Report
from uertool.loading.registry import LoadedModel
from uertool.tasks.evaluate.pairs import (
    Pairs,
    Vectors,
    cosines,
    interval,
    pearson,
    roc_auc,
    spearman,
    text_vectors,
)
from uertool.tasks.evaluate.settings import PairSettings
from uertool.tasks.features.settings import FittedSettings
from uertool.tasks.features.whitening import Whitening

PLAIN = FittedSettings()


@dataclass(frozen=True, repr=False)
class StsResult(Report):
    """How well the cosines of one model's vectors agree with scores.

    Attributes:
        model: as it was named.
        pooling: how a text's vector was made.
        whitening: None, "fitted" for one that was fitted on these texts (not on their scores), or
            the file that it was loaded from.
        size: numbers of a vector.
        beta, gamma: of the whitening.
        pairs: how many.
        spearman, pearson: correlations, -1 to 1.
        low, high: the 95% interval of Spearman's correlation.
        auc: the area under the ROC curve, for scores with two values.
    """

    model: str
    pooling: str
    whitening: str | None
    size: int
    beta: float | None
    gamma: float | None
    pairs: int
    spearman: float
    pearson: float
    low: float | None = None
    high: float | None = None
    auc: float | None = None


def evaluate_sts(
    loaded: LoadedModel,
    pairs: Pairs,
    settings: PairSettings,
    vectors: FittedSettings = PLAIN,
    *,
    more: Sequence[Pairs] = (),
    name: str | None = None,
    resamples: int = 1000,
    seed: int = 7,
    advance: Callable[[int], object] = lambda _: None,
) -> Iterator[StsResult]:
    """Compare cosines of vectors with scores, for every pooling, plain and whitened.

    Args:
        loaded: the model.
        pairs: what it is judged by.
        settings: which vectors.
        vectors: which whitening, if there is one to compare with.
        more: further pairs on whose texts it is fitted.
        name: the model in results.
        resamples: bootstrap samples for the interval; 0 for none.
        seed: of the bootstrap.
        advance: called with a number of texts that are done.

    Raises:
        InputError: the whitening does not fit, or vectors are not finite.
        UsageError: there are further pairs, but no whitening is fitted.
    """
    if more and not vectors.fits:
        raise UsageError(
            "`fit_path` was given, but no whitening is fitted.",
            "Give `whitening_size` or `whiten`.",
        )
    origin = str(vectors.load_whitening or "fitted")
    for features in settings.features():
        plain = text_vectors(loaded, pairs.texts, features, advance)
        whitening = _loaded(vectors, features.pooling, plain)
        if vectors.fits:
            others = ((text_vectors(loaded, one.texts, features), one) for one in more)
            whitening = _fitted(vectors, [(plain, pairs), *others])
        for used in [None] if whitening is None else [None, whitening]:
            rows = plain if used is None else used.transform(plain)
            values = cosines(rows, pairs)
            low, high = interval(values, pairs.scores, resamples, seed) or (None, None)
            yield StsResult(
                model=name or loaded.reference,
                pooling=features.pooling,
                whitening=None if used is None else origin,
                size=rows.shape[1],
                beta=None if used is None else used.beta,
                gamma=None if used is None else used.gamma,
                pairs=len(pairs),
                spearman=spearman(values, pairs.scores),
                pearson=pearson(values, pairs.scores),
                low=low,
                high=high,
                auc=roc_auc(values, pairs.matches) if pairs.are_labels else None,
            )


def _loaded(vectors: FittedSettings, pooling: str, plain: Vectors) -> Whitening | None:
    """The whitening of a file, if there is one and it was fitted on this pooling."""
    if vectors.load_whitening is None:
        return None
    whitening = Whitening.load(vectors.load_whitening)
    whitening.require_dims(plain.shape[1])
    fits = whitening.about.get("pooling", pooling) == pooling
    return whitening.cut(vectors.whitening_size) if fits else None


def _fitted(vectors: FittedSettings, sets: Sequence[tuple[Vectors, Pairs]]) -> Whitening:
    """A whitening of all texts, as often as they occur, as in the code of arXiv:2103.15316."""
    blocks = (rows[places] for rows, pairs in sets for places in (pairs.first, pairs.second))
    return Whitening.fit(blocks, vectors.whitening_size, beta=vectors.beta, gamma=vectors.gamma)
