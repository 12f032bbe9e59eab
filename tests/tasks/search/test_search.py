"""Search: what is found is what a plain product of all rows finds, however rows are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from uertool import Whitening
from uertool.errors import InputError, OutputError
from uertool.io.vector_writer import Note, open_sink
from uertool.tasks.search import exact, vectors
from uertool.tasks.search.exact import nearest
from uertool.tasks.search.index import SavedIndex, build, difference
from uertool.tasks.search.job import Corpus
from uertool.tasks.search.lines import open_lines
from uertool.tasks.search.settings import CorpusSettings
from uertool.tasks.search.vectors import Floats, Vectors, find_files, unit_vectors


def some_rows(count: int, size: int = 16, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, size))
    rows = centres[rng.integers(0, 20, count)] + rng.standard_normal((count, size))
    return rows.astype(np.float32)


def stored(path: Path, rows: Floats, precision: str = "float32") -> Vectors:
    with open_sink(path, rows.shape[1], precision=precision) as sink:
        sink.write(rows, [Note(row, f"text {row}") for row in range(len(rows))])
    return Vectors([path])


def plain(queries: Floats, rows: Floats, topn: int) -> tuple[Floats, np.ndarray]:
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ units.T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :topn]
    return np.take_along_axis(cosines, order, axis=1), order


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_exact_search_finds_the_nearest_rows(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "BLOCK", block)
    monkeypatch.setattr(exact, "GROUP", 3)
    rows, queries = some_rows(300), some_rows(8, seed=1)
    found = nearest(unit_vectors(queries, "q"), stored(tmp_path / "a.npy", rows).blocks(), 5)
    cosines, order = plain(queries, rows, 5)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-5)


@pytest.mark.parametrize("block", [3, 4096])
def test_of_equal_rows_the_earlier_one_is_found_first(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "BLOCK", block)
    rows = np.tile(some_rows(2), (10, 1))
    found = nearest(unit_vectors(rows[:1], "q"), stored(tmp_path / "a.npy", rows).blocks(), 4)
    assert found.rows.tolist() == [[0, 2, 4, 6]]


def test_zero_rows_and_own_rows_are_not_found(tmp_path: Path) -> None:
    rows = some_rows(6)
    rows[2] = 0
    units = unit_vectors(rows, "rows")
    blocks = stored(tmp_path / "a.npy", rows).blocks()
    found = nearest(units[:1], blocks, 9, own=np.array([0]))
    assert sorted(found.rows[0].tolist()) == [-1, -1, -1, -1, -1, 1, 3, 4, 5]


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors", ".jsonl", ".parquet"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_files_of_extract_features_are_searched_as_they_are(
    suffix: str, precision: str, tmp_path: Path
) -> None:
    rows = some_rows(50)
    opened = stored(tmp_path / f"a{suffix}", rows, precision)
    found = nearest(unit_vectors(rows[:20], "q"), opened.blocks(), 1)
    assert found.rows[:, 0].tolist() == list(range(20))
    notes = opened.notes_of([3, 7])
    assert [notes[3].line, notes[7].line] == [3, 7]
    if suffix in (".jsonl", ".parquet"):
        assert notes[7].text == "text 7"


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_bits_are_compared_as_signs(suffix: str, tmp_path: Path) -> None:
    rows = some_rows(50, size=64)
    opened = stored(tmp_path / f"a{suffix}", rows, "binary")
    found = nearest(unit_vectors(rows[:20], "q"), opened.blocks(), 1)
    assert found.rows[:, 0].tolist() == list(range(20))
    np.testing.assert_allclose(
        found.cosines[:, 0], plain(rows[:20], np.sign(rows), 1)[0][:, 0], atol=1e-5
    )


def test_vectors_of_the_size_of_the_whitening_have_it_already(tmp_path: Path) -> None:
    rows = some_rows(100)
    whitening = Whitening.fit(rows, 4)
    raw = Vectors(stored(tmp_path / "raw.npy", rows).files, whitening)
    done = Vectors(stored(tmp_path / "done.npy", whitening.transform(rows)).files, whitening)
    found = [next(one.blocks()).units for one in (raw, done)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_odd_vectors_are_one_sentence(tmp_path: Path) -> None:
    rows = some_rows(5)
    rows[3, 2] = np.nan
    with pytest.raises(InputError, match=r"a\.npy, row 4 holds NaN"):
        list(stored(tmp_path / "a.npy", rows).blocks())
    other = stored(tmp_path / "b.npy", some_rows(5, size=8))
    first = stored(tmp_path / "c.npy", some_rows(5))
    with pytest.raises(InputError, match=r"b\.npy has vectors of 8 numbers.*c\.npy.* 16"):
        list(Vectors([*first.files, *other.files]).blocks())
    with pytest.raises(InputError, match="no vectors"):
        list(stored(tmp_path / "d.npy", some_rows(0)).blocks())
    with pytest.raises(InputError, match="does not exist"):
        find_files([str(tmp_path / "e.npy")])


# -- indexes --------------------------------------------------------------------------------------


def test_an_index_finds_nearly_what_exact_search_finds(tmp_path: Path) -> None:
    rows, queries = some_rows(3000), unit_vectors(some_rows(50, seed=1), "q")
    rows[17] = 0
    opened = stored(tmp_path / "a.npy", rows)
    about = build(tmp_path / "index", opened, {"model": "m"}, threads=1)
    assert (about.rows, about.zero, about.size) == (3000, 1, 16)
    assert about.recall >= 0.99
    saved = SavedIndex(tmp_path / "index")
    assert saved.about == about
    found, true = saved.nearest(queries, 10), nearest(queries, opened.blocks(), 10)
    same = (found.rows[:, :, None] == true.rows[:, None, :]).any(axis=2)
    assert same.mean() > 0.95
    assert 17 not in found.rows
    np.testing.assert_allclose(found.cosines[:, 0], true.cosines[:, 0], atol=2e-3)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    opened = stored(tmp_path / "a.npy", some_rows(20))

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", opened, {}, threads=1, on_rows=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_an_index_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usearch.index import Index

    def fail(*_: object) -> None:
        raise RuntimeError("Failed to serialize into stream")

    monkeypatch.setattr(Index, "save", fail)
    with pytest.raises(OutputError, match="index cannot be written: Failed to serialize"):
        build(tmp_path / "index", stored(tmp_path / "a.npy", some_rows(20)), {}, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_what_is_no_index_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an index"):
        SavedIndex(tmp_path)
    build(tmp_path / "index", stored(tmp_path / "a.npy", some_rows(20)), {}, threads=1)
    graph = tmp_path / "index/vectors.usearch"
    graph.write_bytes(graph.read_bytes()[:100])
    with pytest.raises(InputError, match="broken|does not fit"):
        SavedIndex(tmp_path / "index")
    with pytest.raises(InputError, match="at least 2 vectors, not 1"):
        one = stored(tmp_path / "one.npy", some_rows(1))
        build(tmp_path / "other", one, {}, threads=1)
    assert not (tmp_path / "other").exists()


def test_a_difference_of_identities_is_named() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "b is 2, not null"


# -- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_lines_are_read_in_any_order(zipped: bool, encoding: str, tmp_path: Path) -> None:
    import gzip

    path, scratch = tmp_path / "lines.tsv", tmp_path / "scratch"
    scratch.mkdir()
    mark = "\ufeff" if encoding == "utf-8" else ""
    data = f"{mark}label\ttext_a\r\n1\t一行\r\n0\t二行\n\n1\t最后".encode(encoding)
    path.write_bytes(gzip.compress(data) if zipped else data)
    lines = open_lines(CorpusSettings(str(path), column="text_a", encoding=encoding), scratch)
    assert [line.text for line in lines] == ["一行", "二行", "", "最后"]
    assert lines.line(1).number == 2
    assert lines.whole(0) == "1\t一行"
    assert lines.row_of(2) == 1


def test_vectors_must_be_as_many_as_lines(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("一\n二\n三\n", "utf-8")
    lines = open_lines(CorpusSettings(str(tmp_path / "lines.txt")), tmp_path)
    corpus = Corpus(stored(tmp_path / "a.npy", some_rows(2)), lines)
    with pytest.raises(InputError, match=r"2 vectors, but .*lines\.txt has 3 lines"):
        list(corpus.blocks(16))
    beyond = Corpus(stored(tmp_path / "b.safetensors", some_rows(5)), lines)
    with pytest.raises(InputError, match=r"vector of line 5, but .* has 3 lines"):
        beyond.notes_of([4])
