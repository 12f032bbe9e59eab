"""Speed of `extract-features`, compared with other libraries and with the peak of the processor.

    python benchmarks/features.py [--sentences 512] [--repeats 3] [--json]

A BERT of base size with random weights is saved as a Hugging Face folder, and all methods read the
same sentences of tests/data/text with it (mean pooling, [CLS] and [SEP] included, truncated to 128
tokens):

- uertool's `encode`, in float32 and, where the processor has it, in bfloat16;
- sentence-transformers' `encode` (skipped with a message if it is not installed);
- transformers in batches of 64, padded to the longest of each batch;
- every line padded to 128 in batches of 64, with gradients, as in UER-py's script.

The peak is the best rate of float32 matrix products of the model's shapes by MKL and oneDNN,
measured in the same run; a rate on real tokens counts no padding. Medians of the repeats. Goals:
1.2 times sentence-transformers, 80% of the peak on real tokens, 10 times UER-py's script, and
bfloat16 at 1.8 times float32.

`--memory` measures instead how the peak memory of a run that writes .npy grows from 2,000 to
200,000 lines with the bundled small model; goal: at most 300 MB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

TEXT = Path(__file__).parents[1] / "tests" / "data" / "text"
SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
}
LENGTH = 128
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--old-sentences", type=int, default=64, help="of them for the old way")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument("--lines", type=int, default=200_000, help="with --memory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = memory(arguments.lines) if arguments.memory else speed(arguments)
    for row in rows:
        if arguments.json:
            print(json.dumps(row), flush=True)
        else:
            print("  ".join(f"{k} {v:.6g}" if isinstance(v, float) else str(v)
                            for k, v in row.items()), flush=True)  # fmt: skip


def sentences(count: int) -> list[str]:
    """Sentences of real reviews, in the order of the file."""
    found: list[str] = []
    for name in ("reviews_test.tsv", "reviews_train.tsv"):
        for line in (TEXT / name).read_text("utf-8").split("\n")[1:]:
            text = line.partition("\t")[2]
            found += [part for part in re.split(r"(?<=[。！？!?])", text) if len(part) > 4]
    return found[:count]


def speed(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    texts = sentences(arguments.sentences)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), SIZES[arguments.size])
        yield from compare(Path(folder), texts, arguments)


def make_model(folder: Path, size: dict[str, int]) -> None:
    """A BERT with random weights and a Chinese vocabulary, as a Hugging Face folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(7)
    config = BertConfig(vocab_size=21128, intermediate_size=4 * size["hidden_size"], **size)
    model = BertModel(config)
    model.save_pretrained(folder)
    BertTokenizer(str(TEXT / "google_zh_vocab.txt")).save_pretrained(folder)
    (folder / "vocab.txt").write_text((TEXT / "google_zh_vocab.txt").read_text("utf-8"), "utf-8")


def compare(
    folder: Path, texts: list[str], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    import uertool

    loaded = uertool.load_model(folder, device="cpu")
    ids = [loaded.tokenizer.with_special(row) for row in loaded.tokenizer.encode_batch(texts)]
    lengths = np.array([min(len(row), LENGTH) for row in ids])
    work = flops(loaded.config, lengths)
    half = uertool.load_model(folder, device="cpu", dtype="bfloat16")
    runs: dict[str, Callable[[], np.ndarray]] = {
        "uertool": lambda: loaded.encode(texts, pooling="mean", seq_length=LENGTH),
        "uertool bfloat16": lambda: half.encode(texts, pooling="mean", seq_length=LENGTH),
        "transformers": lambda: hugging_face(folder, texts, "longest"),
    }
    if importlib.util.find_spec("sentence_transformers"):
        runs["sentence-transformers"] = lambda: sentence_transformers(folder, texts)
    few = texts[: arguments.old_sentences]
    runs["padded to 128"] = lambda: hugging_face(folder, few, "max_length", gradients=True)
    times: dict[str, list[float]] = {name: [] for name in runs}
    vectors: dict[str, np.ndarray] = {}
    peaks: list[float] = []
    for name, run in runs.items():
        run()  # whatever is loaded or compiled the first time
        del name
    for _ in range(arguments.repeats):  # everyone in turn, so that a slow minute is everyone's
        peaks.append(matrix_peak(loaded.config))
        for name, run in runs.items():
            start = time.perf_counter()
            vectors[name] = run()
            times[name].append(time.perf_counter() - start)
    peak = statistics.median(peaks)
    rates = {
        name: (len(few) if name == "padded to 128" else len(texts)) / statistics.median(seconds)
        for name, seconds in times.items()
    }
    yield {
        "what": f"{len(texts)} sentences of {lengths.mean():.1f} tokens",
        "threads": torch.get_num_threads(),
        "peak float32 GFLOP/s": peak / 1e9,
    }
    expected = vectors["transformers"]
    for name, rate in rates.items():
        row: dict[str, Any] = {"what": name, "sentences/s": rate}
        if name != "padded to 128":
            row["share of the float32 peak"] = rate * work / len(texts) / peak
        found = vectors[name]
        row["lowest cosine to transformers"] = float(cosines(found, expected[: len(found)]).min())
        yield row
    for peer in ("sentence-transformers", "transformers", "padded to 128"):
        if peer in rates:
            yield {"what": f"uertool / {peer}", "ratio": rates["uertool"] / rates[peer]}
        else:
            yield {"what": f"{peer} is not installed and was left out"}
    yield {
        "what": "bfloat16 / float32",
        "ratio": rates["uertool bfloat16"] / rates["uertool"],
        "lowest cosine": float(cosines(vectors["uertool bfloat16"], vectors["uertool"]).min()),
    }


def flops(config: Any, lengths: np.ndarray) -> float:
    """Floating-point operations on real tokens: two for each weight, and attention's products."""
    hidden, inner = config.hidden_size, config.feedforward_size
    linear = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 4 * hidden * lengths
    return float((config.layers_num * lengths * (linear + attention)).sum())


def matrix_peak(config: Any) -> float:
    """The best rate of matrix products of the model's shapes, in operations a second.

    The better of the two libraries in torch counts: on some processors MKL, which
    torch's own layers use, leaves half of the machine unused.
    """
    products: list[Callable[[Any, Any], Any]] = [torch.nn.functional.linear]
    if torch.backends.mkldnn.is_available():
        products.append(lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    best = 0.0
    for rows in (1024, 2048):
        for one, other in (
            (config.hidden_size, config.feedforward_size),
            (config.feedforward_size, config.hidden_size),
        ):
            a, b = torch.randn(rows, one), torch.randn(other, one)
            for product in products * 8:
                start = time.perf_counter()
                product(a, b)
                best = max(best, 2.0 * rows * one * other / (time.perf_counter() - start))
    return best


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    product = (found * expected).sum(1)
    return product / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


_cache: dict[str, Any] = {}


def hugging_face(
    folder: Path, texts: list[str], padding: str, *, gradients: bool = False
) -> np.ndarray:
    from transformers import AutoModel, AutoTokenizer

    if "model" not in _cache:
        _cache["model"] = AutoModel.from_pretrained(folder).eval()
        _cache["tokenizer"] = AutoTokenizer.from_pretrained(folder)
    rows = []
    for start in range(0, len(texts), BATCH):
        batch = _cache["tokenizer"](
            texts[start : start + BATCH],
            padding=padding,
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        with torch.set_grad_enabled(gradients):
            hidden = _cache["model"](**batch).last_hidden_state
            real = batch["attention_mask"][..., None].float()
            rows.append(((hidden * real).sum(1) / real.sum(1)).detach().numpy())
    return np.concatenate(rows)


def sentence_transformers(folder: Path, texts: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer, models

    if "st" not in _cache:
        words = models.Transformer(str(folder), max_seq_length=LENGTH)
        pooling = models.Pooling(words.get_word_embedding_dimension(), pooling_mode="mean")
        _cache["st"] = SentenceTransformer(modules=[words, pooling], device="cpu")
    return _cache["st"].encode(texts, show_progress_bar=False)


def memory(lines: int) -> Iterator[dict[str, Any]]:
    """Peak memory of runs of different length, each in a separate process."""
    texts = sentences(4000)
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (2000, lines):
            path = Path(folder) / f"{count}.txt"
            with path.open("w", encoding="utf-8") as stream:
                stream.writelines(texts[n % len(texts)] + "\n" for n in range(count))
            command = [
                "extract-features",
                *("--test-path", str(path), "-o", str(path.with_suffix(".npy"))),
                *("--pooling", "mean", "--device", "cpu", "--quiet"),
            ]
            code = (
                "import sys, resource; from uertool.cli.app import main; "
                f"code = main({command!r}); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
            )
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            scale = 1 if sys.platform == "darwin" else 1024
            peaks[count] = int(done.stdout.split()[-1]) * scale / 1e6
            yield {
                "what": f"{count} lines",
                "seconds": time.perf_counter() - start,
                "peak MB": peaks[count],
            }
    yield {"what": "difference", "MB": peaks[lines] - peaks[2000]}


if __name__ == "__main__":
    main()
