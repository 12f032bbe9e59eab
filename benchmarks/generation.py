"""Speed of generation: uertool, transformers, ctranslate2 and UER-py's loop on one machine.

    python -m benchmarks.generation                            # the size in docs/benchmarks.md
    python -m benchmarks.generation --layers 2 --hidden 64 --new-tokens 8 --rounds 1

A GPT-2 with random weights continues the beginnings of real lines greedily by a fixed number of
tokens, for 1, 4 and 16 prompts. Every method has its own process, which loads the
model and warms up once; then the methods alternate, so that other load on the machine affects all
of them. Reported are the median of new tokens per second, and the median over the rounds of each
method's rate divided by that of transformers in the same round.

    uertool        float32, from texts to texts
    uertool-int8   the same with --dtype int8
    uertool-bf16   the same with --dtype bfloat16
    transformers   `generate` with its cache, float32, from ids to ids
    ct2-float32    ctranslate2's Generator, from tokens to tokens
    ct2-int8       the same with int8 weights
    old            (only with --methods) as in UER-py's script: the whole text is processed again
                   for every token, the output layer runs at every position, with gradients; one
                   prompt only

ctranslate2 runs in the environment of the peers, see `make bench`; without it, it is left out. At
the end the perplexity of the trained model in tests/data/models/zh-lm-small is measured with
float32 and with int8 weights. Figures are JSON lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import workers
from benchmarks.workers import Worker

ROOT = Path(__file__).resolve().parent.parent
VOCAB = ROOT / "tests" / "data" / "text" / "google_zh_vocab.txt"
CORPUS = ROOT / "tests" / "data" / "text" / "corpus_zh.txt"
SMALL = ROOT / "tests" / "data" / "models" / "zh-lm-small"

PROMPT = 10  # characters of a prompt, the same for all, since peers pad unequal ones
METHODS = ("uertool", "uertool-bf16", "uertool-int8", "transformers", "ct2-float32", "ct2-int8")

#: A method, once it is loaded: prompts and a number of new tokens to the ids that are new.
Run = Callable[[list[str], int], list[list[int]]]


# -- the model ------------------------------------------------------------------------------------


def make_model(folder: Path, layers: int, hidden: int) -> None:
    """A GPT-2 with random weights in a Hugging Face folder."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    words = [line.split(" ")[0] for line in VOCAB.read_text("utf-8").splitlines()]
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words),
        n_positions=1024,
        n_embd=hidden,
        n_layer=layers,
        n_head=max(1, hidden // 64),
        bos_token_id=words.index("[CLS]"),
        eos_token_id=words.index("[SEP]"),
        pad_token_id=words.index("[PAD]"),
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")


def read_vocab(folder: Path) -> list[str]:
    return (folder / "vocab.txt").read_text("utf-8").splitlines()


def ids_of(prompts: Sequence[str], words: Sequence[str]) -> list[list[int]]:
    """[CLS] and one id for each character, as uertool's tokenizer gives for such prompts."""
    index = {word: number for number, word in enumerate(words)}
    return [[index["[CLS]"], *(index[char] for char in prompt)] for prompt in prompts]


def some_prompts(count: int) -> list[str]:
    """Beginnings of lines that are Chinese characters of the vocabulary throughout."""
    known = set(VOCAB.read_text("utf-8").split())
    found = []
    for line in CORPUS.read_text("utf-8").splitlines():
        text = "".join(char for char in line if "\u4e00" <= char <= "\u9fff" and char in known)
        if len(text) >= PROMPT:
            found.append(text[:PROMPT])
        if len(found) == count:
            break
    return found


# -- the methods, each in its own process ---------------------------------------------------------


def load_uertool(folder: Path, kind: str, device: str = "cpu") -> Run:
    from uertool.loading.registry import load_model
    from uertool.tasks.generation.job import Generator
    from uertool.tasks.generation.prompts import Prompt
    from uertool.tasks.generation.settings import make_decoding

    dtype = "bfloat16" if kind in ("bf16", "bfloat16") else "float32"
    loaded = load_model(folder, heads=("lm",), device=device, dtype=dtype)
    generator = Generator(loaded, "int8" if kind == "int8" else "native")

    def run(prompts: list[str], new: int) -> list[list[int]]:
        lines = (Prompt(number, text) for number, text in enumerate(prompts))
        decoding = make_decoding(greedy=True, max_new_tokens=new, stop_token=())
        return [list(texts[0].ids) for texts in generator.generate(lines, decoding)]

    return run


def load_transformers(folder: Path, number: str = "float32", device: str = "cpu") -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, number)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    model.generation_config.eos_token_id = None
    words = read_vocab(folder)

    def run(prompts: list[str], new: int) -> list[list[int]]:
        ids = torch.tensor(ids_of(prompts, words), device=device)
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                use_cache=True,
            )
        return [row[ids.shape[1] :] for row in found.tolist()]

    return run


def load_ctranslate2(folder: Path, kind: str, threads: int) -> Run:
    import ctranslate2
    from ctranslate2.converters import transformers as converters
    from transformers import AutoModelForCausalLM

    words = read_vocab(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    # The converter would ask for a tokenizer of transformers, which tokens by themselves spare us.
    spec = converters._MODEL_LOADERS["GPT2Config"].get_model_spec(model)
    spec.register_vocabulary(words)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "[CLS]", "[SEP]", "[UNK]"
    spec.validate()
    spec.optimize(quantization="int8" if kind == "int8" else None)
    target = folder / f"ct2-{kind}"
    target.mkdir(exist_ok=True)
    spec.save(str(target))
    generator = ctranslate2.Generator(
        str(target), device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1
    )

    def run(prompts: list[str], new: int) -> list[list[int]]:
        found = generator.generate_batch(
            [["[CLS]", *prompt] for prompt in prompts],
            max_length=new,
            min_length=new,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [list(result.sequences_ids[0]) for result in found]

    return run


def load_old(folder: Path) -> Run:
    import torch

    from uertool.loading.registry import load_model

    loaded = load_model(folder, heads=("lm",), device="cpu")
    model = loaded.model.requires_grad_(True)
    words = read_vocab(folder)

    def run(prompts: list[str], new: int) -> list[list[int]]:
        if len(prompts) > 1:
            return []
        ids = ids_of(prompts, words)[0]
        start = len(ids)
        for _ in range(new):
            given = torch.tensor([ids])
            hidden = model.encode(given, torch.ones_like(given))
            ids.append(int(model.lm(hidden)[0, -1].argmax()))  # type: ignore[misc, arg-type]
        return [ids[start:]]

    return run


def load(method: str, folder: Path, threads: int) -> Run:
    name, _, kind = method.partition("-")
    if name == "ct2":
        return load_ctranslate2(folder, kind, threads)
    import torch

    torch.set_num_threads(threads)
    if name == "uertool":
        return load_uertool(folder, kind)
    return load_transformers(folder) if name == "transformers" else load_old(folder)


def answer(run: Run) -> workers.Run:
    """Prompts and a number of tokens to ids."""
    return lambda request: {"ids": run(request["prompts"], request["new"])}


# -- the measurement ------------------------------------------------------------------------------


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    make_model(folder, args.layers, args.hidden)
    found = [
        Worker(__file__, method, args.threads, "--folder", str(folder), peer=method[:3] == "ct2")
        for method in args.methods.split(",")
    ]
    try:
        able = workers.usable(found)
        return [row for count in (1, 4, 16) for row in rounds(args, able, count)]
    finally:
        for worker in found:
            worker.close()


def rounds(args: argparse.Namespace, found: Sequence[Worker], count: int) -> list[dict[str, Any]]:
    taking = [worker for worker in found if count == 1 or worker.method != "old"]
    answers = workers.take_turns(
        taking, args.rounds, prompts=some_prompts(count), new=args.new_tokens
    )
    rates, texts = {}, {}
    for method, given in answers.items():
        texts[method] = given[0]["ids"]
        assert sum(map(len, texts[method])) == count * args.new_tokens, method
        rates[method] = [count * args.new_tokens / each["seconds"] for each in given]
    rows = []
    for method, values in rates.items():
        row = {"method": method, "prompts": count, "tokens/s": statistics.median(values)}
        if "transformers" in rates:
            row["of transformers"] = workers.median_ratio(values, rates["transformers"])
            pairs_of_ids = zip(texts[method], texts["transformers"], strict=True)
            row["same texts"] = sum(mine == theirs for mine, theirs in pairs_of_ids)
        rows.append(row)
    return rows


def bandwidth(folder: Path) -> dict[str, Any]:
    """Bytes a second that a sum or a matrix-vector product reads, and the tokens this allows."""
    import torch

    weight, vector = torch.randn(16384, 4096), torch.randn(4096)
    seconds = []
    for read in (weight.sum, lambda: torch.mv(weight, vector)):
        for _ in range(9):
            started = time.perf_counter()
            read()
            seconds.append(time.perf_counter() - started)
    rate = weight.numel() * 4 / min(seconds)
    size = (folder / "model.safetensors").stat().st_size
    return {"method": "memory bandwidth", "GB/s": rate / 1e9, "tokens/s": rate / size}


def perplexities(lines: int) -> dict[str, float]:
    """The perplexity of a trained model on text, with float32 and with int8 weights."""
    from uertool.loading.registry import load_model
    from uertool.tasks.generation.job import Generator, perplexity
    from uertool.tasks.generation.prompts import Prompt

    texts = CORPUS.read_text("utf-8").splitlines()[:lines]
    loaded = load_model(SMALL, heads=("lm",), device="cpu")
    found = {}
    for name, precision in (("float32", "native"), ("int8", "int8")):
        generator = Generator(loaded, precision)  # type: ignore[arg-type]
        prompts = (Prompt(number, text) for number, text in enumerate(texts))
        scored = list(generator.score(prompts, truncate="right"))
        total = sum(score.log_probability for score in scored)
        found[name] = perplexity(total, sum(score.tokens for score in scored))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--perplexity-lines", type=int, default=1500)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        workers.serve(lambda: answer(load(args.worker, args.folder, args.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(args, Path(folder)):
            print(json.dumps(row), flush=True)
        print(json.dumps(bandwidth(Path(folder))), flush=True)
    for name, found in perplexities(args.perplexity_lines).items():
        print(json.dumps({"method": f"perplexity of {SMALL.name}, {name}", "perplexity": found}))


if __name__ == "__main__":
    main()
