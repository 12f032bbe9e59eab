"""Near-duplicates: what is kept is what the rule says, read as a loop over single lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tasks.search.test_search import some_rows, stored
from uertool.errors import InputError, UsageError
from uertool.io.vector_writer import Note, open_sink
from uertool.tasks.search import dedupe
from uertool.tasks.search.dedupe import (
    Duplicates,
    Units,
    equal_lines,
    find_duplicates,
    group_record,
    nearest_cosines,
    units_of,
)
from uertool.tasks.search.lines import LineFile, open_lines
from uertool.tasks.search.settings import CorpusSettings, DedupeSettings
from uertool.tasks.search.vectors import Floats, Vectors, unit_vectors

TEXTS = ["一", "二二", "一", " 二二 ", "", "三", "  "]


def lines_file(folder: Path, texts: list[str]) -> LineFile:
    path = folder / "lines.txt"
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return open_lines(CorpusSettings(str(path)), folder)


def no_model() -> None:
    raise AssertionError("no model is needed")


def plain(units: Floats, order: list[int], threshold: float) -> list[int]:
    """The rule, line by line."""
    leader = list(range(len(units)))
    kept: list[int] = []
    for row in order:
        cosines = [float(units[row] @ units[other]) for other in kept]
        if cosines and max(cosines) >= threshold and units[row].any():
            leader[row] = kept[int(np.argmax(cosines))]
        else:
            kept.append(row)
    return leader


def test_equal_lines_belong_to_the_first(tmp_path: Path) -> None:
    first, lengths = equal_lines(lines_file(tmp_path, TEXTS), lambda _: None)
    assert first.tolist() == [0, 1, 0, 1, 4, 5, 4]
    assert lengths.tolist() == [1, 2, 1, 2, 0, 1, 0]
    found = find_duplicates(first, lengths, None, DedupeSettings())
    assert found.kept.tolist() == first.tolist()
    assert found.figures() == {
        "lines": 7, "kept": 4, "equal": 3, "near": 0, "groups": 3, "largest_group": 2
    }  # fmt: skip


@pytest.mark.parametrize("block", [5, 4096])
@pytest.mark.parametrize("keep", ["first", "longest"])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
def test_the_kept_lines_are_those_of_the_rule(
    block: int, keep: str, threshold: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "BLOCK", block)
    units = unit_vectors(some_rows(60), "rows")
    units[[7, 33]] = 0
    lengths = np.random.default_rng(3).integers(1, 5, 60)
    rows = np.arange(60)
    settings = DedupeSettings(threshold=threshold, keep=keep)
    found = find_duplicates(rows, lengths, Units(rows, units), settings)
    order = rows.tolist() if keep == "first" else sorted(rows, key=lambda row: -lengths[row])
    assert found.kept.tolist() == plain(units, order, threshold)
    cosines = (units * units[found.kept]).sum(axis=1)
    np.testing.assert_allclose(found.cosines[~found.are_kept], cosines[~found.are_kept], atol=1e-6)


def test_equal_lines_follow_the_first_of_them(tmp_path: Path) -> None:
    # Line 1 is near line 0, and lines 2 and 3 are equal to these.
    first = np.array([0, 1, 0, 1])
    units = np.array([[1, 0], [0.99, np.sqrt(1 - 0.99**2)]], dtype=np.float32)
    chosen = Units(np.array([0, 1]), units)
    found = find_duplicates(first, np.ones(4, dtype=int), chosen, DedupeSettings(0.95))
    assert found.kept.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(found.cosines, [1, 0.99, 1, 0.99], atol=1e-6)
    lines = lines_file(tmp_path, ["a", "b", "a", "b"])
    ((row, others),) = found.groups()
    record = group_record(lines, found, row, others)
    assert (record["line"], record["text"]) == (1, "a")
    assert [(d["line"], d["score"]) for d in record["duplicates"]] == [
        (2, 0.99),
        (3, 1.0),
        (4, 0.99),
    ]


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_vectors_of_chosen_lines_are_taken_from_files(suffix: str, tmp_path: Path) -> None:
    lines, rows = lines_file(tmp_path, TEXTS), some_rows(7)
    given = stored(tmp_path / f"a{suffix}", rows)
    chosen = np.array([0, 1, 4, 5])
    units = units_of(lines, chosen, tmp_path, no_model, given, lambda _: None)
    np.testing.assert_allclose(units.units, unit_vectors(rows[chosen], "rows"), atol=1e-6)
    for count, message in ((6, "no vector of line"), (8, "more vectors than the 7 lines")):
        other = stored(tmp_path / f"b{count}{suffix}", some_rows(count))
        with pytest.raises(InputError, match=message):
            units_of(lines, np.arange(7), tmp_path, no_model, other, lambda _: None)


def test_vectors_of_tokens_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.safetensors"
    with open_sink(path, 16, tokens=True) as sink:
        sink.write(some_rows(2), [Note(0, "一", 0), Note(0, "二", 1)])
    lines = lines_file(tmp_path, TEXTS)
    with pytest.raises(UsageError, match="tokens"):
        units_of(lines, np.arange(7), tmp_path, no_model, Vectors([path]), lambda _: None)


def test_nearest_cosines_are_those_of_other_lines() -> None:
    units = unit_vectors(some_rows(30), "rows")
    units[3] = 0
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    cosines[:, 3] = -2
    expected = np.delete(cosines, 3, axis=0).max(axis=1)
    found = nearest_cosines(Units(np.arange(30), units))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(InputError, match="no two different lines"):
        nearest_cosines(Units(np.arange(2), units[[0, 3]]))


def test_no_lines_give_no_groups() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    found = Duplicates(nothing, np.zeros(0, dtype=np.float32), nothing.astype(bool))
    assert list(found.groups()) == []
