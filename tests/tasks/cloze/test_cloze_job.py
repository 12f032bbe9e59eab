"""Guesses, scores of given words and variants of lines, on a trained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

import uertool
from tests.conftest import FIXTURES, MODELS, TEXT
from uertool.engine import batching
from uertool.engine.jobs import run_job
from uertool.errors import ConfigError, UertoolError, UsageError, VocabError
from uertool.loading.registry import LoadedModel
from uertool.tasks.cloze.job import ClozeJob
from uertool.tasks.cloze.results import ClozeSummary
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.text.readers import Line


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return uertool.load_model(MODELS / "zh-mlm-small", heads=("mlm",), device="cpu")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    text = (TEXT / "reviews_test.tsv").read_text("utf-8").splitlines()[1:40]
    return [line.split("\t")[-1] for line in text]


def log_probabilities(model: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    """Of every token at every position [length, vocab]: one row, nothing left out."""
    row = torch.tensor([list(ids)])
    with torch.inference_mode():
        assert model.model.mlm is not None
        hidden = model.model.encode(row, torch.ones_like(row))
        return model.model.mlm(hidden)[0].double().log_softmax(-1)


# -- guesses --------------------------------------------------------------------------------------


def test_guesses_are_the_best_of_the_whole_vocabulary(model: LoadedModel) -> None:
    text = "酒店的[MASK]务很[MASK]，房间也干净。"
    (result,) = model.cloze([text], topn=4)
    table = log_probabilities(model, result.ids)
    for mask in result.masks:
        best, ids = table[mask.position].topk(4)
        assert [guess.id for guess in mask.guesses] == ids.tolist()
        assert [guess.probability for guess in mask.guesses] == pytest.approx(
            best.exp().tolist(), abs=1e-5
        )


def test_a_trained_model_guesses_well(model: LoadedModel) -> None:
    (result,) = model.cloze("酒店的服[MASK]很好。")
    assert result.masks[0].guesses[0].token == "务"
    assert str(result).startswith("酒店的服[MASK]很好。  务 ")


@pytest.mark.parametrize("ratio", [None, 0.15, 1.0])
def test_batches_do_not_change_what_is_found(
    model: LoadedModel, lines: list[str], ratio: float | None
) -> None:
    one = model.cloze(lines, mask_ratio=ratio, batch_size=1, topn=3)
    many = model.cloze(lines, mask_ratio=ratio, batch_size=64, topn=3)
    assert [result.line for result in many] == list(range(len(lines)))
    for first, second in zip(one, many, strict=True):
        assert first.ids == second.ids
        for left, right in zip(first.masks, second.masks, strict=True):
            assert (left.position, left.label, left.rank) == (
                right.position,
                right.label,
                right.rank,
            )
            assert [g.probability for g in left.guesses] == pytest.approx(
                [g.probability for g in right.guesses], abs=1e-5
            )


def test_the_last_layer_at_masks_only_equals_the_whole_layer(
    model: LoadedModel, lines: list[str]
) -> None:
    for result in model.cloze(lines[:8], mask_ratio=0.2, topn=1):
        table = log_probabilities(model, result.ids)
        for mask in result.masks:
            expected = table[mask.position, mask.label_id or 0].exp()
            assert mask.probability == pytest.approx(float(expected), abs=1e-5)


def test_lines_without_masks_keep_their_place(model: LoadedModel) -> None:
    found = model.cloze(["今天很好", "", "😀", "今天很好"])
    assert [result.reason for result in found] == [None, "blank", "no known token", None]
    assert [len(result.masks) for result in found] == [1, 0, 0, 1]


def test_the_summary_counts_what_was_right(model: LoadedModel, lines: list[str]) -> None:
    summary = ClozeSummary()
    found = [*model.cloze(lines, topn=5), *model.cloze(["[MASK]天", "", "天" * 300])]
    for result in found:
        summary.add(result)
    known = [m for r in found for m in r.masks if m.rank is not None]
    assert (summary.lines, summary.masks) == (len(lines) + 3, len(lines) + 2)
    assert summary.known == len(known)
    assert summary.right == sum(m.label == m.guesses[0].token for m in known)
    assert summary.among_best == sum(m.label in [g.token for g in m.guesses] for m in known)
    assert summary.unmasked == {"blank": 1}
    assert summary.cut >= 1


# -- given words ----------------------------------------------------------------------------------


def naive_score(model: LoadedModel, before: str, word: str, after: str, order: str) -> float:
    """The chain rule by hand: one token after the other, each time a whole pass over the line."""
    tokenizer = model.tokenizer
    assert tokenizer.mask_id is not None
    start = [*tokenizer.prefix_ids, *tokenizer.encode(before)]
    wanted = tokenizer.encode(word)
    end = [*tokenizer.encode(after), *tokenizer.suffix_ids]
    filled: dict[int, int] = {}
    total = 0.0
    while len(filled) < len(wanted):
        middle = [filled.get(n, tokenizer.mask_id) for n in range(len(wanted))]
        table = log_probabilities(model, [*start, *middle, *end])
        open_scores = {
            n: float(table[len(start) + n, token])
            for n, token in enumerate(wanted)
            if n not in filled
        }
        n = (
            min(open_scores)
            if order == "left-to-right"
            else max(open_scores, key=open_scores.__getitem__)
        )
        total += open_scores[n]
        filled[n] = wanted[n]
    return total


@pytest.mark.parametrize("order", ["left-to-right", "most-certain"])
@pytest.mark.parametrize("masks", [1, 2], ids=["one mask", "two masks are one place"])
def test_words_of_several_tokens_get_their_joint_probability(
    model: LoadedModel, order: str, masks: int
) -> None:
    words = ["好", "差", "不错", "一般般", "干净卫生"]
    before, after = "酒店的服务很", "，房间也干净。"
    text = f"{before}{'[MASK]' * masks}{after}"
    (result,) = model.cloze([text], targets=words, fill_order=order)
    (slot,) = result.slots
    found = {word.text: word.log_probability for word in slot.words}
    for word in words:
        expected = naive_score(model, before, word, after, order)
        assert found[word] == pytest.approx(expected, abs=1e-4)
    scores = [word.log_probability for word in slot.words]
    assert scores == sorted(scores, reverse=True)
    assert sum(word.share for word in slot.words) == pytest.approx(1.0)


def test_the_two_orders_are_two_ways_to_fill(model: LoadedModel) -> None:
    text, words = "酒店的服务很[MASK]。", ["干净卫生", "一般般", "差劲得很"]
    one, two = (
        {
            word.text: word.log_probability
            for word in model.cloze([text], targets=words, fill_order=order)[0].slots[0].words
        }
        for order in ("left-to-right", "most-certain")
    )
    assert one != pytest.approx(two, abs=1e-3)


def test_every_place_is_scored_by_itself_while_the_others_stay_masked(model: LoadedModel) -> None:
    (result,) = model.cloze(["很[MASK]，也很[MASK]。"], targets=["好", "不错"])
    first, second = result.slots
    assert (first.start, first.stop, second.start, second.stop) == (2, 3, 6, 7)
    scores = {word.text: word.log_probability for word in second.words}
    assert scores["不错"] == pytest.approx(
        two_masks_by_hand(model, "很", "，也很", "。", "不错"), abs=1e-4
    )


def two_masks_by_hand(model: LoadedModel, a: str, b: str, c: str, word: str) -> float:
    """The score of a word of two tokens in the second of two masks."""
    tokenizer = model.tokenizer
    mask = tokenizer.mask_id or 0
    start = [*tokenizer.prefix_ids, *tokenizer.encode(a), mask, *tokenizer.encode(b)]
    end = [*tokenizer.encode(c), *tokenizer.suffix_ids]
    one, two = tokenizer.encode(word)
    first = log_probabilities(model, [*start, mask, mask, *end])[len(start), one]
    second = log_probabilities(model, [*start, one, mask, *end])[len(start) + 1, two]
    return float(first + second)


def test_scores_do_not_depend_on_batches(model: LoadedModel, lines: list[str]) -> None:
    texts = [f"{line[:20]}[MASK]" for line in lines[:12]]
    one = model.cloze(texts, targets="好，不错、很差", batch_size=1)
    many = model.cloze(texts, targets="好，不错、很差", batch_size=12)
    for first, second in zip(one, many, strict=True):
        left = {word.text: word.log_probability for word in first.slots[0].words}
        right = {word.text: word.log_probability for word in second.slots[0].words}
        assert left == pytest.approx(right, abs=1e-4)
        assert set(left) == {"好", "不错", "很差"}


def test_a_word_that_cannot_be_spelled_is_named(model: LoadedModel) -> None:
    with pytest.raises(VocabError, match="cannot spell '晔'"):
        model.cloze(["[MASK]"], targets=["好", "晔"])


# -- variants -------------------------------------------------------------------------------------


def test_variants_never_keep_the_masked_token_and_change_nothing_else(model: LoadedModel) -> None:
    text = "我的iPhone  拍了晔照😀，Tencent很好。"
    found = model.cloze([text], augment=60)
    assert [result.variant for result in found] == list(range(1, 61))
    spans = ClozeJob(model, ClozeSettings(augment=1))._masker.spans(text)
    assert spans is not None
    for result in found:
        (place,) = (n for n, i in enumerate(result.ids) if i == model.tokenizer.mask_id)
        start, stop = spans[place - 1]
        assert result.filled is not None
        assert result.filled.startswith(text[:start])
        assert result.filled.endswith(text[stop:])
        drawn = result.filled[start : len(result.filled) - len(text[stop:])]
        assert drawn
        assert drawn != text[start:stop].lower()
        assert "##" not in drawn
        assert "[" not in drawn


def test_a_piece_that_goes_on_is_replaced_by_one_that_does(model: LoadedModel) -> None:
    pieces = model.tokenizer.tokenize("tencentqqgames")
    for result in model.cloze(["tencentqqgames"], augment=20, mask_ratio=1.0):
        assert result.filled is not None
        found = model.tokenizer.tokenize(result.filled)
        assert " " not in result.filled
        assert found != pieces


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_variants_are_the_same_for_a_seed_whatever_the_batch(
    model: LoadedModel, lines: list[str], batch_size: int
) -> None:
    def filled(**settings: object) -> list[str | None]:
        return [r.filled for r in model.cloze(lines[:10], augment=3, **settings)]

    expected = filled(batch_size=8, seed=5)
    assert filled(batch_size=batch_size, seed=5) == expected
    assert filled(batch_size=8, seed=6) != expected


def test_variants_of_a_shard_are_those_of_the_whole(model: LoadedModel, lines: list[str]) -> None:
    """What is drawn hangs on the line's number, not on what was read before it."""
    job = ClozeJob(model, ClozeSettings(augment=2))
    numbered = [Line(n, text) for n, text in enumerate(lines[:9])]
    whole = {(r.line, r.variant): r.filled for r in run_job(job, numbered)}
    part = {(r.line, r.variant): r.filled for r in run_job(job, numbered[1::3])}
    assert part == {key: whole[key] for key in part}
    assert len(part) == 6


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_tempered_probabilities_of_the_best(
    model: LoadedModel, temperature: float
) -> None:
    text, draws = "酒店的服务很好。", 1500
    found = model.cloze([text], augment=draws, mask_word="好", topn=4, temperature=temperature)
    counts = Counter((result.filled or "")[6] for result in found)
    table = log_probabilities(model, found[0].ids)[7].clone()
    table[model.tokenizer.encode("好")[0]] = -torch.inf
    tokens = model.tokenizer.vocab.tokens
    pieces = [n for n, token in enumerate(tokens) if token.startswith("##")]
    table[[*pieces, *model.tokenizer.vocab.special_ids]] = -torch.inf
    scores, ids = table.topk(4)
    expected = (scores / temperature).softmax(-1).tolist()
    assert set(counts) <= {tokens[i] for i in ids.tolist()}
    for index, share in zip(ids.tolist(), expected, strict=True):
        spread = 4.5 * (share * (1 - share) / draws) ** 0.5
        assert counts[tokens[index]] / draws == pytest.approx(share, abs=spread)


def test_written_masks_are_filled_too(model: LoadedModel) -> None:
    for result in model.cloze(["Hi，[MASK] [MASK]好"], augment=5):
        assert result.filled is not None
        assert result.filled.startswith("Hi，")
        assert result.filled.endswith("好")
        assert "[MASK]" not in result.filled


# -- memory, settings, models that cannot ---------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved(
    model: LoadedModel, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.cloze(lines[:16])
    encode = model.model.encode
    sizes: list[int] = []

    def small(ids: torch.Tensor, segs: torch.Tensor, **more: object) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(ids, segs, **more)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(model.model, "encode", small)
    said: list[str] = []
    numbered = [Line(n, text) for n, text in enumerate(lines[:16])]
    job = ClozeJob(model, ClozeSettings())
    found = list(run_job(job, numbered, on_notice=said.append))
    assert [r.ids for r in found] == [r.ids for r in expected]
    assert [r.masks[0].guesses[0].id for r in found] == [r.masks[0].guesses[0].id for r in expected]
    assert max(sizes) > 4
    assert said
    assert "did not fit in memory" in said[0]


def test_lines_are_tokenized_in_the_background(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    seen: set[str] = set()
    job = ClozeJob(model, ClozeSettings())
    encode = job.encode

    def watched(items: list[Line]) -> list[batching.Encoded]:
        seen.add(threading.current_thread().name)
        return encode(items)

    monkeypatch.setattr(job, "encode", watched)
    list(run_job(job, [Line(0, "今天")]))
    assert seen == {"uertool-encode"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"topn": 0},
        {"seq_length": 0},
        {"batch_size": 0},
        {"augment": -1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"augment": 1, "targets": ("好",)},
        {"targets": ("好", " ")},
        {"fill_order": "backwards"},
        {"mask_words": "好"},
        {"mask_ratio": 2.0},
    ],
    ids=str,
)
def test_invalid_settings_are_refused(model: LoadedModel, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        model.cloze(["今天"], **wrong)


def test_an_unknown_setting_is_refused_with_the_nearest_name(model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="`topm`. Perhaps `topn` is meant"):
        model.cloze(["今天"], topm=3)


def test_more_tokens_than_positions_are_refused(model: LoadedModel) -> None:
    rows = model.config.max_seq_length
    with pytest.raises(UsageError, match=f"has {rows} rows"):
        model.cloze(["今天"], seq_length=rows + 1)
    (result,) = model.cloze(["天" * (rows + 50)], seq_length=rows)
    assert result.was_cut
    assert len(result.ids) == rows


@pytest.mark.parametrize(
    "load",
    [
        lambda: uertool.load_model(MODELS / "zh-lm-small"),
        lambda: uertool.load_model(FIXTURES / "bert-classifier-modular/model.bin"),
    ],
    ids=["language model", "classifier"],
)
def test_a_model_without_mlm_head_is_named(load: Callable[[], LoadedModel]) -> None:
    with pytest.raises(ConfigError, match="has no MLM head"):
        load().cloze(["今天[MASK]"])


def test_every_expected_failure_is_an_uertool_error(model: LoadedModel) -> None:
    with pytest.raises(UertoolError):
        model.cloze(["今天"], seq_length=1)
