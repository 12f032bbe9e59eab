"""Rows on their way to a file: what was committed survives, what was not is forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from uertool.engine.spool import Note, Spool
from uertool.errors import OutputError, UsageError

ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)
NOTES = [Note(number, f"行{number}") for number in range(10)]
PRINT = {"model": "a", "pooling": "mean"}


def interrupted(target: Path) -> None:
    """A run that committed four rows and wrote two more."""
    spool = Spool(target, PRINT)
    spool.append(ROWS[:4], NOTES[:4])
    spool.counts["lines"] = 4
    spool.commit(3)
    spool.append(ROWS[4:6], NOTES[4:6])
    spool.close()


def test_an_interrupted_run_goes_on_after_its_last_commit(tmp_path: Path) -> None:
    interrupted(tmp_path / "v.npy")
    spool = Spool(tmp_path / "v.npy", PRINT, resume=True)
    assert (spool.resumed, spool.rows, spool.size, spool.line) == (True, 4, 4, 3)
    assert spool.counts == {"lines": 4}
    spool.append(ROWS[4:], NOTES[4:])
    blocks = list(spool.blocks(3))
    assert np.array_equal(np.concatenate([block for block, _ in blocks]), ROWS)
    assert [note for _, part in blocks for note in part] == NOTES
    assert np.array_equal(np.load(spool.become_npy()), ROWS)
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_other_options_do_not_go_on(tmp_path: Path) -> None:
    interrupted(tmp_path / "v.npy")
    with pytest.raises(UsageError, match="pooling was 'mean' and is 'first'"):
        Spool(tmp_path / "v.npy", {**PRINT, "pooling": "first"}, resume=True)


def test_work_is_not_thrown_away_in_silence(tmp_path: Path) -> None:
    interrupted(tmp_path / "v.npy")
    with pytest.raises(OutputError, match="`resume`"):
        Spool(tmp_path / "v.npy", PRINT)
    spool = Spool(tmp_path / "v.npy", PRINT, discard=True)
    assert spool.rows == 0
    spool.remove()


def test_a_run_without_a_commit_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "v.npy", PRINT)
    spool.append(ROWS, NOTES)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_state_is_an_error(tmp_path: Path) -> None:
    interrupted(tmp_path / "v.npy")
    folder = tmp_path / "v.npy.resume"
    (folder / "rows.f32").write_bytes(b"short")
    with pytest.raises(OutputError, match="shorter"):
        Spool(tmp_path / "v.npy", PRINT, resume=True)
    (folder / "state.json").write_text("{}")
    with pytest.raises(OutputError, match="not the state"):
        Spool(tmp_path / "v.npy", PRINT, resume=True)


def test_a_sample_is_spread_over_all_rows(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "v.npy", PRINT)
    spool.append(ROWS, NOTES)
    rows, notes = spool.sample(4)
    assert [note.line for note in notes] == [0, 3, 6, 9]
    assert np.array_equal(rows, ROWS[[0, 3, 6, 9]])
    whole, _ = spool.sample(100)
    assert np.array_equal(whole, ROWS)
    spool.remove()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        Spool(tmp_path / "no" / "v.npy", PRINT)
