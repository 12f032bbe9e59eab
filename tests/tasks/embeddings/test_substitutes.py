"""Neighbours within a sentence: the old script's, longer words, and targets that are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES, MODELS, fixture_folders
from uertool.errors import UsageError
from uertool.loading.registry import LoadedModel, load_model
from uertool.tasks.embeddings import substitutes as module
from uertool.tasks.embeddings.substitutes import (
    SubstituteSearch,
    SubstituteSettings,
    SubstituteSummary,
)
from uertool.text.vocab import Vocab

CASES = fixture_folders("expected/topn_dep.txt", "topn_sentences.txt")


def old_answers(folder: Path) -> list[tuple[str, str, list[tuple[str, float]], str | None]]:
    """(sentence, target, neighbours, what was said in their place) as the old script printed."""
    text = (folder / "expected/topn_dep.txt").read_text("utf-8")
    found = []
    for part in text.split("Original sentence: ")[1:]:
        sentence, target, *rest = part.rstrip("\n").split("\n")
        rows = [line.split("\t") for line in rest if "\t" in line]
        said = next((line for line in rest if "\t" not in line), None)
        pairs = [(word, float(score)) for word, score in rows]
        found.append((sentence, target.removeprefix("Target word: "), pairs, said))
    return found


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
@pytest.mark.parametrize("chunk", [4096, 7])
def test_neighbours_are_those_of_the_old_script(
    folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    loaded = load_model(
        folder / "model.bin",
        vocab=folder / "vocab.txt",
        config=folder / "config.json",
        tokenizer="space" if folder.name.startswith("word-") else "bert",
        heads=(),
        device="cpu",
    )
    named = folder / "cand_vocab.txt"
    candidates = Vocab.load(named if named.exists() else folder / "vocab.txt").tokens
    settings = SubstituteSettings(seq_length=32, batch_size=256 if chunk > 7 else 3)
    search = SubstituteSearch(loaded, candidates, settings)
    cases = old_answers(folder)
    assert len(cases) == len((folder / "topn_sentences.txt").read_text("utf-8").splitlines())
    for sentence, target, expected, said in cases:
        found = search.find(target, sentence)
        assert found.problem == said
        words = [one.word for one in found.neighbours]
        scores = [one.score for one in found.neighbours]
        np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-4)
        # Equal in order too, but for words whose scores the last digit decides.
        for word, (other, score) in zip(words, expected, strict=True):
            assert word == other or abs(scores[words.index(word)] - score) < 2e-6


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return load_model(MODELS / "zh-mlm-small", device="cpu")


SENTENCE = "今天天气很好，我们去公园玩。"


def state(loaded: LoadedModel, ids: list[int], places: slice) -> torch.Tensor:
    """The mean state at some places, through all layers without shortcuts."""
    batch = torch.tensor([ids])
    hidden = loaded.model.encode(batch, torch.ones_like(batch))
    return hidden[0, places].mean(0)


def test_longer_words_take_the_place_as_a_whole_and_count_by_their_mean(
    small: LoadedModel,
) -> None:
    words = ["公司", "家", "图书馆", "公园"]
    search = SubstituteSearch(small, words, SubstituteSettings(batch_size=2))
    found = search.find("公园", SENTENCE)
    encode = small.tokenizer.encode
    ids = encode(SENTENCE)
    start = encode("今天天气很好，我们去").__len__()
    own = state(small, ids, slice(start, start + 2))
    expected = {}
    for word in words[:3]:
        piece = encode(word)
        other = [*ids[:start], *piece, *ids[start + 2 :]]
        states = state(small, other, slice(start, start + len(piece)))
        expected[word] = torch.cosine_similarity(own, states, dim=0).item()
    assert found.position == start
    assert {one.word: pytest.approx(one.score, abs=1e-5) for one in found.neighbours} == expected
    scores = [one.score for one in found.neighbours]
    assert scores == sorted(scores, reverse=True)


def test_special_tokens_can_be_added(small: LoadedModel) -> None:
    settings = SubstituteSettings(add_special=True)
    found = SubstituteSearch(small, ["坏", "冷"], settings).find("好", SENTENCE)
    ids = small.tokenizer.with_special(small.tokenizer.encode(SENTENCE))
    assert found.position == 6
    own = state(small, ids, slice(6, 7))
    ids[6] = small.tokenizer.vocab.id("坏")
    expected = torch.cosine_similarity(own, state(small, ids, slice(6, 7)), dim=0).item()
    assert {one.word: one.score for one in found.neighbours}["坏"] == pytest.approx(
        expected, abs=1e-5
    )


def test_targets_that_cannot_be_found_are_said(small: LoadedModel) -> None:
    search = SubstituteSearch(small, ["坏"], SubstituteSettings(seq_length=8))
    said = {
        "坏": "The target word is not in the sentence.",
        "龘": "The target word is not in the vocabulary.",
        "公园": "The target word comes after the 8 tokens that are read.",
    }
    for word, problem in said.items():
        found = search.find(word, SENTENCE)
        assert (found.problem, found.neighbours) == (problem, ())
    second = SubstituteSettings(occurrence=2)
    found = SubstituteSearch(small, ["坏"], second).find("好", SENTENCE)
    assert found.problem == "The target word occurs only once in the sentence."


def test_a_target_that_occurs_twice(small: LoadedModel) -> None:
    text = "好人做好事"
    settings = [SubstituteSettings(occurrence=number) for number in (None, 1, 2)]
    first, one, two = (SubstituteSearch(small, ["坏"], s).find("好", text) for s in settings)
    assert first.remark is not None
    assert "occurs 2 times" in first.remark
    assert (one.remark, two.remark) == (None, None)
    assert first.neighbours == one.neighbours != two.neighbours
    assert (one.position, two.position) == (0, 3)


def test_candidates_that_cannot_be_spelled_or_do_not_fit_are_left_out(small: LoadedModel) -> None:
    settings = SubstituteSettings(seq_length=7)
    search = SubstituteSearch(small, ["坏", "龘", "好", "非常非常"], settings)
    found = search.find("好", SENTENCE)
    assert [one.word for one in found.neighbours] == ["坏"]
    assert (search.unknown, found.left_out) == (1, 1)


def test_results_do_not_depend_on_batches(small: LoadedModel) -> None:
    words = small.tokenizer.vocab.tokens[200:330]
    whole, cut = (
        SubstituteSearch(small, words, SubstituteSettings(batch_size=size)).find("好", SENTENCE)
        for size in (256, 9)
    )
    assert [one.word for one in whole.neighbours] == [one.word for one in cut.neighbours]
    np.testing.assert_allclose(
        [one.score for one in whole.neighbours], [one.score for one in cut.neighbours], atol=1e-5
    )


def test_a_summary_counts(small: LoadedModel) -> None:
    pairs = [("好", SENTENCE), ("坏", SENTENCE), ("好", "好好"), ("龘", "")]
    summary = SubstituteSummary()
    search = SubstituteSearch(small, ["坏", "冷"])
    for pair in pairs:
        summary.add(search.find(*pair))
    assert (summary.lines, summary.found, summary.remarked) == (4, 2, 1)
    assert sum(summary.problems.values()) == 2
    assert not summary.is_clean


def test_encoders_that_read_padding_get_it() -> None:
    folder = FIXTURES / "enc-bigru-modular"
    loaded = load_model(
        folder / "model.bin", vocab=folder / "vocab.txt", config=folder / "config.json",
        device="cpu", heads=(),
    )  # fmt: skip
    settings = SubstituteSettings(seq_length=16)
    found = SubstituteSearch(loaded, ["人", "我"], settings).find("好", "今天天气很好")
    ids = loaded.tokenizer.encode("今天天气很好")
    states = []
    for word in ("好", "人"):
        row = torch.tensor([[*ids[:5], loaded.tokenizer.vocab.id(word), *([0] * 10)]])
        states.append(loaded.model.encode(row, (row > 0).long())[0, 5])
    expected = torch.cosine_similarity(*states, dim=0).item()
    assert {one.word: one.score for one in found.neighbours}["人"] == pytest.approx(
        expected, abs=1e-5
    )


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="`occurrence`: 0"):
        SubstituteSettings(occurrence=0)


# -- candidates of the vocabulary -----------------------------------------------------------------


def test_candidates_are_whole_words_in_the_script_of_the_target(small: LoadedModel) -> None:
    everything = SubstituteSettings(topn=10_000, all_candidates=True)
    usual = SubstituteSearch(small, settings=SubstituteSettings(topn=10_000)).find("好", SENTENCE)
    found = SubstituteSearch(small, settings=everything).find("好", SENTENCE)
    words = {one.word for one in usual.neighbours}
    chinese = {w for w in small.tokenizer.vocab.tokens if len(w) == 1 and "一" <= w <= "龥"}
    assert words == chinese - {"好"}
    assert usual.compared == len(chinese)
    assert {"[MASK]", "##s"} <= {one.word for one in found.neighbours}
    assert found.compared == len(small.tokenizer.vocab.tokens)
    scores = {one.word: one.score for one in found.neighbours}
    assert all(one.score == pytest.approx(scores[one.word], abs=1e-5) for one in usual.neighbours)


def test_a_latin_target_gets_latin_words(small: LoadedModel) -> None:
    found = SubstituteSearch(small).find("iphone", "我的iphone很好")
    assert found.neighbours
    assert all(one.word.isascii() and one.word.isalpha() for one in found.neighbours)


def test_named_candidates_are_compared_as_they_are(small: LoadedModel) -> None:
    found = SubstituteSearch(small, ["##s", "cpa", "坏"]).find("好", SENTENCE)
    assert {one.word for one in found.neighbours} == {"##s", "cpa", "坏"}


def test_answers_of_byte_level_vocabularies_are_text() -> None:
    loaded = load_model(FIXTURES / "hf-modernbert", device="cpu")
    found = SubstituteSearch(loaded, settings=SubstituteSettings(topn=500)).find("中", "我在中国。")
    assert found.problem is None
    assert "上" in {one.word for one in found.neighbours}
