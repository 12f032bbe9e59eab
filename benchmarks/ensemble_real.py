"""What an ensemble is worth on the labelled texts of tests/data/text, for docs/ensemble.md.

    python -m benchmarks.ensemble_real [--trials 30] [--seed 7] [--models counts]

Base models are logistic regressions: five on character n-grams of different length and place, and
five on vectors of `uertool extract-features` from two small models with different poolings
(`--models counts` or `vectors` takes five only). Their training features are out of fold. The
search and the fit see the training lines only; all scores are on the test lines. Run it in the root
of the source tree.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.conftest import TEXT
from tests.tasks.ensemble.ensemble_data import TEXT_MODELS, VECTOR_MODELS, write_text_models
from uertool.tasks.ensemble.data import load_labelled
from uertool.tasks.ensemble.fit import learn
from uertool.tasks.ensemble.parameters import Parameters
from uertool.tasks.ensemble.search import search
from uertool.tasks.ensemble.settings import FitSettings, SearchSettings

CASES = {
    "reviews, 2 labels": ("reviews_train.tsv", "reviews_test.tsv"),
    "emotions, 6 labels": ("emotions_train.tsv", "emotions_dev.tsv"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--models", choices=("all", "counts", "vectors"), default="all")
    args = parser.parse_args()
    names = [
        *(TEXT_MODELS if args.models != "vectors" else ()),
        *(VECTOR_MODELS if args.models != "counts" else ()),
    ]
    for title, (train_name, test_name) in CASES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sources = write_text_models(
                folder, TEXT / train_name, TEXT / test_name, names, seed=args.seed
            )
            train, test = (
                load_labelled(TEXT / file, sources[role], role)
                for role, file in (("train", train_name), ("test", test_name))
            )
        found = search(train, SearchSettings(epochs_num=args.trials, seed=args.seed)).parameters()
        chosen = Parameters(found["params"], found["rounds"])
        fitted = learn(train, test, chosen, FitSettings(seed=args.seed))
        print(f"\n{title}: {len(train.labels)} training and {len(test.labels)} test lines")
        print(f"{'':18} {'macro F1':>9} {'accuracy':>9} {'log loss':>9}")
        for who, score in fitted.comparisons["test"].scores.items():
            print(f"{who:18} {score.macro_f1:9.4f} {score.accuracy:9.4f} {score.log_loss:9.4f}")


if __name__ == "__main__":
    main()
