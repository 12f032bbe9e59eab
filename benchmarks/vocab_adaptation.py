"""Quality of a model right after its vocabulary was replaced, by initialization of the new rows.

    python benchmarks/vocab_adaptation.py [--words 4000] [--lines 300] [--steps 200] [--json]

The trained model of tests/data/models gets two vocabularies with `uertool vocab adapt`:

- words: the most frequent words of two to four characters in tests/data/text, which the model has
  never seen as tokens, added to all of its characters. Text is split into the longest known words.
- google: the 21,128 entries of BERT-base Chinese, of which the model's own are a part.

On lines that the model was not trained on every eighth token is masked, one at a time. Figures:
how often the masked token is ranked first and among the ten best, apart for tokens that the old
vocabulary has and for new ones; how often a masked new token is the first of all new ones, which
shows whether their rows are meaningful; and the pseudo-perplexity of a character (Salazar et al.
2020, arXiv 1910.14659, with the masked tokens as a sample): exp of the mean of -log p over all
characters of the masked tokens, which can be compared between vocabularies.

With --steps every adapted model of the first vocabulary is also trained for as many steps on the
text that the words are from, and scored again: what a better start is worth.

The vectors for --init similar are made here, of the same text: positive pointwise mutual
information of words within four places, and its largest singular vectors.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uertool.loading.registry import LoadedModel, load_model
from uertool.tasks.vocab.adaptation import adapt_vocab
from uertool.tasks.vocab.settings import AdaptSettings, BuildSettings
from uertool.text.vocab import Vocab

TESTS = Path(__file__).parents[1] / "tests"
METHODS = ("mean-of-pieces", "similar", "normal", "zero")
LONGEST = 4
WINDOW = 4
BATCH = 64
#: Places for a text within the 128 of the model.
LENGTH = 62


@dataclass(frozen=True)
class Masked:
    """A text with one token masked: its ids, the place, and the characters of the token."""

    ids: list[int]
    place: int
    answer: int
    characters: int
    new: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=TESTS / "data" / "models" / "zh-mlm-small")
    parser.add_argument("--words", type=int, default=4000, help="words of the first vocabulary")
    parser.add_argument("--lines", type=int, default=300, help="lines to mask tokens in")
    parser.add_argument("--corpus-lines", type=int, default=12_000, help="lines to find words in")
    parser.add_argument("--steps", type=int, default=0, help="steps of training afterwards")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for figures in measure(arguments):
        if arguments.json:
            print(json.dumps(figures, ensure_ascii=False), flush=True)
        else:
            print(
                "{vocabulary:7} {init:15} rows: {copied:6} copied {composed:5} composed "
                "{drawn:5} drawn | old tokens: first {old_first:5.1%} ten {old_ten:5.1%} | "
                "new tokens: first {new_first:5.1%} ten {new_ten:5.1%}, of the new ones first "
                "{among_first:5.1%} ten {among_ten:5.1%} | all: first {first:5.1%} "
                "| perplexity of a character {perplexity:8.1f}".format(**figures),
                flush=True,
            )


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    old = Vocab.load(arguments.model / "vocab.txt")
    corpus = list(itertools.islice(corpus_lines(), arguments.corpus_lines))
    texts = held_out(arguments.lines)
    words = frequent_words(corpus, arguments.words)
    # Words first, so that no row stays in its place.
    special = [old.tokens[index] for index in sorted(old.special_ids)]
    rest = [token for token in old.tokens if token not in set(special)]
    vocabularies = {
        "words": [*special, *words, *rest],
        "google": Vocab.load(TESTS / "data" / "text" / "google_zh_vocab.txt").tokens,
    }
    model = load_model(arguments.model, device="cpu")
    yield {
        "vocabulary": "old",
        "init": "before",
        **dict.fromkeys(("composed", "drawn"), 0),
        "copied": len(old),
        **score(model, masked_places(texts, old, old), old, old),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, tokens in vocabularies.items():
            vocab = Path(folder) / f"{name}.txt"
            vocab.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
            new = Vocab.load(vocab)
            places = masked_places(texts, new, old)
            vectors = Path(folder) / f"{name}.vectors"
            write_vectors(vectors, corpus, new)
            for init in METHODS:
                output = Path(folder) / f"{name}-{init}"
                settings = AdaptSettings(
                    old_model_path=str(arguments.model),
                    new_model_path=output,
                    new_vocab_path=vocab,
                    init=init,
                    similar_path=vectors if init == "similar" else None,
                )
                report = adapt_vocab(settings)
                numbers = report.sides[0].numbers
                adapted = load_model(output, device="cpu")
                figures = {
                    "vocabulary": name,
                    "init": init,
                    "copied": numbers["copied"] + numbers["renamed"],
                    "composed": numbers["composed"],
                    "drawn": numbers["drawn"],
                }
                yield {**figures, **score(adapted, places, new, old)}
                if arguments.steps and name == "words":
                    train(adapted, corpus, new, arguments.steps)
                    trained = f"{init} +{arguments.steps}"
                    yield {**figures, "init": trained, **score(adapted, places, new, old)}


# -- texts and words ------------------------------------------------------------------------------


def corpus_lines() -> Iterator[str]:
    """Lines that words are found in; other ones than those that are scored."""
    yield from (TESTS / "data" / "text" / "corpus_zh.txt").read_text("utf-8").splitlines()
    for name in ("reviews_train.tsv", "emotions_train.tsv"):
        for line in (TESTS / "data" / "text" / name).read_text("utf-8").splitlines()[1:]:
            yield line.partition("\t")[2]


def held_out(count: int) -> list[str]:
    """Lines of two kinds that the model was not trained on."""
    news = (TESTS / "data" / "text" / "parallel_en_zh.tsv").read_text("utf-8").splitlines()
    posts = (TESTS / "data" / "text" / "emotions_dev.tsv").read_text("utf-8").splitlines()[1:]
    pairs = zip(
        (line.split("\t")[-1] for line in news),
        (line.partition("\t")[2] for line in posts),
        strict=False,
    )
    return [line for pair in pairs for line in pair if len(line) > 15][:count]


def frequent_words(lines: Sequence[str], count: int) -> list[str]:
    """Words of two to four Chinese characters, by a trained unigram model's choice."""
    from uertool.tasks.vocab.subwords import train_vocab

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
        built = train_vocab([path], BuildSettings(model="unigram", vocab_size=8000 + 2 * count))
    words = (token.removeprefix("\u2581") for token in built.tokens)
    chinese = (w for w in words if 2 <= len(w) <= LONGEST and all("一" <= c <= "鿿" for c in w))
    return list(itertools.islice(dict.fromkeys(chinese), count))


def cut(text: str, vocab: Vocab) -> list[str]:
    """The longest known words from the left."""
    found = []
    place = 0
    text = "".join(text.lower().split())
    while place < len(text):
        ends = range(min(len(text), place + LONGEST), place + 1, -1)
        end = next((e for e in ends if text[place:e] in vocab), place + 1)
        found.append(text[place:end])
        place = end
    return found


def masked_places(texts: Sequence[str], vocab: Vocab, old: Vocab) -> list[Masked]:
    """Every eighth known token of every text, masked."""
    found = []
    assert vocab.cls_id is not None and vocab.sep_id is not None and vocab.mask_id is not None
    for number, text in enumerate(texts):
        tokens = cut(text, vocab)[:LENGTH]
        ids = [vocab.cls_id, *(vocab.id(token) for token in tokens), vocab.sep_id]
        for place in range(number % 8, len(tokens), 8):
            if tokens[place] not in vocab:
                continue
            shown = list(ids)
            shown[place + 1] = vocab.mask_id
            token = tokens[place]
            found.append(Masked(shown, place + 1, ids[place + 1], len(token), token not in old))
    return found


# -- figures --------------------------------------------------------------------------------------


def score(
    model: LoadedModel, places: Sequence[Masked], vocab: Vocab, old: Vocab
) -> dict[str, float]:
    """Accuracies and pseudo-perplexity over masked places."""
    new_ones = torch.tensor([token not in old for token in vocab.tokens])
    ranks: list[int] = []
    among: list[int] = []
    losses: list[float] = []
    order = sorted(range(len(places)), key=lambda number: len(places[number].ids))
    by_number: dict[int, tuple[int, int, float]] = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        length = max(len(places[number].ids) for number in part)
        ids = torch.zeros(len(part), length, dtype=torch.int64)
        segs = torch.zeros_like(ids)
        for row, number in enumerate(part):
            own = places[number].ids
            ids[row, : len(own)] = torch.tensor(own)
            segs[row, : len(own)] = 1
        at = torch.tensor([[places[number].place] for number in part])
        with torch.inference_mode():
            hidden = model.model.encode(ids, segs, positions=at)
            assert isinstance(hidden, torch.Tensor) and model.model.mlm is not None
            logits = model.model.mlm(hidden[:, 0]).float()
        answers = torch.tensor([places[number].answer for number in part])
        right = logits.gather(1, answers[:, None])
        # Of equal ones the lower id comes first, as with argmax.
        before = torch.arange(logits.shape[1]) < answers[:, None]
        better = (logits > right) | ((logits == right) & before)
        rank, own_rank = better.sum(1), (better & new_ones).sum(1)
        loss = torch.logsumexp(logits, 1) - right[:, 0]
        for row, number in enumerate(part):
            by_number[number] = (int(rank[row]), int(own_rank[row]), float(loss[row]))
    for number in range(len(places)):
        rank_, own_, loss_ = by_number[number]
        ranks.append(rank_)
        losses.append(loss_)
        if places[number].new:
            among.append(own_)
    characters = sum(place.characters for place in places)
    figures = {
        "places": float(len(places)),
        "first": share(ranks, 1),
        "among_first": share(among, 1),
        "among_ten": share(among, 10),
        "perplexity": math.exp(sum(losses) / characters),
    }
    for kind, new in (("old", False), ("new", True)):
        own = [rank for rank, place in zip(ranks, places, strict=True) if place.new == new]
        figures |= {f"{kind}_first": share(own, 1), f"{kind}_ten": share(own, 10)}
    return figures


def share(ranks: Sequence[int], best: int) -> float:
    return sum(rank < best for rank in ranks) / len(ranks) if ranks else math.nan


# -- training -------------------------------------------------------------------------------------


def train(model: LoadedModel, lines: Sequence[str], vocab: Vocab, steps: int) -> None:
    """Masked-language training: 15% of the tokens, batches of 32 texts, AdamW."""
    assert vocab.cls_id is not None and vocab.sep_id is not None and vocab.mask_id is not None
    chance = random.Random(7)
    network = model.model
    assert network.mlm is not None
    network.mlm.linear_2.weight = network.embedding.word.embedding.weight  # stays tied
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4)
    for _ in range(steps):
        rows = []
        for line in chance.sample(lines, 32):
            tokens = [vocab.id(token) for token in cut(line[:200], vocab) if token in vocab]
            rows.append([vocab.cls_id, *tokens[:LENGTH], vocab.sep_id])
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        segs = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        hidden_from = torch.tensor([[chance.random() < 0.15 for _ in row] for row in ids.tolist()])
        chosen = hidden_from & (segs == 1) & (ids != vocab.cls_id) & (ids != vocab.sep_id)
        hidden = network.encode(torch.where(chosen, vocab.mask_id, ids), segs)
        assert isinstance(hidden, torch.Tensor)
        loss = torch.nn.functional.cross_entropy(network.mlm(hidden[chosen]), ids[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.requires_grad_(False)


# -- vectors --------------------------------------------------------------------------------------


def write_vectors(path: Path, lines: Sequence[str], vocab: Vocab, size: int = 128) -> None:
    """Word vectors of a corpus as word2vec writes them, of words and of their characters.

    Every line is read twice, cut into words and cut into characters, so that both have neighbours.
    """
    counts: collections.Counter[str] = collections.Counter()
    readings = []
    for line in lines:
        words = [token for token in cut(line[:400], vocab) if token in vocab]
        single = [token for token in "".join(words) if token in vocab]
        readings += [words, single] if words != single else [words]
        counts.update(words)
        counts.update(single)
    kept = [word for word, count in counts.most_common(20_000) if count >= 3]
    ids = {word: number for number, word in enumerate(kept)}
    pairs: collections.Counter[tuple[int, int]] = collections.Counter()
    for tokens in readings:
        known = [ids.get(token, -1) for token in tokens]
        for place, first in enumerate(known):
            for other in known[place + 1 : place + 1 + WINDOW]:
                if first >= 0 and other >= 0:
                    pairs[(first, other)] += 1
                    pairs[(other, first)] += 1
    total = sum(pairs.values())
    sums = torch.zeros(len(kept), dtype=torch.float64)
    for (first, _), count in pairs.items():
        sums[first] += count
    rows, columns, values = [], [], []
    for (first, other), count in pairs.items():
        value = math.log(count * total / float(sums[first] * sums[other]))
        if value > 0:
            rows.append(first)
            columns.append(other)
            values.append(value)
    matrix = torch.sparse_coo_tensor(
        torch.tensor([rows, columns]),
        torch.tensor(values),
        (len(kept), len(kept)),
        check_invariants=False,
    ).coalesce()
    torch.manual_seed(7)
    left, spread, _ = torch.svd_lowrank(matrix, q=min(size, len(kept)), niter=4)
    vectors = left * spread.sqrt()
    with path.open("w", encoding="utf-8") as stream:
        stream.write(f"{len(kept)} {vectors.shape[1]}\n")
        for word, vector in zip(kept, vectors.tolist(), strict=True):
            stream.write(f"{word} {' '.join(f'{value:.5f}' for value in vector)}\n")


if __name__ == "__main__":
    main()
