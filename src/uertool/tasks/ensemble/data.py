"""Labels and the outputs of base models, read and checked before anything learns from them."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.errors import InputError, MissingExtraError, UertoolError
from uertool.text.readers import read_lines

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_SCALES = ".scales"
_GLOB = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"(\d+)")
_ROLE_WORDS = frozenset(("train", "test", "dev", "valid", "val", "oof", "feature", "features"))


@dataclass(frozen=True)
class Features:
    """What one base model said of every line.

    Attributes:
        name: the base model, as the reports call it.
        path: the file it was read from.
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
        models: one entry a base model, in the order of the columns that the ensemble sees.
        notices: what is odd but can be worked with, one sentence each.
    """

    path: Path
    labels: Labels
    models: tuple[Features, ...]
    notices: tuple[str, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(model.values.shape[1] for model in self.models)

    def matrix(self) -> FloatArray:
        """The outputs of all base models side by side, [lines, sum of widths]."""
        return join(self.models)

    def keep(self, names: Sequence[str]) -> LabelledData:
        """The same lines with these base models only, in the order they have here."""
        chosen = set(names)
        kept = tuple(model for model in self.models if model.name in chosen)
        return LabelledData(self.path, self.labels, kept, self.notices)


def join(models: Sequence[Features]) -> FloatArray:
    """The outputs of base models side by side, [lines, sum of widths]."""
    return np.ascontiguousarray(np.concatenate([model.values for model in models], axis=1))


# -- labels ---------------------------------------------------------------------------------------


def read_labels(path: str | Path) -> Labels:
    """The `label` column of a TSV file with a header line, [lines] int64.

    Blank lines at the end of the file are no lines; one between others is an error, since rows of
    features would no longer meet their labels.

    Raises:
        InputError: the file or column is missing, or a label is not a whole number from 0.
    """
    labels: list[int] = []
    blank: int | None = None
    for line in read_lines(path, column="label"):
        text = line.text.strip()
        if not text and not line.fields:
            blank = line.number if blank is None else blank
            continue
        if blank is not None:
            raise InputError(
                f"{path}, line {blank + 1} is blank, and lines follow it.",
                "Remove it, so that every line has its row of features.",
            )
        if not (text.isascii() and text.isdecimal()):
            raise InputError(
                f"{path}, line {line.number + 1}: the label {text!r} is not a whole number from 0.",
                "Number the labels 0, 1, 2 and so on.",
            )
        labels.append(int(text))
    if not labels:
        raise InputError(f"{path} has a header but no line of data.", "Give a file with lines.")
    return np.asarray(labels, dtype=np.int64)


def check_labels(labels: Labels, labels_num: int, path: str | Path) -> None:
    """Raise InputError if a label lies outside 0..labels_num-1, naming its first line."""
    wrong = np.flatnonzero(labels >= labels_num)
    if wrong.size:
        first = int(wrong[0])
        others = f" ({wrong.size} lines have such a label)" if wrong.size > 1 else ""
        raise InputError(
            f"{path}, line {first + 2}: the label {int(labels[first])} is outside "
            f"0..{labels_num - 1}{others}.",
            f"Give `labels_num` {int(labels.max()) + 1}, or correct the labels.",
        )


# -- feature files --------------------------------------------------------------------------------


def find_features(
    sources: Sequence[str | Path], role: str, models_num: int | None = None
) -> list[Path]:
    """The feature files that `sources` mean, one a base model.

    A source is a file, a glob such as `oof/*.npy` (in natural order: 2 before 10), or a prefix as
    in the old scripts: a folder, or the beginning of a path, that `{role}_features_0.npy`,
    `{role}_features_1.npy` and so on are put behind.

    Args:
        role: "train" or "test", for the names behind a prefix.
        models_num: how many base models there must be; None takes all that are there.

    Raises:
        InputError: a file is missing, a glob matches nothing, or the number is another.
    """
    found: list[Path] = []
    by_prefix = False
    for source in sources:
        text = str(source)
        if Path(text).is_file():
            found.append(Path(text))
        elif _GLOB.search(text):
            found.extend(_glob(text))
        else:
            by_prefix = True
            found.extend(_numbered(text, role, models_num))
    if not found:
        raise InputError("No feature file was named.", f"Give `{role}_features_path`.")
    if models_num is not None and len(found) != models_num and not by_prefix:
        raise InputError(
            f"{len(found)} feature files were found for {role}, but `models_num` is {models_num}.",
            f"They are: {_some([str(path) for path in found])}.",
        )
    return found


def _glob(pattern: str) -> list[Path]:
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]
    found = sorted(
        (path for path in found if _is_features(path)),
        key=lambda path: _natural(str(path)),
    )
    if not found:
        raise InputError(
            f"The pattern {pattern} matches no feature file.",
            f"Features are files of the kinds {', '.join(READERS)}.",
        )
    return found


def _is_features(path: Path) -> bool:
    # `extract-features` in int8 puts the factor of each row into a file of its own.
    return path.is_file() and path.suffix in READERS and not path.stem.endswith(_SCALES)


def _numbered(prefix: str, role: str, models_num: int | None) -> list[Path]:
    if Path(prefix).is_dir() and not prefix.endswith(("/", "\\")):
        prefix += "/"
    stem = f"{prefix}{role}_features_"
    found: list[Path] = []
    while models_num is None or len(found) < models_num:
        candidates = [Path(f"{stem}{len(found)}{suffix}") for suffix in READERS]
        present = [path for path in candidates if path.is_file()]
        if not present:
            break
        if len(present) > 1:
            raise InputError(
                f"Base model {len(found)} has several feature files: "
                f"{_some([str(path) for path in present])}.",
                "Leave one of them, or name the files by a glob.",
            )
        found.append(present[0])
    if models_num is not None and len(found) < models_num:
        raise InputError(
            f"The features of base model {len(found)} are missing: there is no "
            f"{stem}{len(found)}.npy, and `models_num` is {models_num}.",
            f"Write it, or give `models_num` {len(found)}." if found else _prefix_hint(role),
        )
    if models_num is None:
        later = [
            path for path in map(Path, glob.glob(f"{glob.escape(stem)}*")) if path.suffix in READERS
        ]
        later = [path for path in later if path not in found]
        later = [path for path in later if path.stem[len(f"{role}_features_") :].isdecimal()]
        if later:
            name = min(later, key=lambda path: _natural(str(path)))
            raise InputError(
                f"The features of base model {len(found)} are missing: {name} is there, but "
                f"{stem}{len(found)}.npy is not.",
                "Write it, or give `models_num` to use the first ones only.",
            )
        if not found:
            raise InputError(f"There is no {stem}0.npy.", _prefix_hint(role))
    return found


def _prefix_hint(role: str) -> str:
    return (
        f"`{role}_features_path` is a folder or prefix of {role}_features_0.npy, "
        f"{role}_features_1.npy, ..., a file, or a glob such as 'oof/*.npy'."
    )


def _natural(text: str) -> list[tuple[int, int, str]]:
    return [
        (1, int(part), "") if part.isdecimal() else (0, 0, part) for part in _NUMBER.split(text)
    ]


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def load_features(
    paths: Sequence[Path], lines: int | None = None, labels_path: str | Path | None = None
) -> tuple[Features, ...]:
    """Read the feature files of all base models and check them against each other.

    Args:
        lines: how many rows each must have; None takes the first file's.
        labels_path: the file that the number of lines came from, for messages.

    Raises:
        InputError: a file cannot be read, is no matrix of numbers, has another number of rows, or
            holds NaN or infinity. All faults of all files are named together.
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
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise InputError(" ".join(fault.message for fault in faults), faults[0].hint)
    return tuple(models)


def _check_values(
    values: FloatArray, path: Path, lines: int, labels_path: str | Path | None
) -> None:
    if len(values) != lines:
        raise InputError(
            f"{path} has {len(values)} rows, but {labels_path} has {lines} lines.",
            "Rows of features and lines must be the same ones in the same order.",
        )
    bad = ~np.isfinite(values)
    if bad.any():
        rows = np.flatnonzero(bad.any(axis=1))
        raise InputError(
            f"{path} holds NaN or infinity in {rows.size} of {lines} rows, "
            f"the first in row {int(rows[0])} (counted from 0).",
            "Run that base model again; a number is needed for every label of every line.",
        )


def _load(path: Path) -> FloatArray:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise InputError(
            f"{path} is no feature file that is known.", f"Known kinds: {', '.join(READERS)}."
        )
    try:
        values = np.asarray(reader(path))
        scales = path.with_name(f"{path.stem}{_SCALES}{path.suffix}")
        if scales.is_file():
            values = values * np.asarray(reader(scales))[:, None]
    except UertoolError:
        raise
    except Exception as error:  # each library has its own errors for a file that is not its kind
        raise InputError(
            f"{path} cannot be read as a {path.suffix} file: {_first_line(error)}",
            "Is it complete, and of the kind that its name says?",
        ) from None
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(
            f"{path} has the shape {list(values.shape)}, but [lines, labels] was expected.",
            "Write one row of class probabilities or logits for each line.",
        )
    if values.dtype.kind not in "fiub":
        raise InputError(f"{path} holds {values.dtype} values, but numbers were expected.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is reported
        return np.ascontiguousarray(values, dtype=np.float32)


def _first_line(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text if text.endswith(".") else f"{text}."


def _read_npy(path: Path) -> Any:
    with path.open("rb") as stream:
        return np.load(stream, allow_pickle=False)


def _read_pt(path: Path) -> Any:
    import torch

    value = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(value, dict):
        value = _only_tensor({str(k): v for k, v in value.items() if torch.is_tensor(v)}, path)
    if isinstance(value, list):
        value = torch.as_tensor(value)
    return value.detach().float().numpy()


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    tensors = load_file(path)
    values = _only_tensor(tensors, path).float()
    if "scales" in tensors:
        values = values * tensors["scales"][:, None]
    return values.numpy()


def _only_tensor(tensors: dict[str, Any], path: Path) -> Any:
    """The one tensor of a file, or where there are several the one with the name of a matrix."""
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    for name in ("features", "vectors", "probabilities", "logits"):
        if name in tensors:
            return tensors[name]
    raise InputError(
        f"{path} holds {len(tensors)} tensors ({_some(sorted(tensors))}), but one was expected.",
        'Save one matrix, or call it "features".',
    )


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
        import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", f"Reading {path.name}") from None
    table = pq.read_table(path)
    lists = [c for c in table.column_names if pa.types.is_nested(table.schema.field(c).type)]
    if len(lists) == 1:
        rows = table.column(lists[0]).to_pylist()
        if any(row is None or len(row) != len(rows[0]) for row in rows):
            raise InputError(f"{path}: the lists of column {lists[0]!r} are not equally long.")
        values = np.asarray(rows, dtype=np.float32)
        if "scale" in table.column_names:
            values = values * table.column("scale").to_numpy()[:, None]
        return values
    columns = [c for c in table.column_names if c not in _ROW_COLUMNS and _is_number(pa, table, c)]
    if not columns:
        raise InputError(f"{path} has no column of numbers.", "Write one column for each label.")
    return np.stack([table.column(c).to_numpy() for c in columns], axis=1)


_ROW_COLUMNS = frozenset(("index", "line", "number", "row", "label"))


def _is_number(pa: Any, table: Any, column: str) -> bool:
    kind = table.schema.field(column).type
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _read_npy,
    ".pt": _read_pt,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}
"""How the features of each kind of file are read, by the end of its name."""


def _model_names(paths: Sequence[Path]) -> list[str]:
    """Names for base models from their files: what is left of the stem without train, test, ..."""
    names = []
    for path in paths:
        words = re.split(r"([_.\- ]+)", path.stem)
        kept = [word for word in words[::2] if word.lower() not in _ROLE_WORDS]
        names.append("_".join(word for word in kept if word) or path.stem)
    if len(set(names)) == len(names):
        return [f"model {name}" if name.isdecimal() else name for name in names]
    return [f"model {i}" for i in range(len(paths))]


# -- both together --------------------------------------------------------------------------------


def load_labelled(
    labels_path: str | Path,
    feature_sources: Sequence[str | Path],
    role: str,
    *,
    models_num: int | None = None,
    labels_num: int | None = None,
) -> LabelledData:
    """Labels and features that belong together.

    Args:
        labels_path: TSV with a header and a `label` column.
        feature_sources: see `find_features`.
        role: "train" or "test".
        models_num: the number of base models, or None for all that are there.
        labels_num: labels must lie below it; None takes the highest label plus 1.

    Raises:
        InputError: see `read_labels`, `check_labels`, `find_features` and `load_features`.
    """
    labels = read_labels(labels_path)
    if labels_num is not None:
        check_labels(labels, labels_num, labels_path)
    paths = find_features(feature_sources, role, models_num)
    models = load_features(paths, len(labels), labels_path)
    notices = []
    if len(models) == 1:
        notices.append(
            f"There is one base model only ({models[0].path}), so the ensemble can merely "
            "recalibrate it; two or more are worth combining."
        )
    missing = sorted(set(range(labels_num or int(labels.max()) + 1)) - set(labels.tolist()))
    if missing:
        which = _some([str(label) for label in missing], 10)
        effect = " and is never predicted" if role == "train" else ""
        notices.append(f"{labels_path} has no line with the label {which}, so it has no scores"
                       f"{effect}.")  # fmt: skip
    return LabelledData(Path(labels_path), labels, models, tuple(notices))


def check_pairs(train: Sequence[tuple[str, int]], test: tuple[Features, ...]) -> tuple[str, ...]:
    """Check that the files of both sides come from the same base models in the same order.

    Args:
        train: name and width of every base model that the ensemble learns from.
        test: what it shall be applied to.

    Returns:
        Notices, one sentence each.

    Raises:
        InputError: their number, or the width of one, differs.
    """
    if len(train) != len(test):
        raise InputError(
            f"The ensemble has {len(train)} base models, but {len(test)} feature files were given "
            "to apply it to.",
            f"It needs, in this order: {_some([name for name, _ in train], 20)}.",
        )
    wrong = [
        f"{model.path} has {model.values.shape[1]} columns, but {name} had {width} in training"
        for (name, width), model in zip(train, test, strict=True)
        if model.values.shape[1] != width
    ]
    if wrong:
        raise InputError(
            "; ".join(wrong) + ".", "Features of training and test must come from the same models."
        )
    renamed = [
        f"{name} with {model.path.name}"
        for (name, _), model in zip(train, test, strict=True)
        if name != model.name
    ]
    if renamed:
        return (f"Base models are paired by order, although their names differ: {_some(renamed)}.",)
    return ()
