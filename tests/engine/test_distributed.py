"""Distributed runs on two nodes of one machine: the local engine's rows, whatever dies."""

from __future__ import annotations

import functools
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import MODELS, TEXT
from tests.engine import distributed_jobs as jobs
from uertool.cli.app import main
from uertool.engine.batching import run_batches
from uertool.engine.estimate import estimate
from uertool.engine.jobs import JobWork
from uertool.engine.order import Order, Resources, Watch
from uertool.engine.run import run
from uertool.errors import InputError, OutputError, UertoolError, UsageError
from uertool.tasks.features.work import FeatureWriter, feature_work
from uertool.tasks.shards import merge, verify
from uertool.text.readers import Line

pytest.importorskip("ray")
# One process runs all of these tests, so that there is one cluster.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

LINES = 20_000
MODEL = [
    "--load_model_path", str(jobs.FOLDER / "model.bin"),
    "--vocab_path", str(jobs.FOLDER / "vocab.txt"),
    "--config_path", str(jobs.FOLDER / "config.json"),
]  # fmt: skip
FEATURES = [*MODEL, "--pooling", "mean", "--seq_length", "16"]


class TwoNodes:
    """A head with one processor and another node with one, which may be taken away."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        settings = {"num_cpus": 1, "object_store_memory": 80 << 20}
        self._settings = settings
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**settings, "include_dashboard": False}
        )
        self._other = self._cluster.add_node(**settings)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def lose_a_node(self) -> None:
        self._cluster.remove_node(self._other, allow_graceful=False)

    def mend(self) -> None:
        self._other = self._cluster.add_node(**self._settings)

    def end(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    from uertool.engine.executors.cluster import import_ray

    import_ray()
    nodes = TwoNodes()
    yield nodes
    nodes.end()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Lines of very different lengths, some of them blank, and a giant one."""
    corpus = [line for line in (TEXT / "corpus_zh.txt").read_text("utf-8").split("\n") if line]
    found = [corpus[n % len(corpus)][: n * 7 % 60] for n in range(LINES)]
    found[9_999] = "字" * 300_000
    return found


@pytest.fixture(scope="module")
def inputs(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The lines in files of all kinds, and an empty file."""
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("input")
    (folder / "a.txt").write_text("\n".join(texts[:7000]) + "\n", "utf-8")
    (folder / "b.txt").write_text("")
    (folder / "c.txt.gz").write_bytes(gzip.compress("\n".join(texts[7000:12000]).encode()))
    parquet.write_table(pyarrow.table({"text": texts[12000:15000]}), folder / "d.parquet")
    (folder / "e.txt").write_text("\n".join(texts[15000:]), "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def expected(texts: list[str]) -> Any:
    """The rows that the local engine gives."""
    job = jobs.feature_job(None, torch.device("cpu"))
    lines = (Line(number, text) for number, text in enumerate(texts))
    found = run_batches(lines, job.encode, job.step, limits=job.limits, empty=job.empty)
    return np.concatenate([result.vectors for result in found])


def order(inputs: str, output: Path, cluster: TwoNodes, pids: Path | None = None) -> Order:
    make_job = functools.partial(jobs.feature_job, None if pids is None else str(pids))
    return Order(
        work=feature_work(make_job, FeatureWriter(jobs.SETTINGS), ".npy"),
        inputs=[inputs],
        output=str(output),
        engine="ray",
        in_shards=True,
        address=cluster.address,
        resources=Resources(actors=2),
    )


def digests(manifest: dict[str, Any]) -> list[str]:
    return [shard["files"][0]["sha256"] for shard in manifest["shards"]]


# -- the same numbers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(
    inputs: str, cluster: TwoNodes, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """A run in which nothing happens."""
    folder = tmp_path_factory.mktemp("reference") / "out.npy"
    return run(order(inputs, folder, cluster)).manifest, folder


def test_rows_are_those_of_the_local_engine_in_the_same_order(
    reference: tuple[dict[str, Any], Path], expected: Any, tmp_path: Path
) -> None:
    manifest, folder = reference
    np.testing.assert_allclose(jobs.rows(folder), expected, rtol=0, atol=1e-6)
    assert (manifest["lines"], manifest["rows"], manifest["errors"]) == (LINES, LINES, 0)
    assert [entry["lines"] for entry in manifest["input"]] == [7000, 0, 5000, 3000, 5000]
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", *(f"part-{n:06d}.npy" for n in range(10)),
    }  # fmt: skip
    assert verify(str(folder), inputs=True).problems == []
    merge(str(folder), str(tmp_path / "all.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "all.npy"), jobs.rows(folder))


def test_a_finished_run_is_not_done_again(
    reference: tuple[dict[str, Any], Path], inputs: str, cluster: TwoNodes
) -> None:
    manifest, folder = reference
    said: list[str] = []
    found = run(order(inputs, folder, cluster), Watch(notice=said.append))
    assert found.manifest == manifest
    assert "finished already" in said[0]
    with pytest.raises(OutputError, match="holds the shards of another run"):
        run(replace(order(inputs, folder, cluster), identity={"pooling": "max"}))


# -- what dies ------------------------------------------------------------------------------------


def test_a_killed_actor_costs_only_its_blocks(
    reference: tuple[dict[str, Any], Path], inputs: str, cluster: TwoNodes, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def kill(more: int) -> None:
        if more and not killed:
            killed.append(int(next(pids.iterdir()).name))
            os.kill(killed[0], signal.SIGKILL)

    done: list[int] = []
    manifest = run(
        order(inputs, tmp_path / "out", cluster, pids),
        Watch(lines=lambda more: (kill(more), done.append(more))[0]),
    ).manifest
    assert digests(manifest) == digests(reference[0])
    assert killed
    assert len(list(pids.iterdir())) > 2  # another process took its place
    assert sum(done) == LINES


def test_a_lost_node_costs_only_its_blocks(
    reference: tuple[dict[str, Any], Path], inputs: str, cluster: TwoNodes, tmp_path: Path
) -> None:
    lost: list[bool] = []

    def lose(more: int) -> None:
        if more and not lost:
            lost.append(True)
            cluster.lose_a_node()

    try:
        manifest = run(order(inputs, tmp_path / "out", cluster), Watch(lines=lose)).manifest
    finally:
        cluster.mend()
    assert lost
    assert digests(manifest) == digests(reference[0])


def test_a_killed_driver_is_started_again_and_goes_on(
    reference: tuple[dict[str, Any], Path], inputs: str, cluster: TwoNodes, tmp_path: Path
) -> None:
    folder = tmp_path / "out.npy"
    command = [
        "extract-features", "--test_path", inputs, "--prediction_path", str(folder), *FEATURES,
        "--engine", "ray", "--ray_address", cluster.address, "--actors", "1",
    ]  # fmt: skip
    driver = subprocess.Popen([sys.executable, "-m", "uertool", *command])
    records = folder / "_run"
    while not (done := sorted(path.name for path in records.glob("part-*.json"))):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = [Path(name).stem + ".npy" for name in done]
    before = {name: (folder / name).stat().st_mtime_ns for name in done}
    assert main(command) == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == before
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    # These runs had one actor, the reference two: shards do not depend on who makes them.
    assert digests(manifest) == digests(reference[0])
    assert not records.exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert verify(str(folder)).problems == []
    assert set(manifest["options"]["model files"]) == {"model.bin", "config.json", "vocab.txt"}


# -- what cannot be processed ---------------------------------------------------------------------


def length_order(inputs: Path, output: Path, cluster: TwoNodes) -> Order:
    return Order(
        work=JobWork("lengths", ".txt", jobs.length_job, jobs.length_writer),
        inputs=[str(inputs)],
        output=str(output),
        engine="ray",
        in_shards=True,
        address=cluster.address,
        resources=Resources(actors=2),
        block_lines=1000,
    )


def test_lines_and_files_that_cannot_be_processed_are_reported_and_do_not_stop_a_run(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    lines = [b"x" * (n % 9 + 1) for n in range(2000)]
    lines[10], lines[20], lines[1500] = b"\xff\xfe\xff", b"unreadable", b"poison"
    (folder / "a.txt").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "b.parquet").write_bytes(b"PAR1 and nothing else")
    (folder / "c.gz").write_bytes(gzip.compress(b"one\ntwo\n" + os.urandom(5000))[:-3000])
    (folder / "d.txt").write_bytes(b"last\n")
    with pytest.raises(InputError, match=r"b\.parquet is a broken Parquet file"):
        run(replace(length_order(folder, tmp_path / "out", cluster), strict=True))
    assert not (tmp_path / "out").exists()

    said: list[str] = []
    asked = length_order(folder, tmp_path / "out", cluster)
    manifest = run(asked, Watch(notice=said.append)).manifest
    errors = [json.loads(row) for row in (tmp_path / "out/errors.jsonl").open(encoding="utf-8")]
    places = [(Path(e["file"]).name, e["line"], e["number"], e["reason"]) for e in errors]
    assert [place[:3] for place in places] == [
        ("b.parquet", 1, None), ("c.gz", places[1][1], None),
        ("a.txt", 11, 10), ("a.txt", 21, 20), ("a.txt", 1501, 1500), *(p[:3] for p in places[5:]),
    ]  # fmt: skip
    assert [place[3].split(",")[0] for place in places[2:5]] == [
        "invalid UTF-8", "It cannot be read", "ValueError: poison",
    ]  # fmt: skip
    assert manifest["errors"] == len(errors)
    assert manifest["lines"] - manifest["rows"] == len(errors) - 2
    found = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("part-*")))
    good = [len(line) for n, line in enumerate(lines) if n not in (10, 20, 1500)]
    assert found.splitlines()[: len(good)] == list(map(str, good))
    assert found.splitlines()[-1] == "4"
    assert any("c.gz is a truncated gzip file" in sentence for sentence in said)
    assert verify(str(tmp_path / "out")).problems == []


def test_what_ends_a_run_is_reported_and_finished_shards_are_kept(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("good\n" * 3000 + "poison\n", "utf-8")
    asked = replace(length_order(path, tmp_path / "out", cluster), resources=Resources(actors=1))
    with pytest.raises(UertoolError, match=r"a\.txt, line 3001: ValueError: poison"):
        run(replace(asked, strict=True))
    assert len(list((tmp_path / "out").glob("part-*"))) == 3
    with pytest.raises(UsageError, match="seed was None and is 1"):
        run(replace(asked, identity={"seed": 1}))
    manifest = run(asked).manifest  # what is strict is no matter of the results
    assert (manifest["rows"], manifest["errors"]) == (3000, 1)


def test_a_block_that_kills_its_workers_is_named(
    cluster: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("good\n" * 10 + "deadly\n", "utf-8")
    asked = replace(length_order(path, tmp_path / "out", cluster), most_tries=2)
    with pytest.raises(UertoolError, match=r"Block 0 \(.*a\.txt, from line 1\) was begun 2 times"):
        run(asked)


# -- the plan -------------------------------------------------------------------------------------


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    inputs: str, cluster: TwoNodes, tmp_path: Path
) -> None:
    found = estimate(order(inputs, tmp_path / "out", cluster))
    assert (found.files, found.lines, found.blocks, found.block_lines) == (5, LINES, 10, 2048)
    assert (found.room.actors, found.room.nodes, found.sampled) == (2, 2, 1024)
    assert found.rate > 0
    assert found.seconds > found.loading > 0
    assert not (tmp_path / "out").exists()


# -- commands -------------------------------------------------------------------------------------


def on_cluster(cluster: TwoNodes, *arguments: str) -> list[str]:
    return [*arguments, "--engine", "ray", "--ray-address", cluster.address, "--quiet"]


def test_a_vocabulary_is_counted_the_same(cluster: TwoNodes, inputs: str, tmp_path: Path) -> None:
    """Ties by first appearance included: the files of the two commands are equal."""
    here, there = tmp_path / "here.txt", tmp_path / "there.txt"
    asked = ["vocab", "build", f"{inputs}/a.txt", f"{inputs}/e.txt"]
    assert main([*asked, "--output-path", str(here), "--quiet"]) == 0
    more = ["--output-path", str(there), "--shard-lines", "1000"]
    assert main(on_cluster(cluster, *asked, *more)) == 0
    assert there.read_bytes() == here.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"here.txt", "there.txt"}


def test_a_whitening_is_fitted_the_same_on_the_shards_of_features(
    reference: tuple[dict[str, Any], Path],
    cluster: TwoNodes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = sorted(map(str, reference[1].glob("part-*.npy")))
    here, there = (str(tmp_path / f"{name}.safetensors") for name in ("here", "there"))
    size = ["--whitening-size", "8", "--json"]
    assert main(["whiten", "fit", *files, "-o", here, *size]) == 0
    shards = f"{reference[1]}/part-*.npy"
    assert main(on_cluster(cluster, "whiten", "fit", shards, "-o", there, *size)) == 0
    one, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert one.pop("remarks") == other.pop("remarks")
    assert one == pytest.approx(other)
    from uertool.tasks.features.whitening import Whitening

    np.testing.assert_array_equal(Whitening.load(there).kernel, Whitening.load(here).kernel)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


def test_cloze_tests_on_a_cluster_are_those_of_one_machine(
    cluster: TwoNodes, texts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(texts[:300]), "utf-8")
    here, there = tmp_path / "here.txt", tmp_path / "there.txt"
    asked = ["cloze", "--test-path", str(path), "--seq-length", "32"]
    assert main([*asked, "--prediction-path", str(here), "--quiet"]) == 0
    assert main(on_cluster(cluster, *asked, "--prediction-path", str(there))) == 0
    assert (there / "part-000000.txt").read_bytes() == here.read_bytes()


def test_texts_generated_on_a_cluster_are_those_of_one_machine(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    """Drawn at random: every line has its own stream, whoever works on it."""
    path = tmp_path / "a.txt"
    path.write_text("今天天气\n我们去\n" + "长" * 300 + "\n他说\n学习\n", "utf-8")
    model = MODELS / "zh-lm-small"
    asked = [
        "generate", "lm", "--test-path", str(path), "--load_model_path", str(model),
        "--max-new-tokens", "6",
    ]  # fmt: skip
    there = tmp_path / "there.txt"
    more = ["--prediction-path", str(there), "--shard-lines", "2"]
    assert main(on_cluster(cluster, *asked, *more)) == 0
    (error,) = map(json.loads, (there / "errors.jsonl").open(encoding="utf-8"))
    assert (error["line"], error["number"]) == (3, 2)
    assert "has 30" in error["reason"]
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], "短", *lines[3:]]), "utf-8")
    here = tmp_path / "here.txt"
    assert main([*asked, "--prediction-path", str(here), "--quiet"]) == 0
    merge(str(there), str(tmp_path / "all.txt"))
    texts = here.read_text("utf-8").split("\n\n")
    del texts[2]
    assert (tmp_path / "all.txt").read_text("utf-8") == "\n\n".join(texts)
