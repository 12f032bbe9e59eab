"""Settings of `uertool ensemble`: what is learnt from, how, and where results are written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from uertool.settings import Setting, Settings
from uertool.text.settings import Encoding

_data = partial(Setting, panel="Data")
_boosting = partial(
    Setting, panel="LightGBM parameters (defaults are those of fit without a parameter file)"
)
_scoring = partial(Setting, panel="Scoring")
_search = partial(Setting, panel="Search")
_output = partial(Setting, panel="Output")

_SOURCES = (
    "Outputs of the base models, each [lines, labels]: files (.npy, .pt, .safetensors, .parquet, "
    ".jsonl), a glob, or a folder or prefix of {0}_features_0.npy, {0}_features_1.npy, ..."
)
_TRAIN_SOURCES = _SOURCES.format("train") + "; they should be out-of-fold predictions"
_TEST_SOURCES = _SOURCES.format("test")

Objective = Literal["auto", "multiclass", "binary"]


@dataclass(frozen=True)
class TrainSettings(Settings):
    """The lines that are learnt from."""

    train_path: Annotated[
        str | None, _data("TSV with a header line and a column named label", metavar="FILE")
    ] = None
    encoding: Encoding = "utf-8"
    train_features_path: Annotated[
        tuple[str, ...], _data(_TRAIN_SOURCES, several=True, metavar="PATH")
    ] = ()
    models_num: Annotated[
        int | None, _data("Number of base models", min=1, default="all that are there")
    ] = None
    labels_num: Annotated[
        int | None, _data("Number of labels", min=2, default="the highest label plus 1")
    ] = None


@dataclass(frozen=True)
class BoostingSettings(Settings):
    """LightGBM parameters, which LightGBM validates; None means not given."""

    learning_rate: Annotated[float | None, _boosting("Learning rate", default="0.02")] = None
    num_leaves: Annotated[int | None, _boosting("Maximum leaves per tree", default="10")] = None
    max_depth: Annotated[
        int | None, _boosting("Maximum depth of a tree", default="100", rare=True)
    ] = None
    min_data_in_leaf: Annotated[
        int | None, _boosting("Minimum lines per leaf", default="50", rare=True)
    ] = None
    min_sum_hessian_in_leaf: Annotated[
        float | None, _boosting("Minimum sum of Hessians per leaf", rare=True)
    ] = None
    min_gain_to_split: Annotated[float | None, _boosting("Minimum gain of a split", rare=True)] = (
        None
    )
    feature_fraction: Annotated[
        float | None,
        _boosting("Fraction of the columns that a tree uses", default="0.25", rare=True),
    ] = None
    bagging_fraction: Annotated[
        float | None, _boosting("Fraction of the lines that a tree uses", rare=True)
    ] = None
    bagging_freq: Annotated[
        int | None, _boosting("Draw the lines anew every N rounds", rare=True)
    ] = None
    lambda_l1: Annotated[float | None, _boosting("L1 regularization", default="5", rare=True)] = (
        None
    )
    lambda_l2: Annotated[float | None, _boosting("L2 regularization", default="5", rare=True)] = (
        None
    )
    max_bin: Annotated[int | None, _boosting("Maximum bins per column", rare=True)] = None
    boosting: Annotated[
        str | None, _boosting("Boosting method", metavar="gbdt|dart|rf", default="gbdt", rare=True)
    ] = None
    param: Annotated[
        tuple[str, ...], _boosting("Another parameter of LightGBM", metavar="NAME=VALUE")
    ] = ()


@dataclass(frozen=True)
class FolderSettings(Settings):
    """Where results are written, and how the work is done."""

    output_path: Annotated[
        str | None, _output("Folder for all results", names=("output", "o"), metavar="FOLDER")
    ] = None
    overwrite: Annotated[bool, _output("Replace an existing output")] = False
    plot: Annotated[
        bool | None, _output("Draw charts into the folder", default="if matplotlib is installed")
    ] = None
    json: Annotated[bool, _output("Print the report as one line of JSON")] = False
    seed: Annotated[int, _output("Seed of random choices", min=0)] = 7
    threads: Annotated[
        int | None, _output("Processor threads", min=1, default="all", rare=True)
    ] = None


@dataclass(frozen=True)
class FitSettings(FolderSettings, BoostingSettings, TrainSettings):
    """How an ensemble is learnt and scored."""

    test_path: Annotated[str | None, _data("TSV with labels, for the scores", metavar="FILE")] = (
        None
    )
    test_features_path: Annotated[
        tuple[str, ...], _data(_TEST_SOURCES, several=True, metavar="PATH")
    ] = ()
    params: Annotated[
        str | None,
        _boosting("Parameters: best.json of `ensemble search`, or another JSON or TOML file",
                  metavar="FILE"),
    ] = None  # fmt: skip
    rounds: Annotated[
        int | None,
        _boosting("Number of boosting rounds", names=("num_boost_round",), min=1, default="100"),
    ] = None
    objective: Annotated[
        Objective | None,
        _boosting("auto is binary for two labels, otherwise multiclass", default="auto", rare=True),
    ] = None
    folds: Annotated[
        int, _scoring("Folds of a cross-validation; 0 for none", names=("folds_num",), min=0)
    ] = 0
    early_stopping: Annotated[
        int,
        _scoring("Stop after N rounds without a better log loss on a held-out tenth of the "
                 "training lines; 0 for never", min=0, rare=True),
    ] = 0  # fmt: skip


@dataclass(frozen=True)
class SearchSettings(FolderSettings, BoostingSettings, TrainSettings):
    """How LightGBM parameters are searched."""

    folds_num: Annotated[int, _search("Stratified folds", names=("folds",), min=2)] = 5
    epochs_num: Annotated[
        int, _search("Number of trials, including stored ones", names=("trials",), min=1)
    ] = 300
    ranges: Annotated[
        str,
        _search("Ranges to search: a JSON or TOML file, or run_bayesopt or run_lgb_cv_bayesopt for "
                "those of UER-py's scripts", metavar="FILE|NAME"),
    ] = "run_bayesopt"  # fmt: skip
    metric: Annotated[
        Literal["macro_f1", "accuracy", "log_loss"],
        _search("Metric by which the best trial is chosen"),
    ] = "macro_f1"
    sampler: Annotated[
        Literal["tpe", "gp", "random"],
        _search("How trials are chosen; gp is a Gaussian process", rare=True),
    ] = "tpe"
    pruner: Annotated[
        Literal["median", "hyperband", "none"],
        _search("How trials that fall behind are stopped", rare=True),
    ] = "median"
    rounds: Annotated[
        int, _search("Maximum boosting rounds", names=("num_boost_round",), min=1)
    ] = 150
    early_stopping: Annotated[
        int,
        _search("End a trial after N rounds without improvement; 0 for never", min=0, rare=True),
    ] = 20
    select_models: Annotated[bool, _search("Choose the base models as well")] = False
    timeout: Annotated[
        float | None,
        _search("Start no trial after this time", above=0, metavar="SECONDS", rare=True),
    ] = None
    storage: Annotated[
        str | None,
        _search("Keep trials here, to stop and resume, or for several workers at once",
                metavar="sqlite:///FILE", rare=True),
    ] = None  # fmt: skip
    study_name: Annotated[
        str, _search("Name of the search in the storage", metavar="NAME", rare=True)
    ] = "uertool-ensemble"
    objective: Annotated[
        Objective, _search("auto is binary for two labels, otherwise multiclass", rare=True)
    ] = "auto"


@dataclass(frozen=True)
class PredictSettings(Settings):
    """What an ensemble is applied to."""

    model_path: Annotated[
        str | None,
        Setting("The folder that `ensemble fit` wrote", names=("model", "m"), metavar="FOLDER"),
    ] = None
    test_features_path: Annotated[
        tuple[str, ...],
        Setting(_TEST_SOURCES, names=("features_path",), several=True, metavar="PATH"),
    ] = ()
    test_path: Annotated[
        str | None, Setting("TSV with labels, to score the predictions", metavar="FILE")
    ] = None
    encoding: Encoding = "utf-8"
    probabilities_path: Annotated[
        str | None,
        Setting(
            "Write the probabilities [lines, labels] to this .npy file",
            metavar="FILE",
            is_output=True,
        ),
    ] = None
    threads: Annotated[
        int | None, Setting("Processor threads", min=1, default="all", rare=True)
    ] = None
