"""Speed of `uertool vocab build`, compared with a plain loop that works as UER-py's script.

    python benchmarks/vocab_build.py [--megabytes 500] [--workers 2] [--json]

The corpus is the text of tests/data/text repeated; for the space delimiter the same text with a
space after every second character. The plain loop reads line by line, splits each line into
characters or words and counts them in a dictionary, on a sample of the same corpus. Goals: 100 MB/s
for characters with two processes, and ten times the plain loop; 80 MB/s for words with one process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from uertool.tasks.vocab.building import build_vocab
from uertool.tasks.vocab.settings import BuildSettings

TEXT = Path(__file__).parents[1] / "tests" / "data" / "text"
SOURCES = ("corpus_zh.txt", "reviews_train.tsv", "reviews_test.tsv", "emotions_train.tsv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the corpus")
    parser.add_argument("--sample", type=int, default=20, help="megabytes for the plain loop")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="the best of them counts")
    parser.add_argument("--folder", help="where the corpora are made (a temporary one by default)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for figures in measure(arguments, Path(folder)):
            if arguments.json:
                print(json.dumps(figures), flush=True)
            else:
                row = "{delimiter:6} {method:22} {megabytes:6.0f} MB {seconds:7.2f} s {rate:7.1f}"
                print(row.format(**figures), flush=True)


def measure(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, object]]:
    for delimiter in ("char", "space"):
        whole = folder / f"{delimiter}.txt"
        sample = folder / f"{delimiter}_sample.txt"
        make_corpus(whole, delimiter, arguments.megabytes)
        make_corpus(sample, delimiter, min(arguments.sample, arguments.megabytes))

        def count(
            path: Path = whole, workers: int = arguments.workers, delimiter: str = delimiter
        ) -> object:
            return build_vocab([path], BuildSettings(delimiter=delimiter, workers_num=workers))

        def plain(path: Path = sample, delimiter: str = delimiter) -> object:
            return plain_loop(path, delimiter)

        runs: list[tuple[str, Path, int, Callable[[], object]]] = [
            (f"uertool, {arguments.workers} workers", whole, arguments.repeats, count),
            ("uertool, 1 worker", whole, arguments.repeats, lambda c=count: c(workers=1)),
            ("plain loop (sample)", sample, 1, plain),
        ]
        for what, path, repeats, run in runs:
            seconds = min(timed(run) for _ in range(repeats))
            megabytes = path.stat().st_size / 1e6
            yield {
                "delimiter": delimiter,
                "method": what,
                "megabytes": megabytes,
                "seconds": seconds,
                "rate": megabytes / seconds,
            }
        whole.unlink()
        sample.unlink()


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def make_corpus(path: Path, delimiter: str, megabytes: int) -> None:
    """Write the source texts again and again until the size is reached."""
    text = "".join((TEXT / name).read_text(encoding="utf-8") for name in SOURCES)
    if delimiter == "space":
        text = "\n".join(
            " ".join(line[at : at + 2] for at in range(0, len(line), 2))
            for line in text.split("\n")
        )
    data = text.encode("utf-8")
    with path.open("wb") as stream:
        written = 0
        while written < megabytes * 1_000_000:
            written += stream.write(data)


def plain_loop(path: Path, delimiter: str) -> list[str]:
    """Line by line into dictionaries, then sorted by count: as in UER-py's script."""
    order: dict[str, int] = {}
    counts: dict[str, int] = {}
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            stripped = line.strip()
            for token in list(stripped) if delimiter == "char" else stripped.split(" "):
                if token not in order:
                    order[token] = len(order)
                    counts[token] = 1
                else:
                    counts[token] += 1
    return [token for token, _ in sorted(counts.items(), key=lambda item: -item[1])]


if __name__ == "__main__":
    main()
