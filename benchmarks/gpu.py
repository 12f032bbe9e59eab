"""Speed on a GPU: features, cloze, topn dep and generation, compared with their peers.

    python -m benchmarks.gpu [--jobs features,cloze,topn,generation] [--rounds 3]
    python -m benchmarks.gpu --device cpu --sentences 32 --layers 2   # to try the script

A BERT and a GPT-2 of base size with random weights. The methods share one process and one GPU, and
take turns; the first round warms up. Texts are real sentences, truncated to 128 tokens; all methods
go from texts to results on the CPU.

    features     mean pooling; peer: sentence-transformers, the better of batches of 32 and 256
    cloze        one mask in each sentence, the ten best words; peer: transformers' fill-mask, the
                 better of batches of 32 and 256
    topn         `topn dep`: candidates in one place of a sentence; peer: batches of 256 through
                 transformers' model
    generation   greedy, 128 new tokens, for 1, 16 and 64 prompts; peer: transformers' `generate`

`busy` is the time of all kernels of a run divided by its duration: what is missing to 1 is time in
which the GPU waits. Figures are JSON lines, medians of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import generation
from benchmarks.features import LENGTH, SIZES, cosines, make_model, sentences

NUMBERS = ("float32", "bfloat16")
BATCHES = (32, 256)
PROMPTS = (1, 16, 64)

#: A method, once it is loaded: does the whole job and returns what is to be compared.
Method = Callable[[], Any]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", default="features,cloze,topn,generation")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sentences", type=int, default=8192)
    parser.add_argument("--candidates", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    jobs = {"features": features, "cloze": cloze, "topn": topn, "generation": generate}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bert").mkdir()
        size = {**SIZES["base"], "num_hidden_layers": arguments.layers}
        make_model(folder / "bert", size, mlm=True)
        generation.make_model(folder / "gpt2", arguments.layers, 768)
        for job in arguments.jobs.split(","):
            for number in NUMBERS:
                for row in jobs[job](folder, number, arguments):
                    print(json.dumps({"job": job, "numbers": number, **row}), flush=True)
                gc.collect()


# -- measuring ------------------------------------------------------------------------------------


def compare(
    methods: Mapping[str, Method], units: Mapping[str, int], arguments: argparse.Namespace
) -> tuple[list[Row], dict[str, Any]]:
    """Rates of methods that take turns, and what each returned; `units`: what each does."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, Any] = {}
    for number in range(arguments.rounds + 1):
        for name, method in methods.items():
            duration, found[name] = timed(method)
            if number:
                seconds[name].append(duration)
    rates = {name: units[name] / statistics.median(each) for name, each in seconds.items()}
    rows = []
    for name, rate in rates.items():
        row: Row = {"method": name, "rate": rate}
        if name != "uertool":
            row["uertool / it"] = rates["uertool"] / rate
        elif torch.cuda.is_available():
            row["busy"] = kernel_seconds(methods[name]) * rate / units[name]
        rows.append(row)
    return rows, found


def timed(method: Method) -> tuple[float, Any]:
    wait()
    started = time.perf_counter()
    found = method()
    wait()
    return time.perf_counter() - started, found


def wait() -> None:
    """Wait until the GPU has done everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def kernel_seconds(method: Method) -> float:
    """The time of all kernels of a method."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        method()
        wait()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


# -- jobs -----------------------------------------------------------------------------------------


def features(folder: Path, number: str, arguments: argparse.Namespace) -> Iterator[Row]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    import uertool

    texts = some_sentences(arguments.sentences)
    loaded = uertool.load_model(folder / "bert", device=arguments.device, dtype=number)
    words = Transformer(
        str(folder / "bert"),
        max_seq_length=LENGTH,
        model_kwargs={"torch_dtype": getattr(torch, number)},
    )
    peer = SentenceTransformer(
        modules=[words, Pooling(words.get_word_embedding_dimension())], device=arguments.device
    )
    methods: dict[str, Method] = {
        "uertool": lambda: loaded.encode(texts, pooling="mean", seq_length=LENGTH)
    }
    for batch in BATCHES:
        methods[f"sentence-transformers, batches of {batch}"] = lambda batch=batch: peer.encode(
            texts, batch_size=batch, convert_to_numpy=True, show_progress_bar=False
        )
    rows, found = compare(methods, dict.fromkeys(methods, len(texts)), arguments)
    for row in rows:
        vectors = np.asarray(found[row["method"]], dtype=np.float32)
        yield {**row, "lowest cosine": float(cosines(vectors, found["uertool"]).min())}


def cloze(folder: Path, number: str, arguments: argparse.Namespace) -> Iterator[Row]:
    import transformers

    from uertool.loading.registry import load_model
    from uertool.tasks.cloze.job import cloze as fill_in

    texts = [masked(text) for text in some_sentences(arguments.sentences)]
    few = texts[: len(texts) // 16]  # fill-mask ranks the vocabulary for every sentence by itself
    loaded = load_model(folder / "bert", heads=("mlm",), device=arguments.device, dtype=number)
    model = transformers.AutoModelForMaskedLM.from_pretrained(
        folder / "bert", dtype=getattr(torch, number)
    )
    fill = transformers.pipeline(
        "fill-mask",
        model=model.eval(),
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder / "bert"),
        top_k=10,
        device=arguments.device,
        tokenizer_kwargs={"truncation": True, "max_length": LENGTH},
    )

    def ours() -> list[int]:
        found = fill_in(loaded, texts, topn=10, seq_length=LENGTH)
        return [result.masks[0].guesses[0].id for result in found]

    methods: dict[str, Method] = {"uertool": ours}
    for batch in BATCHES:
        methods[f"fill-mask, batches of {batch}"] = lambda batch=batch: [
            guesses[0]["token"] for guesses in fill(few, batch_size=batch)
        ]
    units = {name: len(texts if name == "uertool" else few) for name in methods}
    rows, found = compare(methods, units, arguments)
    for row in rows:
        best = found[row["method"]]
        pairs = zip(found["uertool"][: len(best)], best, strict=True)
        yield {**row, "same best word": sum(a == b for a, b in pairs) / len(best)}


def topn(folder: Path, number: str, arguments: argparse.Namespace) -> Iterator[Row]:
    from benchmarks import topn_dep
    from transformers import AutoModel

    import uertool
    from uertool.tasks.embeddings.substitutes import SubstituteSearch, SubstituteSettings

    loaded = uertool.load_model(folder / "bert", device=arguments.device, dtype=number)
    peer = AutoModel.from_pretrained(folder / "bert", dtype=getattr(torch, number))
    peer = peer.eval().to(arguments.device)
    words = [word for word in loaded.tokenizer.vocab.tokens if len(word) == 1 and word > "一"]
    words = words[: arguments.candidates]
    search = SubstituteSearch(loaded, words, SubstituteSettings(seq_length=topn_dep.LENGTH))
    vocab = loaded.tokenizer.vocab
    ids = loaded.tokenizer.encode(topn_dep.SENTENCE)
    place = ids.index(vocab.id(topn_dep.TARGET))
    candidates = [vocab.id(word) for word in words]

    def ours() -> list[str]:
        found = search.find(topn_dep.TARGET, topn_dep.SENTENCE)
        return [one.word for one in found.neighbours]

    @torch.inference_mode()
    def theirs() -> list[str]:
        row = torch.tensor([ids])
        parts = []
        for start in range(0, len(candidates), topn_dep.BATCH):
            part = candidates[start : start + topn_dep.BATCH]
            batch = row.repeat(len(part), 1)
            batch[:, place] = torch.tensor(part)
            hidden = peer(input_ids=batch.to(peer.device)).last_hidden_state
            parts.append(hidden[:, place].float())
        target = peer(input_ids=row.to(peer.device)).last_hidden_state[:, place].float()
        scores = torch.nn.functional.cosine_similarity(target, torch.cat(parts))
        best = scores.argsort(descending=True).tolist()
        return [words[at] for at in best if words[at] != topn_dep.TARGET]

    methods = {"uertool": ours, "transformers": theirs}
    rows, found = compare(methods, dict.fromkeys(methods, len(words)), arguments)
    best = found["uertool"]
    for row in rows:
        yield {**row, "same best five": best[:5] == found[row["method"]][:5]}


def generate(folder: Path, number: str, arguments: argparse.Namespace) -> Iterator[Row]:
    new = arguments.new_tokens
    ours = generation.load_uertool(folder / "gpt2", number, device=arguments.device)
    theirs = generation.load_transformers(folder / "gpt2", number, device=arguments.device)
    for count in PROMPTS:
        prompts = generation.some_prompts(count)
        methods: dict[str, Method] = {
            "uertool": lambda prompts=prompts: ours(prompts, new),
            "transformers": lambda prompts=prompts: theirs(prompts, new),
        }
        rows, found = compare(methods, dict.fromkeys(methods, count * new), arguments)
        for row in rows:
            pairs = zip(found["uertool"], found[row["method"]], strict=True)
            yield {"prompts": count, **row, "same texts": sum(a == b for a, b in pairs)}


def some_sentences(count: int) -> list[str]:
    """So many real sentences, repeated where there are not enough."""
    known = sentences(count)
    return (known * (count // len(known) + 1))[:count]


def masked(text: str) -> str:
    """A sentence with a mask in place of a character that is read."""
    place = min(len(text), LENGTH // 2) // 2
    return f"{text[:place]}[MASK]{text[place + 1 :]}"


if __name__ == "__main__":
    main()
