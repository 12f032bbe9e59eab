"""Files of word vectors: gensim reads them, numbers are exact, odd words survive."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import FIXTURES, MODELS, TEXT
from uertool.errors import CheckpointError, InputError, OutputError, UsageError, VocabError
from uertool.loading.registry import load_model
from uertool.tasks.embeddings import word_files, word_vectors
from uertool.tasks.embeddings.export import export_words
from uertool.tasks.embeddings.settings import TableSettings
from uertool.tasks.embeddings.word_files import WordFile, escape, unescape, words_path
from uertool.tasks.embeddings.word_vectors import WordTable, table_for, table_of
from uertool.text.tokenizers.factory import make_tokenizer

ODD = ["好", "a b", "", "\u3000", "x\u00a0y", "back\\slash", "\\u0041", "\\empty", "end"]
SUFFIXES = [".txt", ".bin", ".npy", ".safetensors"]


@pytest.fixture
def table() -> WordTable:
    rows = np.random.default_rng(3).normal(0, 0.05, (len(ODD), 7)).astype(np.float32)
    return WordTable(ODD, rows, "a model")


def read(path: Path) -> tuple[list[str], np.ndarray]:
    words: list[str] = []
    rows: list[np.ndarray] = []
    for start, names, block in WordFile(path).blocks():
        assert start == len(words)
        words += names
        rows.append(block)
    return words, np.concatenate(rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_reads_back_exactly(
    table: WordTable, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (word_files, word_vectors):
        monkeypatch.setattr(place, "ROWS", 4)
    path = tmp_path / f"e{suffix}"
    report = export_words(table, path)
    assert (report.words, report.size) == (9, 7)
    assert any("escapes" in notice for notice in report.notices)
    words, rows = read(path)
    assert words == ODD
    assert np.array_equal(rows, table.vectors)
    file = WordFile(path)
    assert (len(file), file.size) == (9, 7)
    found = file.find({"a b", "end", "nowhere"})
    assert {word: row for word, (row, _) in found.items()} == {"a b": 1, "end": 8}
    assert np.array_equal(found["end"][1], table.vectors[8])


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_the_files_and_writes_the_same_bytes(
    table: WordTable, tmp_path: Path, binary: bool
) -> None:
    from gensim.models import KeyedVectors

    path = tmp_path / ("e.bin" if binary else "e.txt")
    export_words(table, path)
    found = KeyedVectors.load_word2vec_format(path, binary=binary)
    assert [unescape(word) for word in found.index_to_key] == ODD
    assert np.array_equal(found.vectors, table.vectors)
    if binary:
        found.save_word2vec_format(tmp_path / "g.bin", binary=True)
        assert (tmp_path / "g.bin").read_bytes() == path.read_bytes()
    else:
        found.save_word2vec_format(tmp_path / "g.txt")
        assert read(tmp_path / "g.txt")[0] == ODD


@pytest.mark.parametrize("name", ["bert-legacy", "bert-modular"])
def test_the_text_says_what_the_old_script_wrote(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / name
    export_words(table_of(folder / "model.bin", vocab=folder / "vocab.txt"), tmp_path / "e.txt")
    ours = (tmp_path / "e.txt").read_text("utf-8").splitlines()
    old = (folder / "expected/embeddings_head.txt").read_text("utf-8").splitlines()
    assert ours[0] == old[0]
    for line, expected in zip(ours[1:], old[1:], strict=False):
        word, *numbers = line.split(" ")
        old_word, *old_numbers = expected.split(" ")
        assert word == old_word
        values = np.array([float(n) for n in numbers], np.float32)
        assert np.array_equal(values, np.array([float(n) for n in old_numbers], np.float32))


def test_unused_and_special_words_can_be_left_out(tmp_path: Path) -> None:
    table = table_of(FIXTURES / "bert-modular/model.bin", vocab=FIXTURES / "bert-modular/vocab.txt")
    report = export_words(table, tmp_path / "e.txt", drop_unused=True)
    lines = (tmp_path / "e.txt").read_text("utf-8").splitlines()
    assert lines[0] == f"{len(lines) - 1} 32"
    assert len(lines) - 1 == report.words == len(table) - report.dropped
    words = {line.split(" ")[0] for line in lines[1:]}
    assert not [word for word in words if word.startswith(("[unused", "[PAD", "[CLS", "[MASK"))]
    assert "好" in words


def test_factorised_embeddings_small_and_projected() -> None:
    folder = FIXTURES / "albert-modular"
    small = table_of(folder / "model.bin", vocab=folder / "vocab.txt")
    large = table_of(folder / "model.bin", vocab=folder / "vocab.txt", projected=True)
    assert (small.size, large.size) == (16, 32)
    loaded = load_model(folder / "model.bin", vocab=folder / "vocab.txt", device="cpu", heads=())
    expected = loaded.model.encoder.linear(torch.from_numpy(small.vectors)).numpy()
    np.testing.assert_allclose(large.vectors, expected, atol=1e-5)
    assert np.array_equal(WordTable.of(loaded).vectors, small.vectors)
    with pytest.raises(UsageError, match="not factorised"):
        bert = FIXTURES / "bert-modular"
        table_of(bert / "model.bin", vocab=bert / "vocab.txt", projected=True)


def test_a_sentencepiece_model_is_a_vocabulary(tmp_path: Path) -> None:
    from uertool.text.vocab import Vocab

    size = len(Vocab.load(spm=TEXT / "cluecorpussmall_spm.model"))
    path = tmp_path / "model.bin"
    weight = torch.arange(size * 2, dtype=torch.float32).view(size, 2)
    torch.save({"embedding.word.embedding.weight": weight}, path)
    table = table_of(path, spm=TEXT / "cluecorpussmall_spm.model")
    assert len(table) == size
    assert table.words[5].strip("\u2581") is not None
    export_words(table, tmp_path / "e.txt")
    assert read(tmp_path / "e.txt")[0] == table.words


def test_the_tokenizer_decides_the_order_of_words(tmp_path: Path) -> None:
    spm = TEXT / "cluecorpussmall_spm.model"
    path = tmp_path / "model.bin"
    xlmr = make_tokenizer("xlmroberta", spm_model_path=spm).vocab
    torch.save({"embedding.word.embedding.weight": torch.ones(len(xlmr), 2)}, path)
    plain = TableSettings(load_model_path=str(path), spm_model_path=spm)
    named = TableSettings(load_model_path=str(path), spm_model_path=spm, tokenizer="xlmroberta")
    assert table_for(named).words == xlmr.tokens != table_for(plain).words


def test_a_vector_that_is_no_number_is_an_error(table: WordTable, tmp_path: Path) -> None:
    table.vectors[3, 2] = np.nan
    with pytest.raises(CheckpointError, match=r"1 of 9 vectors of a model.*'\\u3000'"):
        export_words(table, tmp_path / "e.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VocabError, match="21128 tokens"):
        table_of(FIXTURES / "bert-modular/model.bin", vocab=TEXT / "google_zh_vocab.txt")
    (tmp_path / "m.bin").write_bytes((FIXTURES / "bert-modular/model.bin").read_bytes())
    with pytest.raises(UsageError, match="no vocabulary"):
        table_of(tmp_path / "m.bin")


def test_a_shorter_vocabulary_leaves_the_rows_behind_it_out(tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    lines = (FIXTURES / "bert-modular/vocab.txt").read_text("utf-8").split("\n")
    vocab.write_text("\n".join(lines[:1000]) + "\n", "utf-8")
    table = table_of(FIXTURES / "bert-modular/model.bin", vocab=vocab)
    assert (len(table), table.vectors.shape) == (1000, (1000, 32))


def test_the_vocabulary_of_the_file_itself_comes_first(tmp_path: Path) -> None:
    folder = FIXTURES / "bert-modular"
    (tmp_path / "m.bin").write_bytes((folder / "model.bin").read_bytes())
    words = (folder / "vocab.txt").read_text("utf-8").split("\n")[:-1]
    (tmp_path / "vocab.txt").write_text("\n".join(reversed(words)) + "\n", "utf-8")
    table = table_of(tmp_path / "m.bin")
    assert table.words == words[::-1]
    assert export_words(table, tmp_path / "e.txt").notices == [
        f"The vocabulary {tmp_path / 'vocab.txt'}, next to the model, is used, because there is no "
        "m.vocab.txt."
    ]
    (tmp_path / "m.vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    table = table_of(tmp_path / "m.bin")
    assert (table.words, table.notes) == (words, ())


def test_a_bundled_model_brings_its_words() -> None:
    table = table_of("zh-mlm-small")
    assert table.size == 192
    assert table.words == table_of(MODELS / "zh-mlm-small").words


def test_names_that_clash_and_files_that_exist(table: WordTable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`binary`"):
        export_words(table, tmp_path / "e.npy", binary=True)
    export_words(table, tmp_path / "e.npy")
    assert words_path(tmp_path / "e.npy").name == "e.vocab.txt"
    with pytest.raises(OutputError, match="exists"):
        export_words(table, tmp_path / "e.npy")
    export_words(table, tmp_path / "e.vec", binary=True)
    assert read(tmp_path / "e.vec")[0] == ODD


# -- other people's files -------------------------------------------------------------------------


def test_files_without_a_first_line_archives_and_words_with_blanks(tmp_path: Path) -> None:
    text = "the 1 2 3\nnew york 4 5 6 \nx 7e-1 8 -9\n"
    (tmp_path / "glove.txt").write_text(text)
    with gzip.open(tmp_path / "v.txt.gz", "wb") as stream:
        stream.write(("3 3\n" + text).encode())
    for name in ("glove.txt", "v.txt.gz"):
        words, rows = read(tmp_path / name)
        assert words == ["the", "new york", "x"]
        expected = [[1, 2, 3], [4, 5, 6], [0.7, 8, -9]]
        np.testing.assert_allclose(rows, expected, rtol=1e-6)
        assert len(WordFile(tmp_path / name)) == 3
        assert list(WordFile(tmp_path / name).find({"new", "new york", "x"})) == ["new york", "x"]


def test_what_is_no_file_of_vectors_is_said(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("这里只有文字\n")
    (tmp_path / "cut.txt").write_text("2 3\na 1 2 3\nb 1 2\n")
    np.save(tmp_path / "alone.npy", np.ones((2, 2)))
    with pytest.raises(InputError, match="does not contain word vectors"):
        WordFile(tmp_path / "prose.txt")
    with pytest.raises(InputError, match=r"vector 2 \('b'\)"):
        read(tmp_path / "cut.txt")
    with pytest.raises(InputError, match="words of .* are missing"):
        WordFile(tmp_path / "alone.npy")
    with pytest.raises(InputError, match="do not exist"):
        WordFile(tmp_path / "none.txt")
    export_words(WordTable(["a", "b"], np.ones((2, 3), np.float32)), tmp_path / "e.bin")
    (tmp_path / "e.bin").write_bytes((tmp_path / "e.bin").read_bytes()[:-5])
    with pytest.raises(InputError, match="ends after 1 of 2"):
        read(tmp_path / "e.bin")


@given(st.text(max_size=12))
def test_any_word_survives_being_escaped(word: str) -> None:
    written = escape(word)
    assert written
    assert not any(char.isspace() for char in written)
    assert unescape(written) == word


@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 4], ids=["empty", "binary"])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_damaged_matrix_is_one_sentence(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"e{suffix}"
    path.write_bytes(content)
    words_path(path).write_text("a\n")
    with pytest.raises(InputError, match="cannot be read"):
        WordFile(path)


def test_words_of_a_matrix_that_are_not_text_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.zeros((1, 2), dtype=np.float32))
    (tmp_path / "e.vocab.txt").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        WordFile(tmp_path / "e.npy")
