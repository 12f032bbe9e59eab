"""Neighbours by the embedding layer: the old script's, analogies, and any file of vectors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import uertool
from tests.conftest import FIXTURES
from uertool.errors import UsageError
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings
from uertool.tasks.embeddings import neighbours as module
from uertool.tasks.embeddings import word_files, word_vectors
from uertool.tasks.embeddings.export import export_words
from uertool.tasks.embeddings.neighbours import Query, nearest, neighbours
from uertool.tasks.embeddings.word_files import WordFile
from uertool.tasks.embeddings.word_vectors import WordTable, table_of

WORDS = [f"w{number}" for number in range(200)]


@pytest.fixture
def table() -> WordTable:
    rows = np.random.default_rng(4).normal(size=(200, 9)).astype(np.float32)
    return WordTable(WORDS, rows)


def expected_by(table: WordTable, word: str, by: str) -> list[tuple[str, float]]:
    """In float64, all at once."""
    rows = table.vectors.astype(np.float64)
    query = rows[table.words.index(word)]
    if by == "cosine":
        scores = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    elif by == "dot":
        scores = rows @ query
    else:
        scores = -np.linalg.norm(rows - query, axis=1)
    order = [place for place in np.argsort(-scores) if table.words[place] != word]
    sign = -1 if by == "euclidean" else 1
    return [(table.words[place], sign * scores[place]) for place in order[:6]]


@pytest.mark.parametrize("name", ["bert-legacy", "bert-modular"])
def test_neighbours_are_those_of_the_old_script(name: str) -> None:
    folder = FIXTURES / name
    table = table_of(folder / "model.bin", vocab=folder / "vocab.txt")
    words = (folder / "topn_words.txt").read_text("utf-8").split()
    text = (folder / "expected/topn_indep.txt").read_text("utf-8")
    old = {
        part.split("\n")[0]: re.findall(r"^(.*)\t(.*)$", part, re.M)
        for part in text.split("Target word: ")[1:]
    }
    for found in neighbours(table, [Query((word,)) for word in words]):
        expected = old[str(found.query)]
        assert [one.word for one in found.neighbours] == [word for word, _ in expected]
        scores = [float(score) for _, score in expected]
        np.testing.assert_allclose([one.score for one in found.neighbours], scores, atol=1e-4)


@pytest.mark.parametrize("by", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("suffix", ["memory", ".txt", ".bin"])
def test_every_measure_in_memory_and_from_files(
    table: WordTable, tmp_path: Path, by: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small blocks and few queries at a time, so that merging them is tested.
    for place in (word_files, word_vectors):
        monkeypatch.setattr(place, "ROWS", 16)
    monkeypatch.setattr(module, "_SCORES", 40)
    source = table
    if suffix != "memory":
        export_words(table, tmp_path / f"e{suffix}")
        source = WordFile(tmp_path / f"e{suffix}")
    asked = ["w3", "w199", "w77", "w3"]
    results = neighbours(source, [Query((word,)) for word in asked], topn=6, by=by)
    for word, found in zip(asked, results, strict=True):
        expected = expected_by(table, word, by)
        assert [one.word for one in found.neighbours] == [name for name, _ in expected]
        np.testing.assert_allclose(
            [one.score for one in found.neighbours], [score for _, score in expected], atol=1e-5
        )
        assert all(table.words[one.id] == one.word for one in found.neighbours)


@pytest.mark.slow
def test_analogies_are_gensims(table: WordTable, tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    export_words(table, tmp_path / "e.txt")
    gensim = KeyedVectors.load_word2vec_format(tmp_path / "e.txt")
    query = Query(("w1", "w2"), ("w3",))
    found = neighbours(table, [query], topn=5)[0]
    expected = gensim.most_similar(positive=["w1", "w2"], negative=["w3"], topn=5)
    assert [one.word for one in found.neighbours] == [word for word, _ in expected]
    np.testing.assert_allclose(
        [one.score for one in found.neighbours], [score for _, score in expected], atol=1e-5
    )
    assert str(query) == "w1 + w2 - w3"


def test_the_word_itself_is_left_out_even_where_another_is_nearer(table: WordTable) -> None:
    table.vectors[7] = table.vectors[5]  # as near as the word itself
    found = neighbours(table, [Query(("w5",))], topn=200)[0]
    names = [one.word for one in found.neighbours]
    assert names[0] == "w7"
    assert "w5" not in names
    assert len(names) == 199
    by_product = neighbours(table, [Query(("w5",))], topn=200, by="dot")[0]
    assert "w5" not in [one.word for one in by_product.neighbours]


def test_a_word_that_occurs_twice_is_not_its_own_neighbour(table: WordTable) -> None:
    words = [*WORDS[:-1], "w5"]
    found = neighbours(WordTable(words, table.vectors), [Query(("w5",))], topn=200)[0]
    assert "w5" not in [one.word for one in found.neighbours]


def test_unknown_words_are_reported_and_the_others_answered(table: WordTable) -> None:
    results = neighbours(table, [Query(("w1",)), Query(("no",)), Query(("w2",), ("no",))], topn=2)
    assert [len(found.neighbours) for found in results] == [2, 0, 0]
    assert results[1].problem == "The target word is not in the vocabulary."
    assert results[2].problem == "no: not in the vocabulary."


def test_from_python(table: WordTable, tmp_path: Path) -> None:
    model = uertool.load_model("zh-mlm-small", device="cpu")
    one, other = uertool.nearest(model, ["好", "人"], topn=3)
    assert len(one) == len(other) == 3
    assert [n.word for n in one] == [n.word for n in nearest(model, "好", topn=3)[0]]
    export_words(table, tmp_path / "e.txt")
    from_file, from_memory = nearest(tmp_path / "e.txt", "w1"), nearest(table, "w1")
    assert [n.id for n in from_file[0]] == [n.id for n in from_memory[0]]
    assert nearest(table, "w1", plus=["w2"], minus=["w3"], topn=1)
    with pytest.raises(UsageError, match="not in the vocabulary"):
        nearest(table, ["w1", "no"])
    with pytest.raises(UsageError, match="`by`: .taxi."):
        nearest(table, "w1", by="taxi")
    with pytest.raises(UsageError, match="`topn`: 0 .must be at least 1"):
        nearest(table, "w1", topn=0)


def test_words_of_byte_level_vocabularies_are_asked_and_answered_as_text(tmp_path: Path) -> None:
    folder = FIXTURES / "hf-modernbert"
    found = nearest(uertool.load_model(folder, device="cpu"), "中", topn=500)[0]
    assert "上" in {one.word for one in found}
    convert(folder, tmp_path / "uer.safetensors", "safetensors", ConvertSettings())
    again = neighbours(table_of(tmp_path / "uer.safetensors"), [Query(("中",))], topn=500)[0]
    assert again.neighbours == tuple(found)
    # Files keep the spelling of the vocabulary.
    assert "上" not in table_of(folder).words
