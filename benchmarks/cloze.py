"""Cloze throughput and peak memory: uertool, transformers' fill-mask pipeline, UER-py's loop.

    python benchmarks/cloze.py [--sentences 512] [--threads 2] [--rounds 1] [--size base]

All methods run the same BERT with random weights on the same real sentences, one masked character
in each, and return the ten best tokens. Every run is a separate process; memory is its peak. The
loop does what UER-py's script does: every sentence is padded to seq_length, the softmax over the
vocabulary is computed at every position, and activations are kept for gradients (a second variant
runs without gradients). It runs on fewer sentences, since each sentence costs the same.

Goals: 8 times the loop, and 1.5 times the best rate of the pipeline.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

TEXT = Path(__file__).parents[1] / "tests/data/text"
SIZES = {"base": (12, 768, 12), "small": (4, 512, 8), "tiny": (2, 128, 2)}
LENGTH = 128
_SENTENCE = re.compile("[^。！？!?]+[。！？!?]*")


class Found(NamedTuple):
    """Time and memory of a job, and the best token of every sentence, to compare the results."""

    seconds: float
    best: list[int]


# -- the jobs -------------------------------------------------------------------------------------


def uertool_cloze(folder: Path, lines: list[str], *, dtype: str = "float32") -> Found:
    from uertool.loading.registry import load_model
    from uertool.tasks.cloze.job import cloze

    loaded = load_model(folder, heads=("mlm",), device="cpu", dtype=dtype)
    cloze(loaded, lines[:4])
    start = time.perf_counter()
    found = cloze(loaded, lines, topn=10, seq_length=LENGTH)
    seconds = time.perf_counter() - start
    return Found(seconds, [result.masks[0].guesses[0].id for result in found])


def fill_mask(folder: Path, lines: list[str], *, batch: int) -> Found:
    import transformers

    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cut = {"truncation": True, "max_length": LENGTH}
    fill = transformers.pipeline(
        "fill-mask", model=model, tokenizer=tokenizer, top_k=10, device="cpu", tokenizer_kwargs=cut
    )
    fill(lines[0])
    start = time.perf_counter()
    if batch == 1:
        found = [fill(line) for line in lines]
    else:
        found = fill(lines, batch_size=batch)
    seconds = time.perf_counter() - start
    return Found(seconds, [guesses[0]["token"] for guesses in found])


def old_loop(folder: Path, lines: list[str], *, gradients: bool) -> Found:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    bert = OldBert(folder, AutoConfig.from_pretrained(folder))
    start = time.perf_counter()
    src, seg, places = [], [], []
    for line in lines:
        ids = tokenizer(line, truncation=True, max_length=LENGTH)["input_ids"]
        places.append(ids.index(tokenizer.mask_token_id))
        seg.append([1] * len(ids) + [0] * (LENGTH - len(ids)))
        src.append(ids + [0] * (LENGTH - len(ids)))
    best = []
    with torch.set_grad_enabled(gradients):
        for first in range(0, len(src), 64):
            part = slice(first, first + 64)
            prob = bert(torch.tensor(src[part]), torch.tensor(seg[part]))
            for row, place in enumerate(places[part]):
                best.append(int((-prob[row][place]).argsort()[:10][0]))
    return Found(time.perf_counter() - start, best)


class OldBert:
    """BERT as in UER-py's modules, with the tensors of a Hugging Face folder."""

    def __init__(self, folder: Path, config: Any) -> None:
        from safetensors.torch import load_file

        loaded = load_file(folder / "model.safetensors")
        self.weights = {name: torch.nn.Parameter(tensor) for name, tensor in loaded.items()}
        self.config = config

    def __call__(self, src: torch.Tensor, seg: torch.Tensor) -> torch.Tensor:
        """Probabilities of every token at every position [batch, length, vocab]."""
        table = self.weights["bert.embeddings.word_embeddings.weight"]
        x = table[src]
        x = x + self.weights["bert.embeddings.position_embeddings.weight"][: src.shape[1]]
        x = x + self.weights["bert.embeddings.token_type_embeddings.weight"][0]
        x = self.layer_norm(x, "bert.embeddings.LayerNorm")
        mask = (seg > 0).unsqueeze(1).repeat(1, seg.shape[1], 1).unsqueeze(1).float()
        mask = (1.0 - mask) * -10000.0
        for number in range(self.config.num_hidden_layers):
            name = f"bert.encoder.layer.{number}"
            attended = self.attention(x, mask, f"{name}.attention")
            x = self.layer_norm(x + attended, f"{name}.attention.output.LayerNorm")
            inner = gelu(self.linear(x, f"{name}.intermediate.dense"))
            x = x + self.linear(inner, f"{name}.output.dense")
            x = self.layer_norm(x, f"{name}.output.LayerNorm")
        x = gelu(self.linear(x, "cls.predictions.transform.dense"))
        x = self.layer_norm(x, "cls.predictions.transform.LayerNorm")
        bias = self.weights["cls.predictions.bias"]
        return torch.nn.Softmax(dim=-1)(torch.nn.functional.linear(x, table, bias))

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return torch.nn.functional.linear(x, weight, bias)

    def layer_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = x.var(-1, keepdim=True, unbiased=False)
        scaled = (x - mean) / torch.sqrt(variance + self.config.layer_norm_eps)
        return self.weights[f"{name}.weight"] * scaled + self.weights[f"{name}.bias"]

    def attention(self, x: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
        batch, length, hidden = x.shape
        heads = self.config.num_attention_heads
        q, k, v = (
            self.linear(x, f"{name}.self.{part}").view(batch, length, heads, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(hidden / heads) + mask
        seen = torch.matmul(torch.nn.Softmax(dim=-1)(scores), v)
        seen = seen.transpose(1, 2).contiguous().view(batch, length, hidden)
        return self.linear(seen, f"{name}.output.dense")


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


OURS = "uertool"
OLD = "old loop"
JOBS: dict[str, Callable[[Path, list[str]], Found]] = {
    OURS: uertool_cloze,
    "uertool, bfloat16": functools.partial(uertool_cloze, dtype="bfloat16"),
    "fill-mask, one by one": functools.partial(fill_mask, batch=1),
    "fill-mask, batches of 8": functools.partial(fill_mask, batch=8),
    "fill-mask, batches of 32": functools.partial(fill_mask, batch=32),
    OLD: functools.partial(old_loop, gradients=True),
    "old loop without gradients": functools.partial(old_loop, gradients=False),
}


# -- around them ----------------------------------------------------------------------------------


def make_inputs(folder: Path, size: str, sentences: int) -> None:
    """A model with random weights as a Hugging Face folder, and real lines with one [MASK] each."""
    import transformers

    layers, hidden, heads = SIZES[size]
    vocab = (TEXT / "google_zh_vocab.txt").read_text("utf-8")
    config = transformers.BertConfig(
        vocab_size=len(vocab.splitlines()),
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    transformers.set_seed(1)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text(vocab, "utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")

    draw = random.Random(1)
    rows = (TEXT / "reviews_train.tsv").read_text("utf-8").splitlines()[1:]
    pieces = [piece for row in rows for piece in _SENTENCE.findall(row.split("\t")[-1])]
    texts = [text for piece in pieces if len(text := piece.strip()) >= 5 and _places(text)]
    with open(folder / "lines.jsonl", "w", encoding="utf-8") as stream:
        for text in draw.sample(texts, sentences):
            place = draw.choice(_places(text))
            json.dump(f"{text[:place]}[MASK]{text[place + 1 :]}", stream, ensure_ascii=False)
            stream.write("\n")


def _places(text: str) -> list[int]:
    """Positions of Chinese characters that are not truncated."""
    return [n for n, char in enumerate(text[: LENGTH // 2]) if "\u4e00" <= char <= "\u9fff"]


def in_a_process(job: str, folder: Path, sentences: int, threads: int) -> dict[str, Any] | None:
    """The figures of a job that runs in a separate process, or None if it cannot run."""
    done = subprocess.run(
        [sys.executable, __file__, "--job", job, "--folder", folder, "--sentences", str(sentences)]
        + ["--threads", str(threads)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"{job} did not run: {why[0]}")
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "rate": sentences / found["seconds"]}


def run_here(job: str, folder: Path, sentences: int, threads: int) -> None:
    """Run one job and print its figures as JSON; `in_a_process` starts this."""
    torch.set_num_threads(threads)
    with open(folder / "lines.jsonl", encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream][:sentences]
    found = JOBS[job](folder, lines)
    print(json.dumps({**found._asdict(), "peak": _peak()}))


def _peak() -> int:
    """Peak memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the parent held when it started this process
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def compare(options: argparse.Namespace) -> None:
    jobs = [name for name in JOBS if (options.only or "") in name]
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, options.size, options.sentences)
        print(f"BERT {options.size}, {options.sentences} sentences, {options.threads} threads")
        for _ in range(options.rounds):  # in turns, so that a slow minute is everyone's
            for job in jobs:
                few = min(options.old_sentences, options.sentences)
                count = few if job.startswith(OLD) else options.sentences
                found = in_a_process(job, folder, count, options.threads)
                if found is not None and found["rate"] > best.get(job, {"rate": 0.0})["rate"]:
                    best[job] = found
    report(best)


def report(best: dict[str, dict[str, Any]]) -> None:
    """A table with the speedup of uertool and the number of equal best tokens."""
    ours = best.get(OURS)
    print(f"{'':28} {'sentences/s':>12} {'peak memory':>12} {'uertool is':>12} {'same best':>10}")
    for job, found in best.items():
        times = same = ""
        if ours:
            times = f"{ours['rate'] / found['rate']:.2f} x"
            pairs = list(zip(ours["best"], found["best"], strict=False))
            same = f"{sum(a == b for a, b in pairs) / len(pairs):.1%}"
        peak = f"{found['peak'] / 1e6:.0f} MB"
        print(f"{job:28} {found['rate']:12.1f} {peak:>12} {times:>12} {same:>10}")
    pipelines = [found["rate"] for job, found in best.items() if job.startswith("fill-mask")]
    if ours and pipelines and OLD in best:
        print(f"uertool is {ours['rate'] / best[OLD]['rate']:.1f} times the old loop (goal: 8)")
        print(f"and {ours['rate'] / max(pipelines):.2f} times the pipeline at its best (goal: 1.5)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--old-sentences", type=int, default=128, help="of them, for the old loop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="take the best of so many")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--only", help="jobs whose names contain this")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        run_here(options.job, options.folder, options.sentences, options.threads)
    else:
        compare(options)


if __name__ == "__main__":
    main()
