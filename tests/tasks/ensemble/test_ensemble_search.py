"""The search for settings: reproducible, resumable, better than its first guess, usable by fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import TEXT
from tests.tasks.ensemble.ensemble_data import write_case, write_labels, write_text_models
from uertool.errors import InputError, UsageError
from uertool.tasks.ensemble import scores
from uertool.tasks.ensemble import search as job
from uertool.tasks.ensemble.data import LabelledData, load_labelled
from uertool.tasks.ensemble.fit import full_parameters, learn
from uertool.tasks.ensemble.parameters import RANGES, Parameters, load_parameters, load_ranges
from uertool.tasks.ensemble.scores import fold_of_each_line
from uertool.tasks.ensemble.search import Found, range_json, save_search
from uertool.tasks.ensemble.settings import FitSettings, SearchSettings

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"rounds": 20, "folds_num": 3}


def search(data: LabelledData, on_trial: Any = None, **options: Any) -> Found:
    """`search` with settings by name."""
    return job.search(data, SearchSettings(**{"seed": 0, **options}), on_trial)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    folder = write_case(tmp_path_factory.mktemp("case"))
    return load_labelled(folder / "train.tsv", [str(folder)], "train")


def reported(found: Found) -> list[tuple[Any, ...]]:
    """All of the trials but the seconds they took."""
    return [(t.state, t.user_attrs, t.params) for t in found.trials]


# -- cross validation -------------------------------------------------------------------------


@pytest.mark.parametrize("boost", ["gbdt", "dart"])
def test_a_trial_is_scored_by_models_that_have_not_seen_the_lines(
    data: LabelledData, boost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second implementation: one LightGBM model per fold, trained on the lines outside it."""
    import lightgbm as lgb

    seen: list[tuple[int, float]] = []
    monkeypatch.setattr(
        "optuna.trial.Trial.report", lambda _, value, done: seen.append((done, value))
    )
    found = search(
        data, epochs_num=1, folds_num=3, rounds=12, seed=1, metric="log_loss", boosting=boost,
        early_stopping=0, bagging_fraction=0.5, bagging_freq=2, max_bin=63, pruner="none",
    )  # fmt: skip
    fold = fold_of_each_line(data.labels, 3, 1)
    params = full_parameters({**found.fixed, **found.best_params}, "multiclass", 3, 1, 1)
    whole = lgb.Dataset(data.matrix(), data.labels, params=params, free_raw_data=False).construct()
    for done, value in seen:
        together = np.zeros((len(data.labels), 3))
        for i in range(3):
            part = whole.subset(np.flatnonzero(fold != i).tolist())
            booster = lgb.train(params, part, done)
            together[fold == i] = booster.predict(data.matrix()[fold == i])
        assert value == pytest.approx(scores.log_loss(data.labels, together), rel=1e-9)
    assert [done for done, _ in seen] == [5, 10, 12]


# -- reproducible -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_the_same_seed_gives_the_same_search_on_any_number_of_threads(
    data: LabelledData, sampler: str
) -> None:
    one, same, other = (
        search(data, epochs_num=12, sampler=sampler, seed=seed, threads=threads, **QUICK)
        for seed, threads in ((1, 1), (1, 2), (2, 1))
    )
    assert reported(one) == reported(same)
    assert reported(one) != reported(other)
    assert len(one.trials) == 12


def test_a_search_that_is_resumed_is_the_search_that_was_not_stopped(
    data: LabelledData, tmp_path: Path
) -> None:
    at_once = search(data, epochs_num=14, **QUICK)
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    first = search(data, epochs_num=6, storage=storage, **QUICK)
    assert len(first.trials) == 6
    assert reported(search(data, epochs_num=14, storage=storage, **QUICK)) == reported(at_once)


def test_an_interrupted_search_keeps_what_it_found_and_goes_on_the_same(
    data: LabelledData, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    with pytest.MonkeyPatch.context() as patch:
        real, calls = job._Trials.score, []

        def stop_at_third(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        patch.setattr(job._Trials, "score", stop_at_third)
        broken = search(data, epochs_num=8, storage=storage, **QUICK)
    assert broken.stopped == "interrupted"
    assert len(broken.trials) == 2
    resumed = search(data, epochs_num=8, storage=storage, **QUICK)
    assert reported(resumed) == reported(search(data, epochs_num=8, **QUICK))


def test_trials_of_another_search_are_not_mixed_in(data: LabelledData, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    search(data, epochs_num=1, storage=storage, **QUICK)
    with pytest.raises(UsageError, match="another search; what differs: rounds, seed"):
        search(data, epochs_num=2, storage=storage, rounds=21, folds_num=3, seed=5)
    search(data, epochs_num=1, storage=storage, rounds=21, folds_num=3, study_name="second")


def test_two_workers_share_the_trials_of_one_storage(data: LabelledData, tmp_path: Path) -> None:
    folder = data.path.parent
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    code = (
        "from uertool.tasks.ensemble.data import load_labelled\n"
        "from uertool.tasks.ensemble.search import search\n"
        "from uertool.tasks.ensemble.settings import SearchSettings\n"
        f"data = load_labelled({str(folder / 'train.tsv')!r}, [{str(folder)!r}], 'train')\n"
        f"settings = SearchSettings(epochs_num=12, storage={storage!r}, rounds=20, folds_num=3,"
        "seed=0, threads=1)\n"
        "search(data, settings)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    found = search(data, epochs_num=12, storage=storage, **QUICK)
    assert 12 <= len(found.trials) <= 13  # the second worker ends what it has begun
    assert len({tuple(trial.params.values()) for trial in found.trials}) >= 11


@pytest.mark.parametrize("storage", ["search.db", "sqlite:////no/such/folder/x.db", "what://x"])
def test_a_storage_that_cannot_be_opened_is_refused_in_words(
    data: LabelledData, storage: str
) -> None:
    with pytest.raises(UsageError, match=storage):
        search(data, epochs_num=1, storage=storage, **QUICK)


# -- what is found ----------------------------------------------------------------------------


def test_hopeless_trials_are_given_up_and_the_best_so_far_never_falls(data: LabelledData) -> None:
    best: list[float] = []

    def on_trial(done: int, score: float | None) -> None:
        assert score is not None
        best.append(score)
        assert done == len(best)

    found = search(data, on_trial, epochs_num=25, rounds=40, folds_num=3)
    assert best == sorted(best)
    assert len(best) == 25
    assert found.best.value == best[-1] >= found.trials[0].user_attrs["score"]
    pruned = [trial for trial in found.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert found.pruned == len(pruned)
    assert sum(t.user_attrs["grown"] for t in pruned) < 40 * len(pruned)
    assert search(data, epochs_num=8, pruner="none", **QUICK).pruned == 0


def test_the_first_trial_has_the_settings_of_run_lgb_within_the_ranges(data: LabelledData) -> None:
    first = search(data, epochs_num=1, **QUICK).trials[0].params
    assert first["num_leaves"] == 20  # 10 lies below the range
    assert first["learning_rate"] == 0.02
    assert first["lambda_l1"] == first["lambda_l2"] == 5


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "log_loss"])
def test_the_metric_decides_which_trial_is_best(data: LabelledData, metric: str) -> None:
    found = search(data, epochs_num=8, metric=metric, pruner="none", **QUICK)
    values = [trial.user_attrs["score"] for trial in found.trials]
    assert found.best.value == (min(values) if metric == "log_loss" else max(values))


def test_a_trial_without_some_base_models_has_the_score_of_the_others_alone(
    data: LabelledData,
) -> None:
    found = search(data, epochs_num=12, select_models=True, pruner="none", **QUICK)
    assert {len(trial.user_attrs["models"]) for trial in found.trials} > {3}
    fold = fold_of_each_line(data.labels, 3, 0)
    params = full_parameters(found.fixed, "multiclass", 3, 0, 1)
    for trial in found.trials:
        assert trial.user_attrs["models"]
        alone = job._Trials(
            data.keep(trial.user_attrs["models"]), fold, 3, found.ranges, params,
            SearchSettings(epochs_num=1, **QUICK),
        )  # fmt: skip
        again = SimpleNamespace(
            params={name: trial.params[name] for name in found.ranges},
            report=lambda *_: None, should_prune=lambda: False, set_user_attr=lambda *_: None,
        )  # fmt: skip
        assert alone.score(again) == trial.user_attrs["score"]
    settings = found.parameters()
    best = found.best.user_attrs["models"]
    assert settings["models"] == best
    chosen = Parameters(settings["params"], models=tuple(best))
    assert [model.name for model in learn(data, None, chosen).ensemble.used] == best


def test_the_score_of_the_best_is_what_fit_finds_with_it(data: LabelledData) -> None:
    """Same folds, same lines outside them: the file of settings says all that matters."""
    found = search(data, epochs_num=10, **QUICK)
    chosen = Parameters(found.parameters()["params"], found.parameters()["rounds"])
    again = learn(data, None, chosen, FitSettings(folds=3, seed=0))
    score = again.comparisons["out_of_fold"].scores["ensemble"].macro_f1
    # Bins come from all lines in a search, from those outside the fold in a fit.
    assert score == pytest.approx(found.best.value, abs=0.05)


def test_a_timeout_ends_the_search_with_what_it_has(data: LabelledData) -> None:
    found = search(data, epochs_num=100000, timeout=0.3, **QUICK)
    assert found.stopped == "timeout"
    assert 1 <= len(found.trials) < 1000


def test_everything_that_a_search_writes_is_there(data: LabelledData, tmp_path: Path) -> None:
    found = search(data, epochs_num=8, **QUICK)
    save_search(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.json", "trials.tsv", "report.json", "history.png", "importance.png",
    }  # fmt: skip
    read = load_parameters(tmp_path / "best.json")
    assert read.params == found.parameters()["params"]
    own = found.best.user_attrs
    assert (read.rounds, read.models) == (own["rounds"], tuple(own["models"]))
    header, *rows = (tmp_path / "trials.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 8
    assert set(RANGES["run_bayesopt"]) < set(header.split("\t"))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["found"]["score"] == found.best.value
    assert len(report["inputs"]["train_features"]) == 3


# -- ranges -----------------------------------------------------------------------------------


def test_the_default_ranges_are_those_of_the_old_script() -> None:
    ranges = {
        name: (entry.low, entry.high) for name, entry in load_ranges("run_bayesopt")[0].items()
    }
    assert ranges == {
        "num_leaves": (20, 90), "min_data_in_leaf": (5, 100), "learning_rate": (0.005, 0.5),
        "min_sum_hessian_in_leaf": (1e-5, 20), "feature_fraction": (0.001, 0.5),
        "lambda_l1": (0, 10), "lambda_l2": (0, 10), "min_gain_to_split": (0, 1),
        "max_depth": (3, 200),
    }  # fmt: skip
    assert len(load_ranges("run_lgb_cv_bayesopt")[0]) == 7


def test_ranges_come_from_a_file(data: LabelledData, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(
        json.dumps({
            "eta": {"low": 0.01, "high": 0.3, "log": True}, "num_leaves": [4, 8],
            "boosting": ["gbdt", "dart"], "max_bin": {"choices": [15, 31]}, "min_data_in_leaf": 9,
        })
    )  # fmt: skip
    ranges, fixed = load_ranges(tmp_path / "r.json")
    assert range_json(ranges["learning_rate"]) == {"low": 0.01, "high": 0.3, "log": True}
    assert fixed == {"min_data_in_leaf": 9}
    found = search(data, ranges=str(tmp_path / "r.json"), epochs_num=6, **QUICK)
    for trial in found.trials:
        assert 4 <= trial.params["num_leaves"] <= 8
        assert trial.params["boosting"] in ("gbdt", "dart")
        assert trial.params["max_bin"] in (15, 31)
    assert found.parameters()["params"]["min_data_in_leaf"] == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"num_leaves": [9, 4]}', "invalid range: .*low=9, high=4"),
        ('{"lambda_l1": {"low": 0, "high": 1, "log": true}}', "invalid range: .*low=0"),
        ('{"num_leaves": {"low": 3, "high": 9, "step": 2}}', "needs low and high"),
        ('{"num_leaves": {"choices": 3}}', "needs low and high .*or choices"),
        ('{"num_leaves": {"choices": []}}', "invalid range"),
        ('{"num_leaves": []}', "invalid range"),
        ('{"rounds": [1, 9]}', "cannot be searched"),
        ('{"boosting": ["gbdt", "rf", 5]}', "invalid boosting: 5"),
        ('{"num_leaves": {"low": 3}}', "needs low and high"),
        ('{"leaves": [3, 4]}', "leaves is not a LightGBM parameter"),
        ('{"num_leaves": 5}', "has no range"),
        ('{"feature_fraction": [0.5, 2]}', "invalid feature_fraction: 2"),
    ],
)
def test_an_invalid_range_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError, match=words):
        load_ranges(tmp_path / "r.json")


def test_a_combination_that_lightgbm_refuses_ends_the_search(
    data: LabelledData, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_text('{"boosting": ["rf"], "bagging_freq": [0, 0]}')
    with pytest.raises(UsageError, match=r"LightGBM refuses .*'boosting': 'rf'.*bagging_freq > 0"):
        search(data, ranges=str(tmp_path / "r.json"), epochs_num=1, **QUICK)


# -- bad input --------------------------------------------------------------------------------


def test_two_lines_are_too_few_to_search(tmp_path: Path) -> None:
    write_case(tmp_path, train=2)
    write_labels(tmp_path / "train.tsv", np.array([0, 1]))
    data = load_labelled(tmp_path / "train.tsv", [str(tmp_path)], "train")
    with pytest.raises(InputError, match="2 lines of data cannot be split into 5 folds"):
        search(data, epochs_num=1)


def test_folds_too_small_for_the_ranges_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path, train=11)
    write_labels(tmp_path / "train.tsv", np.array([0, 1] * 5 + [1]))
    data = load_labelled(tmp_path / "train.tsv", [str(tmp_path)], "train")
    with pytest.raises(InputError, match="lines of data outside a fold, but with min_data_in_leaf"):
        search(data, epochs_num=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "grid"}, "Invalid `sampler`: 'grid'"),
        ({"metric": "auc"}, "Invalid `metric`: 'auc'"),
        ({"epochs_num": 0}, "Invalid `epochs_num`: 0"),
        ({"timeout": -1.0}, "Invalid `timeout`: -1"),
        ({"folds_num": 1}, "Invalid `folds_num`: 1"),
    ],
)
def test_invalid_options_are_refused(
    data: LabelledData, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        search(data, **{"epochs_num": 1, **QUICK, **options})


def test_the_benchmark_runs_small(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.ensemble_search import main

    small = ["--lines", "400", "--test-lines", "200", "--models", "2", "--labels", "3"]
    main(
        [
            *small,
            "--trials",
            "2",
            "--folds",
            "2",
            "--rounds",
            "5",
            "--methods",
            "uertool,random,old-random",
            "--json",
        ]
    )
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["method"] for record in records] == ["uertool", "random", "old-random"]
    assert all(0 < record["test"] <= 1 for record in records)


# -- real work --------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_real_reviews_search_and_fit_beat_the_best_base_model(tmp_path: Path) -> None:
    """Four classifiers of the reviews, out of fold; 899 lines that nothing has learnt from.

    Two of them see vectors that `extract-features` makes with two models, two count characters.
    """
    labelled = {"train": TEXT / "reviews_train.tsv", "test": TEXT / "reviews_test.tsv"}
    names = ["unigrams", "bigrams", "mlm-mean", "lm-mean"]
    sources = write_text_models(tmp_path, labelled["train"], labelled["test"], names, seq_length=32)
    train = load_labelled(labelled["train"], sources["train"], "train")
    test = load_labelled(labelled["test"], sources["test"], "test")
    found = search(train, epochs_num=20)
    chosen = Parameters(found.parameters()["params"], found.parameters()["rounds"])
    fitted = learn(train, test, chosen)
    test_scores = fitted.comparisons["test"].scores
    best = fitted.comparisons["test"].best_base()
    assert best is not None
    assert test_scores["ensemble"].macro_f1 > best[1].macro_f1
    assert test_scores["ensemble"].accuracy > best[1].accuracy
