"""LightGBM as the ensemble uses it: binned once, deterministic, folds grown side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from uertool.errors import InputError, MissingExtraError, UertoolError
from uertool.tasks.ensemble import metrics
from uertool.tasks.ensemble.data import FloatArray, Labels
from uertool.tasks.ensemble.metrics import Probabilities
from uertool.tasks.ensemble.settings import OF_BINS, Value


@dataclass(frozen=True)
class Metric:
    """What decides which setting and which round is best; `sign` turns it into more-is-better."""

    of: Callable[[Labels, Probabilities], float]
    sign: int


METRICS: dict[str, Metric] = {
    "macro_f1": Metric(metrics.macro_f1, 1),
    "accuracy": Metric(metrics.accuracy, 1),
    "log_loss": Metric(metrics.log_loss, -1),
}


def lightgbm() -> Any:
    """The lightgbm module, or MissingExtraError."""
    try:
        import lightgbm as lgb
    except (ImportError, OSError):  # OSError: its OpenMP library is missing
        raise MissingExtraError("lightgbm", "ensemble", "Learning an ensemble") from None
    return lgb


def available_threads() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def full_parameters(
    params: Mapping[str, Value], objective: str, labels_num: int, seed: int, threads: int
) -> dict[str, Any]:
    """`params` and all else that LightGBM must be told for the same result on any machine.

    `deterministic` with `force_col_wise` makes trees independent of the number of threads. Without
    `feature_pre_filter` the same bins serve every min_data_in_leaf.
    """
    return {
        **params,
        "objective": objective,
        "num_class": labels_num if objective == "multiclass" else 1,
        "metric": "None",
        "seed": seed % (1 << 31),
        "num_threads": threads,
        "deterministic": True,
        "force_col_wise": True,
        "feature_pre_filter": False,
        "verbosity": -1,
    }


def binned(
    matrix: FloatArray, labels: Labels, params: Mapping[str, Value], threads: int = 0
) -> Any:
    """A constructed LightGBM Dataset of features [lines, columns]; `params` of bins are used.

    The bins come from the features of all lines, never from their labels, so folds may share them.
    """
    settings: dict[str, Any] = {name: value for name, value in params.items() if name in OF_BINS}
    settings |= {
        "feature_pre_filter": False,
        "verbosity": -1,
        "num_threads": threads or available_threads(),
    }
    dataset = lightgbm().Dataset(matrix, label=labels, params=settings, free_raw_data=True)
    return _guard(dataset.construct)


def _guard(work: Callable[[], Any]) -> Any:
    """Run `work`, with what LightGBM refuses told as an InputError."""
    try:
        return work()
    except lightgbm().basic.LightGBMError as error:
        raise InputError(
            f"LightGBM refuses: {str(error).rstrip('.')}.", "Change the parameter that it names."
        ) from None


def new_booster(params: Mapping[str, Any], train: Any, valid: Any = None) -> Any:
    """A booster without trees on a constructed dataset, watching `valid` if there is one."""

    def build() -> Any:
        booster = lightgbm().Booster(params=dict(params), train_set=train)
        if valid is not None:
            booster.add_valid(valid, "valid")
        return booster

    return _guard(build)


def grow(booster: Any, rounds: int) -> None:
    """Add `rounds` trees for each label."""

    def update() -> None:
        for _ in range(rounds):
            booster.update()

    _guard(update)


def as_matrix(raw: Any) -> Probabilities:
    """LightGBM's probabilities as [lines, labels]; for two labels it gives the second's only."""
    values = np.asarray(raw, dtype=np.float64)
    return np.stack([1 - values, values], axis=1) if values.ndim == 1 else values.copy()


def watched(booster: Any) -> Probabilities:
    """What the booster says now of the data it watches, [lines, labels].

    LightGBM keeps these scores up to date tree by tree, so this costs no prediction.
    """
    seen: list[Probabilities] = []

    def catch(raw: Any, _: Any) -> tuple[str, float, bool]:
        seen.append(as_matrix(raw))
        return "seen", 0.0, True

    booster.eval_valid(catch)
    return seen[0]


def train(matrix: FloatArray, labels: Labels, params: Mapping[str, Any], rounds: int) -> Any:
    """A booster of `rounds` rounds on all lines."""
    dataset = binned(matrix, labels, params, int(params["num_threads"]))
    booster = new_booster(params, dataset)
    grow(booster, rounds)
    return booster


def stopped_round(
    train_set: Any,
    valid_set: Any,
    valid_labels: Labels,
    params: Mapping[str, Any],
    rounds: int,
    patience: int,
) -> int:
    """The round, 1..rounds, with the least log loss on `valid_set`, given up after `patience`."""
    booster = new_booster(params, train_set, valid_set)
    best, best_round = np.inf, 1
    for done in range(1, rounds + 1):
        grow(booster, 1)
        loss = metrics.log_loss(valid_labels, watched(booster))
        if loss < best:
            best, best_round = loss, done
        if done - best_round >= patience:
            break
    return best_round


def _hush() -> None:
    """Silence LightGBM in this thread: its verbosity is kept for each thread by the last set-up."""
    lgb = lightgbm()
    lgb.Dataset(np.zeros((2, 1)), label=[0, 1], params={"verbosity": -1}).construct()


# -- folds side by side ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Validated:
    """What cross validation says of one setting.

    Attributes:
        score: the metric at the best round, over the held-out lines of all folds together.
        rounds: that round, counted from 1.
        grown: rounds that were looked at.
        given_up: whether the caller said stop before the end.
    """

    score: float
    rounds: int
    grown: int
    given_up: bool


class Folds:
    """Lines cut into folds and put into bins once, to try many settings on.

    All folds grow side by side, `every` rounds at a time, and are judged together: one number of
    rounds serves all of them, as it must in the end when there is one model. It is chosen by the
    same held-out lines as the other settings are, so it is one more hyperparameter; an honest
    score of the winner needs other lines.

    Each booster has one thread, and folds share the cores: boosters of this size waste a second
    thread. A fold may run one step ahead of the slowest, so no core waits for the others; what is
    decided does not depend on who is ahead.
    """

    def __init__(
        self,
        matrix: FloatArray,
        labels: Labels,
        labels_num: int,
        fold: Labels,
        *,
        bins: Mapping[str, Value],
        threads: int,
    ) -> None:
        self.labels = labels
        self.labels_num = labels_num
        self.threads = threads
        whole = binned(matrix, labels, bins, threads)
        self.held = [np.flatnonzero(fold == i) for i in range(int(fold.max()) + 1)]
        self.views = [
            (
                whole.subset(np.flatnonzero(fold != i).tolist()).construct(),
                whole.subset(lines.tolist()).construct(),
            )
            for i, lines in enumerate(self.held)
        ]

    def validate(
        self,
        params: Mapping[str, Any],
        *,
        rounds: int,
        patience: int,
        every: int,
        metric: Metric,
        on_step: Callable[[int, float], bool] | None = None,
    ) -> Validated:
        """Grow all folds up to `rounds`, and stop when `patience` rounds brought nothing better.

        Better is a better score or a lower log loss: a slow learner answers with the commonest
        label for many rounds, while its probabilities improve all along.

        Args:
            params: as of `full_parameters`; its threads are set to 1.
            patience: in rounds; 0 never stops early.
            every: rounds between two looks at the held-out lines.
            on_step: called with the round and the score; True gives the setting up.
        """
        boosters = [
            new_booster({**params, "num_threads": 1}, train_set, valid_set)
            for train_set, valid_set in self.views
        ]
        steps = [*range(every, rounds, every), rounds]
        best = Validated(0.0, 0, 0, False)
        least_loss, improved = np.inf, 0
        with closing(self._steps(boosters, steps)) as judged:
            for done, probabilities in judged:
                value = metric.of(self.labels, probabilities)
                if not best.rounds or value * metric.sign > best.score * metric.sign:
                    best = Validated(value, done, done, False)
                    improved = done
                best = replace(best, grown=done)
                loss = metrics.log_loss(self.labels, probabilities)
                if loss < least_loss:
                    least_loss, improved = loss, done
                if on_step is not None and on_step(done, value):
                    return replace(best, given_up=True)
                if patience and done - improved >= patience:
                    break
        return best

    def _steps(
        self, boosters: Sequence[Any], steps: Sequence[int]
    ) -> Generator[tuple[int, Probabilities], None, None]:
        """Yield (round, held-out probabilities [lines, labels]) for every step, in order."""
        ahead = 2
        lengths = [now - before for before, now in zip([0, *steps], steps, strict=False)]
        arrived: list[dict[int, Probabilities]] = [{} for _ in steps]
        shape = (len(self.labels), self.labels_num)

        def work(fold: int, step: int) -> tuple[int, int, Probabilities]:
            grow(boosters[fold], lengths[step])
            return fold, step, watched(boosters[fold])

        pool = ThreadPoolExecutor(min(self.threads, len(boosters)), initializer=_hush)
        running: set[Future[tuple[int, int, Probabilities]]] = set()
        following = [0] * len(boosters)  # the step that each fold takes next
        idle = set(range(len(boosters)))
        decided = 0
        try:
            while decided < len(steps):
                ready = sorted(idle, key=lambda fold: (following[fold], fold))
                for fold in ready:
                    if following[fold] < min(decided + ahead, len(steps)):
                        idle.discard(fold)
                        running.add(pool.submit(work, fold, following[fold]))
                        following[fold] += 1
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    fold, step, probabilities = future.result()
                    arrived[step][fold] = probabilities
                    idle.add(fold)
                while decided < len(steps) and len(arrived[decided]) == len(boosters):
                    together = np.empty(shape)
                    for fold, probabilities in arrived[decided].items():
                        together[self.held[fold]] = probabilities
                    arrived[decided].clear()
                    decided += 1
                    yield steps[decided - 1], together
        finally:
            # A step that has begun ends soon; one that waits never begins.
            pool.shutdown(wait=True, cancel_futures=True)


def load_booster(text: str, source: str) -> Any:
    """A booster from the text that `model_to_string` wrote.

    Raises:
        InputError: LightGBM cannot read it.
    """
    try:
        return lightgbm().Booster(model_str=text)
    except UertoolError:
        raise
    except Exception as error:  # LightGBMError, or ValueError for a text that is cut short
        raise InputError(
            f"{source} is no LightGBM model: {error}", "Fit the ensemble again."
        ) from None
