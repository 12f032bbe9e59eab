"""Time to the first answer of `uertool`, compared with Python alone and the import of torch.

    python -m benchmarks.startup [--runs 9]

Every figure is the median over separate processes, run in alternation. Goals: --help under 0.25 s,
cloze within 1.3 times the import of torch. Figures are JSON lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from benchmarks.workers import median_ratio

PROGRAM = [sys.executable, "-m", "uertool"]

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "python, import torch": [sys.executable, "-c", "import torch"],
    "uertool --help": [*PROGRAM, "--help"],
    "uertool cloze --help": [*PROGRAM, "cloze", "--help"],
    "uertool cloze TEXT": [*PROGRAM, "cloze", "今天天气很[MASK]。"],
    "uertool check MODEL": [*PROGRAM, "check", "zh-mlm-small"],
    "uertool generate lm TEXT": [*PROGRAM, "generate", "lm", "今天天气", "--max-new-tokens", "8"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    torch = times["python, import torch"]
    for name, seconds in times.items():
        row = {"method": name, "seconds": statistics.median(seconds)}
        row["of import torch"] = median_ratio(seconds, torch)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
