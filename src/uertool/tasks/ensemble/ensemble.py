"""A learnt ensemble: what it consists of, its folder on disk, and its predictions."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from uertool.errors import InputError, UsageError, shown
from uertool.io.atomic import sha256_of
from uertool.io.display import Report
from uertool.io.small_files import read_json_object
from uertool.tasks.ensemble import scores
from uertool.tasks.ensemble.data import (
    Features,
    Labels,
    check_pairs,
    find_features,
    join,
    load_features,
    read_labels,
)  # fmt: skip
from uertool.tasks.ensemble.parameters import Value, lightgbm
from uertool.tasks.ensemble.scores import Comparison, Probabilities
from uertool.tasks.ensemble.settings import PredictSettings

FORMAT = "uertool-ensemble"
VERSION = 1
MODEL_FILE = "model.txt"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class BaseModel:
    """What an ensemble knows of a base model.

    Attributes:
        name: as in reports.
        width: columns of its features.
        kind: "probabilities", "logits" or "vector" (`scores.kind_of`).
        used: whether the ensemble learns from it.
        weight: its share in the weighted average, or None for a vector.
    """

    name: str
    width: int
    kind: str
    used: bool = True
    weight: float | None = None


@dataclass(frozen=True)
class Ensemble:
    """A LightGBM model on the outputs of base models.

    Attributes:
        booster_text: the model as LightGBM writes it.
        models: all base models, in the order of their feature files.
        labels_num: number of labels.
        objective: "multiclass" or "binary".
        params: LightGBM parameters.
        rounds: boosting rounds.
        seed: of all random choices.
    """

    booster_text: str
    models: tuple[BaseModel, ...]
    labels_num: int
    objective: str
    params: dict[str, Value]
    rounds: int
    seed: int

    @cached_property
    def _booster(self) -> Any:
        return lightgbm().Booster(model_str=self.booster_text)

    @property
    def used(self) -> tuple[BaseModel, ...]:
        return tuple(model for model in self.models if model.used)

    def _known(self, features: Sequence[Features]) -> tuple[BaseModel, ...]:
        """The base models that so many features are of: those in use only, or all."""
        return self.used if len(features) == len(self.used) else self.models

    def check(self, features: Sequence[Features]) -> tuple[str, ...]:
        """Notices about features of all base models, or of those in use only, in their order.

        Raises:
            InputError: their number or widths are not those of training.
        """
        return check_pairs(self._known(features), features)

    def predict(self, features: Sequence[Features], *, threads: int | None = None) -> Probabilities:
        """Class probabilities, [lines, labels] float64, of features that `check` accepts."""
        self.check(features)
        pairs = zip(features, self._known(features), strict=True)
        matrix = join([feature for feature, model in pairs if model.used])
        return as_matrix(self._booster.predict(matrix, num_threads=threads or 0))

    def compare(
        self,
        split: str,
        features: Sequence[Features],
        labels: Labels,
        probabilities: Probabilities,
    ) -> Comparison:
        """Score the ensemble's probabilities [lines, labels] next to those of the base models."""
        known = self._known(features)
        named = [replace(f, name=m.name) for f, m in zip(features, known, strict=True)]
        base = scores.base_probabilities(named, [model.kind for model in known])
        weights = {model.name: model.weight or 0.0 for model in known if model.name in base}
        total = sum(weights.values()) or 1.0
        shares = {name: weight / total for name, weight in weights.items()}
        weighted = scores.average(base, shares) if base else None
        return scores.compare(split, labels, probabilities, base, weighted)

    def importance(self) -> list[dict[str, Any]]:
        """How much each base model in use contributes, in the order of the base models.

        `gain` is the share of the loss that splits on its columns removed, `splits` their number.
        """
        gain = self._booster.feature_importance("gain")
        splits = self._booster.feature_importance("split")
        edges = np.cumsum([0, *(model.width for model in self.used)])
        total = float(gain.sum()) or 1.0
        parts = zip(self.used, map(slice, edges[:-1], edges[1:]), strict=True)
        return [
            {"model": m.name, "gain": float(gain[p].sum()) / total, "splits": int(splits[p].sum())}
            for m, p in parts
        ]

    def to_json(self) -> dict[str, Any]:
        """All but the trees, for the manifest."""
        record = asdict(self)
        del record["booster_text"]
        return {"format": FORMAT, "version": VERSION, "versions": versions(), **record}


def as_matrix(raw: Any) -> Probabilities:
    """LightGBM's probabilities as [lines, labels]; of two labels it gives only the second's."""
    values = np.asarray(raw, dtype=np.float64)
    return np.stack([1 - values, values], axis=1) if values.ndim == 1 else values


# -- files ----------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of Python and of what the results depend on."""
    from uertool.version import __version__

    found = {"python": platform.python_version(), "uertool": __version__}
    for package in ("lightgbm", "optuna", "scikit-learn", "numpy"):
        found[package] = metadata.version(package)
    return found


def described(inputs: Mapping[str, Sequence[Path]]) -> dict[str, list[dict[str, Any]]]:
    """Path, size and SHA-256 of input files, by what they are."""
    return {
        what: [
            {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paths
        ]
        for what, paths in inputs.items()
    }


def dump_json(value: Any, path: Path) -> None:
    """Write JSON for programs and people."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def save_ensemble(ensemble: Ensemble, folder: Path, inputs: Mapping[str, Sequence[Path]]) -> None:
    """Write the model and its manifest into an existing folder.

    The manifest lists every file of the folder with its SHA-256, so it must be written last.

    Args:
        inputs: the files that it was learnt from, by what they are.
    """
    (folder / MODEL_FILE).write_text(ensemble.booster_text, encoding="utf-8", newline="\n")
    outputs = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    manifest = {**ensemble.to_json(), "inputs": described(inputs), "outputs": outputs}
    dump_json(manifest, folder / MANIFEST_FILE)


def load_ensemble(path: str | Path) -> Ensemble:
    """Read what `save_ensemble` wrote.

    Args:
        path: the folder, or its model or manifest.

    Raises:
        InputError: it is no such folder, was written by a newer uertool, or the model is not the
            one of the manifest.
    """
    folder = Path(path)
    if folder.name in (MANIFEST_FILE, MODEL_FILE):
        folder = folder.parent
    manifest_path, model_path = folder / MANIFEST_FILE, folder / MODEL_FILE
    for file in (manifest_path, model_path):
        if not file.is_file():
            raise InputError(
                f"{folder} is not the folder of an ensemble: it lacks {file.name}.",
                "Give the folder that 'uertool ensemble fit' wrote.",
            )
    manifest = read_json_object(manifest_path, what="manifest")
    kind = shown(f"{manifest.get('format')} {manifest.get('version')}")
    if kind != f"{FORMAT} {VERSION}":
        raise InputError(
            f"{manifest_path} has the format {kind}, but {FORMAT} {VERSION} was expected.",
            "Was it written by a newer uertool?",
        )
    try:
        if manifest["outputs"][MODEL_FILE] != sha256_of(model_path):
            raise InputError(
                f"{model_path} is not the file that {manifest_path} was written for.",
                "Fit the ensemble again, or copy the whole folder.",
            )
        ensemble = Ensemble(
            booster_text=model_path.read_text(encoding="utf-8"),
            models=tuple(BaseModel(**model) for model in manifest["models"]),
            labels_num=int(manifest["labels_num"]),
            objective=str(manifest["objective"]),
            params=dict(manifest["params"]),
            rounds=int(manifest["rounds"]),
            seed=int(manifest["seed"]),
        )
        columns = sum(model.width for model in ensemble.used)
        if ensemble._booster.num_feature() != columns:
            raise ValueError(f"its base models have {columns} columns, its model others")
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        lightgbm().basic.LightGBMError,
    ) as error:
        raise InputError(f"{folder} is not an ensemble: {shown(error)}.", "Fit it again.") from None
    return ensemble


# -- predictions ----------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Predicted(Report):
    """Predictions on new lines.

    Attributes:
        probabilities: [lines, labels].
        labels: the true ones, [lines], or None.
        comparison: scores, or None without labels.
        notices: what the user should know, one sentence each.
        inputs: the files that were read.
    """

    probabilities: Probabilities
    labels: Labels | None = None
    comparison: Comparison | None = None
    notices: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def save_probabilities(self, path: Path) -> None:
        """Write the probabilities as .npy, regardless of the name of the file."""
        with path.open("wb") as stream:
            np.save(stream, self.probabilities)


def predict(settings: PredictSettings) -> Predicted:
    """Apply an ensemble to features of new lines, and score it if their labels are given.

    Raises:
        InputError, UsageError: the ensemble, the features or the labels are missing or invalid.
    """
    for name in ("model_path", "test_features_path"):
        if not getattr(settings, name):
            raise UsageError(
                f"`{name}` is missing.", "Predicting needs an ensemble and features of its models."
            )
    model_path, labels_path = settings.model_path or "", settings.test_path
    ensemble = load_ensemble(model_path)
    labels = None
    if labels_path is not None:
        labels = read_labels(labels_path, ensemble.labels_num, settings.encoding)
    paths = find_features(settings.test_features_path, "test")
    features = load_features(paths, None if labels is None else len(labels), labels_path)
    notices = ensemble.check(features)
    probabilities = ensemble.predict(features, threads=settings.threads)
    files = [model_path, *map(str, paths), *([labels_path] if labels_path is not None else [])]
    comparison = None
    if labels is not None:
        comparison = ensemble.compare("new lines", features, labels, probabilities)
    return Predicted(probabilities, labels, comparison, notices, tuple(files))


def write_predictions(out: TextIO, predicted: Predicted, *, as_json: bool = False) -> None:
    """Write one line per line: the true label where known, the predicted one, probabilities.

    TSV with a header (label, prediction, probability_0, ...), or JSON objects with the keys line
    (counted from 1), label, prediction and probabilities.
    """
    probabilities, labels = predicted.probabilities, predicted.labels
    known = [{"label": label} for label in labels.tolist()] if labels is not None else None
    rows = zip(
        known or [{}] * len(probabilities),
        probabilities.argmax(axis=1).tolist(),
        probabilities.tolist(),
        strict=True,
    )
    if as_json:
        for line, (label, prediction, row) in enumerate(rows, 1):
            values = [round(value, 6) for value in row]
            record = {"line": line, **label, "prediction": prediction, "probabilities": values}
            out.write(json.dumps(record) + "\n")
        return
    columns = [f"probability_{label}" for label in range(probabilities.shape[1])]
    out.write("\t".join([*(["label"] if known else []), "prediction", *columns]) + "\n")
    for label, prediction, row in rows:
        cells = [*label.values(), prediction, *(f"{value:.6g}" for value in row)]
        out.write("\t".join(map(str, cells)) + "\n")
