"""Inputs of distributed runs: found, counted and cut so that every line is read once, in order."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from uertool.engine.inputs.blocks import (
    BadPlace,
    Block,
    Piece,
    count_piece,
    cut_pieces,
    make_blocks,
    sample_block,
)
from uertool.engine.inputs.reading import BlockReader
from uertool.engine.inputs.sources import Reading, Source, list_sources
from uertool.errors import InputError, UsageError
from uertool.text.readers import Line, read_lines

pytest.importorskip("pyarrow")


def counted(sources: list[Source], size: int = 1 << 20) -> list[Piece]:
    return [count_piece(sources[piece.source], piece) for piece in cut_pieces(sources, size)]


def read(
    paths: list[str], reading: Reading | None = None, *, size: int = 1 << 20, lines: int = 7
) -> tuple[list[Line], list[BadPlace]]:
    """All lines of an input, cut into pieces of `size` bytes and blocks of `lines` lines."""
    reading = reading or Reading()
    sources = list_sources(paths, reading)
    blocks = make_blocks(counted(sources, size), lines)
    reader = BlockReader(sources, reading)
    found: list[Line] = []
    bad: list[BadPlace] = []
    for block in map(Block.from_json, [block.as_json() for block in blocks]):
        found.extend(reader.lines(block, bad.append))
    return found, bad


# -- equal to reading on one machine --------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_pieces_of_any_size_give_the_lines_of_the_whole(
    tmp_path: Path, size: int, seed: int
) -> None:
    random_ = random.Random(seed)
    parts = [
        random_.choice(["", "a", "天气", "x" * 9]) + random_.choice(["\n", "\r\n", "\r", "\n\n"])
        for _ in range(20)
    ]
    text = random_.choice(["", "\ufeff"]) + "".join(parts) + random_.choice(["", "end"])
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    found, bad = read([str(path)], size=size, lines=random_.choice([1, 3, 50]))
    assert found == list(read_lines(path))
    assert bad == []


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("size", [1, 3, 16, 1000])
@pytest.mark.parametrize("packed", [False, True])
def test_text_of_any_encoding_is_cut_as_utf8_is(
    tmp_path: Path, encoding: str, size: int, packed: bool
) -> None:
    rows = ["編號\ttext_a", *(f"{i}\t天氣{i}很好" * (i % 4 > 0) for i in range(50))]
    text = "\r\n".join(rows)
    (tmp_path / "plain.tsv").write_text(text, newline="")
    data = text.encode(encoding)
    (tmp_path / "other.tsv").write_bytes(gzip.compress(data) if packed else data)
    for column in (None, "text_a"):
        reading = Reading(column, encoding=encoding)
        found, bad = read([str(tmp_path / "other.tsv")], reading, size=size)
        assert found == list(read_lines(tmp_path / "plain.tsv", column=column))
        assert not bad


def test_the_place_of_a_bad_line_is_right_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("天气\n很好\n".encode("gb18030") + b"\xff\xff\n" + "完".encode("gb18030"))
    found, bad = read([str(path)], Reading(encoding="gbk"), size=3, lines=1)
    assert [line.text for line in found] == ["天气", "很好", "完"]
    assert bad == [
        BadPlace(2, str(path), 3, "invalid gb18030, 0xff at byte 0 of the line"),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_archives_and_tables_are_cut_as_plain_files_are(tmp_path: Path, seed: int) -> None:
    rows = ["id\ttext_a", *(f"{i}\tline {i}" * (i % 4 > 0) for i in range(50))]
    data = "\n".join(rows).encode()
    (tmp_path / "a.tsv").write_bytes(data)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(data))
    expected = list(read_lines(tmp_path / "a.tsv", column="text_a"))
    for name in ("a.tsv", "a.tsv.gz"):
        found, _ = read([str(tmp_path / name)], Reading("text_a"), size=40, lines=7 + seed)
        assert found == expected


def test_blocks_of_an_archive_can_be_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress("\n".join(map(str, range(30))).encode()))
    sources = list_sources([str(path)])
    blocks = make_blocks(counted(sources), 4)
    reader = BlockReader(sources, Reading())
    random.Random(1).shuffle(blocks)
    found = {
        line.number: line.text for block in blocks for line in reader.lines(block, lambda _: None)
    }
    assert [found[n] for n in range(30)] == list(map(str, range(30)))


def test_rows_of_parquet_files_are_lines(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = [f"第{i}行" for i in range(25)]
    table = pyarrow.table({"id": list(range(25)), "text": texts})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=6)
    found, _ = read([str(tmp_path / "a.parquet")], lines=4)
    assert found == [Line(n, text) for n, text in enumerate(texts)]
    found, _ = read([str(tmp_path / "a.parquet")], Reading("text"), lines=4)
    assert found[3] == Line(3, "第3行", {"id": "3", "text": "第3行"})
    with pytest.raises(InputError, match="has no 'body'; its columns are 'id', 'text'"):
        read([str(tmp_path / "a.parquet")], Reading("body"))


def test_numbers_run_on_through_files_and_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("3")
    found, _ = read([str(tmp_path)], lines=2)
    assert found == [Line(0, "1"), Line(1, "2"), Line(2, "3")]


def test_an_input_without_lines_is_one_empty_block(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    blocks = make_blocks(counted(list_sources([str(tmp_path / "a.txt")])), 10)
    assert blocks == [Block(0, 0, 0, ())]


def test_a_giant_line_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n" + "字" * 100_000 + "\nb\n")
    found, _ = read([str(tmp_path / "a.txt")], size=1000, lines=1)
    assert [len(line.text) for line in found] == [1, 100_000, 1]


def test_a_sample_comes_from_all_over_the_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n}\n" for n in range(100)))
    sources = list_sources([str(tmp_path / "a.txt")])
    sample = sample_block(make_blocks(counted(sources), 10), 8)
    texts = [line.text for line in BlockReader(sources, Reading()).lines(sample, lambda _: None)]
    assert texts == ["0", "1", "20", "21", "50", "51", "70", "71"]


# -- finding files --------------------------------------------------------------------------------


def test_folders_and_globs_give_their_files_by_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a/2.txt", "a/1.txt", "a-b.txt", ".hidden", "x.partial", "c.tsv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    def names(pattern: str) -> list[str]:
        found = list_sources([f"{tmp_path}/{pattern}"])
        return [source.path.removeprefix(f"{tmp_path}/") for source in found]

    assert names("") == ["a/1.txt", "a/2.txt", "a-b.txt", "b.txt", "c.tsv"]
    assert names("*.txt") == ["a-b.txt", "b.txt"]
    assert names("*/[12].txt") == ["a/1.txt", "a/2.txt"]
    assert names("**/*.txt") == ["a/1.txt", "a/2.txt", "a-b.txt", "b.txt"]
    assert names("?.t[!x]v") == ["c.tsv"]
    assert [s.path for s in list_sources([f"file://{tmp_path}/b.txt"])] == [
        f"file://{tmp_path}/b.txt"
    ]


def test_a_folder_of_a_corpus_has_the_order_that_counting_here_gives_it(tmp_path: Path) -> None:
    from uertool.tasks.vocab.counting import corpus_files

    for name in ("a.b/1", "a/2", "a-c", "B", "a b/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [source.path for source in list_sources([str(tmp_path)])]
    assert found == [str(path) for path in corpus_files([tmp_path])]


@pytest.mark.parametrize(
    ("path", "words"),
    [("nope.txt", "does not exist"), ("*.nope", "No file matches"), ("empty", "holds no files")],
)
def test_what_is_not_there_is_named(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=words):
        list_sources([f"{tmp_path}/{path}"])


def test_standard_input_and_strange_file_systems_are_refused() -> None:
    with pytest.raises(UsageError, match="Standard input cannot be shared out"):
        list_sources(["-"])
    with pytest.raises(UsageError, match="nope://x cannot be reached"):
        list_sources(["nope://x"])


def test_a_missing_column_is_reported_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\ttext\n1\tx\n")
    with pytest.raises(InputError, match="has no column 'body'"):
        list_sources([str(tmp_path / "a.tsv")], Reading("body"))


# -- broken files ---------------------------------------------------------------------------------


def test_a_bad_line_is_reported_with_its_file_and_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "b.txt").write_bytes(b"3\n\xff\n5\n")
    found, bad = read([str(tmp_path)], lines=3)
    assert [line.number for line in found] == [0, 1, 2, 4]
    assert [(place.number, Path(place.file).name, place.line) for place in bad] == [(3, "b.txt", 2)]
    assert "invalid UTF-8" in bad[0].reason


def test_a_truncated_archive_gives_what_is_whole_in_it(tmp_path: Path) -> None:
    text = "".join(f"{random.Random(n).random()} {n}\n" for n in range(40_000))
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(text.encode())[:-2000])
    sources = list_sources([str(path)])
    (piece,) = counted(sources)
    assert piece.problem is not None
    assert "truncated" in piece.problem
    assert 0 < (piece.lines or 0) < 40_000
    found, _ = read([str(path)], lines=10_000)
    assert [line.text for line in found] == text.splitlines()[: piece.lines]


def test_a_broken_parquet_file_is_a_problem_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 50)
    (piece,) = counted(list_sources([str(tmp_path / "a.parquet")]))
    assert piece.lines == 0
    assert "broken Parquet file" in str(piece.problem)


def test_a_file_that_shrank_since_it_was_counted_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1\n2\n3\n")
    sources = list_sources([str(path)])
    (block,) = make_blocks(counted(sources), 10)
    path.write_text("1\n")
    with pytest.raises(InputError, match="fewer lines than it had when it was counted"):
        list(BlockReader(sources, Reading()).lines(block, lambda _: None))
