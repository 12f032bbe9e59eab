"""Bayesian search for the settings of an ensemble, by cross validation of the training lines."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from uertool.errors import InputError, MissingExtraError, UertoolError, UsageError
from uertool.tasks.ensemble import boosting
from uertool.tasks.ensemble.boosting import METRICS, Folds
from uertool.tasks.ensemble.data import LabelledData
from uertool.tasks.ensemble.ensemble import described, dump_json, versions
from uertool.tasks.ensemble.fit import check_lines, count_labels, objective_for
from uertool.tasks.ensemble.folds import fold_of_each_line
from uertool.tasks.ensemble.settings import (
    FIT_PARAMETERS,
    OF_BINS,
    PARAMETERS,
    RANGES,
    SEARCH_PARAMETERS,
    SEARCH_ROUNDS,
    SETTINGS_FORMAT,
    Range,
    Value,
)

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("median", "hyperband", "none")

_EVERY = 5  # rounds between two looks at the held-out lines
_RANDOM_TRIALS = 10  # before a sampler has seen enough to judge
_KEEP = "keep "  # names the choice of a base model among the parameters of a trial
# Base models are mostly worth keeping, so at first a search leaves out one in five at random.
_DROP_SHARE = 0.2
_WARM_UP = 20  # rounds before a trial may be given up


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        number: in order of their beginning, from 0.
        state: "finished" or "pruned" (given up as hopeless).
        score: the metric at the best round.
        rounds: that round.
        grown: rounds that were computed.
        seconds: how long it took.
        params: the hyperparameters that the search chose.
        models: the base models in use.
    """

    number: int
    state: str
    score: float
    rounds: int
    grown: int
    seconds: float
    params: dict[str, Value]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        best: the finished trial with the best score.
        trials: all, in order of their numbers, those of earlier runs on the same storage too.
        fixed: parameters that were the same in every trial.
        importance: share of the score's variance that each hyperparameter explains (fANOVA);
            empty with fewer than 4 finished trials.
        stopped: "trials", "timeout" or "interrupted": why it ended.
    """

    best: Trial
    trials: tuple[Trial, ...]
    fixed: dict[str, Value]
    importance: dict[str, float]
    stopped: str
    metric: str
    folds: int
    seed: int
    labels_num: int
    objective: str
    ranges: dict[str, Range]
    data: LabelledData = field(repr=False)

    def settings(self) -> dict[str, Any]:
        """A parameter file for `ensemble fit`, with a note where it comes from."""
        return {
            "format": SETTINGS_FORMAT,
            "version": 1,
            "params": {**self.fixed, **self.best.params},
            "rounds": self.best.rounds,
            "models": list(self.best.models),
            "labels_num": self.labels_num,
            "objective": self.objective,
            "found": {
                "metric": self.metric,
                "score": self.best.score,
                "trial": self.best.number,
                "trials": len(self.trials),
                "folds": self.folds,
                "seed": self.seed,
            },
        }

    def to_json(self) -> dict[str, Any]:
        """The report of a run."""
        return {
            **self.settings(),
            "stopped": self.stopped,
            "pruned": sum(trial.state == "pruned" for trial in self.trials),
            "importance": self.importance,
            "notices": list(self.data.notices),
        }


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "ensemble", "Searching for settings") from None
    return optuna


def search(
    data: LabelledData,
    *,
    ranges: Mapping[str, Range] | None = None,
    fixed: Mapping[str, Value] | None = None,
    trials: int = 300,
    folds: int = 5,
    rounds: int = SEARCH_ROUNDS,
    early_stopping: int = 20,
    labels_num: int | None = None,
    objective: str = "auto",
    metric: str = "macro_f1",
    sampler: str = "tpe",
    pruner: str = "median",
    select_models: bool = False,
    seed: int = 0,
    threads: int | None = None,
    timeout: float | None = None,
    storage: str | None = None,
    study_name: str = "uertool-ensemble",
    on_trial: Callable[[Trial, Trial | None, int, int], None] | None = None,
) -> Found:
    """Search LightGBM settings that score best on held-out training lines.

    Every trial grows one booster for each fold, side by side, and is judged by the metric over all
    held-out lines together. The first trial has the settings of run_lgb within the ranges, so the
    result is never worse than these. With the same seed and data the result is the same, whatever
    the number of threads, and whether or not the search was stopped and resumed in between; only
    several workers on one storage make the order of trials, and so the result, a matter of chance.

    Args:
        data: training lines; their features should be out of fold.
        ranges: where to look; default those of run_bayesopt.
        fixed: parameters for every trial over `SEARCH_PARAMETERS`.
        trials: number of trials, together with those that the storage holds already.
        folds: stratified folds.
        rounds: boosting rounds at most.
        early_stopping: rounds without a better score after which a trial ends; 0 for never.
        metric: one of `METRICS`.
        sampler: "tpe", "gp" (Gaussian process) or "random".
        pruner: "median", "hyperband" or "none".
        select_models: whether the search also chooses which base models to use.
        timeout: seconds after which no further trial begins, or None.
        storage: an optuna storage such as sqlite:///search.db, to stop and resume a search or to
            run it by several processes at once; None keeps trials in memory.
        study_name: the name in the storage.
        on_trial: called after each trial with it, the best so far, the number of trials that are
            done, and `trials`.

    Raises:
        InputError, UsageError: the data or an option cannot be meant, or the storage holds trials
            on other data or with other settings.
        KeyboardInterrupt: before any trial was finished; later ones end the search with what is
            found.
    """
    optuna = _optuna()
    _check_options(trials, rounds, early_stopping, metric, sampler, pruner, timeout)
    ranges = dict(RANGES["run_bayesopt"] if ranges is None else ranges)
    fixed = {**SEARCH_PARAMETERS, **(fixed or {})}
    fixed = {name: value for name, value in fixed.items() if name not in ranges}
    labels_num = count_labels(data.labels, labels_num, data.path)
    objective = objective_for(objective, labels_num)
    fold = fold_of_each_line(data.labels, folds, seed)
    least = ranges.get("min_data_in_leaf")
    least_data = least.low if least is not None and not least.choices else 1
    check_lines(int((fold != 0).sum()), int(fixed.get("min_data_in_leaf", least_data)),
                data.path, " outside a fold")  # fmt: skip
    select_models = select_models and len(data.models) > 1
    tried = _Objective(
        data, labels_num, fold, ranges, fixed, rounds, early_stopping, metric, objective, seed,
        threads or boosting.available_threads(), select_models,
    )  # fmt: skip
    with _quiet(optuna):
        study = _study(optuna, storage, study_name, METRICS[metric].sign)
        study.sampler = _sampler(optuna, sampler, seed)
        study.pruner = _pruner(optuna, pruner, rounds)
        _same_search(study, tried.signature(folds, sampler, pruner))
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(tried.first_guess(), skip_if_exists=True)
        stopped = _run(optuna, study, tried, trials, timeout, on_trial)
        done = _trials(optuna, study, data.names)
        best = _best(done, METRICS[metric].sign)
        if best is None:
            if stopped == "interrupted":
                raise KeyboardInterrupt
            raise InputError(
                f"No trial was finished within {timeout:g} seconds."
                if timeout is not None
                else "No trial was finished.",
                "Give more time, or fewer `rounds`.",
            )
        importance = _importance(optuna, study, seed)
    return Found(
        best, tuple(done), fixed, importance, stopped, metric, folds, seed, labels_num, objective,
        ranges, data,
    )  # fmt: skip


def _check_options(
    trials: int,
    rounds: int,
    early_stopping: int,
    metric: str,
    sampler: str,
    pruner: str,
    timeout: float | None,
) -> None:
    for name, value, known in (
        ("metric", metric, tuple(METRICS)),
        ("sampler", sampler, SAMPLERS),
        ("pruner", pruner, PRUNERS),
    ):
        if value not in known:
            raise UsageError(f"The {name} {value!r} is unknown.", f"Known: {', '.join(known)}.")
    if trials < 1 or rounds < 1 or early_stopping < 0:
        raise UsageError(
            f"{trials} trials of {rounds} rounds with early stopping after {early_stopping} "
            "cannot be meant.",
            "Trials and rounds are at least 1, early stopping at least 0.",
        )
    if timeout is not None and timeout <= 0:
        raise UsageError(f"The timeout of {timeout:g} seconds leaves no time.")


# -- one trial ------------------------------------------------------------------------------------


@dataclass
class _Objective:
    """Turns a trial's suggestions into a score."""

    data: LabelledData
    labels_num: int
    fold: Any
    ranges: dict[str, Range]
    fixed: dict[str, Value]
    rounds: int
    early_stopping: int
    metric: str
    objective: str
    seed: int
    threads: int
    select_models: bool
    _folds: dict[Any, Folds] = field(default_factory=dict)

    def signature(self, folds: int, sampler: str, pruner: str) -> dict[str, Any]:
        """What must be the same for trials to be comparable, as JSON."""
        return {
            "labels": _digest(self.data.labels),
            "features": [_digest(model.values) for model in self.data.models],
            "models": list(self.data.names),
            "labels_num": self.labels_num,
            "folds": folds,
            "rounds": self.rounds,
            "early_stopping": self.early_stopping,
            "metric": self.metric,
            "objective": self.objective,
            "ranges": {name: entry.to_json() for name, entry in self.ranges.items()},
            "fixed": self.fixed,
            "select_models": self.select_models,
            "seed": self.seed,
            "sampler": sampler,
            "pruner": pruner,
        }

    def first_guess(self) -> dict[str, Any]:
        """The settings of run_lgb within the ranges, and all base models."""
        guess: dict[str, Any] = {}
        for name, entry in self.ranges.items():
            value = FIT_PARAMETERS.get(name)
            if value is None:
                continue
            if not entry.choices:
                clipped = entry.clip(float(value))
                guess[name] = int(clipped) if isinstance(value, int) else clipped
            elif value in entry.choices:
                guess[name] = value
        if self.select_models:
            guess |= {_KEEP + name: 1.0 for name in self.data.names}
        return guess

    def suggest(self, trial: Any) -> tuple[dict[str, Value], tuple[str, ...]]:
        """The hyperparameters and base models of a trial."""
        params: dict[str, Value] = {}
        for name, entry in self.ranges.items():
            if entry.choices:
                params[name] = trial.suggest_categorical(name, list(entry.choices))
            elif PARAMETERS[name].kind is int:
                params[name] = trial.suggest_int(
                    name, math.ceil(entry.low), math.floor(entry.high), log=entry.log
                )
            else:
                params[name] = trial.suggest_float(name, entry.low, entry.high, log=entry.log)
        names = self.data.names
        if self.select_models:
            kept = [n for n in names if trial.suggest_float(_KEEP + n, 0, 1) > _DROP_SHARE]
            names = tuple(kept) or names[:1]
        return params, names

    def __call__(self, optuna: Any, trial: Any) -> tuple[float, bool]:
        """The score, and whether the trial was given up."""
        params, names = self.suggest(trial)
        every = min(_EVERY, self.rounds)

        def report(done: int, value: float) -> bool:
            trial.report(value, done)
            return bool(trial.should_prune())

        full = boosting.full_parameters(
            {**self.fixed, **params}, self.objective, self.labels_num, self.seed, 1
        )
        result = self.folds_for(names, full).validate(
            full,
            rounds=self.rounds,
            patience=self.early_stopping,
            every=every,
            metric=METRICS[self.metric],
            on_step=report,
        )
        trial.set_user_attr("rounds", result.rounds)
        trial.set_user_attr("grown", result.grown)
        trial.set_user_attr("score", result.score)
        trial.set_user_attr("models", list(names))
        return result.score, result.given_up

    def folds_for(self, names: tuple[str, ...], params: Mapping[str, Any]) -> Folds:
        """Bins of these base models; the last few are kept, since samplers return to them."""
        key = (names, tuple(params.get(name) for name in sorted(OF_BINS)))
        if key not in self._folds:
            while len(self._folds) >= 4:
                self._folds.pop(next(iter(self._folds)))
            self._folds[key] = Folds(
                self.data.keep(names).matrix(),
                self.data.labels,
                self.labels_num,
                self.fold,
                bins=params,
                threads=self.threads,
            )
        return self._folds[key]


def _digest(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


# -- optuna ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep optuna from printing; its level is put back."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"optuna\..*")
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _study(optuna: Any, storage: str | None, name: str, sign: int) -> Any:
    direction = "maximize" if sign > 0 else "minimize"
    if storage is None:
        return optuna.create_study(direction=direction, study_name=name)
    from sqlalchemy.exc import ArgumentError

    failure: Exception | None = None
    for attempt in range(8):
        try:
            return optuna.create_study(
                direction=direction,
                study_name=name,
                storage=_open_storage(optuna, storage),
                load_if_exists=True,
            )
        except UertoolError:
            raise
        except Exception as error:  # sqlalchemy has dozens of its own
            failure = error
            if isinstance(error, ArgumentError) or "unable to open" in str(error):
                break
            # Workers that start together all try to create the tables; one of them wins, and the
            # others find them when they look again.
            time.sleep(0.1 * (attempt + 1))
    raise UsageError(
        f"The storage {storage} cannot be opened: {str(failure).splitlines()[0]}.",
        "Give something like sqlite:///search.db (three slashes for a relative path).",
    )


def _open_storage(optuna: Any, storage: str) -> Any:
    if "://" not in storage:
        raise UsageError(
            f"The storage {storage!r} is no URL.", f"Give sqlite:///{storage} for a file."
        )
    # Other workers write too; wait for them rather than fail.
    options = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else None
    return optuna.storages.RDBStorage(storage, engine_kwargs=options)


def _pruner(optuna: Any, name: str, rounds: int) -> Any:
    if name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=5, n_warmup_steps=min(_WARM_UP, rounds // 3)
        )
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=min(10, rounds), max_resource=rounds)
    return optuna.pruners.NopPruner()


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    """A sampler whose choices for a trial depend on the seed and the trials before it only.

    optuna's samplers carry the state of their generator along, so a search that is resumed would
    draw again what it drew at first. Here every trial has a generator of its own.
    """
    make: dict[str, Callable[[int], Any]] = {
        "tpe": lambda s: optuna.samplers.TPESampler(
            seed=s, multivariate=True, n_startup_trials=_RANDOM_TRIALS
        ),
        "gp": lambda s: optuna.samplers.GPSampler(
            seed=s, n_startup_trials=_RANDOM_TRIALS, deterministic_objective=True
        ),
        "random": lambda s: optuna.samplers.RandomSampler(seed=s),
    }
    failed = optuna.trial.TrialState.FAIL

    class SeededSampler(optuna.samplers.BaseSampler):  # type: ignore[misc]
        def __init__(self) -> None:
            self._for: tuple[int, Any] | None = None

        def _of(self, study: Any, trial: Any) -> Any:
            if self._for is None or self._for[0] != trial.number:
                # Trials that were broken off do not count: who resumes makes them again.
                before = sum(
                    t.number < trial.number and t.state != failed
                    for t in study.get_trials(deepcopy=False)
                )
                own = np.random.SeedSequence((seed, before)).generate_state(1)[0]
                self._for = (trial.number, make[name](int(own)))
            return self._for[1]

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self._of(study, trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._of(study, trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return self._of(study, trial).sample_independent(study, trial, name, distribution)

        def before_trial(self, study: Any, trial: Any) -> None:
            self._of(study, trial).before_trial(study, trial)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self._of(study, trial).after_trial(study, trial, state, values)

    return SeededSampler()


def _same_search(study: Any, signature: dict[str, Any]) -> None:
    """Refuse to mix trials that cannot be compared, or remember what these are about."""
    known = study.user_attrs.get("search")
    if known is None:
        study.set_user_attr("search", signature)
        return
    different = [name for name in signature if known.get(name) != signature[name]]
    if different:
        raise UsageError(
            f"The study {study.study_name!r} in the storage holds trials of another search; "
            f"what differs: {', '.join(different)}.",
            "Give another `study_name` or `storage`, or the same options as before.",
        )


def _run(
    optuna: Any,
    study: Any,
    tried: _Objective,
    trials: int,
    timeout: float | None,
    on_trial: Callable[[Trial, Trial | None, int, int], None] | None,
) -> str:
    """Make trials until there are enough; returns why it ended."""
    states = optuna.trial.TrialState
    deadline = None if timeout is None else time.monotonic() + timeout
    sign = METRICS[tried.metric].sign
    while True:
        done = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
        if len(done) >= trials:
            return "trials"
        if deadline is not None and time.monotonic() >= deadline:
            return "timeout"
        trial = study.ask()
        try:
            value, given_up = tried(optuna, trial)
        except KeyboardInterrupt:
            study.tell(trial, state=states.FAIL)
            return "interrupted"
        except BaseException:
            study.tell(trial, state=states.FAIL)
            raise
        if given_up:
            study.tell(trial, state=states.PRUNED)
        else:
            study.tell(trial, value)
        if on_trial is not None:
            rows = _trials(optuna, study, tried.data.names)
            row = next(row for row in rows if row.number == trial.number)
            on_trial(row, _best(rows, sign), len(rows), trials)


def _trials(optuna: Any, study: Any, names: tuple[str, ...]) -> list[Trial]:
    states = optuna.trial.TrialState
    rows = []
    for trial in study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)):
        seconds = trial.duration.total_seconds() if trial.duration is not None else math.nan
        rows.append(
            Trial(
                number=trial.number,
                state="finished" if trial.state == states.COMPLETE else "pruned",
                score=float(trial.user_attrs["score"]),
                rounds=int(trial.user_attrs["rounds"]),
                grown=int(trial.user_attrs["grown"]),
                seconds=seconds,
                params={k: v for k, v in trial.params.items() if not k.startswith(_KEEP)},
                models=tuple(trial.user_attrs.get("models", names)),
            )
        )
    return rows


def _best(trials: list[Trial], sign: int) -> Trial | None:
    finished = [trial for trial in trials if trial.state == "finished"]
    return max(finished, key=lambda trial: (trial.score * sign, -trial.number), default=None)


def _importance(optuna: Any, study: Any, seed: int) -> dict[str, float]:
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < 4:
        return {}
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError, ImportError):
        return {}  # all scores alike, or scikit-learn is not there
    return {name: float(share) for name, share in shares.items()}


# -- files ----------------------------------------------------------------------------------------


def save_search(found: Found, folder: Path, *, plot: bool = True) -> None:
    """Write everything that a search gives into an existing, empty folder.

    best.json (parameters for `ensemble fit`), trials.tsv, report.json with versions and the
    digests of the input files, and with `plot` history.png and importance.png.
    """
    dump_json(found.settings(), folder / "best.json")
    with (folder / "trials.tsv").open("w", encoding="utf-8", newline="\n") as out:
        write_trials(found, out)
    report = found.to_json()
    report["versions"] = versions()
    report["ranges"] = {name: entry.to_json() for name, entry in found.ranges.items()}
    report["inputs"] = {
        "train_labels": described([found.data.path]),
        "train_features": described([model.path for model in found.data.models]),
    }
    dump_json(report, folder / "report.json")
    if plot:
        from uertool.tasks.ensemble import plots

        sign = METRICS[found.metric].sign
        best: list[float] = []
        for trial in found.trials:
            candidates = [*best[-1:], *([trial.score] if trial.state == "finished" else [])]
            best.append(max(candidates, key=lambda s: s * sign, default=math.nan))
        plots.history(
            [trial.number for trial in found.trials],
            [trial.score for trial in found.trials],
            [trial.state == "pruned" for trial in found.trials],
            best,
            found.metric,
            folder / "history.png",
        )
        if found.importance:
            plots.parameter_importance(found.importance, folder / "importance.png")


def write_trials(found: Found, out: TextIO) -> None:
    """Write the table of trials as TSV.

    Columns: number, state, the metric, rounds, grown, seconds, one for each hyperparameter, models.
    """
    names = list(found.ranges)
    columns = ["number", "state", found.metric, "rounds", "grown", "seconds", *names, "models"]
    out.write("\t".join(columns) + "\n")
    for trial in found.trials:
        cells = [
            str(trial.number), trial.state, f"{trial.score:.6f}", str(trial.rounds),
            str(trial.grown), f"{trial.seconds:.2f}",
            *(_cell(trial.params.get(name, "")) for name in names), ",".join(trial.models),
        ]  # fmt: skip
        out.write("\t".join(cells) + "\n")


def _cell(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
