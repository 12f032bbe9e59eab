"""Runs on one machine: the same output however they are interrupted, damaged or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine import distributed_jobs as jobs
from uertool.engine.jobs import JobWork
from uertool.engine.order import Order, Watch
from uertool.engine.run import run
from uertool.engine.storage import folder as run_folder
from uertool.engine.storage.store import Store
from uertool.errors import InputError, OutputError, UsageError

ROOT = Path(__file__).parents[2]
WORK = JobWork("lengths", ".txt", jobs.length_job, jobs.length_writer, window=10)
TEXTS = ["x" * (n % 7) for n in range(95)]
EXPECTED = "".join(f"{n % 7}\n" for n in range(95))


def order(output: Path | str, **more: Any) -> Order:
    return Order(**{"work": WORK, "output": str(output), "texts": TEXTS, "strict": True, **more})


class StoppedError(Exception):
    """An interruption."""


def stopping_after(lines: int) -> Watch:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if done >= lines:
            raise StoppedError

    return Watch(lines=count)


def interrupted(output: Path, **more: Any) -> Path:
    """The folder that a run leaves when it is stopped after some shards."""
    with pytest.raises(StoppedError):
        run(order(output, **more), stopping_after(35))
    return Path(f"{output}.resume")


def test_the_output_is_that_of_one_pass_whatever_the_blocks(tmp_path: Path) -> None:
    for number, size in enumerate((None, 1, 7, 1000)):
        output = tmp_path / f"{number}.txt"
        found = run(order(output, block_lines=size))
        assert output.read_text() == EXPECTED
        assert (found.manifest["lines"], found.manifest["rows"]) == (95, 95)
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_run_goes_on_only_if_that_is_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    folder = interrupted(output)
    assert sorted(path.name for path in folder.glob("part-*")) == [
        "part-000000.txt",
        "part-000001.txt",
        "part-000002.txt",
    ]
    with pytest.raises(OutputError, match="Give `resume` to continue that run"):
        run(order(output))
    with pytest.raises(UsageError, match="seed was None and is 1"):
        run(order(output, resume=True, identity={"seed": 1}))
    found = run(order(output, resume=True))
    assert found.earlier_lines == 30
    assert output.read_text() == EXPECTED
    assert list(tmp_path.iterdir()) == [output]


def test_a_run_that_stopped_at_a_line_goes_on_with_a_setting_that_allows_it(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    interrupted(output, identity={"truncate": "error"})
    with pytest.raises(StoppedError):
        run(order(output, resume=True, identity={"truncate": "left"}), stopping_after(55))
    with pytest.raises(UsageError, match="truncate was 'left' and is 'right'"):
        run(order(output, resume=True, identity={"truncate": "right"}))
    run(order(output, resume=True, identity={"truncate": "left"}))
    assert output.read_text() == EXPECTED


def test_overwriting_begins_again(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    interrupted(output)
    assert run(order(output, overwrite=True, identity={"seed": 1})).earlier_lines == 0
    assert list(tmp_path.iterdir()) == [output]


def test_a_failure_before_the_first_shard_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(order(tmp_path / "out.txt", texts=["unreadable"]))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="mkdir -p"):
        run(order(tmp_path / "no" / "out.txt"))


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-2] + b"9\n"),
    "deleted": lambda path: path.unlink(),
    "record": lambda path: (path.parent / "_run" / "part-000001.json").write_text("{}"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_shards_are_made_again(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out.txt"
    folder = interrupted(output)
    DAMAGE[kind](folder / "part-000001.txt")
    assert run(order(output, resume=True)).earlier_lines == 20
    assert output.read_text() == EXPECTED


def test_a_broken_plan_is_one_sentence(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    plan = interrupted(output) / "_run" / "plan.json"
    for content in ("{", "{}", "[]", '{"fingerprint": 3}'):
        plan.write_text(content)
        with pytest.raises(OutputError, match="plan.json is broken"):
            run(order(output, resume=True))
    assert run(order(output, overwrite=True)).manifest["rows"] == 95


def test_a_run_killed_before_its_clean_up_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is renamed into place, and what was there for resuming is not yet deleted."""
    output = tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove_folder", lambda self, folder="": os._exit(9) or None)
        pid = os.fork()
        if pid == 0:
            run(order(output))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] != 0
    assert output.read_text() == EXPECTED
    assert (tmp_path / "out.txt.resume").is_dir()
    said: list[str] = []
    found = run(order(output, resume=True), Watch(notice=said.append))
    assert found.is_complete and found.manifest["rows"] == 95
    assert "finished already" in said[0]
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_of_someone_else_is_not_taken_for_the_own(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    interrupted(output)
    output.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        run(order(output, resume=True))
    assert output.read_text() == "mine"


def test_a_second_writer_of_an_output_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    tried = False

    def second(more: int) -> None:
        nonlocal tried
        if more and not tried:
            tried = True
            with pytest.raises(OutputError, match=r"Another run is writing .*out\.txt"):
                run(order(output, overwrite=True))

    run(order(output), Watch(lines=second))
    assert tried
    assert output.read_text() == EXPECTED


@pytest.mark.slow
def test_the_lock_of_a_dead_run_is_taken_over(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    script = textwrap.dedent(f"""
        import os, signal
        from tests.engine.test_pipeline import order
        from uertool.engine.order import Watch
        from uertool.engine.run import run

        def die(more):
            if more:
                os.kill(os.getpid(), signal.SIGKILL)

        run(order(r"{output}"), Watch(lines=die))
    """)
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    dead = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, timeout=60
    )
    assert dead.returncode == -signal.SIGKILL
    run(order(output))  # nothing was finished, so nothing is asked for
    assert list(tmp_path.iterdir()) == [output]


def test_lines_that_fail_go_to_errors_jsonl(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    texts = [*TEXTS[:12], "poison", *TEXTS[12:15], "unreadable"]
    found = run(order(output, texts=texts, strict=False))
    errors = list(map(json.loads, Path(f"{output}.errors.jsonl").read_text().splitlines()))
    assert [(error["number"], error["line"]) for error in errors] == [(12, 13), (16, 17)]
    assert errors == list(found.errors)
    assert len(output.read_text().split()) == 15


def test_parts_and_files_are_numbered_as_the_whole(tmp_path: Path) -> None:
    from uertool.engine.inputs.sources import Reading

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x\n" * 3 + "poison\n")
    (tmp_path / "in" / "b.txt").write_text("xx\npoison\nxxx")
    asked = order(tmp_path / "out.txt", texts=None, inputs=[str(tmp_path / "in")], strict=False)
    found = run(asked)
    places = [(Path(e["file"]).name, e["line"], e["number"]) for e in found.errors]
    assert places == [("a.txt", 4, 3), ("b.txt", 2, 5)]
    assert [entry["lines"] for entry in found.manifest["input"]] == [4, 3]
    half = replace(asked, output=str(tmp_path / "half.txt"), reading=Reading(part=(2, 2)))
    run(half)
    assert (tmp_path / "half.txt").read_text() == "1\n"


def test_standard_output_gets_shards_in_order_while_they_are_made(tmp_path: Path) -> None:
    taken: list[bytes] = []
    seen: list[int] = []
    run(
        order("-", emit=taken.append),
        Watch(lines=lambda more: seen.append(len(b"".join(taken).split()))),
    )
    assert b"".join(taken).decode() == EXPECTED
    assert seen[:4] == [0, 10, 10, 20]


@pytest.mark.parametrize("files", [1, 3])
def test_the_total_is_estimated_from_bytes_and_exact_in_the_end(files: int, tmp_path: Path) -> None:
    inputs = []
    for number in range(files):
        inputs.append(str(tmp_path / f"{number}.txt"))
        Path(inputs[-1]).write_text("".join(f"{line:05}\n" for line in range(50)))
    totals: list[int] = []
    run(order(tmp_path / "out.txt", texts=None, inputs=inputs), Watch(total=totals.append))
    assert len(totals) == 5 * files
    assert all(total == pytest.approx(50 * files, rel=0.1) for total in totals)
    assert totals[-1] == 50 * files


def test_the_total_of_a_pipe_is_unknown(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a\nb\n",))
    writer.start()
    totals: list[int] = []
    output = tmp_path / "out.txt"
    run(order(output, texts=None, inputs=[str(tmp_path / "pipe")]), Watch(total=totals.append))
    writer.join(timeout=10)
    assert output.read_text() == "1\n1\n"
    assert totals == []


def test_progress_moves_with_every_batch(tmp_path: Path) -> None:
    seen: list[int] = []
    run(
        order(tmp_path / "out.txt", work=replace(WORK, window=95), texts=["x" * 100] * 95),
        Watch(lines=seen.append),
    )
    assert sum(seen) == 95
    assert len(seen) > 4  # 2048 tokens a batch


def test_what_is_done_is_kept_after_ctrl_c(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"

    def stop(more: int) -> None:
        if more:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(order(output, keep_partial=True), Watch(lines=stop))
    assert output.read_text() == EXPECTED[:20]


def test_what_was_kept_is_replaced_when_the_run_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    done = 0

    def stop(more: int) -> None:
        nonlocal done
        done += more
        if done >= 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(order(output, keep_partial=True), Watch(lines=stop))
    assert len(output.read_text().split()) == 40
    run(order(output, keep_partial=True, resume=True))
    assert output.read_text() == EXPECTED
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_same_output(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    for delay in range(1, 9):
        pid = os.fork()
        if pid == 0:
            texts = TEXTS * 40
            run(order(output, texts=texts, resume=True))
            os._exit(0)
        time.sleep(delay * 0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if list(tmp_path.iterdir()) == [output]:
            break  # it was faster than the signal
    else:
        run(order(output, texts=TEXTS * 40, resume=True))
    assert output.read_text() == EXPECTED * 40
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("removals", range(12))
def test_a_run_killed_while_it_cleans_up_is_known_as_complete(
    removals: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.txt"
    left = [removals]
    remove, remove_folder = Store.remove, Store.remove_folder

    def counted(store: Store, name: str) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        remove(store, name)

    def stopped(store: Store, name: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "remove", counted)
    monkeypatch.setattr(Store, "remove_folder", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(order(output))
    monkeypatch.setattr(Store, "remove", remove)
    monkeypatch.setattr(Store, "remove_folder", remove_folder)
    written = output.stat()
    run(order(output, resume=True))
    assert output.stat() == written
    assert output.read_text() == EXPECTED
    assert list(tmp_path.iterdir()) == [output]


def test_names_of_the_folder_are_known(tmp_path: Path) -> None:
    assert run_folder.resume_folder(tmp_path / "x.npy") == f"{tmp_path}/x.npy.resume"


def test_a_run_without_a_good_line_fails_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"\xff\npoison\n\xff\n")
    asked = order(tmp_path / "out.txt", texts=None, inputs=[str(tmp_path / "in.txt")], strict=False)
    with pytest.raises(InputError, match=r"None of 3 lines .* line 1 of .*in.txt: invalid UTF-8"):
        run(asked)
    assert [file.name for file in tmp_path.iterdir()] == ["in.txt"]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_an_interrupted_run_of_other_text_than_utf8_goes_on(tmp_path: Path, encoding: str) -> None:
    from uertool.engine.inputs.sources import Reading

    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes("".join(f"{'天' * len(text)}\n" for text in TEXTS).encode(encoding))
    more = {"texts": None, "inputs": [str(source)], "reading": Reading(encoding=encoding)}
    interrupted(output, **more)
    with pytest.raises(OutputError):
        run(order(output, **{**more, "reading": Reading(encoding="big5")}))
    run(order(output, **more, resume=True))
    assert output.read_text() == EXPECTED
