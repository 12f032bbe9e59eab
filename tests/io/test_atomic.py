"""Outputs appear whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uertool.errors import InputError, OutputError
from uertool.io.atomic import (
    atomic_folder,
    atomic_path,
    atomic_text,
    refuse_existing,
    scratch_folder,
    sha256_of,
)

SOURCE = Path(__file__).parent.parent.parent / "src"


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with atomic_path(target) as partial:
        partial.write_text("done")
        assert partial.parent == tmp_path
        assert partial.name.startswith("out.txt.") and partial.suffix == ".partial"
        assert not target.exists()
    assert target.read_text() == "done"
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic_path(target, overwrite=True) as partial:
        partial.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


def test_an_existing_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(OutputError, match=r"out\.txt exists already.*`overwrite`"):
        refuse_existing(target, overwrite=False)
    with pytest.raises(OutputError), atomic_path(target):
        raise AssertionError("the block must not run")
    refuse_existing(target, overwrite=True)
    refuse_existing("-", overwrite=False)
    assert target.read_text() == "old"


def test_a_missing_parent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="mkdir -p"), atomic_path(tmp_path / "no" / "out"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_one_sentence_about_the_output(tmp_path: Path, code: int) -> None:
    target = tmp_path / "out.bin"
    target.write_text("old")
    with (
        pytest.raises(OutputError, match=r"out\.bin cannot be written: the (disk|file)") as caught,
        atomic_path(target, overwrite=True),
    ):
        raise OSError(code, os.strerror(code))
    assert "what was there before is unchanged" in str(caught.value)
    assert "run the command again" in str(caught.value)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.bin"]


def test_a_device_that_is_full_is_one_sentence_too() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with pytest.raises(OutputError, match="disk is full"), atomic_text("/dev/full") as stream:
        stream.write("x" * 100_000)
    assert not Path("/dev/full").is_file()


def test_an_input_error_inside_the_block_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out"):
        (tmp_path / "missing-input").read_text()
    assert names(tmp_path) == []


def test_a_symbolic_link_is_written_through(tmp_path: Path) -> None:
    real = tmp_path / "real.txt"
    real.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    with atomic_text(link, overwrite=True) as stream:
        stream.write("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_the_mode_of_a_replaced_file_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    target.chmod(0o640)
    with atomic_text(target, overwrite=True) as stream:
        stream.write("new")
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_partials_are_private_and_outputs_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "file") as partial:
            assert partial.stat().st_mode & 0o777 == 0o600
        with atomic_folder(tmp_path / "folder") as partial:
            assert partial.stat().st_mode & 0o777 == 0o700
        with scratch_folder(tmp_path / "file") as partial:
            assert partial.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


def test_what_only_looks_like_a_partial_is_left_alone(tmp_path: Path) -> None:
    fifo, link = (tmp_path / f"out.{token}.partial" for token in ("0123456789ab", "0123456789ac"))
    os.mkfifo(fifo)
    (tmp_path / "own").write_text("a user's own file")
    link.symlink_to(tmp_path / "own")
    with atomic_path(tmp_path / "out") as partial:  # would wait for a writer if it opened the FIFO
        partial.write_text("1")
    assert names(tmp_path) == ["out", fifo.name, link.name, "own"]


def test_text_has_unix_line_ends_and_utf8(tmp_path: Path) -> None:
    with atomic_text(tmp_path / "out") as stream:
        stream.write("天气\n")
    assert (tmp_path / "out").read_bytes() == "天气\n".encode()


def test_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with atomic_text("-") as stream:
        stream.write("line\n")
    assert capsys.readouterr().out == "line\n"


def test_partials_of_dead_runs_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    stray = tmp_path / "out.0123456789ab.partial"
    stray.write_text("left by a killed run")
    other = tmp_path / "out2.0123456789ab.partial"
    other.write_text("belongs to another output")
    mine = tmp_path / "out.notes.partial"
    mine.write_text("a user's own file")
    with atomic_path(tmp_path / "out") as first:
        first.write_text("1")
        with atomic_path(tmp_path / "out") as second:
            second.write_text("2")
            assert first.exists() and not stray.exists()
    assert names(tmp_path) == ["out", mine.name, other.name]


def test_without_locks_only_old_partials_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uertool.io.atomic._fcntl", None)
    young, old = (tmp_path / f"out.{token}.partial" for token in ("0123456789ab", "0123456789ac"))
    young.write_text("")
    old.write_text("")
    os.utime(old, (0, 0))
    with atomic_path(tmp_path / "out") as partial:
        partial.write_text("1")
    assert names(tmp_path) == ["out", young.name]


def test_a_scratch_folder_is_gone_afterwards_and_that_of_a_dead_run_with_the_next(
    tmp_path: Path,
) -> None:
    target = tmp_path / "model.bin"
    stray = tmp_path / "model.bin.0123456789ab.partial"
    stray.mkdir()
    (stray / "soup.bin").write_text("left by a killed run")
    with pytest.raises(ValueError), scratch_folder(target) as folder:
        (folder / "soup.bin").write_text("")
        assert not stray.exists()
        with atomic_path(target) as partial:
            partial.write_text("")
        assert folder.is_dir()  # it belongs to a living run
        raise ValueError
    assert names(tmp_path) == ["model.bin"]
    with pytest.raises(OutputError, match="mkdir -p"), scratch_folder(tmp_path / "no" / "out"):
        pass


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as partial:
        (partial / "config.json").write_text("{}")
        assert not target.exists()
    assert names(target) == ["config.json"]
    with pytest.raises(OutputError, match="exists already"), atomic_folder(target):
        pass


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "moved aside"])
def test_a_folder_is_replaced_as_a_whole_or_not_at_all(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # as on a file system that cannot swap two names
        monkeypatch.setattr("uertool.io.atomic._exchange", lambda *_: False)
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("")
    with pytest.raises(ValueError), atomic_folder(target, overwrite=True) as partial:
        (partial / "new").write_text("")
        raise ValueError
    assert names(target) == ["old"]
    with atomic_folder(target, overwrite=True) as partial:
        (partial / "new").write_text("")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["model"]


def test_a_folder_that_stepped_aside_in_a_killed_run_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / "model.0123456789ab.replaced"
    aside.mkdir()
    (aside / "old").write_text("")
    with pytest.raises(ValueError), atomic_folder(tmp_path / "model", overwrite=True):
        raise ValueError
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["old"]


def test_files_that_are_kept_stay_unless_the_new_folder_has_them(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("mine", "old", "both"):
        (folder / name).write_text(name)
    inode = (folder / "mine").stat().st_ino
    with (
        pytest.raises(RuntimeError),
        atomic_folder(folder, overwrite=True, keep=lambda name: name != "old") as partial,
    ):
        (partial / "both").write_text("new")
        raise RuntimeError
    assert names(folder) == ["both", "mine", "old"]
    with atomic_folder(folder, overwrite=True, keep=lambda name: name != "old") as partial:
        (partial / "both").write_text("new")
    assert names(folder) == ["both", "mine"]
    assert (folder / "both").read_text() == "new"
    assert (folder / "mine").read_text() == "mine"
    assert (folder / "mine").stat().st_ino == inode


def test_a_folder_with_other_folders_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home" / "photos").mkdir(parents=True)
    with (
        pytest.raises(OutputError, match="photos"),
        atomic_folder(tmp_path / "home", overwrite=True) as partial,
    ):
        (partial / "model").write_text("")
    assert names(tmp_path) == ["home"]
    assert names(tmp_path / "home") == ["photos"]


def test_the_current_folder_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for path in (".", "..", tmp_path):
        with (
            pytest.raises(OutputError, match="current folder"),
            atomic_folder(path, overwrite=True),
        ):
            pass


def test_sha256_of_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")
    before = sha256_of(tmp_path)
    (tmp_path / "b").write_bytes(b"")
    assert sha256_of(tmp_path) != before
    with pytest.raises(InputError, match="nothing"):
        sha256_of(tmp_path / "nothing")


_VICTIM = """
import sys
from pathlib import Path
from uertool.io.atomic import atomic_folder, atomic_path
target = Path(sys.argv[1])
print("ready", flush=True)
while True:
    with atomic_path(target / "file", overwrite=True) as partial, open(partial, "wb") as stream:
        for _ in range(200):
            stream.write(b"n" * 1000)
            stream.flush()
    with atomic_folder(target / "folder", overwrite=True) as partial:
        for number in range(20):
            (partial / str(number)).write_bytes(b"n" * 1000)
"""


@pytest.mark.slow
def test_kill_at_random_moments_leaves_whole_outputs_and_no_stray_files(tmp_path: Path) -> None:
    chance = random.Random(5)
    with atomic_path(tmp_path / "file") as partial:
        partial.write_bytes(b"o" * 200_000)
    with atomic_folder(tmp_path / "folder") as folder:
        for number in range(20):
            (folder / str(number)).write_bytes(b"o" * 1000)
    for _ in range(8):
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        assert victim.stdout is not None and victim.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, 0.06))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stdout.close()
        content = (tmp_path / "file").read_bytes()
        assert content in (b"o" * 200_000, b"n" * 200_000)
        parts = [(tmp_path / "folder" / str(number)).read_bytes() for number in range(20)]
        assert parts in ([b"o" * 1000] * 20, [b"n" * 1000] * 20)
    with atomic_path(tmp_path / "file", overwrite=True) as partial:
        partial.write_bytes(b"end")
    with atomic_folder(tmp_path / "folder", overwrite=True) as folder:
        (folder / "end").write_bytes(b"")
    assert names(tmp_path) == ["file", "folder"]
