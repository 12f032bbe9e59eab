"""One driver of `benchmarks.ray_overhead --cases driver`: a run of empty blocks.

    python -m benchmarks.ray_overhead_driver LINES.txt FOLDER

Prints as JSON the seconds and the memory of this process: at the first block, at the end, peak.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path

from benchmarks.ray_overhead import nothing_job, nothing_writer

from uertool.engine.executors.cluster import connected
from uertool.engine.jobs import JobWork
from uertool.engine.order import Order, Resources, Watch
from uertool.engine.run import run

BLOCK_LINES = 64


def main(source: str, folder: str) -> None:
    output = Path(folder) / f"nothing-{time.time_ns()}"
    order = Order(
        work=JobWork("nothing", ".txt", nothing_job, nothing_writer),
        inputs=[source],
        output=str(output),
        in_shards=True,
        engine="ray",
        resources=Resources(actors=1),
        block_lines=BLOCK_LINES,
    )
    first: list[tuple[float, float]] = []
    last: list[tuple[float, float]] = []
    seen: list[float] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            seen.append(megabytes())

    def tell(more: int) -> None:
        if more:
            now = (time.perf_counter(), megabytes())
            (last if first else first).append(now)
            del last[:-1]

    with connected("local"):
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        manifest = run(order, Watch(lines=tell)).manifest
        stop.set()
    blocks = len(manifest["shards"])
    seconds = last[-1][0] - first[0][0]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "ms a block": 1000 * seconds / max(blocks - 1, 1),
                "MB at first block": first[0][1],
                "MB at last block": last[-1][1],
                "MB at most": max(seen),
                "MB at most ever": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def megabytes() -> float:
    """Resident memory of this process."""
    for row in Path("/proc/self/status").read_text().split("\n"):
        if row.startswith("VmRSS"):
            return int(row.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
