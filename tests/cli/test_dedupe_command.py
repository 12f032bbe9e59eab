"""`uertool dedupe` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from uertool.cli.app import main

LINES = ["房间很干净", "今天天气很好，我们去公园。", "房间很干净。", "房间很干净", "这本书写得很差"]


@pytest.fixture(autouse=True)
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("".join(f"{line}\n" for line in LINES), "utf-8")


def dedupe(*arguments: str) -> int:
    return main(["dedupe", "--test-path", "lines.txt", "--pooling", "mean", *arguments])


def records(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_kept_lines_and_groups_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert dedupe("-o", "kept.txt", "--groups", "groups.jsonl", "--threshold", "0.9", "--json") == 0
    assert Path("kept.txt").read_text("utf-8").splitlines() == [LINES[0], LINES[1], LINES[4]]
    (group,) = records("groups.jsonl")
    assert (group["line"], group["text"]) == (1, LINES[0])
    near, equal = group["duplicates"]
    assert (near["line"], near["text"]) == (3, LINES[2])
    assert 0.9 < near["score"] < 1
    assert (equal["line"], equal["score"]) == (4, 1)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["kept"] == 3
    assert "5 lines: 3 kept in kept.txt (60.0%), 1 equal to another, 1 near-dup" in captured.err


def test_the_longest_line_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert dedupe("--keep", "longest", "--threshold", "0.9") == 0
    assert capsys.readouterr().out.splitlines() == [LINES[1], LINES[2], LINES[4]]


def test_equal_lines_need_no_vectors(capsys: pytest.CaptureFixture[str]) -> None:
    assert dedupe("--only-exact", "--model", "no-such-model") == 0
    assert capsys.readouterr().out.splitlines() == [*LINES[:3], LINES[4]]


def test_vectors_that_exist_give_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert dedupe("--threshold", "0.9") == 0
    computed = capsys.readouterr().out
    features = ["extract-features", "--test-path", "lines.txt", "--pooling", "mean", "-q"]
    assert main([*features, "-o", "lines.npy"]) == 0
    assert dedupe("--threshold", "0.9", "--vectors", "lines.npy") == 0
    assert capsys.readouterr().out == computed


def test_rows_of_a_table_are_written_whole(capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.tsv").write_bytes("标签\t文本\r\n1\t好\r\n0\t好\r\n1\t坏".encode())
    given = ["dedupe", "--test-path", "table.tsv", "--column", "文本", "--only-exact"]
    assert main([*given, "-o", "kept.tsv"]) == 0
    assert Path("kept.tsv").read_bytes() == "标签\t文本\n1\t好\n1\t坏\n".encode()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "lines.txt", "--overwrite"], 2, "is the input itself"),
        (["--json"], 2, "cannot both go to standard output"),
        ([], 2, "There is no threshold"),
        (["--threshold", "2"], 2, "must be in [-1, 1]"),
        (["--only-exact", "--vectors", "a.npy"], 2, "compares no vectors"),
        (["--only-exact", "--threshold", "0"], 2, "compares no vectors"),
        (["--threshold", "0.9", "--vectors", "missing.npy"], 1, "missing.npy does not exist"),
        (["-o", "missing/kept.txt", "--only-exact"], 1, "missing"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dedupe(*arguments) == code
    assert message in capsys.readouterr().err
    assert Path("lines.txt").read_text("utf-8").splitlines() == LINES
    assert [path.name for path in Path().iterdir()] == ["lines.txt"]


def test_there_must_be_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dedupe"]) == 2
    assert "There are no lines" in capsys.readouterr().err
    Path("empty.txt").touch()
    assert main(["dedupe", "--test-path", "empty.txt", "--only-exact"]) == 1
    assert "empty.txt holds no lines" in capsys.readouterr().err
