"""JSON lines have the fields that docs/json.md lists, with their types."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.conftest import FIXTURES, MODELS
from uertool.cli.app import main
from uertool.tasks.ensemble.ensemble import Predicted, write_predictions

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
ROW = re.compile(r"\| `([\w.\[\]]+)` \| ([a-z ]+) \| (.+?) \|")
LM = str(MODELS / "zh-lm-small") if (MODELS / "zh-lm-small").is_dir() else "zh-lm-small"
SEQ2SEQ = str(FIXTURES / "t5-modular" / "model.bin")
BYTES = str(FIXTURES / "hf-modernbert")


class Field(NamedTuple):
    """A row of a table: the types that a value may have, and when there is one."""

    types: frozenset[str]
    when: str


def schemas() -> dict[str, dict[str, Field]]:
    found: dict[str, dict[str, Field]] = {}
    for part in PAGE.read_text("utf-8").split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        found[title] = {
            name: Field(frozenset(kind.split(" or ")), when)
            for name, kind, when in ROW.findall(body)
        }
    return found


SCHEMAS = schemas()


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        kinds = {kind_of(one) for one in value}
        kinds.discard("null" if len(kinds) > 1 else "")
        kinds = {"number"} if kinds == {"integer", "number"} else kinds
        return f"list of {kinds.pop() if len(kinds) == 1 else '?'}"
    names = {bool: "boolean", int: "integer", float: "number", str: "text", dict: "object"}
    return names[type(value)]


def paths_of(record: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a record, and those of objects in lists."""
    for name, value in record.items():
        yield before + name, value
        if isinstance(value, list):
            for one in value:
                if isinstance(one, dict):
                    yield from paths_of(one, f"{before}{name}[].")


def check(title: str, record: dict[str, Any]) -> None:
    schema = SCHEMAS[title]
    for path, value in paths_of(record):
        assert path in schema, f"{title}: {path} is not in docs/json.md"
        kind, types = kind_of(value), schema[path].types
        fits = kind in types or (kind == "integer" and "number" in types)
        if value == [] or kind == "list of null":
            fits = any(one.startswith("list") for one in types)
        fits = fits or (kind == "list of integer" and "list of number" in types)
        assert fits, f"{title}: {path} is {kind}, not {' or '.join(types)}"
    for path, field in schema.items():
        if field.when == "always":
            assert_present(title, record, path.split("."))


def assert_present(title: str, record: dict[str, Any], path: list[str]) -> None:
    name, *rest = path
    if not rest:
        assert name in record, f"{title}: {name} is missing"
        return
    for one in record.get(name.removesuffix("[]"), []):
        assert_present(title, one, rest)


MASKED = ["今天天气很[MASK]。", "这本书很好看", ""]

CASES: list[tuple[str, list[str]]] = [
    ("cloze", ["cloze", *MASKED]),
    ("cloze", ["cloze", *MASKED, "--targets", "好,不错"]),
    ("cloze", ["cloze", *MASKED, "--augment", "2", "--keep-original", "--seq-length", "5"]),
    ("cloze", ["cloze", "-i", "{table}", "--column", "text_a"]),
    ("cloze", ["cloze", *MASKED, "-m", BYTES]),
    ("tokenize", ["tokenize", *MASKED, "--add-special"]),
    ("tokenize", ["tokenize", "-i", "{table}", "--column", "text_a"]),
    ("tokenize", ["tokenize", "--decode", "307 1071"]),
    ("generate", ["generate", "lm", "今天", "-m", LM, "--max-new-tokens", "3"]),
    ("generate", ["generate", "lm", "今天", "-m", LM, "--max-new-tokens", "3", "--raw-tokens"]),
    ("generate lm --score", ["generate", "lm", "今天天气", "-m", LM, "--score"]),
    ("extract-features", ["extract-features", *MASKED]),
    ("extract-features", ["extract-features", "今天", "--tokens"]),
    ("extract-features", ["extract-features", "今天", "--precision", "int8"]),
    ("extract-features", ["extract-features", "今天", "--precision", "binary"]),
    ("topn indep", ["topn", "indep", "好", "一二三"]),
    ("topn indep", ["topn", "indep", "好", "--plus", "人", "--by", "euclidean"]),
    ("topn dep", ["topn", "dep", "好", "今天天气很好，很好"]),
    ("topn dep", ["topn", "dep", "坏", "今天天气很好"]),
    ("search", ["search", "今天", "", "--corpus", "{lines}"]),
]


@pytest.mark.parametrize(("title", "argv"), CASES)
def test_lines_have_the_documented_fields(
    title: str, argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, lines = tmp_path / "table.tsv", tmp_path / "lines.txt"
    table.write_text("label\ttext_a\n1\t今天天气很好\n", "utf-8")
    lines.write_text("今天天气\n很好\n", "utf-8")
    given = [word.format(table=table, lines=lines) for word in argv]
    assert main([*given, "--json"]) in (0, 1)
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert records
    for record in records:
        check(title, record)
    if title not in ("search", "topn indep"):
        assert records[0]["line"] == (2 if "{table}" in argv else 1)


def test_groups_and_errors_have_the_documented_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_bytes("今天天气\n今天天气\n".encode())
    groups, out = tmp_path / "groups.jsonl", tmp_path / "out.txt"
    assert (
        main(
            [
                "dedupe",
                "-i",
                str(lines),
                "-o",
                str(out),
                "--threshold",
                "0.9",
                "--groups",
                str(groups),
            ]
        )
        == 0
    )
    for line in groups.read_text("utf-8").splitlines():
        check("dedupe --groups", json.loads(line))
    lines.write_bytes("今天\n".encode() + b"\xff\n")
    out = tmp_path / "cloze.txt"
    assert main(["cloze", "-i", str(lines), "-o", str(out), "--skip-bad"]) == 0
    for line in Path(f"{out}.errors.jsonl").read_text("utf-8").splitlines():
        check("errors.jsonl", json.loads(line))


@pytest.mark.parametrize("labels", [None, [1, 0]])
def test_predictions_have_the_documented_fields(labels: list[int] | None) -> None:
    known = None if labels is None else np.array(labels)
    out = io.StringIO()
    predicted = Predicted(np.array([[0.25, 0.75], [1, 0]]), known, None, (), ())
    write_predictions(out, predicted, as_json=True)
    records = list(map(json.loads, out.getvalue().splitlines()))
    assert [record["line"] for record in records] == [1, 2]
    for record in records:
        check("ensemble predict", record)


def test_every_documented_schema_is_checked() -> None:
    checked = {title for title, _ in CASES} | {"dedupe --groups", "errors.jsonl"}
    assert set(SCHEMAS) - checked == {"ensemble predict"}
    assert all(SCHEMAS.values())
