"""Effect of whitening on nearest neighbours: label accuracy with and without it, on public data.

    python benchmarks/features_quality.py [--model zh-mlm-small] [--train 1500] [--test 600]

Vectors of labelled training lines; for each test line, the label of its nearest neighbour by cosine
is compared with its own. Sets: six emotions of weibo posts (SMP2020-EWECT), good and bad reviews
(ChnSentiCorp), and where a line comes from (news and the web, weibo, reviews). The whitening is
fitted on the training lines only. Also reported: the mean cosine of all pairs, before and after.

Note that the bundled model saw the reviews (not their labels) when it was trained.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

import uertool
from uertool.tasks.features.whitening import MeanCosine, unit_rows
from uertool.text.readers import read_lines

TEXT = Path(__file__).parents[1] / "tests" / "data" / "text"
POOLINGS = ("first", "mean", "first-last-mean")
Labelled = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="zh-mlm-small")
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--seq-length", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model = uertool.load_model(arguments.model)
    for name, (train, test) in sets(arguments.train, arguments.test).items():
        most = Counter(label for label, _ in test).most_common(1)[0][1] / len(test)
        for pooling in POOLINGS:
            known, asked = (
                model.encode(
                    [text for _, text in lines], pooling=pooling, seq_length=arguments.seq_length
                )
                for lines in (train, test)
            )
            whitening = uertool.Whitening.fit(known)
            row = {
                "set": name,
                "pooling": pooling,
                "commonest label": round(most, 3),
                "plain": round(accuracy(known, train, asked, test), 3),
            }
            for size in (whitening.size, 64):
                cut = whitening.cut(size)
                white = cut.transform(known), cut.transform(asked)
                row[f"whitened to {size}"] = round(accuracy(white[0], train, white[1], test), 3)
            row["mean cosine before"] = round(MeanCosine(known).value, 3)
            row["after"] = round(MeanCosine(whitening.transform(known)).value, 3)
            words = "  ".join(f"{k} {v}" for k, v in row.items())
            print(json.dumps(row) if arguments.json else words, flush=True)


def sets(train: int, test: int) -> dict[str, tuple[Labelled, Labelled]]:
    """The labelled lines: name -> (training lines, test lines)."""
    news = [("news", line.text) for line in read_lines(TEXT / "corpus_zh.txt")]
    weibo = [("weibo", text) for _, text in labelled("emotions_train.tsv")]
    reviews = [("reviews", text) for _, text in labelled("reviews_train.tsv")]
    one, other = min(train // 3, 700), min(test // 3, 700)
    return {
        "emotions": (labelled("emotions_train.tsv")[:train], labelled("emotions_dev.tsv")[:test]),
        "reviews": (labelled("reviews_train.tsv")[:train], labelled("reviews_test.tsv")[:test]),
        "sources": (
            [line for lines in (news, weibo, reviews) for line in lines[:one]],
            [line for lines in (news, weibo, reviews) for line in lines[one : one + other]],
        ),
    }


def labelled(name: str) -> Labelled:
    """(label, text) of every line of a set."""
    return [(line.fields["label"], line.text) for line in read_lines(TEXT / name, column="text_a")]


def accuracy(known: np.ndarray, train: Labelled, asked: np.ndarray, test: Labelled) -> float:
    """The share of test lines whose nearest training line has their label."""
    labels = np.array([label for label, _ in train])
    nearest = (unit_rows(asked) @ unit_rows(known).T).argmax(axis=1)
    return float((labels[nearest] == np.array([label for label, _ in test])).mean())


if __name__ == "__main__":
    main()
