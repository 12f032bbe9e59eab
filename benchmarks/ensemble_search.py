"""Time and score of a search for ensemble settings: uertool and other methods.

    python benchmarks/ensemble_search.py                      # the size quoted in docs/ensemble.md
    python benchmarks/ensemble_search.py --lines 2000 --trials 6 --methods uertool,random

Every method gets the same lines, the same ranges and the same number of trials:

    uertool      `uertool.tasks.ensemble.search` with its defaults: TPE, bins made once, trials
                 pruned by the median, early stopping
    uertool-gp   the same with the Gaussian process
    random       plain random search; each trial trains 150 rounds in each fold
    bayesopt     the package bayesian-optimization (5 random points first) on the same trials
    old          the same package on the trials of UER-py's script: 150 rounds of dart on
                 contiguous folds

bayesopt and old need `pip install bayesian-optimization`; without it they are skipped, and
old-random (random search on the trials of UER-py's script) gives the time of the latter.

The score that a method reports is not comparable, so the settings of all methods are evaluated in
the same way: by macro F1 in a cross-validation on other folds, and on unseen test lines.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

# Shares of the six emotions in the contest data that run_bayesopt was written for.
SHARES = (0.30, 0.21, 0.19, 0.18, 0.08, 0.04)


@dataclass(frozen=True)
class Case:
    """Lines with labels and the outputs of base models."""

    labels: npt.NDArray[np.int64]
    outputs: list[Matrix]

    @property
    def matrix(self) -> Matrix:
        return np.concatenate(self.outputs, axis=1)


@dataclass(frozen=True)
class Outcome:
    """What a method found: settings that `fit` takes, its own score, and seconds."""

    params: dict[str, Any]
    rounds: int
    score: float
    seconds: float
    note: str = ""


def make_case(lines: int, models: int, labels_num: int, seed: int, world: int = 0) -> Case:
    """Base models whose errors are partly shared, and which differ in what they are good at.

    `world` fixes the base models, `seed` the lines.
    """
    shares = np.array([SHARES[i % len(SHARES)] for i in range(labels_num)])
    of_world = np.random.default_rng((world, models, labels_num))
    skill = of_world.uniform(1.0, 2.5, (models, labels_num))
    confuse = of_world.normal(0, 0.25, (models, labels_num, labels_num))
    heat = of_world.uniform(0.5, 2.0, models)  # how sure of itself each model is
    generator = np.random.default_rng((seed, lines))
    labels = generator.choice(labels_num, lines, p=shares / shares.sum())
    shared = generator.normal(0, 1.0, (lines, labels_num))  # what makes a line hard for all
    outputs = []
    for m in range(models):
        logits = shared + generator.normal(0, 0.7, (lines, labels_num)) + confuse[m][labels]
        logits[np.arange(lines), labels] += skill[m][labels]
        powers = np.exp(heat[m] * (logits - logits.max(axis=1, keepdims=True)))
        outputs.append((powers / powers.sum(axis=1, keepdims=True)).astype(np.float32))
    return Case(labels, outputs)


# -- the plain ways -------------------------------------------------------------------------------


def plain_trials(
    case: Case, labels_num: int, args: argparse.Namespace, *, dart: bool, contiguous: bool
) -> Callable[[Mapping[str, Any]], float]:
    """A function that trains all folds from scratch with given settings: mean macro F1."""
    import lightgbm as lgb

    from uertool.tasks.ensemble.scores import fold_of_each_line, macro_f1

    matrix, labels = case.matrix, case.labels
    if contiguous:
        fold = np.arange(len(labels)) // math.ceil(len(labels) / args.folds)
    else:
        fold = fold_of_each_line(labels, args.folds, args.seed)

    def trial(settings: Mapping[str, Any]) -> float:
        params = {
            **as_lightgbm(settings),
            "boosting": "dart" if dart else "gbdt",
            "bagging_fraction": 0.4,
            "bagging_freq": 5,
            "max_bin": 63,
            "objective": "multiclass",
            "num_class": labels_num,
            "num_threads": args.threads,
            "seed": args.seed,
            "verbosity": -1,
        }
        scores = []
        for i in range(args.folds):
            train = lgb.Dataset(matrix[fold != i], labels[fold != i])
            booster = lgb.train(params, train, args.rounds)
            scores.append(macro_f1(labels[fold == i], booster.predict(matrix[fold == i])))
        return float(np.mean(scores))

    return trial


def as_lightgbm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Whole numbers where LightGBM wants them; optimisers of old give fractions of everything."""
    from uertool.tasks.ensemble.parameters import KINDS

    return {n: int(v) if KINDS[n] is int else float(v) for n, v in settings.items()}


def bounds() -> dict[str, tuple[float, float]]:
    from uertool.tasks.ensemble.parameters import load_ranges

    ranges, _ = load_ranges("run_bayesopt")
    return {name: (entry.low, entry.high) for name, entry in ranges.items()}


def by_random(trial: Callable[[Mapping[str, Any]], float], args: argparse.Namespace) -> Outcome:
    generator = np.random.default_rng(args.seed)
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    begin = time.perf_counter()
    for _ in range(args.trials):
        settings = {name: generator.uniform(low, high) for name, (low, high) in bounds().items()}
        best = max(best, (trial(settings), settings), key=lambda pair: pair[0])
    return Outcome(as_lightgbm(best[1]), args.rounds, best[0], time.perf_counter() - begin)


def by_bayesopt(trial: Callable[[Mapping[str, Any]], float], args: argparse.Namespace) -> Outcome:
    from bayes_opt import BayesianOptimization

    first = min(5, args.trials - 1)
    begin = time.perf_counter()
    optimizer = BayesianOptimization(
        lambda **settings: trial(settings), bounds(), random_state=args.seed, verbose=0
    )
    optimizer.maximize(init_points=first, n_iter=args.trials - first)
    seconds = time.perf_counter() - begin
    found = optimizer.max
    return Outcome(as_lightgbm(found["params"]), args.rounds, float(found["target"]), seconds)


# -- all methods ----------------------------------------------------------------------------------


def by_uertool(case: Case, labels_num: int, args: argparse.Namespace, sampler: Any) -> Outcome:
    from uertool.tasks.ensemble.search import search
    from uertool.tasks.ensemble.settings import SearchSettings

    begin = time.perf_counter()
    settings = SearchSettings(
        labels_num=labels_num, epochs_num=args.trials, folds_num=args.folds, rounds=args.rounds,
        sampler=sampler, seed=args.seed, threads=args.threads,
    )  # fmt: skip
    found = search(labelled(case), settings)
    seconds = time.perf_counter() - begin
    grown = sum(trial.user_attrs["grown"] for trial in found.trials)
    chosen = found.parameters()
    return Outcome(
        chosen["params"], chosen["rounds"], found.best.value, seconds,
        f"{found.pruned} trials pruned, {grown} of {args.trials * args.rounds} rounds computed",
    )  # fmt: skip


def labelled(case: Case) -> Any:
    from uertool.tasks.ensemble.data import Features, LabelledData

    models = tuple(
        Features(f"model {i}", Path(f"{i}.npy"), values) for i, values in enumerate(case.outputs)
    )
    return LabelledData(Path("made-up.tsv"), case.labels, models)


def run_method(name: str, case: Case, args: argparse.Namespace) -> Outcome:
    if name.startswith("uertool"):
        return by_uertool(case, args.labels, args, "gp" if name == "uertool-gp" else "tpe")
    old = name.startswith("old")
    trial = plain_trials(case, args.labels, args, dart=old, contiguous=old)
    outcome = (by_bayesopt if name in ("bayesopt", "old") else by_random)(trial, args)
    if old:
        fixed = {"boosting": "dart"}
        outcome = Outcome({**outcome.params, **fixed}, outcome.rounds, outcome.score,
                          outcome.seconds)  # fmt: skip
    bagging = {"bagging_fraction": 0.4, "bagging_freq": 5, "max_bin": 63}
    return Outcome({**bagging, **outcome.params}, outcome.rounds, outcome.score, outcome.seconds)


def judge(outcome: Outcome, train: Case, test: Case, args: argparse.Namespace) -> dict[str, float]:
    """Macro F1 of settings in a cross validation on other folds, and on unseen lines."""
    from uertool.tasks.ensemble.fit import learn
    from uertool.tasks.ensemble.parameters import Parameters
    from uertool.tasks.ensemble.settings import FitSettings

    chosen = Parameters(outcome.params, outcome.rounds, labels_num=args.labels)
    settings = FitSettings(folds=args.folds, seed=args.seed + 1000, threads=args.threads)
    fitted = learn(labelled(train), labelled(test), chosen, settings)
    return {
        split: part.scores["ensemble"].macro_f1 for split, part in fitted.comparisons.items()
    } | {
        "best_base": max(
            score.macro_f1
            for name, score in fitted.comparisons["test"].scores.items()
            if name.startswith("model ")
        ),
        "average": fitted.comparisons["test"].scores["average"].macro_f1,
    }


METHODS = ("uertool", "uertool-gp", "random", "bayesopt", "old", "old-random")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=30000)
    parser.add_argument("--test-lines", type=int, default=30000)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--labels", type=int, default=6)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", default=None, help=f"by comma, of {', '.join(METHODS)}")
    parser.add_argument("--json", action="store_true", help="one JSON object a method")
    args = parser.parse_args(argv)
    have = importlib.util.find_spec("bayes_opt") is not None
    default = [m for m in METHODS if have == (m != "old-random") or m in METHODS[:3]]
    args.methods = args.methods.split(",") if args.methods else default
    unknown = set(args.methods) - set(METHODS)
    if unknown:
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    train = make_case(args.lines, args.models, args.labels, seed=1)
    test = make_case(args.test_lines, args.models, args.labels, seed=2)
    if not args.json:
        print(
            f"{args.trials} trials, {args.folds} folds, {args.models} base models x {args.labels} "
            f"labels x {args.lines} lines, {args.threads} threads, Python "
            f"{platform.python_version()}"
        )
        print(f"{'method':12} {'seconds':>8} {'own score':>10} {'other folds':>12} {'test':>8}")
    for name in args.methods:
        outcome = run_method(name, train, args)
        scores = judge(outcome, train, test, args)
        if args.json:
            print(json.dumps({"method": name, **vars(outcome), **scores}), flush=True)
            continue
        print(
            f"{name:12} {outcome.seconds:8.1f} {outcome.score:10.4f} {scores['out_of_fold']:12.4f} "
            f"{scores['test']:8.4f}  {outcome.note}",
            flush=True,
        )
    if not args.json:
        print(f"best base model {scores['best_base']:.4f}, plain average {scores['average']:.4f} "
              "on the test lines")  # fmt: skip


if __name__ == "__main__":
    main()
