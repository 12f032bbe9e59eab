"""Rules on scores, and cuts before sampling, compute what transformers computes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from scipy import stats
from torch import Tensor
from transformers.generation import logits_process

from uertool.errors import UsageError
from uertool.tasks.generation.logits import (
    ForbiddenWords,
    ForcedToken,
    MinNewTokens,
    NoRepeatNgram,
    RepetitionPenalty,
    Rule,
    apply_rules,
)
from uertool.tasks.generation.sampling import Sampling, uniform
from uertool.tasks.generation.settings import Decoding

pytestmark = pytest.mark.slow

VOCAB = 40


@dataclass
class Row:
    """A text in progress."""

    context: list[int]
    length: int
    room: int = 10


def scores(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def contexts(rows: int = 3, length: int = 12) -> Tensor:
    # Few different tokens, so that n-grams repeat.
    return torch.randint(0, 4, (rows, length), generator=torch.Generator().manual_seed(1))


PAIRS: list[tuple[Rule, transformers.LogitsProcessor]] = [
    (RepetitionPenalty(1.3), logits_process.RepetitionPenaltyLogitsProcessor(1.3)),
    (RepetitionPenalty(0.7), logits_process.RepetitionPenaltyLogitsProcessor(0.7)),
    *((NoRepeatNgram(n), logits_process.NoRepeatNGramLogitsProcessor(n)) for n in (1, 2, 3)),
    (NoRepeatNgram(13), logits_process.NoRepeatNGramLogitsProcessor(13)),
    (
        ForbiddenWords([[7], [2, 9], [3, 1, 11]]),
        logits_process.NoBadWordsLogitsProcessor([[7], [2, 9], [3, 1, 11]], eos_token_id=39),
    ),
    (
        MinNewTokens(5, [3, 8]),
        logits_process.MinNewTokensLengthLogitsProcessor(8, 5, [3, 8], device="cpu"),
    ),
    (
        MinNewTokens(4, [3, 8]),
        logits_process.MinNewTokensLengthLogitsProcessor(8, 4, [3, 8], device="cpu"),
    ),
]


@pytest.mark.parametrize(("rule", "judge"), PAIRS)
def test_a_rule_is_that_of_transformers(rule: Rule, judge: transformers.LogitsProcessor) -> None:
    ids, given = contexts(), scores()
    rows = [Row(row, length=4) for row in ids.tolist()]
    before = given.clone()
    found = apply_rules([rule], given, rows)
    assert torch.equal(found, judge(ids, before.clone()))
    assert torch.equal(given, before)  # the model's own scores are needed later


def test_a_forced_token_is_the_first_or_the_last() -> None:
    first, last = ForcedToken(6), ForcedToken(7, last=True)
    rows = [Row([1], length=0), Row([1, 2], length=1), Row([1] * 10, length=9)]
    chosen = apply_rules([first, last], scores(), rows).argmax(-1).tolist()
    free = scores().argmax(-1).tolist()
    assert chosen == [6, free[1], 7]


# -- cuts -----------------------------------------------------------------------------------------


def cut_by(**settings: Any) -> Sampling:
    """Sampling with these cuts only."""
    return Sampling(Decoding(**{"top_k": 0, **settings}))


CUTS: list[tuple[Sampling, list[transformers.LogitsProcessor]]] = [
    (cut_by(temperature=0.7), [logits_process.TemperatureLogitsWarper(0.7)]),
    (cut_by(top_k=5), [logits_process.TopKLogitsWarper(5)]),
    (cut_by(top_k=100), []),
    (cut_by(top_p=0.8), [logits_process.TopPLogitsWarper(0.8)]),
    (cut_by(top_p=0.0001), [logits_process.TopPLogitsWarper(0.0001)]),
    (cut_by(top_p=1.0), []),
    (cut_by(min_p=0.1), [logits_process.MinPLogitsWarper(0.1)]),
    (cut_by(typical=0.7), [logits_process.TypicalLogitsWarper(0.7)]),
    (
        cut_by(temperature=1.5, top_k=20, top_p=0.9),
        [
            logits_process.TemperatureLogitsWarper(1.5),
            logits_process.TopKLogitsWarper(20),
            logits_process.TopPLogitsWarper(0.9),
        ],
    ),
]


@pytest.mark.parametrize(("sampling", "judges"), CUTS)
def test_a_cut_is_that_of_transformers(
    sampling: Sampling, judges: list[transformers.LogitsProcessor]
) -> None:
    expected = scores(6)
    for judge in judges:
        expected = judge(contexts(6), expected)
    cut, ids = sampling.cut(scores(6))
    found = cut if ids is None else torch.full_like(expected, float("-inf")).scatter(1, ids, cut)
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1))


# -- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling",
    [cut_by(), cut_by(temperature=0.8, top_k=12), cut_by(top_p=0.9), cut_by(typical=0.9)],
)
def test_tokens_come_as_often_as_the_distribution_says(sampling: Sampling) -> None:
    draws = 20_000
    row = scores(1) * 0.5
    cut, ids = sampling.cut(row)
    exact = cut.double().softmax(-1)[0]
    if ids is not None:
        exact = torch.zeros(VOCAB, dtype=torch.float64).scatter(0, ids[0], exact)
    uniforms = [uniform(3, line, 0, 0) for line in range(draws)]
    drawn = Counter(sampling.draw(row.expand(draws, -1), uniforms).tolist())
    possible = [token for token in range(VOCAB) if exact[token] > 0]
    assert set(drawn) <= set(possible)
    expected = [draws * float(exact[token]) for token in possible]
    result = stats.chisquare([drawn[token] for token in possible], expected)
    assert result.pvalue > 0.001


@pytest.mark.parametrize("spread", [0.01, 3.0, 9.0])
@pytest.mark.parametrize("more", [{}, {"min_p": 0.02}, {"typical": 0.8}, {"temperature": 0.6}])
def test_a_large_vocabulary_need_not_be_sorted(spread: float, more: dict[str, float]) -> None:
    sampling = cut_by(top_p=0.9, **more)
    given = torch.randn(24, 5000, generator=torch.Generator().manual_seed(2)) * spread
    uniforms = [uniform(1, row, 0, 0) for row in range(24)]
    cut, ids = sampling.cut(given)
    assert ids is not None
    cumulative = cut.double().softmax(-1).cumsum(-1)
    column = torch.searchsorted(cumulative, torch.tensor(uniforms).double()[:, None])
    expected = ids.gather(1, column)[:, 0]
    assert torch.equal(sampling.draw(given, uniforms), expected)
    mixed = torch.cat([given[:1] * 0.001, given[1:]])  # one flat row among the others
    assert torch.equal(sampling.draw(mixed, uniforms)[1:], expected[1:])


def test_random_numbers_are_even_and_of_their_arguments_only() -> None:
    numbers = [uniform(7, line, number, step) for line in range(10) for number in range(10)
               for step in range(100)]  # fmt: skip
    assert stats.kstest(numbers, "uniform").pvalue > 0.001
    assert len(set(numbers)) == len(numbers)
    assert uniform(7, 3, 2, 1) == uniform(7, 3, 2, 1) != uniform(8, 3, 2, 1)
    assert abs(stats.pearsonr(numbers[:-1], numbers[1:]).statistic) < 0.05


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_range_are_possible_tokens(number: float) -> None:
    given = torch.full((1, VOCAB), float("-inf"))
    given[0, [4, 9]] = 0.0
    assert cut_by().draw(given, [number]).item() == (4 if number == 0.0 else 9)
    assert cut_by(top_k=2).draw(given, [number]).item() in (4, 9)


@pytest.mark.parametrize("sampling", [cut_by(temperature=0), cut_by(top_k=1)])
def test_nothing_is_random_without_temperature(sampling: Sampling) -> None:
    assert sampling.settings.deterministic
    assert torch.equal(sampling.draw(scores(), [0.9] * 3), scores().argmax(-1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temperature": -1.0}, "Invalid `temperature`: -1.0 .must be"),
        ({"temperature": float("nan")}, "Invalid `temperature`: nan .must be"),
        ({"top_p": 1.5}, "Invalid `top_p`: 1.5 .must be"),
        ({"top_p": -0.1}, "Invalid `top_p`: -0.1 .must be"),
        ({"top_k": -1}, "Invalid `top_k`: -1 .must be"),
        ({"min_p": 2.0}, "Invalid `min_p`: 2.0 .must be"),
        ({"typical": 1.1}, "Invalid `typical`: 1.1 .must be"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cut_by(**wrong)
