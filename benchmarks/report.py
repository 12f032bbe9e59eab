"""Run the benchmarks, and write docs/benchmarks.md and its chart from their figures.

    make bench                                     # with the peers, about twenty minutes
    python -m benchmarks.report [--only features,generation] [--quick]
    python -m benchmarks.report --draw             # page and chart of the stored figures again

Figures are kept in benchmarks/figures.json. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.workers import PEERS, ROOT

FIGURES = ROOT / "benchmarks" / "figures.json"
PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "images" / "benchmarks.svg"
LIBRARIES = ("torch", "transformers", "numpy", "orjson")
PEER_LIBRARIES = ("ctranslate2", "onnxruntime", "openvino", "sentence-transformers")

Row = dict[str, Any]


class Job(NamedTuple):
    """A benchmark: its module with options, shorter ones for --quick, and what the page says."""

    module: str
    options: tuple[str, ...]
    quick: tuple[str, ...]
    title: str
    text: str
    on_gpu: bool = False


JOBS = {
    "features": Job(
        "benchmarks.features",
        (),
        ("--size", "small", "--sentences", "64", "--rounds", "1"),
        "Sentence vectors",
        "BERT of base size with random weights, mean pooling, real sentences. `of uertool`: the "
        "rate divided by uertool's in the same number type, the median over rounds. `of the peak`: "
        "share of the peak of matrix products, on real tokens. `lowest cosine`: to uertool's "
        "float32 vectors.",
    ),
    "generation": Job(
        "benchmarks.generation",
        (),
        ("--layers", "2", "--hidden", "64", "--new-tokens", "8", "--rounds", "1"),
        "Generation",
        "GPT-2 of distil size (6 layers, hidden 768, 21,128 tokens) with random weights, greedy, "
        "128 new tokens. `same texts`: how many texts equal those of transformers. The last row "
        "says how many tokens a second reading all weights once for each token would allow.",
    ),
    "decoders": Job(
        "benchmarks.decoders",
        ("speed",),
        ("--layers", "2", "--new-tokens", "2", "--rounds", "1"),
        "LLaMA-like models",
        "Qwen3 of 0.6 billion weights (random), greedy, 16 new tokens after 16. `same texts`: how "
        "many texts equal those of transformers.",
    ),
    "memory": Job(
        "benchmarks.decoders",
        ("memory", "--layers", "4"),
        ("--layers", "1"),
        "Memory of large models",
        "LLaMA with layers of the 7B model, in bfloat16. `beyond`: the peak of a conversion, its "
        "verification included, beyond the largest tensor, in GB.",
    ),
    "startup": Job(
        "benchmarks.startup",
        (),
        ("--runs", "2"),
        "First answer",
        "Whole processes with the bundled models, the median of 9.",
    ),
    "convert": Job(
        "benchmarks.convert",
        (),
        ("--layers", "2", "--hidden", "64", "--vocab", "500", "--repeats", "1"),
        "Conversion",
        "UER-py to a Hugging Face folder, BERT of base size; whole processes, the best of 5.",
    ),
    "embeddings": Job(
        "benchmarks.embeddings_text",
        ("--json",),
        ("--words", "500", "--size", "64", "--repeats", "1"),
        "Word vectors as text",
        "`extract-embeddings` compared with UER-py's loop and with writing as many bytes.",
    ),
    "vocab": Job(
        "benchmarks.vocab_build",
        ("--json", "--megabytes", "200"),
        ("--megabytes", "2", "--sample", "1", "--repeats", "1"),
        "Vocabularies",
        "`vocab build` compared with a plain loop; `rate` in MB a second.",
    ),
    "gpu": Job(
        "benchmarks.gpu",
        (),
        ("--sentences", "64", "--candidates", "64", "--new-tokens", "4", "--rounds", "1"),
        "On a GPU",
        "BERT and GPT-2 of base size with random weights; lines, candidates or tokens a second. "
        "`uertool / it`: the rate of uertool divided by this one. `busy`: time of all kernels "
        "divided by the duration of a run.",
        on_gpu=True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(JOBS), help="jobs, with commas between")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the scripts")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument(
        "--machine", help="keep the figures next to those of other machines, under this name"
    )
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--chart", type=Path, default=CHART)
    given = parser.parse_args()
    stored = json.loads(given.figures.read_text("utf-8")) if given.figures.exists() else {}
    if not given.draw:
        for name in given.only.split(","):
            if JOBS[name].on_gpu and not torch.cuda.is_available():
                print(f"{name} is left out: torch sees no CUDA device")
                continue
            print(f"{name} ...", flush=True)
            key = f"{name}@{given.machine}" if given.machine else name
            stored[key] = {"rows": run(JOBS[name], quick=given.quick), "machine": machine()}
            text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
            given.figures.write_text(text, "utf-8")
    given.page.write_text(page(stored), "utf-8")
    draw(stored, given.chart)


def run(job: Job, *, quick: bool) -> list[Row]:
    """The rows that a benchmark prints as JSON lines."""
    options = (*job.options, *(job.quick if quick else ()))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-m", job.module, *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def machine() -> str:
    """Processor and versions, in one sentence."""
    model = platform.processor() or platform.machine()
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = dict(
            (part.strip() for part in line.split(":", 1))
            for line in info.read_text().splitlines()
            if ":" in line
        )
        model = lines.get("model name", model)
        found = set(lines.get("flags", "").split())
        kinds = {"amx_tile": "AMX", "avx512_vnni": "AVX512-VNNI", "avx512_bf16": "AVX512-BF16"}
        flags = ", ".join(name for flag, name in kinds.items() if flag in found)
    if torch.cuda.is_available():
        model = f"{model} with an {torch.cuda.get_device_name()}"
    libraries = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    return (
        f"{os.cpu_count()} cores of {model}{f' ({flags})' if flags else ''}, "
        f"Python {platform.python_version()}, {', '.join([*libraries, *peers()])}"
    )


def peers() -> list[str]:
    """The peers with their versions."""
    if not PEERS.exists():
        return []
    code = (
        "from importlib import metadata\n"
        f"for name in {PEER_LIBRARIES!r}: print(name, metadata.version(name))"
    )
    done = subprocess.run([str(PEERS), "-c", code], capture_output=True, text=True)
    return done.stdout.splitlines()


def page(stored: dict[str, Any]) -> str:
    """docs/benchmarks.md."""
    parts = [
        "# Benchmarks\n",
        "`make bench` measures everything on this page, next to other libraries in an environment "
        "of their own, and writes it. The methods of a table take turns in one run, so that "
        "their ratios are more reliable than the rates.\n",
        "![Speed compared with other libraries](images/benchmarks.svg)\n",
    ]
    for name, job in JOBS.items():
        found = [entry for key, entry in stored.items() if key.partition("@")[0] == name]
        if found:
            parts += [f"## {job.title}\n", f"{job.text} (`python -m {job.module}`)\n"]
        for entry in found:
            rows = itertools.groupby(entry["rows"], key=lambda row: row.get("job"))
            parts += [table(list(of_job)) for _, of_job in rows]
            parts.append(f"Machine: {entry['machine']}.\n")
    return "\n".join(parts)


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table, a column for each key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(keys)} |", "|---" + "|--:" * (len(keys) - 1) + "|"]
    lines += [f"| {' | '.join(cell(row.get(key)) for key in keys)} |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
    return "" if value is None else str(value)


def draw(stored: dict[str, Any], path: Path) -> None:
    """A bar for each method of the features and of generation with one prompt."""
    from matplotlib.figure import Figure

    panels = []
    if "features" in stored:
        rows = [row for row in stored["features"]["rows"] if "sentences/s" in row]
        named = [(f"{row['method']} {row['numbers']}", row["sentences/s"]) for row in rows]
        panels.append(("Sentence vectors, BERT base: sentences a second", named))
    if "generation" in stored:
        rows = [row for row in stored["generation"]["rows"] if row.get("prompts") == 1]
        named = [(row["method"], row["tokens/s"]) for row in rows]
        panels.append(("Generation, GPT-2 distil size, 1 prompt: tokens a second", named))
    if not panels:
        return
    heights = [len(named) + 1.5 for _, named in panels]
    figure = Figure(figsize=(8, sum(heights) * 0.27), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, named) in zip(axes, panels, strict=True):
        ordered = sorted(named, key=lambda pair: pair[1])
        names, values = zip(*ordered, strict=True)
        colors = ["#2a6fbb" if name.startswith("uertool") else "#b9c2cc" for name in names]
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
        axis.set_title(title, fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, max(values) * 1.1)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
