"""Labels and the outputs of base models, read and checked before anything learns from them."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, UertoolError, UsageError, counted, listed
from uertool.io.encodings import UTF8
from uertool.io.natural_order import natural
from uertool.io.vector_reader import READERS, open_vectors
from uertool.tasks.ensemble.settings import TrainSettings
from uertool.text.readers import read_lines

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_ROWS = 1 << 16  # rows of a feature file that are read at once
_ROLE_WORDS = frozenset(("train", "test", "dev", "valid", "val", "oof", "feature", "features"))


@dataclass(frozen=True)
class Features:
    """The outputs of one base model.

    Attributes:
        name: the base model, as reports call it.
        path: the file that they were read from.
        values: [lines, width] float32; probabilities or logits of the labels, or any vector.
    """

    name: str
    path: Path
    values: FloatArray


@dataclass(frozen=True)
class LabelledData:
    """Lines with a label and the outputs of every base model.

    Attributes:
        path: the TSV file of the labels.
        labels: [lines] int64 within 0..labels_num-1.
        models: one entry per base model, in the order of the ensemble's columns.
        notices: what is unusual but no error, one sentence each.
    """

    path: Path
    labels: Labels
    models: tuple[Features, ...]
    notices: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models)

    def matrix(self) -> FloatArray:
        """The outputs of all base models side by side, [lines, sum of widths]."""
        return join(self.models)

    def keep(self, names: Sequence[str] | None) -> LabelledData:
        """The same lines with these base models only, in the order that they have here.

        Raises:
            InputError: there is no base model of such a name.
        """
        if names is None:
            return self
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise InputError(
                f"The parameters use the base models {', '.join(unknown)}, but the features are "
                f"of {', '.join(self.names)}.",
                "Give the feature files of the search, under the same names.",
            )
        return replace(self, models=tuple(m for m in self.models if m.name in names))


def join(models: Sequence[Features]) -> FloatArray:
    """The outputs of base models side by side, [lines, sum of widths]."""
    return np.concatenate([model.values for model in models], axis=1)


# -- labels ---------------------------------------------------------------------------------------


def read_labels(path: str | Path, labels_num: int | None = None, encoding: str = UTF8) -> Labels:
    """The `label` column of a TSV file with a header line, [lines] int64.

    Blank lines at the end of the file are ignored; one between others is an error, since rows of
    features would no longer belong to their labels.

    Raises:
        InputError: the file or column is missing, or a label is not a whole number within
            0..labels_num-1.
    """
    labels: list[int] = []
    blank: int | None = None
    for line in read_lines(path, column="label", encoding=encoding):
        text = line.text.strip()
        if not text and not line.fields:
            blank = blank or line.number
            continue
        if blank is not None:
            raise InputError(
                f"{path}, line {blank + 1} is blank, and lines follow it.",
                "Remove it, so that every line has its row of features.",
            )
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise InputError(
                f"{path}, line {line.number + 1}: invalid label {text[:50]!r} (must be a whole "
                "number from 0).",
                "Number the labels 0, 1, 2 and so on.",
            )
        labels.append(int(text))
    if not labels:
        raise InputError(f"{path} has a header but no line of data.", "Give a file with lines.")
    found = np.asarray(labels, dtype=np.int64)
    if labels_num is not None:
        check_labels(found, labels_num, path)
    return found


def check_labels(labels: Labels, labels_num: int, path: str | Path) -> None:
    """Raise InputError if a label is outside 0..labels_num-1, naming its first line."""
    wrong = np.flatnonzero(labels >= labels_num)
    if wrong.size:
        others = f" ({wrong.size} lines have such a label)" if wrong.size > 1 else ""
        raise InputError(
            f"{path}, line {wrong[0] + 2}: the label {labels[wrong[0]]} is outside "
            f"0..{labels_num - 1}{others}.",
            f"Give `labels_num` {labels.max() + 1}, or correct the labels.",
        )


# -- feature files --------------------------------------------------------------------------------


def find_features(
    sources: Sequence[str | Path], role: str, models_num: int | None = None
) -> list[Path]:
    """The feature files that `sources` mean, one per base model.

    A source is a file, a glob such as `oof/*.npy` (in natural order: 2 before 10), or a prefix as
    in the old scripts: a folder, or the beginning of a path, that is followed by
    `{role}_features_0.npy`, `{role}_features_1.npy` and so on.

    Args:
        role: "train" or "test", for the names after a prefix.
        models_num: the number of base models that there must be; None takes all that are there.

    Raises:
        InputError: a file is missing, a glob matches nothing, or the number differs.
    """
    found: list[Path] = []
    for source in map(str, sources):
        if Path(source).is_file():
            found.append(Path(source))
        elif glob.has_magic(source):
            found += _matching(source)
        else:
            found += _numbered(source, role, models_num)
    if models_num is not None and len(found) != models_num:
        raise InputError(
            f"{len(found)} feature files were found for {role}, but `models_num` is {models_num}.",
            f"They are: {listed(found)}.",
        )
    return found


def _matching(pattern: str) -> list[Path]:
    """The feature files that a glob matches, in natural order."""
    found = [path for path in map(Path, glob.glob(pattern, recursive=True)) if _is_features(path)]
    if not found:
        raise InputError(
            f"The pattern {pattern} matches no feature file.",
            f"Feature files end in {', '.join(READERS)}.",
        )
    return sorted(found, key=natural)


def _is_features(path: Path) -> bool:
    # In int8, `extract-features` writes the scale of each row into a file of its own.
    return path.is_file() and path.suffix in READERS and not path.stem.endswith(".scales")


def _numbered(prefix: str, role: str, models_num: int | None) -> list[Path]:
    """The files `{role}_features_{i}` after a prefix, without a gap in their numbers."""
    if Path(prefix).is_dir() and not prefix.endswith(("/", "\\")):
        prefix += "/"
    stem = f"{prefix}{role}_features_"
    by_number: dict[int, list[Path]] = {}
    for path in map(Path, glob.glob(f"{glob.escape(stem)}*")):
        digits = path.stem.removeprefix(Path(stem).name)
        if digits.isdecimal() and _is_features(path):
            by_number.setdefault(int(digits), []).append(path)
    count = models_num if models_num is not None else max(by_number, default=0) + 1
    for number in range(count):
        files = by_number.get(number, [])
        if len(files) > 1:
            raise InputError(
                f"Base model {number} has several feature files: {listed(sorted(files))}.",
                "Keep one of them, or name the files by a glob.",
            )
        if files:
            continue
        if not by_number:
            raise InputError(
                f"There is no {stem}{number}.npy.",
                f"`{role}_features_path` is a folder or prefix of {role}_features_0.npy, "
                f"{role}_features_1.npy, ..., a file, or a glob such as 'oof/*.npy'.",
            )
        last = by_number[max(by_number)][0]
        why = f"{last} is there" if models_num is None else f"`models_num` is {models_num}"
        raise InputError(
            f"The features of base model {number} are missing: there is no {stem}{number}.npy, "
            f"but {why}.",
            f"Write it, or use the first ones only with `models_num` {number}." if number else None,
        )
    return [by_number[number][0] for number in range(count)]


def load_features(
    paths: Sequence[Path], lines: int | None = None, labels_path: str | Path | None = None
) -> tuple[Features, ...]:
    """Read the feature files of all base models and check them against each other.

    Args:
        lines: the number of rows that each must have; None takes that of the first file.
        labels_path: the file that has so many lines, for messages.

    Raises:
        InputError: a file cannot be read, holds no matrix of numbers, has another number of rows,
            or holds NaN or infinity. The faults of all files are reported together.
    """
    models: list[Features] = []
    faults: list[UertoolError] = []
    for name, path in zip(_model_names(paths), paths, strict=True):
        try:
            values = _load(path)
            if lines is None:
                lines, labels_path = len(values), path
            _check_values(values, path, lines, labels_path)
        except UertoolError as error:
            faults.append(error)
            continue
        models.append(Features(name, path, values))
    if faults:
        raise InputError(" ".join(fault.message for fault in faults), faults[0].hint)
    return tuple(models)


def _load(path: Path) -> FloatArray:
    # What float32 cannot hold becomes infinity, and is reported.
    with np.errstate(over="ignore"):
        blocks = [block for block, _ in open_vectors(path, numbers=True).blocks(_ROWS)]
    if len({block.shape[1] for block in blocks}) != 1:
        raise InputError(
            f"{path} holds no matrix of numbers.",
            "Write one row of class probabilities or logits for each line.",
        )
    return np.concatenate(blocks)


def _check_values(
    values: FloatArray, path: Path, lines: int, labels_path: str | Path | None
) -> None:
    if len(values) != lines:
        raise InputError(
            f"{path} has {counted(len(values), 'row')}, but {labels_path} has "
            f"{counted(lines, 'line')}.",
            "Rows of features and lines must be the same ones in the same order.",
        )
    rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if rows.size:
        raise InputError(
            f"{path} holds NaN or infinity in {rows.size} of {counted(lines, 'row')}, "
            f"the first in row {rows[0]} (counted from 0).",
            "Run that base model again; a number is needed for every label of every line.",
        )


def _model_names(paths: Sequence[Path]) -> list[str]:
    """Names of base models, from their files: the stem without train, test, features, ..."""
    names = []
    for path in paths:
        words = re.split(r"[_.\- ]+", path.stem)
        kept = [word for word in words if word and word.lower() not in _ROLE_WORDS]
        name = "_".join(kept) or path.stem
        names.append(f"model {name}" if name.isdecimal() else name)
    if len(set(names)) == len(names):
        return names
    return [f"model {i}" for i in range(len(paths))]


# -- both together --------------------------------------------------------------------------------


def load_labelled(
    labels_path: str | Path,
    feature_sources: Sequence[str | Path],
    role: str,
    *,
    models_num: int | None = None,
    labels_num: int | None = None,
    encoding: str = UTF8,
) -> LabelledData:
    """Labels and features that belong together.

    Args:
        labels_path: TSV with a header and a `label` column.
        feature_sources: see `find_features`.
        role: "train" or "test".
        models_num: the number of base models, or None for all that are there.
        labels_num: labels must be below it; None takes the highest label plus 1.
        encoding: of the TSV.

    Raises:
        InputError: see `read_labels`, `find_features` and `load_features`.
    """
    labels = read_labels(labels_path, labels_num, encoding)
    paths = find_features(feature_sources, role, models_num)
    models = load_features(paths, len(labels), labels_path)
    notices = []
    if len(models) == 1:
        notices.append(
            f"There is only one base model ({models[0].path}), which the ensemble can merely "
            "recalibrate; two or more are worth combining."
        )
    missing = sorted(set(range(labels_num or int(labels.max()) + 1)) - set(labels.tolist()))
    if missing:
        effect = " and is never predicted" if role == "train" else ""
        notices.append(
            f"{labels_path} has no line with the label {listed(missing, 10)}, so it has no "
            f"scores{effect}."
        )
    return LabelledData(Path(labels_path), labels, models, tuple(notices))


def load_train(settings: TrainSettings, labels_num: int | None = None) -> LabelledData:
    """Labels and features of the training lines."""
    for name in ("train_path", "train_features_path"):
        if not getattr(settings, name):
            raise UsageError(
                f"`{name}` is missing.",
                "Learning needs `train_path` (labels) and `train_features_path` (base models).",
            )
    return load_labelled(
        settings.train_path or "",
        settings.train_features_path,
        "train",
        models_num=settings.models_num,
        labels_num=labels_num or settings.labels_num,
        encoding=settings.encoding,
    )


def inputs_of(data: LabelledData, role: str) -> dict[str, list[Path]]:
    """The files of labels and features, by what they are."""
    features = [model.path for model in data.models]
    return {f"{role}_labels": [data.path], f"{role}_features": features}


def check_pairs(train: Sequence[Any], test: Sequence[Features]) -> tuple[str, ...]:
    """Check that the files of both sides come from the same base models in the same order.

    Args:
        train: the base models of the ensemble, with `name` and `width`.
        test: the features that it is applied to.

    Returns:
        Notices, one sentence each.

    Raises:
        InputError: the number of base models, or the width of one, differs.
    """
    if len(train) != len(test):
        names = listed((model.name for model in train), 20)
        raise InputError(
            f"The ensemble has {len(train)} base models, but {len(test)} feature files were given.",
            f"It needs, in this order: {names}.",
        )
    pairs = list(zip(train, test, strict=True))
    wrong = [
        f"{new.path} has {counted(new.values.shape[1], 'column')}, but {old.name} had "
        f"{old.width} in training"
        for old, new in pairs
        if new.values.shape[1] != old.width
    ]
    if wrong:
        raise InputError(
            "; ".join(wrong) + ".", "Features of training and test must come from the same models."
        )
    renamed = [f"{old.name} with {new.path.name}" for old, new in pairs if old.name != new.name]
    if renamed:
        return (
            f"Base models are paired by order, although their names differ: {listed(renamed)}.",
        )
    return ()
