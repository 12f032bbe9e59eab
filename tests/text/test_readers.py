"""Reading lines: every container and shape, odd line ends, and bad lines with their place."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from uertool.errors import InputError, UsageError
from uertool.io import line_bytes
from uertool.io.encodings import encoding_by_mark
from uertool.text import readers
from uertool.text.readers import BadLine, Line, as_texts, parse_shard, read_lines
from uertool.text.sniffing import table_notice


def texts(source: object, **options: object) -> list[str]:
    return [line.text for line in read_lines(source, **options)]  # type: ignore[arg-type]


def write(folder: Path, data: bytes, name: str = "in.txt") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# -- plain text -----------------------------------------------------------------------------------


def test_lines_keep_their_blanks_and_their_numbers(tmp_path: Path) -> None:
    lines = list(read_lines(write(tmp_path, " 今天 \n\n\tb\n".encode())))
    assert lines == [Line(0, " 今天 "), Line(1, ""), Line(2, "\tb")]


def test_a_byte_order_mark_is_taken_away_once(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "\ufeff今\n\ufeff天\n".encode())) == ["今", "\ufeff天"]


@given(
    text=st.text(st.sampled_from("ab今\r\n\u2028\x85\x0c\ufeff"), max_size=30),
    block=st.integers(1, 7),
)
def test_lines_are_those_of_pythons_text_files_whatever_the_blocks(text: str, block: int) -> None:
    data = text.encode()
    expected = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read().split("\n")
    if expected[-1] == "":
        expected.pop()

    class Drops(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(block)

        def peek(self, size: int) -> bytes:
            return self.getvalue()[:size]

    got = list(read_lines(Drops(data)))
    assert [line.text for line in got] == expected
    assert [line.number for line in got] == list(range(len(expected)))


def test_a_line_longer_than_a_block_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_bytes, "_BLOCK", 8)
    path = write(tmp_path, ("今" * 50 + "\r\nb\r\n" + "c" * 30).encode())
    assert texts(path) == ["今" * 50, "b", "c" * 30]


@given(
    parts=st.lists(st.sampled_from(["a", "今天", "\r", "\n", "\r\n", "xyz" * 9, " "]), max_size=12),
    size=st.integers(1, 9),
    limit=st.integers(1, 12),
)
def test_lines_are_cut_at_the_limit_between_characters(
    parts: list[str], size: int, limit: int
) -> None:
    data = "".join(parts).encode()
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    found = list(line_bytes.raw_lines(blocks, limit=limit))
    at = 0
    for number, line in enumerate(data.splitlines(keepends=True)):
        whole = line.rstrip(b"\r\n")
        assert found[number][:2] == (number, at)
        assert found[number].cut is (len(whole) > limit)
        kept = whole[:limit].decode("utf-8", "ignore").encode() if len(whole) > limit else whole
        assert found[number].data == kept or limit < 3
        at += len(line)
    assert len(found) == number + 1 if data else found == []
    assert [line.data for line in line_bytes.raw_lines(blocks, limit=None)] == [
        line.rstrip(b"\r\n") for line in data.splitlines(keepends=True)
    ]


def test_a_huge_line_takes_little_memory_and_says_that_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "huge.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"first\n")
        for _ in range(64):
            stream.write(b"a b " * (1 << 18))
        stream.write(b"\nlast\n")
    tracemalloc.start()
    lines = list(read_lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(line.number, line.cut) for line in lines] == [(0, False), (1, True), (2, False)]
    assert len(lines[1].text) == line_bytes.LINE_LIMIT
    assert peak < 16 << 20


def test_a_cut_record_is_bad_and_a_cut_cell_is_marked(tmp_path: Path) -> None:
    bad: list[BadLine] = []
    record = write(tmp_path, json.dumps({"text": "a" * 50}).encode() + b'\n{"text": "b"}\n')
    assert texts(record, field="text", limit=20, on_bad=bad.append) == ["b"]
    assert "longer than the 20 bytes" in bad[0].reason
    table = write(tmp_path, b"a\tb\n1\t" + b"2" * 50 + b"\n", "t.tsv")
    first, second = (next(read_lines(table, column=name, limit=9)) for name in "ab")
    assert (first.text, first.cut) == ("1", False)
    assert (second.text, second.cut) == ("2" * 7, True)


def test_gzip_is_known_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    data = "\ufeff今天\nb\n".encode()
    assert texts(write(tmp_path, gzip.compress(data), "a.gz")) == ["今天", "b"]
    assert texts(write(tmp_path, gzip.compress(data), "a.txt")) == ["今天", "b"]
    assert texts(write(tmp_path, data, "b.gz")) == ["今天", "b"]
    assert texts(write(tmp_path, gzip.compress(b"a\n") + gzip.compress(b"b\n"), "two.gz")) == [
        "a",
        "b",
    ]


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("今\nb".encode()), "latin-1"))
    assert texts("-") == ["今", "b"]


def test_open_streams_are_read_and_left_open() -> None:
    stream = io.BytesIO(b"a\nb\n")
    assert texts(stream) == ["a", "b"]
    assert not stream.closed
    assert texts(io.StringIO("今\r\nb")) == ["今", "b"]


def test_an_empty_input_has_no_lines(tmp_path: Path) -> None:
    assert texts(write(tmp_path, b"")) == []
    assert texts(write(tmp_path, b"\xef\xbb\xbf")) == []


def test_reading_is_streamed() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            buffer[:] = b"ab\n" * (len(buffer) // 3) + b"\n" * (len(buffer) % 3)
            return len(buffer)

    lines = read_lines(Endless())  # type: ignore[arg-type]
    assert [next(lines).text for _ in range(5)] == ["ab"] * 5


def test_bytes_are_reported_as_they_lie_on_the_disk(tmp_path: Path) -> None:
    data = "今天\n".encode() * 200_000
    for name, stored in (("a.txt", data), ("a.gz", gzip.compress(data))):
        path = write(tmp_path, stored, name)
        done: list[int] = []
        assert len(texts(path, on_bytes=done.append)) == 200_000
        assert sum(done) == len(stored)


# -- tables and records ---------------------------------------------------------------------------


def test_a_column_is_found_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, b"label\ttext_a\r\n1\tgood\r\n\r\n0\tbad\textra\r\n")
    rows = list(read_lines(path, column="text_a"))
    assert [(r.number, r.text) for r in rows] == [(1, "good"), (2, ""), (3, "bad")]
    assert rows[0].fields == {"label": "1", "text_a": "good"}


@pytest.mark.parametrize("column", [1, "1"])
def test_a_column_number_reads_a_file_without_header(tmp_path: Path, column: str | int) -> None:
    rows = list(read_lines(write(tmp_path, b"a\tb\nc\td\n"), column=column))
    assert [(r.number, r.text) for r in rows] == [(0, "b"), (1, "d")]
    assert rows[1].fields == {"0": "c", "1": "d"}


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, b"label\ttext_a\n1\tgood\n")
    with pytest.raises(InputError, match="no column 'text'; its columns are 'label', 'text_a'"):
        texts(path, column="text")
    with pytest.raises(InputError, match="empty, so it has no column"):
        texts(write(tmp_path, b""), column="text")


def test_a_short_row_is_a_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"label\ttext_a\n1\n2\tb\n")
    with pytest.raises(InputError, match=r"line 2 \(byte 13\): it has 1 column"):
        texts(path, column="text_a")


def test_a_field_is_taken_from_each_record(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "今\\n天", "id": 7, "tags": ["a"]}\n\n{"text": ""}\n'.encode())
    rows = list(read_lines(path, field="text"))
    assert [(r.number, r.text) for r in rows] == [(0, "今\n天"), (1, ""), (2, "")]
    assert rows[0].fields == {"text": "今\n天", "id": "7", "tags": '["a"]'}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON object was expected, not a list"),
        ('{"a": "b"}', "no field 'text'; its fields are 'a'"),
        ('{"text": 3}', "is not text"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path: Path, row: str, words: str) -> None:
    path = write(tmp_path, ('{"text": "a"}\n' + row + "\n").encode())
    with pytest.raises(InputError, match=f"line 2.*{words}"):
        texts(path, field="text")
    bad: list[BadLine] = []
    assert texts(path, field="text", on_bad=bad.append) == ["a"]
    assert [(b.number, b.offset) for b in bad] == [(1, 14)]


def test_a_column_and_a_field_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="either TSV or JSONL"):
        read_lines(write(tmp_path, b"a"), column="a", field="b")


# -- bad bytes ------------------------------------------------------------------------------------


def test_invalid_utf8_is_named_by_line_and_byte(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfok\r\nab\xffcd\nend\n")
    with pytest.raises(
        InputError, match=r"in.txt, line 2 \(byte 9\): invalid UTF-8, 0xff at byte 2"
    ):
        texts(path)
    bad: list[BadLine] = []
    assert texts(path, on_bad=bad.append) == ["ok", "end"]
    assert [(b.number, b.offset) for b in bad] == [(1, 9)]


def test_the_encoding_is_guessed_once_for_all_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses: list[str] = []
    monkeypatch.setattr(readers, "encoding_hint", lambda name, _: guesses.append(name) or "a hint")
    bad: list[BadLine] = []
    assert texts(write(tmp_path, "中文\n".encode("gb18030") * 3), on_bad=bad.append) == []
    assert len(bad) == 3
    assert len(guesses) == 1


@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_reported_line_by_line(data: bytes) -> None:
    assume(encoding_by_mark(data) in (None, "utf-8"))
    bad: list[BadLine] = []
    try:
        good = list(read_lines(io.BytesIO(data), on_bad=bad.append))
    except InputError:
        return  # a broken gzip file
    numbers = sorted([line.number for line in good] + [line.number for line in bad])
    assert numbers == list(range(len(data.removeprefix(b"\xef\xbb\xbf").splitlines())))


@pytest.mark.parametrize("keep", [1, 5, 12, -1, -4, -9])
def test_a_truncated_archive_is_named(tmp_path: Path, keep: int) -> None:
    data = gzip.compress(b"some lines\n" * 1000)
    path = write(tmp_path, data[:keep] if keep != 1 else data[:2], "in.gz")
    with pytest.raises(InputError, match=r"in.gz is a (truncated|broken) gzip file"):
        texts(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.txt does not exist"):
        texts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="is a folder"):
        texts(tmp_path)


# -- shards ---------------------------------------------------------------------------------------


@given(lines=st.integers(0, 30), parts=st.integers(1, 8))
def test_shards_share_the_lines_and_keep_their_numbers(lines: int, parts: int) -> None:
    data = "".join(json.dumps({"t": str(i)}) + "\n" for i in range(lines)).encode()
    whole = list(read_lines(io.BytesIO(data), field="t"))
    shares = [
        list(read_lines(io.BytesIO(data), field="t", shard=(part + 1, parts)))
        for part in range(parts)
    ]
    assert sorted((line for share in shares for line in share), key=lambda x: x.number) == whole
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_every_shard_has_the_header(tmp_path: Path) -> None:
    path = write(tmp_path, b"label\ttext_a\n1\ta\n2\tb\n3\tc\n")
    assert texts(path, column="text_a", shard=(1, 2)) == ["b"]
    assert texts(path, column="text_a", shard=(2, 2)) == ["a", "c"]


def test_a_bad_line_of_another_shard_is_not_reported(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xff\nb\n")
    assert texts(path, shard=(2, 2)) == ["b"]


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_a_shard_that_does_not_exist_is_refused(shard: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_lines("-", shard=shard)
    with pytest.raises(UsageError, match="does not exist"):
        parse_shard(f"{shard[0]}/{shard[1]}")


@pytest.mark.parametrize("text", ["", "1", "/", "a/b", "1/", "-1/2", "1.0/2"])
def test_a_shard_is_written_with_a_slash(text: str) -> None:
    assert parse_shard("2/8") == (2, 8)
    with pytest.raises(UsageError, match="of the form i/n"):
        parse_shard(text)


@pytest.mark.parametrize("texts", [["今天", None], [3], [b"a"]], ids=str)
def test_what_is_no_text_is_one_sentence(texts: list[object]) -> None:
    with pytest.raises(InputError, match="which is not a str"):
        as_texts(texts)  # type: ignore[arg-type]


def test_one_text_is_a_list_of_one() -> None:
    assert as_texts("今天") == ["今天"]
    assert as_texts(iter(["a", "b"])) == ["a", "b"]


# -- comma-separated values, and tables that are taken for text -----------------------------------


def test_a_column_of_a_csv_file_may_be_in_quotes(tmp_path: Path) -> None:
    data = b'label,text_a\n1,"good, ""very"""\n0,bad\n1,"torn\n'
    path = write(tmp_path, data, "in.csv")
    bad: list[BadLine] = []
    rows = list(read_lines(path, column="text_a", on_bad=bad.append))
    assert [(row.text, row.fields["label"]) for row in rows] == [
        ('good, "very"', "1"),
        ("bad", "0"),
    ]
    assert bad[0].reason.startswith("a quote is not closed")


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("a.tsv", "label\ttext_a\n1\t今天很好\n0\t不行\n", "'label', 'text_a', .* `column` text_a"),
        ("a.txt", "1\t今天很好\n0\t不行\n", "the columns '0', '1', .* `column` 1"),
        ("a.csv", 'label,text\n1,"很好,是吗"\n', "'label', 'text', .* `column` text"),
        ("a.jsonl", '{"id": "a", "body": "今天"}\n', "'id', 'body', .* `field` body"),
    ],
)
def test_a_table_that_is_read_as_text_is_noticed(
    tmp_path: Path, name: str, text: str, hint: str
) -> None:
    assert re.search(hint, table_notice(write(tmp_path, text.encode(), name)) or "")


@pytest.mark.parametrize(
    "text", ["今天\n很好\n", "a, b\nc\n", "今天\t很好\n不行\n", "", "\n", "{1}\n{2}\n", "a\tb\n"]
)
def test_text_is_not_taken_for_a_table(tmp_path: Path, text: str) -> None:
    assert table_notice(write(tmp_path, text.encode())) is None
    assert table_notice(tmp_path / "none.txt") is None
