"""Pairs of texts with a score or a label, and how well cosines of their vectors agree with them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uertool.engine.jobs import run_job
from uertool.errors import InputError, MissingExtraError, UsageError, listed, shown
from uertool.loading.registry import LoadedModel
from uertool.tasks.evaluate.settings import PairSettings
from uertool.tasks.features.job import FeatureJob
from uertool.tasks.features.settings import FeatureSettings
from uertool.tasks.features.whitening import unit_rows
from uertool.text.readers import Line, read_lines

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

_SCORES = ("score", "label")


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts with scores or labels.

    Attributes:
        texts: every text once.
        first, second: the texts of each pair, as places in `texts` [pairs].
        scores: how similar they are [pairs]; of labels the larger one says that they are.
    """

    texts: Sequence[str]
    first: Places
    second: Places
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def are_labels(self) -> bool:
        """Whether there are two values only."""
        return len(np.unique(self.scores)) == 2

    @property
    def matches(self) -> npt.NDArray[np.bool_]:
        """Of labels, whether they say that a pair is similar [pairs]."""
        return np.asarray(self.scores == self.scores.max())


def read_pairs(path: str | Path | None, settings: PairSettings) -> Pairs:
    """Read pairs from a table or from JSON lines.

    Raises:
        UsageError: there is no path.
        MissingExtraError: scipy or scikit-learn, which they are compared with, is not installed.
        InputError: a column is missing, a text is blank, a score is not a finite number, there
            are fewer than two pairs, or all have one score.
    """
    if path is None:
        raise UsageError("There are no pairs.", "Name a file with `test_path`.")
    for package, module in (("scipy", "scipy"), ("scikit-learn", "sklearn")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(package, "eval", "Comparing with scores")
    first, second = settings.columns
    is_json = Path(path).name.removesuffix(".gz").endswith((".jsonl", ".json"))
    lines = read_lines(
        path,
        column=None if is_json else first,
        field=first if is_json else None,
        encoding=settings.encoding,
    )
    texts: dict[str, int] = {}
    rows: list[tuple[int, int, float]] = []
    name = settings.score_column
    try:
        for line in lines:
            if not line.fields:
                continue  # a blank line
            where = f"{path}, line {line.number + 1}"
            name = name or next((one for one in _SCORES if one in line.fields), "score")
            pair = [_cell(line.fields, column, where) for column in (first, second)]
            a, b = (texts.setdefault(text, len(texts)) for text in pair)
            rows.append((a, b, _number(_cell(line.fields, name, where), name, where)))
    except InputError as error:
        hint = None if error.hint is None else error.hint.replace("`column`", "`text_columns`")
        raise InputError(error.message, hint) from None
    if len({score for _, _, score in rows}) < 2:
        what = "no two pairs" if len(rows) < 2 else f"the same {name} for all pairs"
        raise InputError(f"{path} holds {what}, so nothing can be compared.")
    columns = np.array(rows)
    places = columns[:, :2].astype(np.int64)
    return Pairs(list(texts), places[:, 0], places[:, 1], columns[:, 2])


def _cell(fields: Mapping[str, str], column: str, where: str) -> str:
    if column not in fields:
        known = listed(map(repr, fields), 20)
        raise InputError(
            f"{where}: there is no {shown(column)!r}; the columns are {known}.",
            "Name the columns with `text_columns` and `score_column`.",
        )
    if not fields[column].strip():
        raise InputError(f"{where}: {shown(column)!r} is blank.", "Fill it or remove the line.")
    return fields[column]


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: the {name} {shown(text, 40)!r} is not a finite number.")
    return value


# -- vectors --------------------------------------------------------------------------------------


def text_vectors(
    loaded: LoadedModel,
    texts: Sequence[str],
    settings: FeatureSettings,
    advance: Callable[[int], object] = lambda _: None,
) -> Vectors:
    """Vectors of texts as the model gives them [texts, size], in memory.

    Raises:
        InputError: vectors are NaN or infinite.
        UertoolError: see `FeatureJob`.
    """
    job = FeatureJob(loaded, settings)
    vectors = np.zeros((len(texts), job.size), dtype=np.float32)
    for found in run_job(job, (Line(n, text) for n, text in enumerate(texts))):
        vectors[found.line] = found.vectors
        advance(1)
    if not np.isfinite(vectors).all():
        raise InputError(
            f"{loaded.reference} gives vectors with NaN or infinite values.",
            "`dtype` float32 avoids overflow; `uertool check` finds broken weights.",
        )
    return vectors


def cosines(vectors: npt.NDArray[np.floating], pairs: Pairs) -> Floats:
    """The cosine of every pair [pairs]; 0 where a vector is zero."""
    units = unit_rows(vectors.astype(np.float64))
    found: Floats = np.einsum("ij,ij->i", units[pairs.first], units[pairs.second])
    # Without the rounding errors, by which pairs of equal vectors would have different ranks.
    return found.round(12)


# -- metrics --------------------------------------------------------------------------------------


def spearman(found: Floats, scores: Floats) -> float:
    """Spearman's rank correlation; nan if all values of either are equal."""
    from scipy.stats import rankdata

    return pearson(rankdata(found), rankdata(scores))


def pearson(found: Floats, scores: Floats) -> float:
    """Pearson's correlation; nan if all values of either are equal."""
    if np.ptp(found) == 0 or np.ptp(scores) == 0:
        return math.nan
    from scipy.stats import pearsonr

    return float(pearsonr(found, scores).statistic)


def roc_auc(found: Floats, matches: npt.NDArray[np.bool_]) -> float:
    """The probability that a matching pair has a higher cosine than another pair."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(matches, found))


def best_threshold(found: Floats, matches: npt.NDArray[np.bool_]) -> float:
    """The threshold for the cosine of matching pairs with which most labels are right."""
    from sklearn.metrics import roc_curve

    false_share, true_share, thresholds = roc_curve(matches, found)
    right = true_share * matches.sum() + (1 - false_share) * (~matches).sum()
    return float(thresholds[right.argmax()])


def interval(
    found: Floats, scores: Floats, resamples: int, seed: int
) -> tuple[float, float] | None:
    """The 95% interval of Spearman's correlation, by resampling pairs (percentile bootstrap)."""
    if resamples == 0:
        return None
    rows = np.random.default_rng(seed).integers(0, len(found), (resamples, len(found)))
    drawn = np.array([spearman(found[some], scores[some]) for some in rows])
    drawn = drawn[np.isfinite(drawn)]  # a sample of equal values has no correlation
    if not len(drawn):
        return None
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
