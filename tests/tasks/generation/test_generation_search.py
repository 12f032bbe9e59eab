"""Greedy and beam search give transformers' texts and scores, of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIXTURES
from tests.tasks.generation import peers
from uertool import Model, load_model
from uertool.cli.app import main
from uertool.errors import UsageError
from uertool.tasks.generation.job import Generated
from uertool.tasks.generation.settings import Decoding

pytestmark = pytest.mark.slow

#: Several stop tokens, so that texts of random weights do end.
STOP = [peers.END, *range(10, len(peers.VOCAB), 7)]
STOP_TOKENS = [peers.VOCAB[index] for index in STOP]
NEW = 12


class Pair:
    """A model of transformers and the same one here."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.theirs = peers.make(kind, folder)
        self.ours: Model = load_model(folder, heads=("lm",), device="cpu")
        self.decoder = self.ours.config.decoder is not None

    def expected(self, text: Generated, **settings: Any) -> tuple[list[list[int]], list[float]]:
        """New ids, and scores of beams, for the prompt that a text was made from."""
        ids = torch.tensor([text.prompt_ids])
        found = self.theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=STOP,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
        start = 1 if self.decoder else ids.shape[1]
        new = [_to_the_end(sequence[start:]) for sequence in found.sequences.tolist()]
        scores = getattr(found, "sequences_scores", None)
        return new, [] if scores is None else scores.tolist()


def _to_the_end(ids: list[int]) -> list[int]:
    ends = [place for place, index in enumerate(ids) if index in STOP]
    return ids[: ends[0] + 1] if ends else ids


@pytest.fixture(scope="module", params=peers.KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp(request.param))


RULES = {"repetition_penalty": 1.4, "no_repeat_ngram": 2, "min_new_tokens": 3}
THEIR_RULES = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3}


@pytest.mark.parametrize("rules", [False, True], ids=["plain", "rules"])
def test_greedy_texts_are_those_of_transformers(pair: Pair, rules: bool) -> None:
    found = pair.ours.generate(
        peers.texts(8),
        greedy=True,
        max_new_tokens=NEW,
        stop_token=STOP_TOKENS,
        **(RULES if rules else {}),
    )
    for (text,) in found:
        new, _ = pair.expected(text, **(THEIR_RULES if rules else {}))
        assert list(text.ids) == new[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length_penalty": 2.0},
        {"early_stopping": True},
        {"early_stopping": "never", "length_penalty": 0.5},
        RULES,
    ],
    ids=["plain", "long", "early", "never", "rules"],
)
def test_beams_have_the_texts_and_scores_of_transformers(
    pair: Pair, settings: dict[str, Any]
) -> None:
    found = pair.ours.generate(
        peers.texts(8),
        beam=4,
        num_return=4,
        max_new_tokens=NEW,
        stop_token=STOP_TOKENS,
        **settings,
    )
    theirs = THEIR_RULES if settings is RULES else settings
    for texts in found:
        new, scores = pair.expected(texts[0], num_beams=4, num_return_sequences=4, **theirs)
        assert [list(text.ids) for text in texts] == new
        assert [text.score for text in texts] == pytest.approx(scores, abs=1e-4)


def test_sums_of_log_probabilities_are_those_of_the_model(pair: Pair) -> None:
    ((text,),) = pair.ours.generate(
        peers.texts(3)[2], max_new_tokens=8, seed=1, temperature=1.5, stop_token=()
    )
    ids = torch.tensor([text.prompt_ids])
    new = torch.tensor([text.ids])
    with torch.no_grad():
        if pair.decoder:
            target = torch.cat([torch.tensor([[peers.START]]), new], 1)
            logits = pair.theirs(input_ids=ids, decoder_input_ids=target).logits[:, :-1]
        else:
            logits = pair.theirs(torch.cat([ids, new], 1)).logits[:, ids.shape[1] - 1 : -1]
    exact = logits.log_softmax(-1).gather(2, new[..., None]).sum()
    assert text.log_probability == pytest.approx(float(exact), abs=1e-4)


def test_one_beam_is_greedy(pair: Pair) -> None:
    beams = pair.ours.generate(peers.texts(4), beam=1, max_new_tokens=NEW)
    best = pair.ours.generate(peers.texts(4), greedy=True, max_new_tokens=NEW)
    assert [text[0].ids for text in beams] == [text[0].ids for text in best]


def test_no_beams_are_refused() -> None:
    with pytest.raises(UsageError, match="Invalid `beam`: 0 .must be at least 1"):
        Decoding(beam=0)


# -- what else is in the batch --------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "sampled": {"top_p": 0.9, "temperature": 1.3},
    "two": {"num_return": 2},
    "beams": {"beam": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_sixteen_equals_sixteen_singles(pair: Pair, way: str) -> None:
    prompts = peers.texts(16)
    common = {"max_new_tokens": NEW, "stop_token": STOP_TOKENS, **WAYS[way]}
    together = pair.ours.generate(prompts, batch_size=48, **common)
    by_ones = pair.ours.generate(prompts, batch_size=1, **common)
    few = pair.ours.generate(prompts, batch_size=5, tokens=20, **common)
    assert [[text.ids for text in row] for row in together] == [
        [text.ids for text in row] for row in by_ones
    ]
    assert [[text.ids for text in row] for row in few] == [
        [text.ids for text in row] for row in by_ones
    ]
    for row, alone in zip(together, by_ones, strict=True):
        assert [t.score for t in row] == pytest.approx([t.score for t in alone], abs=1e-4)
        assert [t.prompt.text for t in row] == [t.prompt.text for t in alone]


# -- checkpoints of UER-py, converted -------------------------------------------------------------

CONVERTED = ("gpt2-legacy", "gpt2-modular", "t5-legacy", "t5-v1_1-modular", "bart-modular")


@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_checkpoint_writes_what_transformers_writes_with_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    source = FIXTURES / name
    folder = tmp_path / "hf"
    files = [
        "--vocab-path",
        str(source / "vocab.txt"),
        "--config-path",
        str(source / "config.json"),
    ]
    assert main(["convert", "uer2hf", str(source / "model.bin"), str(folder), *files]) == 0
    ours = load_model(folder, heads=("lm",), device="cpu")
    decoder = ours.config.decoder is not None
    kind = transformers.AutoModelForSeq2SeqLM if decoder else transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(folder).eval()
    for settings in ({"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 4}):
        beams = settings["num_beams"]
        mine = {"greedy": True} if beams == 1 else {"beam": beams, "num_return": beams}
        for texts in ours.generate(["今天天气很好", "他说"], max_new_tokens=10, **mine):
            ids = torch.tensor([texts[0].prompt_ids])
            found = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=10,
                do_sample=False,
                decoder_start_token_id=5 if decoder else None,
                eos_token_id=6,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_scores=True,
                **settings,
            )
            start = 1 if decoder else ids.shape[1]
            new = [row[start:] for row in found.sequences.tolist()]
            assert [list(text.ids) for text in texts] == [
                row[: len(text.ids)] for row, text in zip(new, texts, strict=True)
            ]
            if beams > 1:
                scores = found.sequences_scores.tolist()
                assert [text.score for text in texts] == pytest.approx(scores, abs=1e-4)
