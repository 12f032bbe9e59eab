"""Seeded, stratified splits: every part has its share of every label."""

from __future__ import annotations

import numpy as np

from uertool.errors import InputError, UsageError
from uertool.tasks.ensemble.data import Labels


def fold_of_each_line(labels: Labels, folds: int, seed: int) -> Labels:
    """The fold, 0..folds-1, that each line is held out in, [lines] int64.

    Lines of a label are shuffled and dealt out in turn, and the next label goes on where the last
    one stopped: folds differ by one line at most, for each label and in all.

    Raises:
        UsageError: there are fewer than 2 folds.
        InputError: a label has fewer lines than there are folds, so some fold would lack it.
    """
    if folds < 2:
        raise UsageError(
            f"{folds} folds cannot validate each other.", "Give `folds` 2 or more, usually 5."
        )
    if len(labels) < folds:
        raise InputError(
            f"{len(labels)} lines of data cannot be cut into {folds} folds.",
            "Give more lines, or fewer folds with `folds`.",
        )
    counts = np.bincount(labels)
    rare = [(label, int(n)) for label, n in enumerate(counts) if 0 < n < folds]
    if rare:
        words = ", ".join(f"label {label} has {n}" for label, n in rare[:5])
        least = min(n for _, n in rare)
        raise InputError(
            f"A label must have at least as many lines as there are folds ({folds}), or it is "
            f"absent from a fold: {words}.",
            f"Give `folds` {least}, or more lines of that label."
            if least > 1
            else "Give more lines of that label, or leave its line out.",
        )
    generator = np.random.default_rng((seed, folds))
    fold = np.empty(len(labels), dtype=np.int64)
    turn = 0
    for label in np.unique(labels):
        lines = generator.permutation(np.flatnonzero(labels == label))
        fold[lines] = (turn + np.arange(len(lines))) % folds
        turn += len(lines)
    return fold


def holdout(labels: Labels, share: float, seed: int) -> tuple[Labels, Labels]:
    """Line numbers to learn from and line numbers to stop by, both sorted.

    Of every label about `share` of the lines is held out, at least one where it has two or more.
    """
    generator = np.random.default_rng((seed, len(labels)))
    held: list[Labels] = []
    for label in np.unique(labels):
        lines = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(lines))), len(lines) - 1)
        held.append(lines[:count])
    out = np.sort(np.concatenate(held)).astype(np.int64)
    kept = np.setdiff1d(np.arange(len(labels)), out)
    return kept, out
