"""Evaluation of sentence vectors on pairs with scores (semantic textual similarity)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from uertool.io.display import Report
from uertool.loading.registry import LoadedModel
from uertool.tasks.evaluate.pairs import (
    Pairs,
    Vectors,
    cosines,
    interval,
    pearson,
    require_metrics,
    roc_auc,
    spearman,
    text_vectors,
)
from uertool.tasks.evaluate.settings import PairSettings
from uertool.tasks.features.settings import FittedSettings
from uertool.tasks.features.whitening import Whitening


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

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return asdict(self)


def evaluate_sts(
    loaded: LoadedModel,
    pairs: Pairs,
    settings: PairSettings,
    vectors: FittedSettings | None = None,
    *,
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
        name: the model in results.
        resamples: bootstrap samples for the interval; 0 for none.
        seed: of the bootstrap.
        advance: called with a number of texts that are done.

    Raises:
        MissingExtraError: scipy or scikit-learn is not installed.
        InputError: the whitening does not fit, or vectors are not finite.
    """
    require_metrics()
    saved = None if vectors is None else vectors.load_whitening
    origin = "fitted" if saved is None else str(saved)
    for features in settings.features():
        plain = text_vectors(loaded, pairs.texts, features, advance)
        whitening = _whitening(vectors, features.pooling, plain, pairs)
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


def _whitening(
    vectors: FittedSettings | None, pooling: str, plain: Vectors, pairs: Pairs
) -> Whitening | None:
    """The whitening of these vectors, or None; a loaded one is of one pooling alone."""
    if vectors is None:
        return None
    if vectors.load_whitening is not None:
        loaded = Whitening.load(vectors.load_whitening)
        loaded.require_dims(plain.shape[1])
        fits = loaded.about.get("pooling", pooling) == pooling
        return loaded.cut(vectors.whitening_size) if fits else None
    if not vectors.fits:
        return None
    # Texts count as often as they occur, as in the code of arXiv:2103.15316.
    texts = (plain[places] for places in (pairs.first, pairs.second))
    return Whitening.fit(texts, vectors.whitening_size, beta=vectors.beta, gamma=vectors.gamma)
