"""Speed and memory of LLaMA-like models: uertool and transformers on one machine.

    python -m benchmarks.decoders speed                # Qwen3 0.6B, random weights
    python -m benchmarks.decoders memory --layers 32   # LLaMA 7B, random weights, 27 GB of disk

`speed`: 1 and 16 texts continue greedily by a fixed number of tokens, from ids to ids. Every method
has its own process; the methods alternate, so that other load on the machine affects all of them.
Reported are the median of new tokens per second, and the median over the rounds of each method's
rate divided by that of transformers in the same round.

`memory`: a folder with a shard for every layer, in bfloat16. Each job has its own process; reported
is the peak above that of an interpreter with the job's modules, for loading as a share of the
weights in the type of computation, for a conversion with its verification minus the largest tensor.
With fewer `--layers` the layers still have the size of a 7B model. Figures are JSON lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import workers
from benchmarks.workers import Worker

METHODS = ("uertool", "uertool-int8", "transformers")

#: config.json of the two models, as far as it matters.
QWEN3 = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}


# -- speed ----------------------------------------------------------------------------------------


def make_qwen3(folder: Path, layers: int) -> None:
    """A Qwen3 0.6B with random weights, and a tokenizer of that many tokens."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**{**QWEN3, "num_hidden_layers": layers})
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words = {f"w{number}": number for number in range(QWEN3["vocab_size"])}  # type: ignore[call-overload]
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))


def load(method: str, folder: Path) -> workers.Run:
    import torch

    def prompts(request: dict[str, Any]) -> list[list[int]]:
        chance = torch.Generator().manual_seed(1)
        shape = (request["prompts"], request["length"])
        rows: list[list[int]] = torch.randint(100, 150_000, shape, generator=chance).tolist()
        return rows

    if method == "transformers":
        from transformers import AutoModelForCausalLM

        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        theirs.generation_config.eos_token_id = None

        def run(request: dict[str, Any]) -> dict[str, Any]:
            ids = torch.tensor(prompts(request))
            with torch.inference_mode():
                found = theirs.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=request["new"],
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=0,
                )
            return {"ids": [row[ids.shape[1] :] for row in found.tolist()]}

        return run
    from uertool.loading.registry import load_model
    from uertool.models.states import make_incremental

    loaded = load_model(folder, heads=("lm",), device="cpu")
    precision = "int8" if method.endswith("int8") else "native"
    model = make_incremental(loaded.model, precision=precision, release=True)  # type: ignore[arg-type]

    def run_own(request: dict[str, Any]) -> dict[str, Any]:
        state = model.start(prompts(request), request["new"])
        new = [state.logits.argmax(1)]
        for _ in range(request["new"] - 1):
            new.append(model.step(state, new[-1]).argmax(1))
        return {"ids": torch.stack(new, 1).tolist()}

    return run_own


def measure_speed(args: argparse.Namespace, folder: Path) -> None:
    make_qwen3(folder, args.layers)
    options = ("speed", "--folder", str(folder))
    ready = workers.usable(
        [Worker(__file__, m, args.threads, *options, peer=False) for m in METHODS]
    )
    for prompts in (1, 16):
        answers = workers.take_turns(
            ready, args.rounds, prompts=prompts, length=args.length, new=args.new_tokens
        )
        base = answers["transformers"]
        for method, found in answers.items():
            rates = [prompts * args.new_tokens / one["seconds"] for one in found]
            ratios = [b["seconds"] / one["seconds"] for one, b in zip(found, base, strict=True)]
            equal = sum(a == b for a, b in zip(found[0]["ids"], base[0]["ids"], strict=True))
            figure = {
                "method": method,
                "prompts": prompts,
                "tokens per second": round(statistics.median(rates), 1),
                "times transformers": round(statistics.median(ratios), 2),
                "same texts": f"{equal} of {prompts}",
            }
            print(json.dumps(figure), flush=True)
    for worker in ready:
        worker.close()


# -- memory ---------------------------------------------------------------------------------------


def make_llama(folder: Path, layers: int) -> int:
    """A LLaMA of 7B's sizes with random weights, a shard for each layer; returns its bytes."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models

    hidden, inner, words = (LLAMA[n] for n in ("hidden_size", "intermediate_size", "vocab_size"))
    assert isinstance(hidden, int) and isinstance(inner, int) and isinstance(words, int)
    place: dict[str, str] = {}
    total = 0

    def write(number: int, shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal total
        chance = torch.Generator().manual_seed(number)
        tensors = {
            name: (torch.randn(shape, generator=chance) * 0.02).bfloat16()
            for name, shape in shapes.items()
        }
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        place.update(dict.fromkeys(tensors, file))
        total += sum(tensor.nbytes for tensor in tensors.values())

    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes: dict[str, tuple[int, ...]] = {
            f"{prefix}{name}.weight": (hidden,)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        shapes |= {f"{prefix}self_attn.{n}_proj.weight": (hidden, hidden) for n in "qkvo"}
        shapes |= {f"{prefix}mlp.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, inner)
        write(layer, shapes)
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    write(layers, {**dict.fromkeys(tables, (words, hidden)), "model.norm.weight": (hidden,)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    config = {**LLAMA, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = {f"w{number}": number for number in range(words)}
    Tokenizer(models.WordLevel(tokens, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return total


_JOBS = {
    "load in bfloat16": "load_model(source, device='cpu', dtype='bfloat16')",
    "load in float32": "load_model(source, device='cpu')",
    "convert, not verified": "convert(source, out + '0.bin', 'uer', ConvertSettings(verify=False))",
    "convert to UER-py": "convert(source, out + '.bin', 'uer', ConvertSettings())",
    "convert back": "convert(out + '.bin', out, 'hf', ConvertSettings())",
}

_SCRIPT = """
import re, sys
import torch
from uertool.loading.registry import load_model
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

source, out = sys.argv[1:]
torch.ones(2, 2) @ torch.ones(2, 2)
before = peak()
JOB
print(peak() - before)
"""


def measure_memory(args: argparse.Namespace, folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    total = make_llama(source, args.layers)
    largest = int(LLAMA["vocab_size"]) * int(LLAMA["hidden_size"]) * 2  # type: ignore[call-overload]
    for job, code in _JOBS.items():
        made = subprocess.run(
            [sys.executable, "-c", _SCRIPT.replace("JOB", code), str(source), str(folder / "out")],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise SystemExit(f"{job}: {made.stderr}")
        peak = int(made.stdout.split()[-1])
        figure: dict[str, Any] = {
            "job": job,
            "layers": args.layers,
            "peak GB": round(peak / 1e9, 2),
        }
        if job.startswith("load"):
            weights = total * (2 if "float32" in job else 1)
            figure["times the weights"] = round(peak / weights, 2)
        else:
            figure["beyond"] = round((peak - largest) / 1e9, 2)
        print(json.dumps(figure), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--layers", type=int, help="28 for speed, 4 for memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--length", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker")
    args = parser.parse_args()
    args.layers = args.layers or (28 if args.what == "speed" else 4)
    if args.worker:
        import torch

        torch.set_num_threads(args.threads)
        workers.serve(lambda: load(args.worker, args.folder))
        return
    measure = measure_speed if args.what == "speed" else measure_memory
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        measure(args, Path(folder))


if __name__ == "__main__":
    main()
