"""Ensembles: scores against scikit-learn's, honest splits, reproducible and reloadable models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tasks.ensemble.ensemble_data import made_up, write_case, write_labels
from uertool.errors import InputError, UsageError
from uertool.tasks.ensemble import parameters, scores
from uertool.tasks.ensemble.data import LabelledData, load_features, load_labelled
from uertool.tasks.ensemble.ensemble import load_ensemble
from uertool.tasks.ensemble.fit import Fitted, full_parameters, learn, save_fit
from uertool.tasks.ensemble.parameters import Parameters
from uertool.tasks.ensemble.scores import fold_of_each_line
from uertool.tasks.ensemble.settings import FitSettings

pytestmark = pytest.mark.slow

FAST: dict[str, Any] = {"params": {"min_data_in_leaf": 5, "num_leaves": 7}, "rounds": 20}


def fit(train: LabelledData, test: LabelledData | None = None, **options: Any) -> Fitted:
    """`learn` with parameters and settings by name."""
    own = {n: options.pop(n) for n in ("params", "rounds", "objective", "models") if n in options}
    return learn(train, test, Parameters(**own), FitSettings(**{"seed": 0, **options}))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("case"))


def both(case: Path, **options: Any) -> tuple[LabelledData, LabelledData]:
    return (
        load_labelled(case / "train.tsv", [str(case)], "train", **options),
        load_labelled(case / "test.tsv", [str(case)], "test", **options),
    )


# -- metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("labels_num", [2, 3, 6])
@pytest.mark.parametrize("absent", [False, True])
def test_scores_are_scikit_learns(labels_num: int, absent: bool) -> None:
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    labels, (probabilities, *_) = made_up(200, labels_num=labels_num, seed=labels_num)
    if absent:  # one label never predicted, and another never true
        probabilities[:, 0] = 0
        labels[labels == 1] = 0
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    known = list(range(labels_num))
    predicted = probabilities.argmax(axis=1)
    found = scores.score(labels, probabilities)
    np.testing.assert_array_equal(
        found.confusion, confusion_matrix(labels, predicted, labels=known)
    )
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=known, zero_division=0
    )
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.recall, recall)
    np.testing.assert_allclose(found.f1, f1)
    np.testing.assert_array_equal(found.support, support)
    assert found.macro_f1 == pytest.approx(f1.mean())
    assert found.macro_f1 == scores.macro_f1(labels, probabilities)
    assert found.accuracy == scores.accuracy(labels, probabilities)
    if not absent:
        assert found.log_loss == pytest.approx(log_loss(labels, probabilities, labels=known))


# -- baselines --------------------------------------------------------------------------------


@pytest.mark.parametrize("labels_num", [2, 4])
def test_logits_and_probabilities_score_alike(labels_num: int) -> None:
    _, (probabilities, *_) = made_up(50, labels_num=labels_num)
    logits = np.log(probabilities) + 3.0
    assert scores.kind_of(probabilities, labels_num) == "probabilities"
    assert scores.kind_of(logits, labels_num) == "logits"
    np.testing.assert_allclose(scores.as_probabilities(logits, "logits"), probabilities)


def test_one_column_is_the_second_of_two_labels() -> None:
    _, (probabilities, *_) = made_up(50, labels_num=2)
    second = probabilities[:, 1:]
    logits = np.log(second / (1 - second))
    assert scores.kind_of(second, 2) == "probabilities"
    assert scores.kind_of(logits, 2) == "logits"
    for values, kind in ((second, "probabilities"), (logits, "logits")):
        np.testing.assert_allclose(scores.as_probabilities(values, kind), probabilities)


def test_weights_are_the_best_mixture() -> None:
    from scipy.optimize import minimize

    labels, outputs = made_up(400, models_num=3)
    outputs[2] = np.full_like(outputs[2], 1 / 3)  # knows nothing
    base = {f"m{i}": values for i, values in enumerate(outputs)}
    weights = scores.fit_weights(labels, base)
    assert sum(weights.values()) == pytest.approx(1)

    def loss(free: Any) -> float:
        return scores.log_loss(labels, sum(w * v for w, v in zip(free, outputs, strict=True)))

    best = minimize(
        loss, [1 / 3] * 3, bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )  # fmt: skip
    np.testing.assert_allclose(list(weights.values()), best.x, atol=0.01)


# -- fitting ----------------------------------------------------------------------------------


def test_an_ensemble_beats_models_that_know_different_things(case: Path) -> None:
    fitted = fit(*both(case), **FAST)
    test = fitted.comparisons["test"]
    best = test.best_base()
    assert best is not None
    assert test.scores["ensemble"].macro_f1 > best[1].macro_f1
    assert list(test.scores) == [
        "ensemble", "weighted average", "average", "model 0", "model 1", "model 2",
    ]  # fmt: skip
    assert sum(entry["gain"] for entry in fitted.importance) == pytest.approx(1)
    assert [entry["model"] for entry in fitted.importance] == ["model 0", "model 1", "model 2"]


def test_scores_of_base_models_are_their_own(case: Path) -> None:
    train, test = both(case)
    fitted = fit(train, test, **FAST)
    for model in test.models:
        own = scores.macro_f1(test.labels, model.values)
        assert fitted.comparisons["test"].scores[model.name].macro_f1 == own


def test_the_test_set_changes_nothing_but_the_scores(case: Path) -> None:
    """Early stopping and weights see training lines only, so the model is the same without."""
    train, test = both(case)
    options: dict[str, Any] = {**FAST, "early_stopping": 3, "rounds": 60}
    alone = fit(train, **options)
    beside = fit(train, test, **options)
    assert alone.ensemble.booster_text == beside.ensemble.booster_text
    assert alone.ensemble.models == beside.ensemble.models
    assert alone.ensemble.rounds < 60


def test_cross_validation_predicts_lines_that_were_not_learnt_from(case: Path) -> None:
    """A second implementation: one LightGBM model a fold, by LightGBM's own training function."""
    import lightgbm as lgb

    train, _ = both(case)
    fitted = fit(train, folds=4, seed=3, **FAST)
    fold = fold_of_each_line(train.labels, 4, 3)
    matrix = train.matrix()
    expected = np.zeros((len(train.labels), 3))
    params = full_parameters(FAST["params"], "multiclass", 3, 3, 1)
    for i in range(4):
        part = lgb.Dataset(matrix[fold != i], train.labels[fold != i])
        expected[fold == i] = lgb.train(params, part, 20).predict(matrix[fold == i])
    np.testing.assert_allclose(fitted.comparisons["out_of_fold"].probabilities, expected)


def test_labels_that_mean_nothing_score_by_chance_out_of_fold(case: Path) -> None:
    """With shuffled labels any knowledge is a leak."""
    train, _ = both(case)
    labels = np.random.default_rng(0).permutation(train.labels)
    shuffled = LabelledData(train.path, labels, train.models)
    fitted = fit(shuffled, folds=5, early_stopping=5, params={"min_data_in_leaf": 2}, rounds=50)
    assert fitted.comparisons["out_of_fold"].scores["ensemble"].accuracy < 0.45


@pytest.mark.parametrize("boost", ["gbdt", "dart"])
@pytest.mark.parametrize("labels_num", [2, 3])
def test_the_same_seed_gives_the_same_ensemble_on_any_number_of_threads(
    tmp_path: Path, boost: str, labels_num: int
) -> None:
    train, test = both(write_case(tmp_path, labels_num=labels_num))
    params = {**FAST["params"], "boosting": boost, "bagging_fraction": 0.5, "bagging_freq": 1}
    runs = [
        fit(train, test, params=params, rounds=15, folds=3, seed=seed, threads=threads)
        for seed, threads in ((1, 1), (1, 2), (2, 1))
    ]
    for split in ("test", "out_of_fold"):
        one, same, other = (run.comparisons[split].probabilities for run in runs)
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


def test_two_labels_are_binary_by_default(tmp_path: Path) -> None:
    train, test = both(write_case(tmp_path, labels_num=2))
    for objective, expected in (("auto", "binary"), ("multiclass", "multiclass")):
        fitted = fit(train, test, objective=objective, **FAST)
        assert fitted.ensemble.objective == expected
        assert fitted.comparisons["test"].probabilities.shape == (150, 2)
        np.testing.assert_allclose(fitted.comparisons["test"].probabilities.sum(axis=1), 1)


def test_vectors_of_any_width_can_be_stacked(tmp_path: Path) -> None:
    write_case(tmp_path, models_num=2)
    for role in ("train", "test"):
        rows = len(np.load(tmp_path / f"{role}_features_0.npy"))
        vectors = np.random.default_rng(0).normal(size=(rows, 16))
        np.save(tmp_path / f"{role}_features_2.npy", vectors)
    fitted = fit(*both(tmp_path), **FAST)
    assert "model 2" not in fitted.comparisons["test"].scores
    assert any("model 2 gives no column for each" in notice for notice in fitted.notices)


def test_features_that_were_not_made_out_of_fold_are_noticed(tmp_path: Path) -> None:
    write_case(tmp_path)
    labels = load_labelled(tmp_path / "train.tsv", [str(tmp_path)], "train").labels
    np.save(tmp_path / "train_features_1.npy", np.eye(3)[labels] * 0.9 + 0.1 / 3)
    fitted = fit(*both(tmp_path), **FAST)
    assert any("model 1" in n and "out of fold" in n for n in fitted.notices)


# -- bad input --------------------------------------------------------------------------------


def test_two_lines_of_data_are_refused_in_words(tmp_path: Path) -> None:
    write_case(tmp_path, train=2)
    write_labels(tmp_path / "train.tsv", np.array([0, 1]))
    train, _ = both(tmp_path)
    with pytest.raises(InputError, match="has 2 lines of data, which is too few to learn from"):
        fit(train, params={"min_data_in_leaf": 1})
    with pytest.raises(InputError, match="2 lines of data cannot be split into 5 folds"):
        fold_of_each_line(train.labels, 5, 0)


def test_too_few_lines_for_a_split_say_which_parameter_forbids_it(tmp_path: Path) -> None:
    write_case(tmp_path, train=60)
    train, _ = both(tmp_path)
    with pytest.raises(InputError, match=r"60 lines .* min_data_in_leaf 50 no tree can split"):
        fit(train)


def test_a_single_label_is_refused_in_words(tmp_path: Path) -> None:
    write_case(tmp_path)
    write_labels(tmp_path / "train.tsv", np.zeros(300, dtype=np.int64))
    train, _ = both(tmp_path)
    with pytest.raises(InputError, match="every line has the label 0"):
        fit(train)


def test_one_base_model_still_works(tmp_path: Path) -> None:
    train, test = both(write_case(tmp_path, models_num=1))
    fitted = fit(train, test, **FAST)
    assert any("only one base model" in notice for notice in fitted.notices)
    assert fitted.importance == [
        {"model": "model 0", "gain": pytest.approx(1), "splits": fitted.importance[0]["splits"]}
    ]


def test_a_label_of_the_test_set_that_was_never_learnt_is_named(tmp_path: Path) -> None:
    train, test = both(write_case(tmp_path))
    labels = test.labels.copy()
    labels[7] = 3
    with pytest.raises(InputError, match=r"line 9: the label 3 is outside 0\.\.2"):
        fit(train, LabelledData(test.path, labels, test.models), **FAST)


def test_binary_is_for_two_labels(case: Path) -> None:
    with pytest.raises(UsageError, match="for 2 labels"):
        fit(both(case)[0], objective="binary")


def test_parameters_that_do_not_go_together_are_refused(case: Path) -> None:
    with pytest.raises(UsageError, match="LightGBM refuses these parameters: .*bagging_freq > 0"):
        fit(both(case)[0], params={"boosting": "rf"})


# -- saving -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(case: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, Path]:
    fitted = fit(*both(case), folds=3, models=("model 0", "model 2"), **FAST)
    folder = tmp_path_factory.mktemp("saved")
    save_fit(fitted, folder, plot=True)
    return fitted, folder


def test_a_saved_ensemble_predicts_the_same(case: Path, saved: tuple[Fitted, Path]) -> None:
    fitted, folder = saved
    ensemble = load_ensemble(folder)
    every = load_features([case / f"test_features_{i}.npy" for i in range(3)], 150, "x")
    expected = fitted.comparisons["test"].probabilities
    np.testing.assert_array_equal(ensemble.predict(every), expected)
    np.testing.assert_array_equal(ensemble.predict([every[0], every[2]]), expected)
    np.testing.assert_array_equal(np.load(folder / "probabilities_test.npy"), expected)


def test_everything_that_a_fit_writes_is_there(saved: tuple[Fitted, Path]) -> None:
    fitted, folder = saved
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "model.txt", "manifest.json", "report.json", "importance.png",
        *(f"{name.replace('.', f'_{split}.')}" for split in ("test", "out_of_fold")
          for name in ("predictions.tsv", "probabilities.npy", "confusion.png")),
    }  # fmt: skip
    rows = (folder / "predictions_test.tsv").read_text(encoding="utf-8").splitlines()
    assert rows[0].split("\t") == [
        "label", "prediction", "probability_0", "probability_1", "probability_2",
    ]  # fmt: skip
    predicted = [int(row.split("\t")[1]) for row in rows[1:]]
    assert predicted == fitted.comparisons["test"].probabilities.argmax(axis=1).tolist()


def test_the_manifest_names_versions_seed_and_digests(saved: tuple[Fitted, Path]) -> None:
    import hashlib

    _, folder = saved
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert {"python", "uertool", "lightgbm", "numpy"} <= set(manifest["versions"])
    assert manifest["seed"] == 0
    assert [model["used"] for model in manifest["models"]] == [True, False, True]
    for files in manifest["inputs"].values():
        for entry in files:
            content = Path(entry["path"]).read_bytes()
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
            assert entry["bytes"] == len(content)
    for name, digest in manifest["outputs"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_a_model_that_was_changed_or_is_missing_is_refused(
    saved: tuple[Fitted, Path], tmp_path: Path
) -> None:
    import shutil

    with pytest.raises(InputError, match=r"lacks manifest\.json"):
        load_ensemble(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(saved[1], copy)
    text = (copy / "model.txt").read_text(encoding="utf-8")
    (copy / "model.txt").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(InputError, match="is not the file that"):
        load_ensemble(copy)


# -- settings ---------------------------------------------------------------------------------


def test_settings_files_take_json_toml_and_aliases(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"eta": 0.1, "n_estimators": 30, "num_leaves": 8.0}')
    (tmp_path / "b.toml").write_text("[params]\nlearning_rate = 0.1\nnum_leaves = 8\n[x]\n")
    read = parameters.load_parameters(tmp_path / "a.json")
    assert read.params == {"learning_rate": 0.1, "num_leaves": 8}
    assert read.rounds == 30
    if __import__("sys").version_info >= (3, 11):
        assert parameters.load_parameters(tmp_path / "b.toml").params == read.params


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"num_leafs": 3}', "num_leafs is not a LightGBM parameter .* did you mean num_lea"),
        ('{"learning_rate": "fast"}', "invalid learning_rate: 'fast' .must be a number"),
        ('{"num_leaves": 2.5}', "invalid num_leaves: 2.5 .must be a whole number"),
        (
            '{"feature_fraction": 0}',
            "invalid feature_fraction: 0 .LightGBM: feature_fraction > 0.0 is req",
        ),
        ('{"lambda_l1": NaN}', "invalid lambda_l1: nan .must be a number"),
        ('{"boosting": "tree"}', "invalid boosting: tree .LightGBM: Unknown boosting type tree"),
        ('{"output_model": "/tmp/x"}', "output_model is not a LightGBM parameter"),
        ('{"fs": "/tmp/x"}', "fs is not a LightGBM parameter"),
        ('{"boosting": "gbdt fs=/tmp/x"}', "invalid boosting: 'gbdt fs=/tmp/x' .must be a word"),
        ('{"learning_rate": "0.1 fs=/tmp/x"}', "invalid learning_rate"),
        ('{"learning_rate": [0.1]}', "invalid learning_rate"),
        ('{"extra_trees": {}}', "invalid extra_trees: {} .must be true or false"),
        ('{"num_leaves": 1e99}', "invalid num_leaves"),
        ('{"n_iter": 0}', "number of rounds"),
        ('{"num_leaves": 1, "eta": 0}', "num_leaves > 1 is required.*learning_rate > 0.0 is req"),
        ('{"num_class": 3}', "num_class is set by `labels_num`"),
    ],
)
def test_an_invalid_parameter_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        parameters.load_parameters(tmp_path / "a.json")
    assert "a.json" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "", "[1, 2]", "{'a': 1}", "[" * 100000, '{"num_leaves": ' + "9" * 5000 + "}",
        '{"\\ud800": 1}', '{"params": {}, "version": []}', '{"params": {}, "models": "all"}',
        '{"params": {}, "models": [1]}', '{"params": {}, "labels_num": "two"}',
        '{"params": {}, "labels_num": true}', '{"params": {}, "objective": ["binary"]}',
    ],
)  # fmt: skip
def test_an_invalid_parameter_file_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json") as caught:
        parameters.load_parameters(tmp_path / "a.json")
    assert len(str(caught.value)) < 400


def test_old_parameter_sets_keep_their_meaning(tmp_path: Path) -> None:
    """What run_lgb and bayesian optimizers wrote: floats for whole numbers, names for nothing."""
    (tmp_path / "a.json").write_text(
        '{"task": "train", "verbosity": -1, "verbose": 0, "metric": "multi_logloss", "nthread": 8,'
        ' "save_binary": true, "n_iter": 40, "num_leaves": 31.0, "sub_feature": 0.3,'
        ' "boosting_type": "dart", "extra_trees": 1, "min_child_samples": 9}'
    )
    read = parameters.load_parameters(tmp_path / "a.json")
    assert read.rounds == 40
    assert read.params == {
        "num_leaves": 31, "feature_fraction": 0.3, "boosting": "dart", "extra_trees": True,
        "min_data_in_leaf": 9,
    }  # fmt: skip


def test_every_kind_of_sampling_and_boosting_is_accepted() -> None:
    for name, values in {
        "boosting": ("gbdt", "dart", "rf"), "data_sample_strategy": ("bagging", "goss"),
    }.items():  # fmt: skip
        for value in values:
            read = parameters.check_parameters({name: value, "is_unbalance": "true"}, "here")
            assert read.params == {name: value, "is_unbalance": True}


@pytest.mark.parametrize(
    "change",
    [
        {"models": 5}, {"models": [{"name": "a"}]}, {"labels_num": "x"}, {"outputs": []},
        {"seed": float("inf")}, {"models": []}, {"format": "other"}, {"version": [2]},
    ],
)  # fmt: skip
def test_an_invalid_manifest_is_an_input_error(
    saved: tuple[Fitted, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    import shutil

    copy = shutil.copytree(saved[1], tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    (copy / "manifest.json").write_text(json.dumps({**manifest, **change}), encoding="utf-8")
    with pytest.raises(InputError, match="copy") as caught:
        load_ensemble(copy)
    assert len(str(caught.value)) < 400


def test_settings_for_other_base_models_are_refused(case: Path) -> None:
    with pytest.raises(InputError, match="use the base models nobody, but"):
        fit(both(case)[0], models=("nobody",), **FAST)
