"""An ensemble that has learnt: what it is made of, its folder on disk, and applying it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from uertool.errors import InputError
from uertool.io.atomic import sha256_of
from uertool.tasks.ensemble import boosting
from uertool.tasks.ensemble.data import Features, check_pairs, join
from uertool.tasks.ensemble.metrics import Probabilities
from uertool.tasks.ensemble.settings import Value

FORMAT = "uertool-ensemble"
VERSION = 1
MODEL_FILE = "model.txt"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class BaseModel:
    """What an ensemble remembers of a base model.

    Attributes:
        name: as in the reports.
        width: columns of its features.
        kind: "probabilities", "logits" or "vector" (`baselines.kind_of`).
        used: whether the ensemble learns from it.
        weight: its share in the weighted average, or None for a vector or a model left out.
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
        seed: what all random choices came from.
    """

    booster_text: str
    models: tuple[BaseModel, ...]
    labels_num: int
    objective: str
    params: dict[str, Value]
    rounds: int
    seed: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _booster(self) -> Any:
        return boosting.load_booster(self.booster_text, MODEL_FILE)

    @property
    def used(self) -> tuple[BaseModel, ...]:
        return tuple(model for model in self.models if model.used)

    def choose(self, features: Sequence[Features]) -> tuple[tuple[Features, ...], tuple[str, ...]]:
        """The features of the base models in use, and notices.

        Args:
            features: of all base models, or of those in use only, in their order.

        Raises:
            InputError: number or widths are not those of training.
        """
        known = self.used if len(features) == len(self.used) else self.models
        notices = check_pairs([(model.name, model.width) for model in known], tuple(features))
        kept = tuple(f for f, model in zip(features, known, strict=True) if model.used)
        return kept, notices

    def predict(self, features: Sequence[Features], *, threads: int | None = None) -> Probabilities:
        """Class probabilities, [lines, labels] float64, from features as of `choose`."""
        kept, _ = self.choose(features)
        return self.predict_matrix(join(kept), threads=threads)

    def predict_matrix(self, matrix: Any, *, threads: int | None = None) -> Probabilities:
        """The same from the features of the base models in use side by side, [lines, columns]."""
        raw = self._booster.predict(matrix, num_threads=threads or boosting.available_threads())
        return boosting.as_matrix(raw)

    def importance(self) -> list[dict[str, Any]]:
        """How much each base model in use contributes, in the order of the base models.

        `gain` is the share of the loss that splits on its columns took away, `splits` their number.
        """
        gain = self._booster.feature_importance("gain")
        splits = self._booster.feature_importance("split")
        edges = np.cumsum([0, *(model.width for model in self.used)])
        total = float(gain.sum()) or 1.0
        return [
            {
                "model": model.name,
                "gain": float(gain[start:end].sum()) / total,
                "splits": int(splits[start:end].sum()),
            }
            for model, start, end in zip(self.used, edges[:-1], edges[1:], strict=True)
        ]

    def manifest(self) -> dict[str, Any]:
        """What a later run needs to know of this one, but for files and their digests."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "versions": versions(),
            "seed": self.seed,
            "labels_num": self.labels_num,
            "objective": self.objective,
            "params": self.params,
            "rounds": self.rounds,
            "models": [vars(model) for model in self.models],
            **self.extra,
        }


def versions() -> dict[str, str]:
    """Versions of Python and of what the results depend on."""
    found = {"python": platform.python_version()}
    for package in ("uertool", "lightgbm", "optuna", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if "uertool" not in found:  # run from a source tree
        import uertool

        found["uertool"] = str(getattr(uertool, "__version__", "unknown"))
    return found


def described(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Path, size and SHA-256 of input files."""
    return [
        {"path": str(path), "bytes": Path(path).stat().st_size, "sha256": sha256_of(path)}
        for path in paths
    ]


def dump_json(value: Any, path: Path) -> None:
    """Write JSON that people read too."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def save_ensemble(
    ensemble: Ensemble, folder: Path, inputs: Mapping[str, Sequence[str | Path]]
) -> None:
    """Write the model and its manifest into an existing folder.

    The manifest lists every file of the folder with its SHA-256, so it is to be written last.

    Args:
        inputs: the files that it was learnt from, by what they are.
    """
    (folder / MODEL_FILE).write_text(ensemble.booster_text, encoding="utf-8", newline="\n")
    outputs = sorted(path for path in folder.iterdir() if path.name != MANIFEST_FILE)
    manifest = ensemble.manifest()
    manifest["inputs"] = {what: described(paths) for what, paths in inputs.items()}
    manifest["outputs"] = {path.name: sha256_of(path) for path in outputs}
    dump_json(manifest, folder / MANIFEST_FILE)


def load_ensemble(folder: str | Path) -> Ensemble:
    """Read what `save_ensemble` wrote.

    Raises:
        InputError: it is no such folder, of a newer uertool, or the model is not the one that the
            manifest was written for.
    """
    folder = Path(folder)
    if folder.name == MANIFEST_FILE or folder.name == MODEL_FILE:
        folder = folder.parent
    manifest_path, model_path = folder / MANIFEST_FILE, folder / MODEL_FILE
    if not manifest_path.is_file() or not model_path.is_file():
        raise InputError(
            f"{folder} is no folder of an ensemble: it lacks "
            f"{MANIFEST_FILE if not manifest_path.is_file() else MODEL_FILE}.",
            "Give the folder that 'uertool ensemble fit `output_path`' wrote.",
        )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        kind, version = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{manifest_path} is no manifest of an ensemble.") from None
    if kind != FORMAT or version != VERSION:
        raise InputError(
            f"{manifest_path} has the format {kind} {version}, but {FORMAT} {VERSION} was "
            "expected.",
            "Was it written by a newer uertool?",
        )
    try:
        models = tuple(BaseModel(**model) for model in manifest["models"])
        digest = manifest["outputs"][MODEL_FILE]
        if digest != sha256_of(model_path):
            raise InputError(
                f"{model_path} is not the file that {manifest_path} was written for.",
                "Fit the ensemble again, or copy the whole folder.",
            )
        return Ensemble(
            booster_text=model_path.read_text(encoding="utf-8"),
            models=models,
            labels_num=int(manifest["labels_num"]),
            objective=str(manifest["objective"]),
            params=dict(manifest["params"]),
            rounds=int(manifest["rounds"]),
            seed=int(manifest["seed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{manifest_path} is incomplete: {error}.") from None
