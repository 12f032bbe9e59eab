"""Start-up time of `uertool`, compared with the interpreter alone and the import of torch.

    python benchmarks/startup.py [--runs 15]

Every figure is the median over separate processes, run in alternation. Goal: --help under 0.25 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

PROGRAM = [sys.executable, "-m", "uertool"]

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "uertool --help (goal: 0.25 s)": [*PROGRAM, "--help"],
    "uertool --version": [*PROGRAM, "--version"],
    "uertool cloze --help": [*PROGRAM, "cloze", "--help"],
    "uertool cloze '今天天气很[MASK]。'": [*PROGRAM, "cloze", "今天天气很[MASK]。"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name:40} median {statistics.median(seconds):.3f} s, best {min(seconds):.3f} s")


if __name__ == "__main__":
    main()
