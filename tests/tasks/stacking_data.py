"""Base models for tests of ensembles: made up ones, and real ones on the labelled reviews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from uertool.tasks.stacking.folds import fold_of_each_line

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


# What each base model looks at: a part of the text, and how long its pieces of characters are.
# Features of `uertool extract-features` can stand in the place of these counts.
TEXT_MODELS = {
    "unigrams": (slice(None), (1, 1)),
    "bigrams": (slice(None), (2, 2)),
    "trigrams": (slice(None), (3, 3)),
    "beginning": (slice(30), (1, 2)),
    "end": (slice(-30, None), (1, 2)),
}


def read_texts(path: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    rows = path.read_text(encoding="utf-8").split("\n")[1:]
    cells = [row.split("\t") for row in rows if row]
    return [text for _, text in cells], np.array([int(label) for label, _ in cells])


def write_text_models(
    folder: Path, train: Path, test: Path, *, folds: int = 5, seed: int = 0
) -> None:
    """Logistic regressions on hashed character n-grams, as feature files.

    The training features are out of fold: each line is predicted by a model that has not seen it.
    The test features come from models of all training lines.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    texts, labels = read_texts(train)
    test_texts, _ = read_texts(test)
    fold = fold_of_each_line(labels, folds, seed)
    for name, (part, sizes) in TEXT_MODELS.items():
        counter = HashingVectorizer(
            analyzer="char", ngram_range=sizes, n_features=2**13, alternate_sign=False, binary=True
        )
        x, z = (counter.transform([text[part] for text in all_]) for all_ in (texts, test_texts))
        regression = OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear", tol=1e-2))
        oof = np.zeros((len(labels), int(labels.max()) + 1), dtype=np.float32)
        for i in range(folds):
            regression.fit(x[fold != i], labels[fold != i])
            oof[fold == i] = regression.predict_proba(x[fold == i])
        np.save(folder / f"train_{name}.npy", oof)
        on_test = regression.fit(x, labels).predict_proba(z)
        np.save(folder / f"test_{name}.npy", on_test.astype(np.float32))
