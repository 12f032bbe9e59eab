"""Overhead and limits of `--engine ray`, as quoted in docs/scaling.md.

    python -m benchmarks.ray_overhead                       # everything, about half an hour
    python -m benchmarks.ray_overhead --cases overhead --seconds 120 --repeats 3
    python -m benchmarks.ray_overhead --cases driver --blocks 100,1000,10000

Cases, each on sentences of real reviews:

- overhead: `extract-features` with the bundled small model, locally with one thread and on Ray
  with one actor, in alternation, whole commands; goal: under 10% for a run of two minutes;
- threads: two actors with one thread each, compared with one actor with two threads;
- base: a BERT of base size with random weights: the cost of a million sentences;
- stages: the throughput of one core at each stage (reading, tokenizing, model, writing), to find
  the bottleneck;
- driver: a model that does nothing, so that only Ray and the driver remain: time per block, and
  the driver's memory by the number of blocks.

Run it in the root of the source tree, on an idle machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmarks.features import SIZES, make_model, sentences

from uertool.engine.batching import Batch, Encoded, Limits, collate
from uertool.text.readers import Line

CASES = ("overhead", "threads", "base", "stages", "driver")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seconds", type=float, default=120, help="of a local run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base-sentences", type=int, default=1024)
    parser.add_argument("--blocks", default="100,1000,10000", help="of the case driver")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    show({"machine": machine()}, args.json)
    with tempfile.TemporaryDirectory() as name:
        for case in args.cases.split(","):
            for row in MEASURES[case](Path(name), args):
                show({"case": case, **row}, args.json)


def show(row: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    parts = [f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
    print("  ".join(parts), flush=True)


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [row for row in info.read_text().split("\n") if row.startswith("model name")]
        model = f"{len(names)} x {names[0].partition(': ')[2]}" if names else model
    return f"{model}, torch {torch.__version__}"


# -- whole commands -------------------------------------------------------------------------------


def command(arguments: Sequence[str], threads: int) -> float:
    """Seconds that a command takes, from nothing to its end."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "uertool", *arguments, "--quiet"],
        check=True,
        env={**__import__("os").environ, "OMP_NUM_THREADS": str(threads)},
    )
    return time.perf_counter() - started


def features(source: Path, target: Path, *more: str) -> list[str]:
    return [
        "extract-features", "--test_path", str(source), "--prediction_path", str(target),
        "--pooling", "mean", "--overwrite", *more,
    ]  # fmt: skip


def write_lines(path: Path, count: int) -> Path:
    texts = sentences(count)
    repeated = (texts[n % len(texts)] for n in range(count))
    path.write_text("".join(f"{text}\n" for text in repeated), "utf-8")
    return path


def fitting_lines(folder: Path, seconds: float) -> int:
    """Lines that take a local run about so many seconds."""
    small = write_lines(folder / "probe.txt", 2048)
    large = write_lines(folder / "probe2.txt", 6144)
    short, long = (command(features(path, folder / "probe.npy", "--threads", "1"), 1)
                   for path in (small, large))  # fmt: skip
    rate = 4096 / max(long - short, 0.1)
    return max(4096, int(rate * seconds))


def on_ray(actors: int, cpus: int) -> list[str]:
    return ["--engine", "ray", "--actors", str(actors), "--cpus-per-actor", str(cpus)]


def overhead(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    count = fitting_lines(folder, args.seconds)
    source = write_lines(folder / "lines.txt", count)
    times: dict[str, list[float]] = {"local": [], "ray": []}
    for _ in range(args.repeats):  # in turn, so that a slow minute is everyone's
        local = features(source, folder / "local.npy", "--threads", "1")
        times["local"].append(command(local, 1))
        times["ray"].append(command(features(source, folder / "ray.npy", *on_ray(1, 1)), 1))
    medians = {name: statistics.median(found) for name, found in times.items()}
    yield {
        "lines": count,
        **{f"{name} s": seconds for name, seconds in medians.items()},
        "ray/local": medians["ray"] / medians["local"],
        "of each pair": " ".join(
            f"{ray / local:.3f}" for local, ray in zip(times["local"], times["ray"], strict=True)
        ),
    }


def threads(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    count = fitting_lines(folder, args.seconds)
    source = write_lines(folder / "lines.txt", count)
    times: dict[str, list[float]] = {"2 actors x 1 thread": [], "1 actor x 2 threads": []}
    for _ in range(args.repeats):
        for name, options in zip(times, (on_ray(2, 1), on_ray(1, 2)), strict=True):
            target = folder / "threads.npy"
            times[name].append(command(features(source, target, *options), 2))
    medians = {name: statistics.median(found) for name, found in times.items()}
    one, two = medians.values()
    yield {"lines": count, **{f"{n} s": s for n, s in medians.items()}, "ratio": one / two}


# -- in this process ------------------------------------------------------------------------------


def feature_job(reference: str, device: torch.device) -> Any:
    from uertool.loading.registry import load_model
    from uertool.tasks.features.job import FeatureJob, FeatureSettings

    return FeatureJob(load_model(reference, device=str(device)), FeatureSettings(pooling="mean"))


def base(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from uertool.engine.jobs import run_job

    make_model(folder / "base", SIZES["base"])
    texts = sentences(args.base_sentences)
    job = feature_job(str(folder / "base"), torch.device("cpu"))
    rates, core_rates = [], []
    for _ in range(args.repeats + 1):  # the first warms up
        lines = (Line(n, text) for n, text in enumerate(texts))
        started, busy = time.perf_counter(), time.process_time()
        for _ in run_job(job, lines):
            pass
        rates.append(len(texts) / (time.perf_counter() - started))
        core_rates.append(len(texts) / (time.process_time() - busy))
    rate, core_rate = statistics.median(rates[1:]), statistics.median(core_rates[1:])
    tokens = sum(len(row.ids) for row in job.encode([Line(0, text) for text in texts]))
    yield {
        "threads": torch.get_num_threads(),
        "tokens a sentence": tokens / len(texts),
        "sentences/s": rate,
        "sentences/s of core time": core_rate,
        "hours a million sentences": 1e6 / rate / 3600,
    }


def stages(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Lines that one core does in a second of its time, stage by stage."""
    from uertool.engine.inputs.blocks import count_piece, cut_pieces, make_blocks
    from uertool.engine.inputs.reading import BlockReader
    from uertool.engine.inputs.sources import Reading, list_sources

    torch.set_num_threads(1)
    source = write_lines(folder / "stages.txt", 200_000)
    sources = list_sources([str(source)])

    def count() -> int:
        pieces = [count_piece(sources[0], piece) for piece in cut_pieces(sources)]
        return sum(piece.lines or 0 for piece in pieces)

    yield {"stage": "counting", "lines/s": rate_of(count)}
    pieces = [count_piece(sources[0], piece) for piece in cut_pieces(sources)]
    (block,) = make_blocks(pieces, 1 << 30)
    reader = BlockReader(sources, Reading())
    yield {
        "stage": "reading",
        "lines/s": rate_of(lambda: sum(1 for _ in reader.lines(block, lambda _: None))),
    }
    for size in ("small", "base"):
        make_model(folder / size, SIZES[size])
        yield from model_stages(folder, size, args)


def model_stages(folder: Path, size: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from uertool.engine.batching import cut
    from uertool.tasks.features.work import FeatureWriter

    job = feature_job(str(folder / size), torch.device("cpu"))
    few = sentences(args.base_sentences if size == "base" else 4096)
    lines = [Line(n, text) for n, text in enumerate(few)]
    encoded = job.encode(lines)

    def encode() -> int:
        return len(job.encode(lines))

    def step() -> int:
        for group in cut([len(row.ids) for row in encoded], job.limits):
            job.step(collate([encoded[n] for n in group]))
        return len(encoded)

    yield {"stage": f"tokenizing ({size})", "lines/s": rate_of(encode)}
    yield {"stage": f"model ({size})", "lines/s": rate_of(step, 1 if size == "base" else 3)}
    found = []
    for group in cut([len(row.ids) for row in encoded], job.limits):
        found.extend(job.step(collate([encoded[n] for n in group])))
    found *= 16384 // len(found)  # a shard's worth

    def write(name: str) -> int:
        path = folder / name
        path.unlink(missing_ok=True)
        with FeatureWriter(job.settings)(path, 0, job) as add:
            for start in range(0, len(found), 2048):
                add(found[start : start + 2048])
        return len(found)

    for name in ("x.npy", "x.parquet", "x.jsonl"):
        yield {
            "stage": f"writing {Path(name).suffix} ({size})",
            "lines/s": rate_of(functools.partial(write, name)),
        }


def rate_of(work: Any, repeats: int = 3) -> float:
    """Lines a second of processor time, whatever else the machine does and however many threads."""
    work()
    rates = []
    for _ in range(repeats):
        started = time.process_time()
        count = work()
        rates.append(count / (time.process_time() - started))
    return statistics.median(rates)


# -- a model that does nothing --------------------------------------------------------------------


class NothingJob:
    """Gives nothing for every line, at once."""

    limits = Limits(tokens=1 << 20)

    def encode(self, items: list[Line]) -> list[Encoded]:
        return [Encoded(line.number, (1,)) for line in items]

    def step(self, batch: Batch) -> Sequence[int]:
        return [0] * len(batch)

    def empty(self, item: Encoded) -> int:
        return 0


def nothing_job(device: torch.device) -> NothingJob:
    del device
    return NothingJob()


@contextmanager
def nothing_writer(path: Path, block: int, job: Any) -> Iterator[Any]:
    path.touch()
    yield lambda results: {"rows": len(results)}


def driver(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run each number of blocks in a separate driver and record its memory."""
    for blocks in map(int, args.blocks.split(",")):
        source = folder / "nothing.txt"
        with open(source, "w", encoding="utf-8") as stream:
            stream.writelines("一行字\n" for _ in range(blocks * 64))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ray_overhead_driver", str(source), str(folder)],
            check=True,
            capture_output=True,
            text=True,
        )
        yield {"blocks": blocks, **json.loads(done.stdout.strip().split("\n")[-1])}


MEASURES = {
    "overhead": overhead,
    "threads": threads,
    "base": base,
    "stages": stages,
    "driver": driver,
}


if __name__ == "__main__":
    main()
