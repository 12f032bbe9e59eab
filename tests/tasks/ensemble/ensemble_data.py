"""Base models for tests of ensembles: made up ones, and real ones on the labelled reviews."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conftest import MODELS
from uertool.cli.app import main
from uertool.tasks.ensemble.scores import fold_of_each_line

Matrix = npt.NDArray[np.float64]


def write_labels(path: Path, labels: npt.NDArray[np.int64]) -> Path:
    rows = "".join(f"{label}\tline {i}\n" for i, label in enumerate(labels))
    path.write_text("label\ttext_a\n" + rows, encoding="utf-8")
    return path


def made_up(
    lines: int, *, labels_num: int = 3, models_num: int = 3, seed: int = 0
) -> tuple[npt.NDArray[np.int64], list[Matrix]]:
    """Labels, and for each base model probabilities that know something of them.

    Model i is good at telling label i from the others, so that together they know more.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, labels_num, lines)
    outputs = []
    for i in range(models_num):
        logits = generator.normal(size=(lines, labels_num))
        logits[np.arange(lines), labels] += 0.7
        mine = i % labels_num
        logits[labels == mine, mine] += 1.5
        outputs.append(softmax(logits))
    return labels, outputs


def softmax(logits: Matrix) -> Matrix:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def write_case(
    folder: Path, *, train: int = 300, test: int = 150, labels_num: int = 3, models_num: int = 3
) -> Path:
    """A folder as the old scripts expect it: train.tsv, test.tsv, {train,test}_features_{i}.npy."""
    for seed, (role, lines) in enumerate({"train": train, "test": test}.items()):
        labels, outputs = made_up(lines, labels_num=labels_num, models_num=models_num, seed=seed)
        write_labels(folder / f"{role}.tsv", labels)
        for i, values in enumerate(outputs):
            np.save(folder / f"{role}_features_{i}.npy", values.astype(np.float32))
    return folder


# What base models look at: a part of the text, and how long its pieces of characters are.
TEXT_MODELS = {
    "unigrams": (slice(None), (1, 1)),
    "bigrams": (slice(None), (2, 2)),
    "trigrams": (slice(None), (3, 3)),
    "beginning": (slice(30), (1, 2)),
    "end": (slice(-30, None), (1, 2)),
}

# Or vectors of `uertool extract-features`: of which model, and by which pooling.
VECTOR_MODELS = {
    "mlm-first": ("zh-mlm-small", "first"),
    "mlm-mean": ("zh-mlm-small", "mean"),
    "mlm-max": ("zh-mlm-small", "max"),
    "lm-mean": ("zh-lm-small", "mean"),
    "lm-max": ("zh-lm-small", "max"),
}


def read_texts(path: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    rows = path.read_text(encoding="utf-8").split("\n")[1:]
    cells = [row.split("\t") for row in rows if row]
    return [text for _, text in cells], np.array([int(label) for label, _ in cells])


def extract(path: Path, name: str, folder: Path, seq_length: int) -> Matrix:
    """What `uertool extract-features` gives for the texts of a table."""
    model, pooling = VECTOR_MODELS[name]
    target = folder / f"vectors_{path.stem}_{name}.npy"
    code = main(
        [
            "extract-features", "--test_path", str(path), "--column", "text_a",
            "--load_model_path", str(MODELS / model / "model.bin"),
            "--vocab_path", str(MODELS / model / "vocab.txt"),
            "--config_path", str(MODELS / model / "config.json"),
            "--prediction_path", str(target), "--pooling", pooling,
            "--seq_length", str(seq_length), "--quiet",
        ]
    )  # fmt: skip
    assert code == 0
    return np.asarray(np.load(target))


def write_text_models(
    folder: Path,
    train: Path,
    test: Path,
    names: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
    seq_length: int = 128,
) -> dict[str, list[str]]:
    """Logistic regressions on character n-grams or vectors, as feature files.

    The training features are out of fold: each line is predicted by a model that has not seen it.
    The test features come from models of all training lines.

    Args:
        folder: where the files are written.
        train, test: tables with the columns label and text_a.
        names: of `TEXT_MODELS` and `VECTOR_MODELS`.
        folds, seed: how the training lines are cut.
        seq_length: tokens of a text that vectors are made of.

    Returns:
        The files of either role, in the order of the names.
    """
    texts, labels = read_texts(train)
    test_texts, _ = read_texts(test)
    fold = fold_of_each_line(labels, folds, seed)
    for name in names:
        if name in TEXT_MODELS:
            x, z = (_counts(name, all_) for all_ in (texts, test_texts))
        else:
            x, z = (extract(path, name, folder, seq_length) for path in (train, test))
        regression = _regression(name)
        oof = np.zeros((len(labels), int(labels.max()) + 1), dtype=np.float32)
        for i in range(folds):
            regression.fit(x[fold != i], labels[fold != i])
            oof[fold == i] = regression.predict_proba(x[fold == i])
        np.save(folder / f"train_{name}.npy", oof)
        on_test = regression.fit(x, labels).predict_proba(z)
        np.save(folder / f"test_{name}.npy", on_test.astype(np.float32))
    return {
        role: [str(folder / f"{role}_{name}.npy") for name in names] for role in ("train", "test")
    }


def _counts(name: str, texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    part, sizes = TEXT_MODELS[name]
    counter = HashingVectorizer(
        analyzer="char", ngram_range=sizes, n_features=2**13, alternate_sign=False, binary=True
    )
    return counter.transform([text[part] for text in texts])


def _regression(name: str) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name in TEXT_MODELS:
        return OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear", tol=1e-2))
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=300))
