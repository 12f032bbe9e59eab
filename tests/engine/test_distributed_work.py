"""What becomes of blocks without a cluster: lines that fail, sums, and words about errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine import distributed_jobs as jobs
from uertool.cli.app import main
from uertool.engine.executors.cluster import find_room
from uertool.engine.executors.worker import plain_error, raised_error
from uertool.engine.jobs import JobWork
from uertool.engine.order import Resources
from uertool.engine.storage.store import Store
from uertool.engine.work import Finished, Processor, Progress, Task, Tasks
from uertool.errors import InputError, MissingExtraError, UertoolError, UsageError
from uertool.tasks.features.whitening import Moments
from uertool.tasks.features.whitening_work import MomentsWork
from uertool.tasks.vocab.counting import TallyWork, count_corpus
from uertool.tasks.vocab.tallies import Counting, Tally
from uertool.text.readers import Line, read_lines

pytest.importorskip("pyarrow")

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


def lines(*texts: str) -> Iterator[Line]:
    return (Line(number, text) for number, text in enumerate(texts))


def run(
    processor: Processor, source: Iterator[Line], path: Path
) -> tuple[list[int], dict[str, int], dict[int, str]]:
    """How many lines were reported as done, the counts, and the lines that failed."""
    failed: dict[int, str] = {}
    told, counts = [], {}
    for event in processor.run(Tasks(iter([Task(0, source, path, failed.__setitem__)]))):
        if isinstance(event, Progress):
            told.append(event.lines)
        elif isinstance(event, Finished):
            counts = event.counts
    return told, counts, failed


# -- lines that fail ------------------------------------------------------------------------------


def test_lines_that_fail_are_left_out_and_reported(tmp_path: Path) -> None:
    work = JobWork("lengths", ".txt", jobs.length_job, jobs.length_writer)
    texts = ["a", "poison", "ccc", "unreadable", "", "ffffff"]
    _, counts, failed = run(work.open(CPU), lines(*texts), tmp_path / "a.txt")
    assert failed == {1: "ValueError: poison", 3: "It cannot be read"}
    assert (tmp_path / "a.txt").read_text().split() == ["1", "3", "0", "6"]
    assert counts["rows"] == 4


def test_a_job_that_fails_on_everything_is_a_fault_and_no_list_of_bad_lines(
    tmp_path: Path,
) -> None:
    work = JobWork("lengths", ".txt", jobs.faulty_job, jobs.length_writer)
    with pytest.raises(ValueError, match="a fault of the job"):
        run(work.open(CPU), lines("a", "b"), tmp_path / "a.txt")


def test_errors_travel_as_plain_data() -> None:
    for error in (UsageError("A.", "B."), InputError("A."), UertoolError("A.", "B.")):
        back = raised_error(json.loads(json.dumps(plain_error(error))))
        assert (type(back), str(back)) == (type(error), str(error))
    missing = MissingExtraError("ray", "ray", "This")
    assert str(raised_error(plain_error(missing))) == str(missing)


# -- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", ["char", "space"])
@pytest.mark.parametrize("normalization", [None, "NFKC"])
def test_tallies_of_blocks_add_up_to_that_of_the_file(
    tmp_path: Path, delimiter: Any, normalization: Any
) -> None:
    path = tmp_path / "a.txt"
    rows = ["  b a\tb ", "", "ｆｕｌｌ　width e\u0301 ", "a\u3000a", " c", "\tb a c  c"] * 3
    path.write_text("\r\n".join(rows), "utf-8", newline="")
    counting = Counting(delimiter, normalization)
    expected = count_corpus([path], counting)
    found = Tally()
    work = TallyWork(counting=counting).open(CPU)
    every = list(read_lines(path))
    for start in range(0, len(every), 4):
        run(work, iter(every[start : start + 4]), tmp_path / "part.json")
        found.add(Tally.load(tmp_path / "part.json"))
    assert list(found.counts.items()) == list(expected.counts.items())


def test_moments_of_a_broken_file_take_no_part(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    vectors[7] = 0
    np.save(tmp_path / "a.npy", vectors)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:300])
    work = MomentsWork().open(CPU)
    told, counts, failed = run(work, lines(str(tmp_path / "a.npy")), tmp_path / "a.npz")
    expected = Moments(4)
    expected.add(np.delete(vectors, 7, axis=0))
    with np.load(tmp_path / "a.npz") as part:
        np.testing.assert_array_equal(part["scatter"], expected.scatter)
        assert part["count"] == 49
    with np.load(tmp_path / "a.sums.npz") as sums:
        assert sums["before_count"] == 49
    assert (told, counts, failed) == ([1], {"rows": 50}, {})
    _, counts, failed = run(work, lines(str(tmp_path / "b.npy")), tmp_path / "b.npz")
    assert counts == {"rows": 0}
    assert "b.npy" in failed[0]


# -- resources ------------------------------------------------------------------------------------


class _Cluster:
    """What `find_room` asks of Ray."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes]

    def cluster_resources(self) -> dict[str, float]:
        names = {name for node in self._nodes for name in node}
        return {name: sum(node.get(name, 0) for node in self._nodes) for name in names}


def test_there_are_as_many_workers_as_fit_and_have_something_to_do() -> None:
    cluster = _Cluster({"CPU": 5}, {"CPU": 3})
    assert find_room(cluster, Resources(cpus=2), 100).actors == 3
    assert find_room(cluster, Resources(cpus=2), 2).actors == 2
    assert find_room(cluster, Resources(actors=1), 100).actors == 1
    room = find_room(cluster, Resources(actors=9), 100)
    assert (room.actors, room.threads) == (9, 1)
    assert "room for 8 of 9 workers" in str(room.notice)
    with pytest.raises(UertoolError, match="No node .* has 6 CPUs .* the largest has 5 CPUs"):
        find_room(cluster, Resources(cpus=6), 100)


def test_a_worker_gets_a_gpu_where_there_are_any() -> None:
    cluster = _Cluster({"CPU": 16, "GPU": 4}, {"CPU": 64})
    assert find_room(cluster, Resources(), 100).actors == 4
    assert find_room(cluster, Resources(gpus=0.5), 100).actors == 8
    assert find_room(cluster, Resources(gpus=0), 100).actors == 80


@pytest.mark.parametrize(
    "wrong", [{"actors": 0}, {"cpus": 0.0}, {"gpus": -1.0}], ids=lambda wrong: next(iter(wrong))
)
def test_invalid_resources_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Resources(**wrong)


# -- the store ------------------------------------------------------------------------------------


def test_files_of_a_store_appear_whole_and_dead_workers_leave_nothing(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/out")
    store.create()
    with store.folder() as folder:
        (folder / "x").write_bytes(b"1")
        assert store.sizes() == {}
        store.put(folder / "x", "part")
    assert store.sizes() == {"part": 1}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part"]
    stray = tmp_path / "out" / ".0123.partial"
    stray.mkdir()
    store.clean()
    assert not stray.exists()
    assert store.read("nothing") is None


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--actors", "2"], "--actors belongs to --engine ray"),
        (["--engine", "ray"], "--engine ray writes a folder of shards"),
        (["--engine", "ray", "-o", "x.npy"], "--engine ray needs files"),
        (["--engine", "ray", "-o", "x.npy", "-i", "-"], "Standard input cannot be shared out"),
        (["--engine", "ray", "-o", "x.npy", "-i", "a", "--shard", "1/2"], "Ray distributes the w"),
        (["--engine", "ray", "-o", "x.npy", "-i", "a", "--whiten"], "--whiten needs all vectors"),
        (
            ["--engine", "ray", "-o", "x.npy", "-i", "a", "--device", "cuda:1"],
            "assigns the devices",
        ),
        (["--engine", "ray", "-o", "x.doc", "-i", "a"], "not a format for vectors"),
        (["--engine", "ray", "-o", "x.npy", "-i", "a", "--shard-lines", "0"], "must be at least 1"),
        (["--engine", "ray", "-o", "x.npy", "-i", "a", "--ray-address", "x"], "HOST:PORT"),
    ],
)
def test_invalid_options_are_reported(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("x\n")
    assert main(["extract-features", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_cluster_that_does_not_answer_is_reported_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "a").write_text("x\n")
    asked = ["-i", str(tmp_path / "a"), "-o", str(tmp_path / "x.npy"), "--engine", "ray"]
    assert main(["extract-features", *asked, "--ray-address", "127.0.0.1:9"]) == 1
    assert "No Ray cluster answers at 127.0.0.1:9" in capsys.readouterr().err
