"""LightGBM parameters and search ranges: which are allowed, their files, and their validation.

LightGBM itself knows the aliases of its parameters and the values that it accepts.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from uertool.errors import InputError, SettingError, UsageError, import_extra, shown
from uertool.io.small_files import JSON_LIMIT, read_json_object, read_text_file
from uertool.io.stderr import silenced_stderr
from uertool.settings import Setting, Settings
from uertool.tasks.ensemble.settings import Objective

Value = float | int | bool | str

FORMAT = "uertool-ensemble-settings"

_LINES = 10_000  # of the data that parameters are tried on

# Only what shapes the trees: whatever names files, devices or tasks has no place in a file that
# may come from elsewhere.
_ALLOWED: dict[type, str] = {
    int: "num_leaves max_depth min_data_in_leaf bagging_freq max_drop max_bin min_data_in_bin",
    float: "learning_rate min_sum_hessian_in_leaf min_gain_to_split lambda_l1 lambda_l2 "
    "feature_fraction feature_fraction_bynode bagging_fraction pos_bagging_fraction "
    "neg_bagging_fraction drop_rate skip_drop top_rate other_rate path_smooth max_delta_step "
    "scale_pos_weight",
    bool: "xgboost_dart_mode uniform_drop extra_trees boost_from_average is_unbalance",
    str: "boosting data_sample_strategy",
}
KINDS = {name: kind for kind, names in _ALLOWED.items() for name in names.split()}
"""The LightGBM parameters that an ensemble accepts, with the type of each."""

IGNORED = frozenset(("task", "verbosity", "save_binary", "metric", "num_threads"))
"""Parameters in old parameter sets that change nothing here, by their main names."""

_DECIDED = {
    "objective": "objective",
    "num_class": "labels_num",
    "seed": "seed",
    "early_stopping_round": "early_stopping",
}

OF_BINS = ("max_bin", "min_data_in_bin")
"""Parameters that need the features to be binned again; all others act on the trees only."""

FIT_PARAMETERS: dict[str, Value] = {
    "feature_fraction": 0.25,
    "lambda_l1": 5.0,
    "lambda_l2": 5.0,
    "learning_rate": 0.02,
    "max_depth": 100,
    "min_data_in_leaf": 50,
    "num_leaves": 10,
}
"""The parameters of run_lgb."""

FIT_ROUNDS = 100

SEARCH_PARAMETERS: dict[str, Value] = {
    "bagging_fraction": 0.4,
    "bagging_freq": 5,
    "max_bin": 63,
}
"""The fixed parameters of run_bayesopt, without dart, which is slow (see docs/ensemble.md)."""

_LATER_RANGES: dict[str, Any] = {
    "num_leaves": [10, 100],
    "min_data_in_leaf": [10, 100],
    "learning_rate": [0.005, 0.5],
    "feature_fraction": [0.001, 0.5],
    "lambda_l1": [0, 10],
    "lambda_l2": [0, 10],
    "max_depth": [3, 200],
}

RANGES: dict[str, dict[str, Any]] = {
    # The seven hyperparameters of both old scripts, and two of the first one, with its ranges.
    "run_bayesopt": {
        **_LATER_RANGES,
        "num_leaves": [20, 90],
        "min_data_in_leaf": [5, 100],
        "min_sum_hessian_in_leaf": {"low": 1e-5, "high": 20, "log": True},
        "min_gain_to_split": [0, 1],
    },
    "run_lgb_cv_bayesopt": _LATER_RANGES,
}
"""Search ranges by name, as they are written in a file of ranges."""


@dataclass(frozen=True)
class Parameters(Settings):
    """What an ensemble is learnt with; None where it was not given.

    Attributes:
        params: LightGBM parameters under their main names.
        rounds: number of boosting rounds.
        models: names of the base models to use.
        labels_num: the number of labels that they were found for.
        objective: what is learnt.
    """

    params: dict[str, Value] = field(default_factory=lambda: dict(FIT_PARAMETERS))
    rounds: Annotated[int | None, Setting("Boosting rounds", min=1)] = None
    models: Annotated[tuple[str, ...] | None, Setting("Base models to use")] = None
    labels_num: Annotated[int | None, Setting("Number of labels", min=2)] = None
    objective: Annotated[Objective | None, Setting("Training objective")] = None


# -- LightGBM -------------------------------------------------------------------------------------


def lightgbm() -> Any:
    """The lightgbm module, or MissingExtraError."""
    return import_extra("lightgbm", "ensemble", "Learning an ensemble")


@functools.cache
def _main_names() -> dict[str, str]:
    """The main name of every name and alias that LightGBM knows."""
    aliases = lightgbm().basic._ConfigAliases._get_all_param_aliases()
    names = {alias: main for main, known in aliases.items() for alias in known}
    return {**names, "rounds": "num_iterations"}


def refusal(params: Mapping[str, Value]) -> str | None:
    """Why LightGBM refuses parameters, in its words, or None if it accepts them."""
    lgb = lightgbm()
    given = {**params, "verbosity": -1, "num_threads": 1}
    with silenced_stderr():  # the library prints errors, whatever its verbosity
        try:
            # So many lines that a bag of them is never empty.
            data = lgb.Dataset(np.zeros((_LINES, 1)), np.zeros(_LINES), params=given)
            lgb.Booster(given, data.construct())
        except lgb.basic.LightGBMError as error:
            text = re.sub(
                r"^Check failed: (.*) at \S+, line \d+ \.\s*$", r"\1 is required", str(error)
            )
            return re.sub(r"\(([^\s()]+)\)", r"\1", text).strip().rstrip(".")
    return None


# -- validation -----------------------------------------------------------------------------------


def check_parameters(given: Mapping[str, Any], source: str) -> Parameters:
    """LightGBM parameters under their main names, with values of their type.

    Args:
        given: names, main or alias, to values; text is read as a number or truth value.
        source: where they come from, for messages.

    Raises:
        UsageError: a name is unknown or not allowed, or a value is invalid. All faults are
            reported together.
    """
    params = _collected(given, source, _converted)
    rounds = params.pop("num_iterations", None)
    if rounds is not None and rounds < 1:
        raise UsageError(f"{source}: invalid number of rounds: {rounds} (must be at least 1).")
    return Parameters(params, rounds)


def _collected(
    given: Mapping[str, Any], source: str, convert: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """The converted values by main name; the faults of all of them are reported together."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in given.items():
        try:
            main = _main_name(name)
            if main not in IGNORED:
                found[main] = convert(main, value)
        except UsageError as error:
            faults.append(error.message)
    if faults:
        raise UsageError(f"{source}: {' '.join(faults)}")
    return found


def _main_name(name: str) -> str:
    main = _main_names().get(name, name)
    if main in KINDS or main in IGNORED or main == "num_iterations":
        return main
    if main in _DECIDED:
        raise UsageError(f"{shown(name)} is set by `{_DECIDED[main]}`.")
    close = difflib.get_close_matches(name[:50], KINDS, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise UsageError(f"{shown(name)} is not a LightGBM parameter that an ensemble accepts{hint}")


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _converted(name: str, value: Any) -> Value:
    """The value with the type of the parameter, if LightGBM accepts it."""
    kind = KINDS.get(name, int)
    result: Value | None = None
    if kind is bool:
        result = _TRUTH.get(str(value).lower())
    elif kind is str:
        result = value if isinstance(value, str) and re.fullmatch(r"[a-z]+", value) else None
    elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
            if kind is int and number.is_integer() and abs(number) < 1 << 31:
                result = int(number)
            elif kind is float and math.isfinite(number):
                result = number
    if result is None:
        what = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
        raise UsageError(f"invalid {name}: {shown(repr(value))} (must be {what[kind]}).")
    # Random forests need bagging; alone they would be refused.
    bagging = {"bagging_freq": 1, "bagging_fraction": 0.5} if name == "boosting" else {}
    if reason := refusal({**bagging, name: result}):
        raise UsageError(f"invalid {name}: {shown(value)} (LightGBM: {reason}).")
    return result


# -- files ----------------------------------------------------------------------------------------


def read_table(path: str | Path) -> dict[str, Any]:
    """A JSON file, or one in TOML by its suffix .toml, that holds names with values.

    Raises:
        InputError: it is missing, or is not what its name says.
    """
    if Path(path).suffix.lower() != ".toml":
        return read_json_object(path, what="parameter file")
    text = read_text_file(path, JSON_LIMIT, what="parameter file")
    try:
        table: dict[str, Any] = _toml().loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(path)} is not valid TOML ({shown(error)}).") from None
    return table


def _toml() -> Any:
    # tomllib came with Python 3.11; tomli is the same for 3.10.
    for name in ("tomllib", "tomli"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise InputError("Python before 3.11 needs the package tomli to read TOML.", "Write JSON.")


def load_parameters(path: str | Path) -> Parameters:
    """A parameter file: what `ensemble search` writes, or plain LightGBM parameters.

    Raises:
        InputError: the file cannot be read, or was written by a newer uertool.
        UsageError: a parameter in it is invalid.
    """
    table = read_table(path)
    if not isinstance(table.get("params"), dict):
        return check_parameters(table, str(path))
    form = f"{table.get('format', FORMAT)} {table.get('version', 1)}"
    if form != f"{FORMAT} 1":
        raise InputError(
            f"{path} has the format {shown(form)}, but {FORMAT} 1 was expected.",
            "Was it written by a newer uertool?",
        )
    own = {"num_iterations": table["rounds"]} if table.get("rounds") is not None else {}
    read = check_parameters({**table["params"], **own}, str(path))
    models = table.get("models")
    if models == [] or not isinstance(models, (list, type(None))):
        raise InputError(f"{path}: invalid models (must be a list of names).")
    names = None if models is None else tuple(models)
    try:
        return replace(
            read, models=names, labels_num=table.get("labels_num"), objective=table.get("objective")
        )
    except SettingError as error:
        raise InputError(f"{path}: {error.message.replace('`', '')}") from None


def load_ranges(source: str | Path) -> tuple[dict[str, Any], dict[str, Value]]:
    """Search ranges by the name of a set in `RANGES`, or from a JSON or TOML file.

    In a file `[low, high]` is a range, `{"low": .., "high": .., "log": true}` one on a logarithmic
    scale, `{"choices": [..]}` a list of values, and a single value is fixed.

    Returns:
        The optuna distributions of the searched parameters, and the fixed parameters.

    Raises:
        InputError, UsageError: the file cannot be read, or a range is invalid.
    """
    name = str(source)
    if name not in RANGES and not Path(name).suffix and not Path(name).is_file():
        raise UsageError(
            f"The ranges {name!r} are neither a file nor one of {', '.join(RANGES)}.",
            "Give a JSON or TOML file.",
        )
    table = RANGES[name] if name in RANGES else read_table(name)
    table = table["ranges"] if isinstance(table.get("ranges"), dict) else table
    found = _collected(table, name, _range)
    ranges = {n: entry for n, entry in found.items() if not isinstance(entry, Value)}
    if not ranges:
        raise UsageError(f"{name} has no range, so there is nothing to search.")
    return ranges, {n: entry for n, entry in found.items() if isinstance(entry, Value)}


def _range(name: str, entry: Any) -> Any:
    """The optuna distribution of an entry of a file of ranges, or its fixed value."""
    if not isinstance(entry, (list, dict)):
        return _converted(name, entry)
    kind = KINDS.get(name)
    if kind is None:
        raise UsageError(f"{name} cannot be searched; the rounds are chosen by `early_stopping`.")
    if isinstance(entry, list):
        pair = kind in (int, float) and len(entry) == 2
        entry = {"low": entry[0], "high": entry[1]} if pair else {"choices": entry}
    is_range = set(entry) in ({"low", "high"}, {"low", "high", "log"}) and kind in (int, float)
    if not is_range and not (set(entry) == {"choices"} and isinstance(entry["choices"], list)):
        raise UsageError(f"{name} has a range that needs low and high (and log), or choices.")
    given = [entry["low"], entry["high"]] if is_range else entry["choices"]
    values = [_converted(name, value) for value in given]
    distributions = optuna().distributions
    try:
        if not is_range:
            return distributions.CategoricalDistribution(values)
        make = distributions.IntDistribution if kind is int else distributions.FloatDistribution
        return make(*values, log=bool(entry.get("log")))
    except ValueError as error:  # backwards, empty, or logarithmic from 0
        reason = str(error).replace("`", "").rstrip(".")
        raise UsageError(f"{name} has an invalid range: {reason}.") from None


def optuna() -> Any:
    """The optuna module, or MissingExtraError."""
    return import_extra("optuna", "ensemble", "Searching parameters")
