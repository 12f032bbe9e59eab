"""Vectors into files: every line has its row, an interrupted run ends as if it had not been."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import MODELS, TEXT
from uertool import Whitening
from uertool.engine.order import Order, Watch
from uertool.errors import InputError, OutputError, UsageError
from uertool.io.vector_reader import open_vectors
from uertool.io.vector_writer import Note
from uertool.loading.registry import LoadedModel, load_model
from uertool.tasks.features import settings as feature_settings
from uertool.tasks.features.job import FeatureJob, FeatureSettings, encode
from uertool.tasks.features.plots import draw_vectors, flatten, similarities
from uertool.tasks.features.settings import VectorSettings
from uertool.tasks.features.work import Extraction, FeatureReport, extract
from uertool.text.readers import read_lines

CPU = torch.device("cpu")
SETTINGS = FeatureSettings(pooling="mean", seq_length=16)


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return load_model(MODELS / "zh-mlm-small", device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = [line.text for line in read_lines(TEXT / "reviews_test.tsv", column="text_a")]
    return [*lines[:20], "", *lines[20:40], "  \u3000"]


@pytest.fixture
def windows_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_settings, "WINDOW", 8)


@dataclass(frozen=True)
class Plan:
    """An output, and how it is written."""

    path: str
    vectors: VectorSettings = field(default_factory=VectorSettings)
    overwrite: bool = False
    resume: bool = False


def to(path: Path | str, *, overwrite: bool = False, resume: bool = False, **given: Any) -> Plan:
    return Plan(str(path), VectorSettings(**given), overwrite, resume)


def run(
    loaded: LoadedModel,
    texts: Iterable[str],
    plan: Plan,
    settings: FeatureSettings = SETTINGS,
    *,
    about: Mapping[str, str] | None = None,
    identity: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> FeatureReport:
    job = FeatureJob(loaded, settings)
    extraction = Extraction(lambda _: job, settings, plan.vectors, plan.path, about=about or {})

    def order(**more: Any) -> Order:
        more["identity"] |= identity or {}
        there = {"overwrite": plan.overwrite, "resume": plan.resume}
        return Order(texts=list(texts), strict=True, **there, **more)

    return extract(extraction, extraction.order(order), watch)[0]


def vectors(path: Path) -> np.ndarray:
    return np.concatenate([block for block, _ in open_vectors(path).blocks(7)])


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors", ".parquet", ".jsonl"])
def test_every_line_has_its_row(
    small: LoadedModel, texts: list[str], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"v{suffix}"
    report = run(small, texts, to(path))
    assert (report.lines, report.rows, report.blank, report.size) == (42, 42, 2, 192)
    expected = encode(small, texts, pooling="mean", seq_length=16)
    np.testing.assert_allclose(vectors(path), expected, atol=2e-5)
    assert not vectors(path)[[20, 41]].any()
    assert sorted(tmp_path.iterdir()) == [path]


def test_blank_lines_may_have_no_row_and_a_map_tells_whose_row_is_whose(
    small: LoadedModel, texts: list[str], tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, blank="skip")
    plan = to(tmp_path / "v.npy", row_map=tmp_path / "map.tsv")
    report = run(small, texts, plan, settings)
    assert (report.lines, report.rows, report.blank) == (42, 40, 2)
    rows = [line.split("\t") for line in (tmp_path / "map.tsv").read_text().splitlines()]
    assert rows[0] == ["row", "line"]
    assert [int(line) for _, line in rows[1:]] == [n for n in range(42) if n not in (20, 41)]


def test_tokens_have_rows_and_the_map_names_them(small: LoadedModel, tmp_path: Path) -> None:
    settings = FeatureSettings(tokens=True)
    plan = to(tmp_path / "v.npy", row_map=tmp_path / "map.tsv")
    report = run(small, ["你好", "", "好"], plan, settings)
    assert report.rows == 5
    lines = (tmp_path / "map.tsv").read_text("utf-8").splitlines()[1:]
    assert lines == [
        "0\t0\t0\t[CLS]",
        "1\t0\t1\t你",
        "2\t0\t2\t好",
        "3\t2\t0\t[CLS]",
        "4\t2\t1\t好",
    ]


class StoppedError(Exception):
    """What an interruption looks like."""


def stopping_after(count: int) -> Callable[[int], None]:
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if done >= count:
            raise StoppedError

    return advance


@pytest.mark.usefixtures("windows_of_eight")
@pytest.mark.parametrize("plan", [
    to("v.npy"),
    to("v.jsonl", precision="int8"),
    to("v.safetensors", whitening_size=6, save_whitening=Path("w.safetensors")),
], ids=["plain", "int8", "whitened"])  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_bytes(
    small: LoadedModel,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: Plan,
) -> None:
    monkeypatch.chdir(tmp_path)
    identity = {"model": "small"}
    with pytest.raises(StoppedError):
        run(small, texts, plan, identity=identity, watch=Watch(lines=stopping_after(17)))
    assert len(list(tmp_path.glob(f"{plan.path}.resume/_run/part-*"))) == 2
    assert not Path(plan.path).exists()
    with pytest.raises(OutputError, match="`resume`"):
        run(small, texts, plan, identity=identity)
    again = dataclasses.replace(plan, resume=True)
    with pytest.raises(UsageError, match="model was 'small' and is 'other'"):
        run(small, texts, again, identity={"model": "other"})
    report = run(small, texts, again, identity=identity)
    assert (report.resumed_lines, report.lines, report.blank) == (16, 42, 2)
    names = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run(small, texts, dataclasses.replace(plan, overwrite=True), identity=identity)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == names
    assert not any(name.endswith(".resume") for name in names)


def test_a_whitening_is_fitted_saved_and_used_again(
    small: LoadedModel, texts: list[str], tmp_path: Path
) -> None:
    kept = tmp_path / "w.safetensors"
    plan = to(tmp_path / "a.npy", whitening_size=8, save_whitening=kept)
    report = run(small, texts, plan, about={"pooling": "mean"})
    raw = encode(small, texts, pooling="mean", seq_length=16)
    real = [n for n in range(42) if n not in (20, 41)]
    expected = Whitening.fit(raw[real], 8)
    first = vectors(tmp_path / "a.npy")
    np.testing.assert_allclose(first[real], expected.transform(raw[real]), atol=1e-3)
    assert not first[20].any()
    assert (report.size, report.fitted_on) == (8, 40)
    assert report.explained == pytest.approx(expected.explained, abs=1e-5)
    assert report.cosine_before > 0.5 > abs(report.cosine_after)
    notices: list[str] = []
    plan = to(tmp_path / "b.npy", load_whitening=kept)
    run(small, texts[3:5], plan, about={"pooling": "first"}, watch=Watch(notice=notices.append))
    np.testing.assert_allclose(vectors(tmp_path / "b.npy"), first[3:5], atol=1e-4)
    assert notices == [f"{kept} was fitted on other vectors: pooling mean and not first."]


def test_normalized_and_unnormalized(small: LoadedModel, texts: list[str], tmp_path: Path) -> None:
    run(small, texts, to(tmp_path / "a.npy", normalize=True))
    lengths = np.linalg.norm(vectors(tmp_path / "a.npy"), axis=1)
    np.testing.assert_allclose(lengths, [float(bool(text.strip())) for text in texts], atol=1e-5)
    plan = to(tmp_path / "b.npy", whitening_size=4, normalize=False)
    run(small, texts, plan)
    real = vectors(tmp_path / "b.npy")
    np.testing.assert_allclose(real[real.any(1)].var(axis=0, ddof=1), 1, atol=1e-3)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_scales_of_replaced_rows_do_not_stay(
    small: LoadedModel, texts: list[str], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"v{suffix}"
    run(small, texts[:5], to(path, precision="int8"))
    assert (tmp_path / f"v.scales{suffix}").exists()
    run(small, texts[:5], to(path, overwrite=True))
    assert list(tmp_path.iterdir()) == [path]


def test_settings_that_clash_are_named_before_anything_runs(tmp_path: Path) -> None:
    kept = tmp_path / "w.safetensors"
    for given, path, words in (
        ({}, "v.csv", r"\.csv"),
        ({"save_whitening": kept}, "v.npy", "nothing is whitened"),
        ({"row_map": kept}, "v.npy", "needs all vectors in one file"),
        ({"whitening_size": 4}, "v.npy", "cannot be fitted in the same run"),
    ):
        with pytest.raises(UsageError, match=words):
            VectorSettings(**given).check(str(tmp_path / path), in_shards=True)
    with pytest.raises(UsageError, match="at least 1"):
        VectorSettings(whitening_size=0)


def test_no_lines_at_all_are_an_error_and_leave_nothing(small: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no lines"):
        run(small, [], to(tmp_path / "v.npy"))
    assert list(tmp_path.iterdir()) == []


# -- pictures -------------------------------------------------------------------------------------


def test_the_map_is_the_two_principal_components() -> None:
    rows = np.random.default_rng(2).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    points = flatten(rows.astype(np.float32))
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    np.testing.assert_allclose(points.var(axis=0, ddof=1), values[:2], rtol=1e-4)
    one = flatten(rows[:, :1].astype(np.float32))
    np.testing.assert_allclose(np.ptp(one, axis=0), [np.ptp(rows[:, 0]), 0], rtol=1e-4)


@pytest.mark.slow
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32) + 1
    notes = [Note(number, f"第{number}行 $x$") for number in range(30)]
    fitted = Whitening.fit(rows)
    for name in ("a.png", "a.svg"):
        draw_vectors(tmp_path / name, rows, fitted.transform(rows), notes)
        assert (tmp_path / name).stat().st_size > 5000
    assert similarities(rows).shape == (30 * 29 // 2,)
    with pytest.raises(UsageError, match=r"\.gif"):
        draw_vectors(tmp_path / "a.gif", rows, rows, notes)
    with pytest.raises(InputError, match="2 vectors"):
        draw_vectors(tmp_path / "b.png", rows[:2], rows[:2], notes[:2])
