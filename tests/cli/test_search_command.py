"""`uertool search` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TEXT
from uertool.cli.app import main
from uertool.text.readers import read_lines

QUERY = "房间很干净，服务也好"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    texts = [line.text for line in read_lines(TEXT / "reviews_test.tsv", column="text_a")]
    path = folder / "reviews.txt"
    path.write_text("".join(f"{text[:30]}\n" for text in [*texts[:30], "", QUERY]), "utf-8")
    where = ["extract-features", "--test-path", str(path), "--pooling", "mean"]
    assert main([*where, "-o", str(folder / "reviews.npy"), "-q"]) == 0
    return path


def search(*arguments: object) -> int:
    return main(["search", *map(str, arguments), "--pooling", "mean"])


def records(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_finds_itself(reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(QUERY, "", "--corpus", reviews, "--topn", 3, "--json") == 0
    first, blank = records(capsys.readouterr().out)
    assert (first["line"], first["text"], len(first["neighbours"])) == (1, QUERY, 3)
    assert first["neighbours"][0] == {
        "line": 32,
        "score": pytest.approx(1, abs=1e-5),
        "text": QUERY,
    }
    assert blank == {"line": 2, "neighbours": []}


def test_vectors_give_what_the_model_gives(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, out = tmp_path / "queries.txt", tmp_path / "found.tsv"
    queries.write_text(f"{QUERY}\n早餐不错\n", "utf-8")
    asked = ("--queries", queries, "--corpus", reviews, "-n", 2)
    assert search(*asked) == 0
    printed = capsys.readouterr().out
    assert search(*asked, "--vectors", reviews.with_suffix(".npy"), "-o", out) == 0
    assert out.read_text("utf-8") == printed
    assert printed.splitlines()[0] == "query\trank\tscore\tline\ttext"
    assert len(printed.splitlines()) == 5


def test_an_index_is_built_once(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = reviews.with_suffix(".npy")
    asked = (QUERY, "--vectors", vectors, "--index", tmp_path / "index", "--json", "-n", 1)
    assert search(*asked) == 0
    built = capsys.readouterr()
    assert "finds 100.0% of the 10 nearest rows" in built.err
    assert search(*asked) == 0
    again = capsys.readouterr()
    assert again.out == built.out
    assert "built" not in again.err
    other = tmp_path / "reviews.npy"
    np.save(other, np.load(vectors)[:20])
    asked = (QUERY, "--vectors", other, "--index", tmp_path / "index", "--json", "-n", 1)
    assert search(*asked) == 2
    assert "was built from other vectors: vectors is" in capsys.readouterr().err
    assert search(*asked, "--overwrite") == 0
    assert "index of 20 vectors" in capsys.readouterr().err


@pytest.mark.filterwarnings("error::RuntimeWarning")  # there are fewer lines than results
def test_an_index_of_text_in_another_encoding_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "lines.txt"
    corpus.write_text("plain\nwords\nonly\n", "utf-8")
    asked = ("words", "--corpus", corpus, "--index", tmp_path / "index", "-q")
    assert search(*asked) == 0
    assert search(*asked, "--encoding", "gb18030") == 2
    assert "encoding is" in capsys.readouterr().err


def test_an_index_of_computed_vectors_is_used_again(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (QUERY, "--corpus", reviews, "--index", tmp_path / "index", "--json", "-n", 1)
    assert search(*asked) == 0
    built = capsys.readouterr()
    assert records(built.out)[0]["neighbours"][0]["line"] == 32
    assert search(*asked) == 0
    again = capsys.readouterr()
    assert again.out == built.out
    assert "built" not in again.err


def test_vectors_without_a_model(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = reviews.with_suffix(".npy")
    asked = tmp_path / "asked.npy"
    np.save(asked, np.load(vectors)[3:5])
    assert search("--query-vectors", asked, "--vectors", vectors, "-n", 1, "--json") == 0
    found = records(capsys.readouterr().out)
    assert [one["neighbours"][0]["line"] for one in found] == [4, 5]


def test_vectors_of_another_pooling_are_noticed(
    reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["search", QUERY, "--corpus", str(reviews), "--vectors"]
    assert main([*given, str(reviews.with_suffix(".npy")), "--pooling", "first"]) == 1
    assert "The vectors do not come from this model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((QUERY,), 2, "nothing to search in"),
        ((QUERY, "--corpus", "missing.txt"), 1, "missing.txt does not exist"),
        ((QUERY, "--corpus", "empty.txt"), 1, "empty.txt holds no lines"),
        ((QUERY, "--queries", "a.txt", "--corpus", "b.txt"), 2, "command line and in a file"),
        ((QUERY, "--corpus", "-", "--index", "i"), 2, "index of standard input"),
        (("--queries", "-", "--corpus", "-"), 2, "cannot both come from standard input"),
        ((QUERY, "--query-vectors", "a.npy", "--corpus", "b"), 2, "as texts and as vectors"),
        ((QUERY, "--vectors", "s3://a/b.npy"), 2, "not on this machine"),
        ((QUERY, "--vectors", "empty.txt"), 2, "not a format for vectors"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    assert search(*arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
