"""Speed of `topn dep`, compared with the padded loop of UER-py's script.

    python -m benchmarks.topn_dep [--candidates 2000] [--repeats 3] [--json]

A BERT of base size with random weights, a sentence of 12 characters, one target. The loop pads
every row to 32, runs batches of 256 through all layers and keeps gradients, as UER-py's script
does; it is timed on a part of the candidates. Medians of the repeats. Goal: 3 times the loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.features import SIZES, make_model

import uertool
from uertool.tasks.embeddings.substitutes import SubstituteSearch, SubstituteSettings

SENTENCE = "今天天气真的很好我们走吧"
TARGET = "好"
BATCH = 256
LENGTH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--old-candidates", type=int, default=256, help="of them for the loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), SIZES[arguments.size])
        for row in compare(Path(folder), arguments):
            if arguments.json:
                print(json.dumps(row), flush=True)
            else:
                print("  ".join(f"{k} {v:.6g}" if isinstance(v, float) else str(v)
                                for k, v in row.items()), flush=True)  # fmt: skip


def compare(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from transformers import AutoModel

    loaded = uertool.load_model(folder, device="cpu")
    peer = AutoModel.from_pretrained(folder).eval()
    words = [word for word in loaded.tokenizer.vocab.tokens if len(word) == 1 and word > "一"]
    words = words[: arguments.candidates]
    few = words[: arguments.old_candidates]
    settings = SubstituteSettings(batch_size=BATCH, seq_length=LENGTH)
    search = SubstituteSearch(loaded, words, settings)
    vocab = loaded.tokenizer.vocab
    ids = loaded.tokenizer.encode(SENTENCE)
    candidates = [vocab.id(word) for word in few]
    times: dict[str, list[float]] = {"uertool": [], "padded loop": []}
    ranking: list[str] = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        found = search.find(TARGET, SENTENCE)
        times["uertool"].append((time.perf_counter() - start) / len(words))
        start = time.perf_counter()
        scores = padded_loop(peer, ids, ids.index(vocab.id(TARGET)), candidates)
        times["padded loop"].append((time.perf_counter() - start) / len(few))
        ranking = [few[place] for place in np.argsort(-scores) if few[place] != TARGET]
    small = SubstituteSearch(loaded, few, settings).find(TARGET, SENTENCE)
    same = [one.word for one in small.neighbours] == ranking[: len(small.neighbours)]
    rates = {name: 1 / statistics.median(seconds) for name, seconds in times.items()}
    assert found.neighbours
    return [
        *({"what": name, "candidates/s": rate} for name, rate in rates.items()),
        {"what": "uertool / padded loop", "ratio": rates["uertool"] / rates["padded loop"]},
        {"what": "the same neighbours in the same order" if same else "OTHER NEIGHBOURS"},
    ]


def padded_loop(model: Any, ids: list[int], place: int, candidates: list[int]) -> np.ndarray:
    """The cosine of every candidate with the target, as topn_words_dep.py computes it."""
    row = torch.tensor([ids + [0] * (LENGTH - len(ids))])
    real = (torch.arange(LENGTH) < len(ids)).long()[None]
    target = model(input_ids=row, attention_mask=real).last_hidden_state[0, place].detach()
    states: list[list[float]] = []
    for start in range(0, len(candidates), BATCH):
        part = candidates[start : start + BATCH]
        batch = row.repeat(len(part), 1)
        batch[:, place] = torch.tensor(part)
        hidden = model(input_ids=batch, attention_mask=real.repeat(len(part), 1)).last_hidden_state
        states.extend(hidden[:, place].detach().numpy().tolist())
    return torch.nn.functional.cosine_similarity(target[None], torch.tensor(states)).numpy()


if __name__ == "__main__":
    main()
