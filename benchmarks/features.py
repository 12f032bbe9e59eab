"""Speed of `extract-features`, compared with its peers and with the peak of the processor.

    python -m benchmarks.features [--sentences 128] [--rounds 3] [--size base]

A BERT of base size with random weights is saved as a Hugging Face folder. Every method has its own
process and reads the same sentences of tests/data/text with it: mean pooling, [CLS] and [SEP]
included, truncated to 128 tokens, from texts to vectors. The methods take turns.

    uertool                `encode` in float32, bfloat16 and int8
    sentence-transformers  `encode` in float32 and bfloat16
    ctranslate2            its Encoder in float32 and int8
    onnxruntime            float32, and int8 by dynamic quantization
    openvino               float32 and bfloat16, and int8 by nncf with texts for calibration
    padded                 every line padded to 128 in batches of 64, with gradients, as in UER-py's
                           script; on a part of the sentences

The peers run in the environment that `make bench` makes; what is missing there is left out. Texts
are sorted by length and cut into batches of 64 for ctranslate2, onnxruntime and openvino, as
sentence-transformers does.

The peak is the best rate of matrix products of the model's shapes, measured in the same run; a rate
on real tokens counts no padding. Reported are medians over the rounds.

`--memory` measures instead how the peak memory of a run that writes .npy grows from 2,000 to
200,000 lines with the bundled small model; goal: at most 300 MB.
"""

from __future__ import annotations

import argparse
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
from benchmarks import workers
from benchmarks.workers import Worker

TEXT = Path(__file__).resolve().parents[1] / "tests" / "data" / "text"
SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
}
LENGTH = 128
BATCH = 64
METHODS = (
    *("uertool-float32", "uertool-bfloat16", "uertool-int8"),
    *("sentence-transformers-float32", "sentence-transformers-bfloat16"),
    *("ctranslate2-float32", "ctranslate2-int8", "onnxruntime-float32", "onnxruntime-int8"),
    *("openvino-float32", "openvino-bfloat16", "openvino-int8", "padded-float32"),
)
OURS = ("uertool", "padded")

#: A method, once it is loaded: texts to vectors.
Encode = Callable[[list[str]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument("--lines", type=int, default=200_000, help="with --memory")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        workers.serve(lambda: answer(arguments))
        return
    rows = memory(arguments.lines) if arguments.memory else speed(arguments)
    for row in rows:
        print(json.dumps(row), flush=True)


def sentences(count: int) -> list[str]:
    """Sentences of real reviews, in the order of the file."""
    found: list[str] = []
    for name in ("reviews_test.tsv", "reviews_train.tsv"):
        for line in (TEXT / name).read_text("utf-8").split("\n")[1:]:
            text = line.partition("\t")[2]
            found += [part for part in re.split(r"(?<=[。！？!?])", text) if len(part) > 4]
    return found[:count]


# -- the measurement ------------------------------------------------------------------------------


def speed(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, SIZES[arguments.size])
        options = ("--folder", name, "--sentences", str(arguments.sentences))
        found = []
        for method in arguments.methods.split(","):
            peer = not method.startswith(OURS)
            found.append(Worker(__file__, method, arguments.threads, *options, peer=peer))
        try:
            yield from compare(folder, workers.usable(found), arguments)
        finally:
            for worker in found:
                worker.close()


def make_model(folder: Path, size: dict[str, int], *, mlm: bool = False) -> None:
    """A BERT with random weights and a Chinese vocabulary, as a Hugging Face folder."""
    from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer

    torch.manual_seed(7)
    config = BertConfig(vocab_size=21128, intermediate_size=4 * size["hidden_size"], **size)
    config.position_embedding_type = "absolute"  # ctranslate2's converter asks for it
    (BertForMaskedLM if mlm else BertModel)(config).save_pretrained(folder)
    BertTokenizer(str(TEXT / "google_zh_vocab.txt")).save_pretrained(folder)
    (folder / "vocab.txt").write_text((TEXT / "google_zh_vocab.txt").read_text("utf-8"), "utf-8")


def compare(
    folder: Path, found: list[Worker], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    import uertool

    texts = sentences(arguments.sentences)
    loaded = uertool.load_model(folder, device="cpu")
    ids = [loaded.tokenizer.with_special(row) for row in loaded.tokenizer.encode_batch(texts)]
    lengths = np.array([min(len(row), LENGTH) for row in ids])
    work = flops(loaded.config, lengths) / len(texts)
    peaks: dict[str, float] = {}
    for number in ("float32", "bfloat16"):
        if any(worker.method == f"uertool-{number}" for worker in found):
            peaks[number] = matrix_peak(loaded.config, getattr(torch, number))
    yield {
        "method": f"{len(texts)} sentences of {lengths.mean():.1f} tokens",
        **{f"{number} GFLOP/s": peak / 1e9 for number, peak in peaks.items()},
    }
    answers = workers.take_turns(found, arguments.rounds)
    rates = {
        method: [each["lines"] / each["seconds"] for each in given]
        for method, given in answers.items()
    }
    expected = np.load(folder / "uertool-float32.npy")
    for method, values in rates.items():
        kind, number = method.rsplit("-", 1)
        row: dict[str, Any] = {"method": kind, "numbers": number}
        row["sentences/s"] = statistics.median(values)
        if f"uertool-{number}" in rates:
            row["of uertool"] = workers.median_ratio(values, rates[f"uertool-{number}"])
        if number in peaks:
            row["of the peak"] = row["sentences/s"] * work / peaks[number]
        vectors = np.load(folder / f"{method}.npy")
        row["lowest cosine"] = float(cosines(vectors, expected[: len(vectors)]).min())
        yield row


def flops(config: Any, lengths: np.ndarray) -> float:
    """Floating-point operations on real tokens: two for each weight, and attention's products."""
    hidden, inner = config.hidden_size, config.feedforward_size
    linear = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 4 * hidden * lengths
    return float((config.layers_num * lengths * (linear + attention)).sum())


def matrix_peak(config: Any, dtype: torch.dtype) -> float:
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
            a, b = torch.randn(rows, one, dtype=dtype), torch.randn(other, one, dtype=dtype)
            for product in products * 8:
                start = time.perf_counter()
                product(a, b)
                best = max(best, 2.0 * rows * one * other / (time.perf_counter() - start))
    return best


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Cosines of the rows of two matrices."""
    product = (found * expected).sum(1)
    return product / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


# -- the methods, each in its own process ---------------------------------------------------------


def answer(arguments: argparse.Namespace) -> workers.Run:
    kind, number = arguments.worker.rsplit("-", 1)
    texts = sentences(arguments.sentences)
    if kind == "padded":
        texts = texts[: len(texts) // 4]
    loaders = {
        "uertool": uertool_encode,
        "sentence-transformers": sentence_transformers,
        "ctranslate2": ctranslate2_encode,
        "onnxruntime": onnxruntime_encode,
        "openvino": openvino_encode,
        "padded": padded,
    }
    encode = loaders[kind](arguments.folder, number)
    target = arguments.folder / f"{arguments.worker}.npy"

    def run(request: dict[str, Any]) -> dict[str, Any]:
        del request
        vectors = encode(texts)
        if not target.exists():
            np.save(target, vectors)
        return {"lines": len(texts)}

    return run


def uertool_encode(folder: Path, number: str) -> Encode:
    import uertool

    loaded = uertool.load_model(folder, device="cpu", dtype=number)  # type: ignore[arg-type]
    return lambda texts: loaded.encode(texts, pooling="mean", seq_length=LENGTH)


def padded(folder: Path, number: str) -> Encode:
    del number
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )

    def encode(texts: list[str]) -> np.ndarray:
        rows = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(
                texts[start : start + BATCH],
                padding="max_length",
                truncation=True,
                max_length=LENGTH,
                return_tensors="pt",
            )
            hidden = model(**batch).last_hidden_state.detach().numpy()
            rows.append(mean_of(hidden, batch["attention_mask"].numpy()))
        return np.concatenate(rows)

    return encode


def mean_of(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Means over the tokens [rows, size], without padding."""
    real = mask[..., None].astype(np.float32)
    found: np.ndarray = (hidden * real).sum(1) / real.sum(1)
    return found


def sentence_transformers(folder: Path, number: str) -> Encode:
    from sentence_transformers import SentenceTransformer, models

    words = models.Transformer(str(folder), max_seq_length=LENGTH)
    pooling = models.Pooling(words.get_word_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[words, pooling], device="cpu")
    model.to(getattr(torch, number))
    return lambda texts: (
        model.encode(texts, show_progress_bar=False, convert_to_tensor=True).float().numpy()
    )


def in_batches(folder: Path, run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Encode:
    """Texts to vectors by a function of ids and mask [rows, length] to hidden states."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding()

    def encode(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
        rows: list[np.ndarray] = [np.empty(0)] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            given = tokenizer.encode_batch([texts[n] for n in part])
            ids = np.array([each.ids for each in given], dtype=np.int64)
            mask = np.array([each.attention_mask for each in given], dtype=np.int64)
            for n, vector in zip(part, mean_of(run(ids, mask), mask), strict=True):
                rows[n] = vector
        return np.stack(rows)

    return encode


def ctranslate2_encode(folder: Path, number: str) -> Encode:
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    target = folder / f"ct2-{number}"
    TransformersConverter(str(folder)).convert(
        str(target), quantization=None if number == "float32" else number
    )
    encoder = ctranslate2.Encoder(
        str(target),
        device="cpu",
        compute_type=number,
        intra_threads=torch.get_num_threads(),
        inter_threads=1,
    )

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        rows = [row[: int(count)].tolist() for row, count in zip(ids, mask.sum(1), strict=True)]
        return np.array(encoder.forward_batch(rows).last_hidden_state)

    return in_batches(folder, run)


def exported(folder: Path, name: str) -> Path:
    """The model as an ONNX file of ids and mask."""
    from transformers import AutoModel

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            found = AutoModel.from_pretrained(folder, attn_implementation="eager")
            self.model = found.eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    target = folder / f"{name}.onnx"
    ids = torch.ones(2, 8, dtype=torch.int64)
    torch.onnx.export(
        Hidden().eval(),
        (ids, ids),
        str(target),
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_axes={
            "input_ids": {0: "rows", 1: "length"},
            "attention_mask": {0: "rows", 1: "length"},
        },
        dynamo=False,
    )
    return target


def onnxruntime_encode(folder: Path, number: str) -> Encode:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = exported(folder, f"ort-{number}")
    if number == "int8":
        target = path.with_name("ort-quantized.onnx")
        quantize_dynamic(str(path), str(target), weight_type=QuantType.QInt8, per_channel=True)
        path = target
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = {"input_ids": ids, "attention_mask": mask}
        found: np.ndarray = session.run(["hidden"], given)[0]
        return found

    return in_batches(folder, run)


def openvino_encode(folder: Path, number: str) -> Encode:
    import openvino

    model = openvino.convert_model(exported(folder, f"ov-{number}"))
    if number == "int8":
        import nncf
        from tokenizers import BertWordPieceTokenizer

        tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"))
        given = [tokenizer.encode(text) for text in sentences(100)]
        samples = [
            {
                "input_ids": np.array([each.ids[:LENGTH]]),
                "attention_mask": np.array([each.attention_mask[:LENGTH]]),
            }
            for each in given
        ]
        model = nncf.quantize(
            model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=100
        )
    hint = {"bfloat16": "bf16"}.get(number, "f32")
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()},
    )

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        found: np.ndarray = compiled({"input_ids": ids, "attention_mask": mask})[0]
        return found

    return in_batches(folder, run)


# -- memory ---------------------------------------------------------------------------------------


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
