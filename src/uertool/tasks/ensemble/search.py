"""Bayesian search for LightGBM parameters, by cross validation of the training lines."""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from uertool.errors import InputError, UsageError
from uertool.io.display import Report
from uertool.tasks.ensemble import ensemble, fit, parameters
from uertool.tasks.ensemble.data import LabelledData, Labels, inputs_of
from uertool.tasks.ensemble.parameters import Value, lightgbm, optuna
from uertool.tasks.ensemble.scores import METRICS, Probabilities, fold_of_each_line, log_loss
from uertool.tasks.ensemble.settings import SearchSettings

_EVERY = 5  # rounds between two looks at the held-out lines
_RANDOM_TRIALS = 10  # before a sampler has seen enough to judge
_KEEP = "keep "  # names the choice of a base model among the parameters of a trial
# Base models are mostly worth keeping, so at first a search drops one in five at random.
_DROP_SHARE = 0.2
_WARM_UP = 20  # rounds before a trial may be pruned
_CACHED = 4  # binned data of so many choices of base models is kept


@dataclass(frozen=True, repr=False)
class Found(Report):
    """The result of a search.

    Attributes:
        study: the optuna study. Its trials have the user attributes score (the metric at the best
            round, also of a pruned trial), rounds (that round), grown (rounds that were computed)
            and models (the base models in use).
        fixed: parameters that were the same in every trial.
        ranges: the optuna distributions of the others.
        importance: share of the score's variance that each hyperparameter explains (fANOVA);
            empty with fewer than 4 finished trials.
        stopped: why it ended: "trials", "timeout" or "interrupted".
    """

    study: Any = field(repr=False)
    fixed: dict[str, Value]
    ranges: dict[str, Any]
    importance: dict[str, float]
    stopped: str
    labels_num: int
    objective: str
    settings: SearchSettings
    data: LabelledData = field(repr=False)

    @property
    def trials(self) -> list[Any]:
        """The trials that were finished or pruned, with those of earlier runs on the storage."""
        return done_trials(self.study)

    @property
    def best(self) -> Any:
        """The finished trial with the best score."""
        return self.study.best_trial

    @property
    def best_params(self) -> dict[str, Value]:
        """The hyperparameters of the best trial."""
        return {name: self.best.params[name] for name in self.ranges}

    @property
    def pruned(self) -> int:
        """Number of trials that were stopped because they fell behind."""
        return len(self.trials) - len(_finished(self.study))

    @property
    def inputs(self) -> dict[str, list[Path]]:
        """The files that were read, by what they are."""
        return inputs_of(self.data, "train")

    def parameters(self) -> dict[str, Any]:
        """A parameter file for `ensemble fit`, with a note where it comes from."""
        return {
            "format": parameters.FORMAT,
            "version": 1,
            "params": {**self.fixed, **self.best_params},
            "rounds": self.best.user_attrs["rounds"],
            "models": self.best.user_attrs["models"],
            "labels_num": self.labels_num,
            "objective": self.objective,
            "found": {
                "metric": self.settings.metric,
                "score": self.best.value,
                "trial": self.best.number,
                "trials": len(self.trials),
                "folds": self.settings.folds_num,
                "seed": self.settings.seed,
            },
        }

    def to_json(self) -> dict[str, Any]:
        """The report of a run."""
        return {
            **self.parameters(),
            "stopped": self.stopped,
            "pruned": self.pruned,
            "importance": self.importance,
            "notices": list(self.data.notices),
        }


def search_space(settings: SearchSettings) -> tuple[dict[str, Any], dict[str, Value]]:
    """The optuna distributions to search, and the fixed parameters over those of run_bayesopt.

    Raises:
        InputError, UsageError: the ranges or a parameter are invalid, or nothing is searched.
    """
    ranges, fixed = parameters.load_ranges(settings.ranges)
    fixed |= fit.given_parameters(settings).params
    ranges = {name: entry for name, entry in ranges.items() if name not in fixed}
    if not ranges:
        raise UsageError("Every parameter is fixed by a setting, so there is nothing to search.")
    fixed = {**parameters.SEARCH_PARAMETERS, **fixed}
    return ranges, {name: value for name, value in fixed.items() if name not in ranges}


def search(
    data: LabelledData,
    settings: SearchSettings,
    on_trial: Callable[[int, float | None], None] | None = None,
) -> Found:
    """Search the LightGBM parameters that score best on held-out training lines.

    Every trial grows one booster per fold, side by side, and is judged by the metric over all
    held-out lines together. The first trial has the parameters of run_lgb within the ranges, so the
    result is never worse than these. The same seed and data give the same result, whatever the
    number of threads, and whether or not the search was stopped and resumed in between; only
    several workers on one storage make the order of trials, and so the result, a matter of chance.

    Args:
        data: training lines; their features should be out of fold.
        settings: what to search, and how. `epochs_num` includes the trials in the storage.
        on_trial: called after each trial with the number of trials that are done, and the best
            score so far.

    Raises:
        InputError, UsageError: the data or a setting is invalid, or the storage holds trials on
            other data or with other settings.
        KeyboardInterrupt: before any trial was finished; later ones end the search with what is
            found.
    """
    ranges, fixed = search_space(settings)
    labels_num = fit.count_labels(data, settings.labels_num)
    objective = fit.objective_for(settings.objective, labels_num)
    fold = fold_of_each_line(data.labels, settings.folds_num, settings.seed)
    least = {name: getattr(entry, "low", 1) for name, entry in ranges.items()}
    fit.check_lines(int((fold != 0).sum()), {**fixed, **least}, data, " outside a fold")
    params = fit.full_parameters(fixed, objective, labels_num, settings.seed, settings.threads)
    trials = _Trials(data, fold, labels_num, ranges, params, settings)
    _, sign = METRICS[settings.metric]
    with _quiet():
        study = _open_study(settings, sign)
        study.sampler, study.pruner = _sampler(settings), _pruner(settings)
        _same_search(study, {**trials.signature(), "objective": objective, "fixed": fixed})
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(trials.first_guess(), skip_if_exists=True)
        stopped = _run(study, trials, on_trial)
        if not _finished(study):
            if stopped == "interrupted":
                raise KeyboardInterrupt
            within = f" within {settings.timeout:g} seconds" if settings.timeout else ""
            raise InputError(
                f"No trial was finished{within}.", "Give more time, or lower `rounds`."
            )
        importance = _importance(study, settings.seed)
    return Found(study, fixed, ranges, importance, stopped, labels_num, objective, settings, data)


# -- one trial ------------------------------------------------------------------------------------


@dataclass
class _Trials:
    """Turns the choices of optuna into scores."""

    data: LabelledData
    fold: Labels
    labels_num: int
    ranges: dict[str, Any]
    params: dict[str, Any]
    settings: SearchSettings
    _binned: dict[Any, Any] = field(default_factory=dict)

    @property
    def space(self) -> dict[str, Any]:
        """All that a trial chooses: hyperparameters, and with `select_models` base models."""
        share = optuna().distributions.FloatDistribution(0, 1)
        chosen = self.settings.select_models and len(self.data.models) > 1
        return {**self.ranges, **{_KEEP + n: share for n in self.data.names if chosen}}

    def signature(self) -> dict[str, Any]:
        """What must be the same for trials to be comparable, as JSON."""
        compared = ("rounds", "early_stopping", "metric", "select_models", "seed", "sampler",
                    "pruner")  # fmt: skip
        return {
            "version": 2,
            "labels": _digest(self.data.labels),
            "features": [_digest(model.values) for model in self.data.models],
            "models": list(self.data.names),
            "labels_num": self.labels_num,
            "folds": self.settings.folds_num,
            "ranges": {name: range_json(entry) for name, entry in self.ranges.items()},
            **{name: getattr(self.settings, name) for name in compared},
        }

    def first_guess(self) -> dict[str, Any]:
        """The parameters of run_lgb within the ranges, and all base models."""
        guess: dict[str, Any] = {}
        for name, entry in self.space.items():
            wanted = 1.0 if name.startswith(_KEEP) else parameters.FIT_PARAMETERS.get(name)
            if hasattr(entry, "choices"):
                guess |= {name: wanted} if wanted in entry.choices else {}
            elif wanted is not None:
                guess[name] = min(max(wanted, entry.low), entry.high)
        return guess

    def models_of(self, trial: Any) -> tuple[str, ...]:
        """The base models that a trial keeps; at least one."""
        kept = [n for n in self.data.names if trial.params.get(_KEEP + n, 1.0) > _DROP_SHARE]
        return tuple(kept) or self.data.names[:1]

    def score(self, trial: Any) -> float:
        """The score of a trial by cross validation.

        All folds are judged together: one number of rounds serves all of them, as it must in the
        end when there is one model. It is chosen by the same held-out lines as the parameters are,
        so it is one more hyperparameter; an honest score of the winner needs other lines.

        Better is a better score or a lower log loss: a slow learner answers with the commonest
        label for many rounds, while its probabilities improve all along.

        Raises:
            optuna.TrialPruned: it fell behind.
            UsageError: LightGBM refuses this combination of parameters.
        """
        chosen: dict[str, Value] = {name: trial.params[name] for name in self.ranges}
        names, labels, patience = (
            self.models_of(trial),
            self.data.labels,
            self.settings.early_stopping,
        )
        params = {**self.params, **chosen, "num_threads": 1}
        if reason := parameters.refusal(params):
            raise UsageError(f"LightGBM refuses {chosen}: {reason}.", "Change the ranges.")
        metric, sign = METRICS[self.settings.metric]
        best, rounds, least_loss, improved, pruned = 0.0, 0, np.inf, 0, False
        with contextlib.closing(self.grown(names, params)) as steps:
            for done, probabilities in steps:
                value, loss = metric(labels, probabilities), log_loss(labels, probabilities)
                if not rounds or value * sign > best * sign:
                    best, rounds, improved = value, done, done
                if loss < least_loss:
                    least_loss, improved = loss, done
                trial.report(value, done)
                pruned = trial.should_prune()
                if pruned or (patience and done - improved >= patience):
                    break
        found = {"rounds": rounds, "grown": done, "score": best, "models": list(names)}
        for name, attribute in found.items():
            trial.set_user_attr(name, attribute)
        if pruned:
            raise optuna().TrialPruned
        return best

    def grown(
        self, names: tuple[str, ...], params: Mapping[str, Any]
    ) -> Generator[tuple[int, Probabilities], None, None]:
        """Grow one booster per fold, and yield the round and the held-out probabilities at times.

        The probabilities are those of all lines, [lines, labels], each from the fold that has not
        seen it; LightGBM keeps them up to date tree by tree. Each booster has one thread, and folds
        share the cores, since boosters of this size waste a second thread.
        """
        data, fold, rounds = self.binned(names, params), self.fold, self.settings.rounds
        probabilities = np.empty((len(fold), self.labels_num))
        boosters = []
        for number in range(self.settings.folds_num):
            inside, held = (np.flatnonzero(part) for part in (fold != number, fold == number))
            booster = lightgbm().Booster(params, data.subset(inside).construct())
            boosters.append((booster.add_valid(data.subset(held).construct(), "held out"), held))

        def grow(booster: Any, held: Labels, count: int) -> None:
            def keep(raw: Any, _: Any) -> tuple[str, float, bool]:
                probabilities[held] = ensemble.as_matrix(raw)
                return "kept", 0.0, True

            for _ in range(count):
                booster.update()
            booster.eval_valid(keep)

        with ThreadPoolExecutor(self.params["num_threads"], initializer=_hush) as pool:
            for start in range(0, rounds, _EVERY):
                done = min(start + _EVERY, rounds)
                work = [pool.submit(grow, *one, done - start) for one in boosters]
                for future in work:
                    future.result()
                yield done, probabilities

    def binned(self, names: tuple[str, ...], params: Mapping[str, Any]) -> Any:
        """A LightGBM Dataset of these base models; samplers return to the last few.

        The bins come from the features of all lines, never from their labels, so folds share them.
        """
        key = (names, *(params.get(name) for name in parameters.OF_BINS))
        if key not in self._binned:
            while len(self._binned) >= _CACHED:
                del self._binned[next(iter(self._binned))]
            matrix = self.data.keep(names).matrix()
            self._binned[key] = lightgbm().Dataset(matrix, self.data.labels, params=dict(params))
        return self._binned[key]


def _hush() -> None:
    """Silence LightGBM in this thread: what was set last decides verbosity and threads."""
    silent = {"verbosity": -1, "num_threads": 1}
    lightgbm().Dataset(np.zeros((2, 1)), label=[0, 1], params=silent).construct()


def range_json(entry: Any) -> dict[str, Any]:
    """A distribution as in a file of ranges."""
    if hasattr(entry, "choices"):
        return {"choices": list(entry.choices)}
    return {"low": entry.low, "high": entry.high, "log": entry.log}


def _digest(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


# -- optuna ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep optuna from printing; its level is restored."""
    logging = optuna().logging
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"optuna\..*")
            warnings.filterwarnings("ignore", category=optuna().exceptions.ExperimentalWarning)
            yield
    finally:
        logging.set_verbosity(level)


def _open_study(settings: SearchSettings, sign: int) -> Any:
    """A new study, or the one of this name in the storage."""
    url = settings.storage
    if url is not None and "://" not in url:
        raise UsageError(f"The storage {url!r} is not a URL.", f"Give sqlite:///{url} for a file.")
    # Other workers write too; wait for them rather than fail.
    wait = {"connect_args": {"timeout": 60}} if (url or "").startswith("sqlite") else None
    for attempt in range(8):
        try:
            return optuna().create_study(
                storage=url and optuna().storages.RDBStorage(url, engine_kwargs=wait),
                direction="maximize" if sign > 0 else "minimize",
                study_name=settings.study_name,
                load_if_exists=True,
            )
        except Exception as error:  # sqlalchemy has dozens of its own
            failure = str(error).splitlines()[0]
            if "unable to open" in failure or not url or "://" in failure:
                break
            # Workers that start together all try to create the tables; one of them succeeds, and
            # the others find them when they look again.
            time.sleep(0.1 * (attempt + 1))
    raise UsageError(
        f"The storage {url} cannot be opened: {failure}.",
        "Give something like sqlite:///search.db (three slashes for a relative path).",
    )


def _pruner(settings: SearchSettings) -> Any:
    pruners, rounds = optuna().pruners, settings.rounds
    if settings.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=min(_WARM_UP, rounds // 3))
    if settings.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=min(10, rounds), max_resource=rounds)
    return pruners.NopPruner()


def _sampler(settings: SearchSettings) -> Any:
    """A sampler with choices for a trial that depend on the seed and the trials before it only.

    optuna's samplers carry the state of their generator along, so a resumed search would draw again
    what it drew at first. This one starts again for every trial.
    """
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "tpe": ("TPESampler", {"multivariate": True, "n_startup_trials": _RANDOM_TRIALS}),
        "gp": ("GPSampler", {"deterministic_objective": True, "n_startup_trials": _RANDOM_TRIALS}),
        "random": ("RandomSampler", {}),
    }
    name, options = kinds[settings.sampler]
    kind = getattr(optuna().samplers, name)

    class Seeded(kind):  # type: ignore[misc,valid-type]
        def before_trial(self, study: Any, trial: Any) -> None:
            # Failed trials do not count: who resumes makes them again.
            others = study.get_trials(deepcopy=False)
            before = sum(t.number < trial.number and t.state.name != "FAIL" for t in others)
            own = np.random.SeedSequence((settings.seed, before)).generate_state(1)[0]
            kind.__init__(self, seed=int(own), **options)
            super().before_trial(study, trial)

    return Seeded()


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
            "Give another `study_name` or `storage`, or the same settings as before.",
        )


def _run(study: Any, trials: _Trials, on_trial: Callable[[int, float | None], None] | None) -> str:
    """Make trials until there are enough; returns why it ended."""
    states, settings = optuna().trial.TrialState, trials.settings
    deadline = time.monotonic() + (settings.timeout or np.inf)
    while len(done_trials(study)) < settings.epochs_num:
        if time.monotonic() >= deadline:
            return "timeout"
        trial = study.ask(trials.space)
        try:
            study.tell(trial, trials.score(trial))
        except optuna().TrialPruned:
            study.tell(trial, state=states.PRUNED)
        except BaseException as error:
            study.tell(trial, state=states.FAIL)
            if isinstance(error, KeyboardInterrupt):
                return "interrupted"
            raise
        if on_trial is not None:
            best = study.best_value if _finished(study) else None
            on_trial(len(done_trials(study)), best)
    return "trials"


def done_trials(study: Any) -> list[Any]:
    """The trials of a study that were finished or pruned."""
    states = optuna().trial.TrialState
    done: list[Any] = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    return done


def _finished(study: Any) -> list[Any]:
    return [trial for trial in done_trials(study) if trial.state.name == "COMPLETE"]


def _importance(study: Any, seed: int) -> dict[str, float]:
    if len(_finished(study)) < 4:
        return {}
    module = optuna().importance
    evaluator = module.FanovaImportanceEvaluator(seed=seed)
    try:
        shares = module.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):
        return {}  # all scores are equal
    return {name: float(share) for name, share in shares.items()}


# -- files ----------------------------------------------------------------------------------------


def save_search(found: Found, folder: Path, *, plot: bool = True) -> None:
    """Write everything that a search gives into an existing, empty folder.

    best.json (parameters for `ensemble fit`), trials.tsv, report.json with versions and the
    digests of the input files, and with `plot` history.png and importance.png.
    """
    ensemble.dump_json(found.parameters(), folder / "best.json")
    with (folder / "trials.tsv").open("w", encoding="utf-8", newline="\n") as out:
        write_trials(found, out)
    report = {
        **found.to_json(),
        "versions": ensemble.versions(),
        "ranges": {name: range_json(entry) for name, entry in found.ranges.items()},
        "inputs": ensemble.described(found.inputs),
    }
    ensemble.dump_json(report, folder / "report.json")
    if plot:
        from uertool.tasks.ensemble import plots

        with _quiet():
            plots.history(found.study, found.settings.metric, folder / "history.png")
        if found.importance:
            plots.parameter_importance(found.importance, folder / "importance.png")


def write_trials(found: Found, out: TextIO) -> None:
    """Write the table of trials as TSV.

    Columns: number, state, the metric, rounds, grown, seconds, one per hyperparameter, models.
    """
    columns = ("number", "state", found.settings.metric, "rounds", "grown", "seconds")
    out.write("\t".join([*columns, *found.ranges, "models"]) + "\n")
    for trial in found.trials:
        own = trial.user_attrs
        cells = [
            trial.number, "pruned" if trial.state.name == "PRUNED" else "finished",
            f"{own['score']:.6f}", own["rounds"], own["grown"],
            f"{trial.duration.total_seconds():.2f}",
            *(cell(trial.params[name]) for name in found.ranges), ",".join(own["models"]),
        ]  # fmt: skip
        out.write("\t".join(map(str, cells)) + "\n")


def cell(value: Value) -> str:
    """A value for a table."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
