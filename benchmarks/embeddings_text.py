"""Speed of `extract-embeddings`, compared with UER-py's loop and with a plain copy to the disk.

    python benchmarks/embeddings_text.py [--words 21128] [--size 768] [--repeats 3] [--json]

A table of random float32 numbers, as text and in word2vec's binary format. The loop writes
number by number with `str`, for a part of the words; the plain copy writes as many bytes as the
binary file has and flushes them to the disk, as uertool does. Medians of the repeats. Goals:
text within 1.5 s and over ten times the loop; binary at most 2 times the plain copy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from uertool.tasks.embeddings.export import export_words
from uertool.tasks.embeddings.word_files import WordFile
from uertool.tasks.embeddings.word_vectors import WordTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=21128)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--old-words", type=int, default=500, help="of them for the old loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where files are written (a temporary one by default)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for row in measure(arguments, Path(folder)):
            if arguments.json:
                print(json.dumps(row), flush=True)
            else:
                print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v)
                                for k, v in row.items()), flush=True)  # fmt: skip


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    numbers = np.random.default_rng(7).normal(0, 0.02, (arguments.words, arguments.size))
    words = [chr(0x4E00 + n) if n < 20_000 else f"word{n}" for n in range(arguments.words)]
    table = WordTable(words, numbers.astype(np.float32))
    text, binary, copy = folder / "t.txt", folder / "t.bin", folder / "copy"
    export_words(table, binary, overwrite=True)
    data = binary.read_bytes()
    few = min(arguments.old_words, len(words))
    runs: dict[str, Callable[[], object]] = {
        "text": lambda: export_words(table, text, overwrite=True),
        "binary": lambda: export_words(table, binary, overwrite=True),
        "plain copy": lambda: plain_copy(data, copy),
        "old loop": lambda: old_loop(table, few, folder / "old.txt"),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    seconds["old loop"] *= len(words) / few
    read = np.concatenate([block for _, _, block in WordFile(text).blocks()])
    exact = np.array_equal(read, table.vectors)
    return [
        {"method": f"{arguments.words} x {arguments.size}", "text MB": text.stat().st_size / 1e6},
        *({"method": name, "seconds": found} for name, found in seconds.items()),
        {"method": "old loop / text", "ratio": seconds["old loop"] / seconds["text"]},
        {"method": "binary / plain copy", "ratio": seconds["binary"] / seconds["plain copy"]},
        {"method": "text reads back exactly" if exact else "TEXT DOES NOT READ BACK EXACTLY"},
    ]


def plain_copy(data: bytes, path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def old_loop(table: WordTable, count: int, path: Path) -> None:
    """What extract_embeddings.py does."""
    with path.open("w", encoding="utf-8") as stream:
        for word, vector in zip(table.words[:count], table.vectors[:count], strict=True):
            line = word
            for number in vector.tolist():
                line = line + " " + str(number)
            stream.write(line + "\n")


if __name__ == "__main__":
    main()
