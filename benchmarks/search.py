"""Search and near-duplicates: exact search next to the bare matrix product, an index, dedupe.

    python benchmarks/search.py                    # the sizes of docs/search.md
    python benchmarks/search.py --rows 20000       # a short run

Processor times are given too: they say more where other programs run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uertool.tasks.search.dedupe import Units, find_duplicates
from uertool.tasks.search.exact import nearest
from uertool.tasks.search.index import SavedIndex, build
from uertool.tasks.search.settings import DedupeSettings
from uertool.tasks.search.vectors import BLOCK, Vectors, unit_vectors

ROUNDS = 3


def measured(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, processor seconds and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def clustered(rows: int, size: int) -> np.ndarray:
    """Vectors in clusters with falling variances, as those of sentences."""
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(1 + np.arange(size))
    centres = rng.standard_normal((2000, size))
    chosen = centres[rng.integers(0, 2000, rows)] + rng.standard_normal((rows, size))
    return (chosen * scale).astype(np.float32)


def exact(folder: Path, rows: int) -> None:
    vectors, queries = clustered(rows, 768), unit_vectors(clustered(1000, 768), "queries")
    np.save(folder / "exact.npy", vectors)
    asked, block = torch.from_numpy(queries), torch.from_numpy(vectors[:BLOCK].copy())
    out = torch.empty(len(queries), len(block))

    def product() -> None:
        for _ in range(rows // BLOCK):
            torch.mm(asked, block.T, out=out)

    opened = Vectors([folder / "exact.npy"])
    for _ in range(ROUNDS):
        bare, found = measured(product), measured(lambda: nearest(queries, opened.blocks(), 10))
        share = bare[1] / (rows // BLOCK * BLOCK) * rows / found[1]
        print(f"exact, 1,000 in {rows:,} x 768: {found[0]:.1f} s, {share:.0%} of the product")


def index(folder: Path, rows: int) -> None:
    np.save(folder / "index.npy", clustered(rows, 64))
    opened, path = Vectors([folder / "index.npy"]), folder / "index"
    threads = torch.get_num_threads()
    wall, cpu, about = measured(lambda: build(path, opened, {}, threads=threads))
    saved, queries = SavedIndex(path), unit_vectors(clustered(100, 64), "queries")
    each, _, _ = measured(lambda: [saved.nearest(queries[n : n + 1], 10) for n in range(100)])
    print(
        f"index of {rows:,} x 64: {wall:.0f} s ({cpu:.0f} s of processors), recall@10 "
        f"{about.recall:.3f}, {each * 10:.2f} ms a query"
    )


def dedupe(folder: Path, rows: int) -> None:
    units = Units(np.arange(rows), unit_vectors(clustered(rows, 64), "rows"))
    lengths, settings = np.ones(rows, dtype=np.int64), DedupeSettings(threshold=0.9)
    wall, cpu, _ = measured(lambda: find_duplicates(units.rows, lengths, units, settings))
    print(f"dedupe of {rows:,} x 64: {wall:.0f} s ({cpu:.0f} s of processors)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=0, help="rows of everything")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        exact(Path(name), rows or 100_000)
        dedupe(Path(name), rows or 100_000)
        index(Path(name), rows or 1_000_000)


if __name__ == "__main__":
    main()
