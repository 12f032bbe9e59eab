"""LightGBM parameters and search ranges: the defaults of the old scripts, files and checks."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uertool.errors import InputError, UsageError

Value = float | int | bool | str

SETTINGS_FORMAT = "uertool-ensemble-settings"


@dataclass(frozen=True)
class Parameter:
    """One LightGBM parameter that an ensemble may be given.

    Attributes:
        kind: int, float, bool or str.
        low, high: the values that LightGBM takes, both included unless `above`.
        above: whether low itself is forbidden.
        choices: the words of a str parameter.
        aliases: other names that LightGBM knows it by.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


# Only what shapes the trees: anything that names files, devices or tasks has no place in a
# settings file that may come from elsewhere.
PARAMETERS: dict[str, Parameter] = {
    "boosting": Parameter(str, choices=("gbdt", "dart", "rf"), aliases=("boosting_type", "boost")),
    "data_sample_strategy": Parameter(str, choices=("bagging", "goss")),
    "learning_rate": Parameter(float, 0, above=True, aliases=("eta", "shrinkage_rate")),
    "num_leaves": Parameter(int, 2, 131072, aliases=("num_leaf", "max_leaves", "max_leaf_nodes")),
    "max_depth": Parameter(int, -1, 100000),
    "min_data_in_leaf": Parameter(
        int, 0, aliases=("min_child_samples", "min_data", "min_samples_leaf")
    ),
    "min_sum_hessian_in_leaf": Parameter(
        float, 0, aliases=("min_child_weight", "min_sum_hessian", "min_hessian")
    ),
    "min_gain_to_split": Parameter(float, 0, aliases=("min_split_gain",)),
    "lambda_l1": Parameter(float, 0, aliases=("reg_alpha", "l1_regularization")),
    "lambda_l2": Parameter(float, 0, aliases=("reg_lambda", "l2_regularization", "lambda")),
    "feature_fraction": Parameter(
        float, 0, 1, above=True, aliases=("colsample_bytree", "sub_feature")
    ),
    "feature_fraction_bynode": Parameter(float, 0, 1, above=True, aliases=("colsample_bynode",)),
    "bagging_fraction": Parameter(
        float, 0, 1, above=True, aliases=("subsample", "sub_row", "bagging")
    ),
    "bagging_freq": Parameter(int, 0, aliases=("subsample_freq",)),
    "pos_bagging_fraction": Parameter(float, 0, 1, above=True),
    "neg_bagging_fraction": Parameter(float, 0, 1, above=True),
    "drop_rate": Parameter(float, 0, 1, aliases=("rate_drop",)),
    "max_drop": Parameter(int),
    "skip_drop": Parameter(float, 0, 1),
    "xgboost_dart_mode": Parameter(bool),
    "uniform_drop": Parameter(bool),
    "top_rate": Parameter(float, 0, 1),
    "other_rate": Parameter(float, 0, 1),
    "extra_trees": Parameter(bool, aliases=("extra_tree",)),
    "path_smooth": Parameter(float, 0),
    "max_delta_step": Parameter(float),
    "max_bin": Parameter(int, 2, 65535, aliases=("max_bins",)),
    "min_data_in_bin": Parameter(int, 1),
    "boost_from_average": Parameter(bool),
    "is_unbalance": Parameter(bool, aliases=("unbalance", "unbalanced_sets")),
    "scale_pos_weight": Parameter(float, 0, above=True),
}

ROUNDS = ("num_iterations", "num_boost_round", "num_round", "num_rounds", "n_estimators",
          "num_trees", "num_iteration", "num_tree", "n_iter", "rounds")  # fmt: skip

# These are uertool's own to say, by flag or by the data; old parameter sets hold them too.
IGNORED = frozenset(
    ("task", "verbose", "verbosity", "save_binary", "metric", "nthread", "num_threads", "n_jobs")
)
DECIDED = {
    "objective": "`objective`",
    "num_class": "`labels_num`",
    "seed": "`seed`",
    "random_state": "`seed`",
    "early_stopping_round": "`early_stopping`",
    "early_stopping_rounds": "`early_stopping`",
}

# Where a change needs the features put into bins anew; all others act on the trees only.
OF_BINS = frozenset(("max_bin", "min_data_in_bin"))

_ALIASES = {alias: name for name, entry in PARAMETERS.items() for alias in entry.aliases}

FIT_PARAMETERS: dict[str, Value] = {
    "feature_fraction": 0.25,
    "lambda_l1": 5.0,
    "lambda_l2": 5.0,
    "learning_rate": 0.02,
    "max_depth": 100,
    "min_data_in_leaf": 50,
    "num_leaves": 10,
}
"""The settings of run_lgb."""

FIT_ROUNDS = 100

SEARCH_PARAMETERS: dict[str, Value] = {
    "bagging_fraction": 0.4,
    "bagging_freq": 5,
    "max_bin": 63,
}
"""What run_bayesopt kept fixed, but for dart, which cannot stop early (see docs/ensemble.md)."""

SEARCH_ROUNDS = 150


@dataclass(frozen=True)
class Range:
    """Where a search looks for one parameter: between two numbers, or among some values.

    Attributes:
        low, high: both included.
        log: whether each doubling counts the same.
        choices: the values, where it is no range of numbers.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def to_json(self) -> Any:
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log}


_LATER_RANGES = {
    "num_leaves": Range(10, 100),
    "min_data_in_leaf": Range(10, 100),
    "learning_rate": Range(0.005, 0.5),
    "feature_fraction": Range(0.001, 0.5),
    "lambda_l1": Range(0, 10),
    "lambda_l2": Range(0, 10),
    "max_depth": Range(3, 200),
}

RANGES: dict[str, dict[str, Range]] = {
    # The seven hyperparameters of both old scripts and the two of the first, with its ranges.
    "run_bayesopt": {
        **_LATER_RANGES,
        "num_leaves": Range(20, 90),
        "min_data_in_leaf": Range(5, 100),
        "min_sum_hessian_in_leaf": Range(1e-5, 20, log=True),
        "min_gain_to_split": Range(0, 1),
    },
    "run_lgb_cv_bayesopt": _LATER_RANGES,
}
"""Sets of ranges by name."""


@dataclass(frozen=True)
class Settings:
    """What a settings file says.

    Attributes:
        params: LightGBM parameters under their main names.
        rounds: number of boosting rounds, or None.
        models: names of the base models to use, or None for all.
        labels_num: the number of labels they were found for, or None.
        objective: "multiclass" or "binary", or None.
    """

    params: dict[str, Value] = field(default_factory=dict)
    rounds: int | None = None
    models: tuple[str, ...] | None = None
    labels_num: int | None = None
    objective: str | None = None


# -- checks ---------------------------------------------------------------------------------------


def check_parameters(given: Mapping[str, Any], source: str) -> Settings:
    """LightGBM parameters under their main names, with values of their kind.

    Args:
        given: names, main or alias, to values; text is read as number or truth value.
        source: where they come from, for messages.

    Raises:
        UsageError: a name is unknown or not for a settings file, or a value cannot be. All faults
            are named together.
    """
    params: dict[str, Value] = {}
    rounds: int | None = None
    faults: list[str] = []
    for name, value in given.items():
        if name in IGNORED:
            continue
        try:
            if name in ROUNDS:
                rounds = int(_convert(Parameter(int, 1), name, value))
                continue
            main = _main_name(name)
            params[main] = _convert(PARAMETERS[main], name, value)
        except UsageError as error:
            faults.append(str(error))
    if faults:
        raise UsageError(f"{source}: " + " ".join(faults))
    return Settings(params, rounds)


def _main_name(name: str) -> str:
    main = _ALIASES.get(name, name)
    if main in PARAMETERS:
        return main
    if name in DECIDED:
        raise UsageError(f"{name} is set by the flag {DECIDED[name]}.")
    close = difflib.get_close_matches(name, [*PARAMETERS, *_ALIASES], n=1)
    raise UsageError(
        f"{name} is no LightGBM parameter that an ensemble takes"
        + (f"; did you mean {close[0]}?" if close else ".")
    )


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _convert(entry: Parameter, name: str, value: Any) -> Value:
    """`value` as the kind that the parameter has, within what LightGBM takes."""
    if entry.kind is bool:
        truth = _TRUTH.get(str(value).lower())
        if truth is None:
            raise UsageError(f"{name} is {value!r}, but true or false was expected.")
        return truth
    if entry.kind is str:
        if value not in entry.choices:
            raise UsageError(f"{name} is {value!r}, but one of {', '.join(entry.choices)} was "
                             "expected.")  # fmt: skip
        return str(value)
    if isinstance(value, bool):
        raise UsageError(f"{name} is {value}, but a number was expected.")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is {value!r}, but a number was expected.") from None
    if entry.kind is int and not number.is_integer():
        raise UsageError(f"{name} is {value}, but a whole number was expected.")
    low_ok = number > entry.low if entry.above else number >= entry.low
    if not (low_ok and number <= entry.high and math.isfinite(number)):
        low = f"above {entry.low:g}" if entry.above else f"from {entry.low:g}"
        high = f" up to {entry.high:g}" if math.isfinite(entry.high) else ""
        raise UsageError(f"{name} is {value}, but a number {low}{high} was expected.")
    return int(number) if entry.kind is int else number


# -- files ----------------------------------------------------------------------------------------


def read_table(path: str | Path) -> dict[str, Any]:
    """A JSON or TOML file (by its end .toml) whose top is a table of names.

    Raises:
        InputError: it is missing, or not what its name says.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text.", "Give a JSON or TOML file.") from None
    except FileNotFoundError:
        raise InputError(f"The file {path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    toml = Path(path).suffix.lower() == ".toml"
    try:
        table = _toml(text) if toml else json.loads(text)
    except ValueError as error:  # both parsers' errors are ValueErrors
        raise InputError(f"{path} is no valid {'TOML' if toml else 'JSON'}: {error}.") from None
    if not isinstance(table, dict):
        raise InputError(
            f"{path} holds a {type(table).__name__}, but names with values were expected."
        )
    return table


def _toml(text: str) -> Any:
    # tomllib came with Python 3.11; tomli is the same for 3.10.
    for name in ("tomllib", "tomli"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).loads(text)
    raise InputError(
        "A TOML file was given, but Python before 3.11 cannot read it without the package tomli.",
        "Write the same as JSON.",
    )


def load_settings(path: str | Path) -> Settings:
    """A settings file: what `ensemble search` writes, or a plain table of LightGBM parameters.

    Raises:
        InputError: the file cannot be read, or was written by a newer uertool.
        UsageError: a parameter in it cannot be meant.
    """
    table = read_table(path)
    if not isinstance(table.get("params"), dict):
        return check_parameters(table, str(path))
    if table.get("format", SETTINGS_FORMAT) != SETTINGS_FORMAT or table.get("version", 1) != 1:
        raise InputError(
            f"{path} has the format {table.get('format')} {table.get('version')}, but "
            f"{SETTINGS_FORMAT} 1 was expected.",
            "Was it written by a newer uertool?",
        )
    read = check_parameters(table["params"], str(path))
    rounds = table.get("rounds", read.rounds)
    if rounds is not None:
        rounds = check_parameters({"rounds": rounds}, str(path)).rounds
    models, labels_num = table.get("models"), table.get("labels_num")
    if models is not None and not (
        isinstance(models, list) and models and all(isinstance(name, str) for name in models)
    ):
        raise InputError(f"{path}: models is {models!r}, but a list of names was expected.")
    if labels_num is not None and not isinstance(labels_num, int):
        raise InputError(f"{path}: labels_num is {labels_num!r}, but a number was expected.")
    objective = table.get("objective")
    return Settings(
        read.params,
        rounds,
        tuple(models) if models else None,
        labels_num,
        str(objective) if objective is not None else None,
    )


def load_ranges(source: str | Path | None) -> tuple[dict[str, Range], dict[str, Value]]:
    """Search ranges by the name of a set in `RANGES`, or from a JSON or TOML file.

    In a file `[low, high]` is a range, `{"low": .., "high": .., "log": true}` one where each
    doubling counts the same, `{"choices": [..]}` a list of values, and a single value is fixed.

    Returns:
        The ranges, and the parameters that are fixed.

    Raises:
        InputError, UsageError: the file cannot be read, or a range cannot be meant.
    """
    name = str(source) if source is not None else "run_bayesopt"
    if name in RANGES:
        return dict(RANGES[name]), {}
    if not Path(name).is_file() and not Path(name).suffix:
        raise UsageError(
            f"The ranges {name!r} are neither a file nor one of {', '.join(RANGES)}.",
            "Give a JSON or TOML file.",
        )
    table = read_table(name)
    table = table["ranges"] if isinstance(table.get("ranges"), dict) else table
    ranges: dict[str, Range] = {}
    fixed: dict[str, Value] = {}
    faults: list[str] = []
    for key, entry in table.items():
        try:
            main = _main_name(key)
            if isinstance(entry, (list, dict)):
                ranges[main] = _range(main, entry)
            else:
                fixed[main] = _convert(PARAMETERS[main], key, entry)
        except UsageError as error:
            faults.append(str(error))
    if faults:
        raise UsageError(f"{name}: " + " ".join(faults))
    if not ranges:
        raise UsageError(f"{name} names no range, so there is nothing to search.")
    return ranges, fixed


def _range(name: str, entry: list[Any] | dict[str, Any]) -> Range:
    parameter = PARAMETERS[name]
    if isinstance(entry, list):
        numbers = parameter.kind in (int, float) and len(entry) == 2
        entry = {"low": entry[0], "high": entry[1]} if numbers else {"choices": entry}
    unknown = sorted(set(entry) - {"low", "high", "log", "choices"})
    if unknown:
        raise UsageError(f"{name} has {', '.join(unknown)}; known are low, high, log, choices.")
    if "choices" in entry:
        values = entry["choices"]
        if not isinstance(values, list) or not values:
            raise UsageError(f"{name}: choices must be a list of values.")
        return Range(choices=tuple(_convert(parameter, name, value) for value in values))
    if parameter.kind not in (int, float) or not {"low", "high"} <= set(entry):
        raise UsageError(f"{name} needs low and high, or choices.")
    low = float(_convert(parameter, name, entry["low"]))
    high = float(_convert(parameter, name, entry["high"]))
    log = bool(entry.get("log", False))
    if low > high:
        raise UsageError(f"{name} goes from {low:g} to {high:g}, which is backwards.")
    if log and low <= 0:
        raise UsageError(f"{name} starts at {low:g}, but a logarithmic range starts above 0.")
    return Range(low, high, log)
