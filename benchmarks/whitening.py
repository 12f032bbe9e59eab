"""What whitening does to cosines of pairs, on data that comes with the tests.

    python benchmarks/whitening.py [--pairs 1000] [--folder whitening-pairs]

Sets of pairs, drawn with a seed:

- emotions: two weibo posts (SMP2020-EWECT) of the same of six emotions, or of different ones;
- reviews: two reviews (ChnSentiCorp) that are both good or both bad, or one of each;
- articles: two neighbouring sentences of a news commentary, or of different ones;
- mixed: a sentence, and its first part with the last part of another one; the score is the share
  that was kept. It is made up: it measures common words rather than meaning.

The figures are Spearman's correlation, and for labels the area under the ROC curve, times 100. A
whitening is fitted on the texts of all pairs, without their scores. "tuned" is what `whiten tune`
expects for new pairs of the whitening that it chooses, and which that is (size; beta, gamma). Pairs
are written as files, for the commands in docs/whitening.md.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import uertool
from uertool.tasks.evaluate.pairs import (
    Pairs,
    cosines,
    read_pairs,
    roc_auc,
    spearman,
    text_vectors,
)
from uertool.tasks.evaluate.settings import PairSettings, TuneSettings
from uertool.tasks.evaluate.tuning import tune

TEXT = Path(__file__).parents[1] / "tests" / "data" / "text"
MODELS = {"zh-mlm-small": "first,mean,first-last-mean", "zh-lm-small": "last,mean"}
WHITENINGS: dict[str, dict[str, Any]] = {
    "whitened": {},
    "to 64": {"size": 64},
    "gamma 0.5": {"gamma": 0.5},
    "gamma 0": {"gamma": 0},
}
Row = tuple[str, str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("whitening-pairs"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    for name in MODELS:
        print(f"\n{name}\n\n| set | pooling | plain | {' | '.join(WHITENINGS)} | tuned |")
        print("|---" * (4 + len(WHITENINGS)) + "|", flush=True)
        for path in written(arguments.folder, arguments.pairs):
            pairs = read_pairs(path, PairSettings())
            table(name, path.stem, pairs)


def table(model: str, name: str, pairs: Pairs) -> None:
    """A row for every pooling; the one that `whiten tune` chooses has its result."""
    settings = PairSettings(pooling=MODELS[model], seq_length=64)
    loaded = uertool.load_model(model, device="cpu")
    tuned = tune(loaded, pairs, settings, TuneSettings())
    best = tuned.best
    chosen = f"{100 * tuned.expected:.1f} ({best.size}; {best.beta:g}, {best.gamma:g})"
    for features in settings.features():
        plain = text_vectors(loaded, pairs.texts, features)
        rows = [plain]
        for kept in WHITENINGS.values():
            both = (plain[places] for places in (pairs.first, pairs.second))
            rows.append(uertool.Whitening.fit(both, **kept).transform(plain))
        cells = [f"{100 * measured(cosines(row, pairs), pairs):.1f}" for row in rows]
        cells.append(chosen if features.pooling == best.pooling else "")
        print(f"| {name} | {features.pooling} | {' | '.join(cells)} |", flush=True)


def measured(values: np.ndarray, pairs: Pairs) -> float:
    """The area under the ROC curve for labels, Spearman's correlation for scores."""
    return roc_auc(values, pairs.matches) if pairs.are_labels else spearman(values, pairs.scores)


def written(folder: Path, count: int) -> Iterator[Path]:
    """The sets as files with text_a, text_b and score or label."""
    sets = {
        "emotions": ("label", of_classes("emotions_dev.tsv", count)),
        "reviews": ("label", of_classes("reviews_test.tsv", count)),
        "articles": ("label", neighbours(count)),
        "mixed": ("score", mixed(count)),
    }
    for name, (column, rows) in sets.items():
        path = folder / f"{name}.tsv"
        lines = [f"text_a\ttext_b\t{column}", *(f"{a}\t{b}\t{score:g}" for a, b, score in rows)]
        path.write_text("\n".join(lines) + "\n", "utf-8")
        yield path


def of_classes(name: str, count: int) -> Iterator[Row]:
    """Pairs of the same class and of different ones, alternately."""
    draw = random.Random(7)
    classes: dict[str, list[str]] = {}
    for line in (TEXT / name).read_text("utf-8").splitlines()[1:]:
        label, _, text = line.partition("\t")
        if text.strip():
            classes.setdefault(label, []).append(text)
    for number in range(count):
        one, other = draw.sample(sorted(classes), 2)
        if number % 2:
            yield (*draw.sample(classes[one], 2), 1)
        else:
            yield draw.choice(classes[one]), draw.choice(classes[other]), 0


def neighbours(count: int) -> Iterator[Row]:
    """Sentences that follow each other, and sentences that are far from each other."""
    draw = random.Random(7)
    lines = (TEXT / "parallel_en_zh.tsv").read_text("utf-8").splitlines()
    texts = [line.partition("\t")[2] for line in lines]
    texts = [text for text in texts if len(text) > 10]
    for number in range(count):
        place = draw.randrange(len(texts) - 1)
        far = (place + draw.randrange(200, len(texts) - 200)) % len(texts)
        yield texts[place], texts[place + 1 if number % 2 else far], number % 2


def mixed(count: int) -> Iterator[Row]:
    """Sentences of which a part is replaced by that of another one."""
    draw = random.Random(7)
    lines = (TEXT / "corpus_zh.txt").read_text("utf-8").splitlines()
    texts = [line.replace("\t", " ")[:50] for line in lines if len(line) >= 50]
    for _ in range(count):
        one, other = draw.sample(texts, 2)
        kept = draw.randrange(len(one) + 1)
        yield one, one[:kept] + other[kept:], kept / len(one)


if __name__ == "__main__":
    main()
