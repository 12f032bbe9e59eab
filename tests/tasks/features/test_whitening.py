"""Whitening: UER-py's vectors, the author's formula, exact merging, and what is degenerate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import FIXTURES
from uertool import Whitening
from uertool.errors import CheckpointError, InputError, UsageError
from uertool.tasks.features.whitening import MeanCosine, Moments, check_path, unit_rows

RANDOM = np.random.default_rng(11)


def vectors(count: int, size: int, *, spread: bool = True) -> np.ndarray:
    rows = RANDOM.normal(size=(count, size))
    if spread:
        rows = rows * np.linspace(3, 0.1, size) @ RANDOM.normal(size=(size, size)) + 5
    return rows.astype(np.float32)


def author(rows: np.ndarray, size: int) -> np.ndarray:
    """compute_kernel_bias and transform_and_normalize of the paper's code, in float64."""
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0, keepdims=True)
    u, s, _ = np.linalg.svd(np.cov(rows.T))
    kernel = (u @ np.diag(1 / np.sqrt(s)))[:, :size]
    white = (rows - mean) @ kernel
    return white / np.sqrt((white**2).sum(axis=1, keepdims=True))


def assert_same_up_to_sign(found: np.ndarray, expected: np.ndarray, atol: float) -> None:
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=atol)


@pytest.mark.parametrize("name", ["bert-legacy", "bert-modular"])
def test_whitened_vectors_are_those_of_uer_py(name: str) -> None:
    raw = np.load(FIXTURES / name / "expected/wfeatures_first.npy")
    expected = np.load(FIXTURES / name / "expected/wfeatures_first_whitened_8.npy")
    assert_same_up_to_sign(Whitening.fit(raw, 8).transform(raw), expected, 1e-4)


def test_the_formula_is_the_authors() -> None:
    rows = vectors(300, 24)
    for size in (4, 24):
        found = Whitening.fit(rows, size).transform(rows)
        assert_same_up_to_sign(found, author(rows, size), 1e-4)


def test_whitened_coordinates_are_uncorrelated_with_variance_one() -> None:
    rows = vectors(500, 16)
    white = Whitening.fit(rows).transform(rows, normalize=False).astype(np.float64)
    np.testing.assert_allclose(np.cov(white.T), np.eye(16), atol=1e-4)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.booleans())
def test_moments_do_not_depend_on_blocks_and_processes(sizes: list[int], merge: bool) -> None:
    rows = vectors(sum(sizes) + 2, 5) + 1000  # a mean far from zero cancels badly if done naively
    gathered = Moments(5)
    parts = np.split(rows, np.cumsum(sizes))
    for part in parts:
        if merge:
            other = Moments(5)
            other.add(part)
            gathered.merge(other)
        else:
            gathered.add(part)
    assert gathered.count == len(rows)
    np.testing.assert_allclose(gathered.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-12)
    expected = np.cov(rows.astype(np.float64).T)
    np.testing.assert_allclose(gathered.covariance, expected, rtol=1e-8, atol=1e-8)


def test_fewer_vectors_than_dimensions_give_zeros_in_place_of_huge_weights() -> None:
    rows = vectors(10, 32)
    fitted = Whitening.fit(rows)
    assert fitted.rank == 9
    assert np.abs(fitted.kernel).max() < 1e3
    assert not fitted.kernel[:, 9:].any()
    found = fitted.transform(rows)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert any("9 directions only" in remark for remark in fitted.remarks())
    assert any("fits their noise" in remark for remark in fitted.remarks())


def test_a_direction_that_does_not_vary_is_left_out() -> None:
    rows = vectors(200, 8)
    rows[:, 3] = 7
    fitted = Whitening.fit(rows)
    assert fitted.rank == 7
    assert np.abs(fitted.kernel).max() < 1e3


def test_what_cannot_be_whitened_is_said() -> None:
    with pytest.raises(InputError, match="at least 2 vectors, and there was 1"):
        Whitening.fit(vectors(1, 4))
    with pytest.raises(InputError, match="were none"):
        Whitening.fit([])
    with pytest.raises(InputError, match="do not differ"):
        Whitening.fit(np.ones((5, 4), np.float32))
    broken = vectors(5, 4)
    broken[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        Whitening.fit(broken)
    with pytest.raises(InputError, match="NaN"):
        Whitening.fit(vectors(5, 4)).transform(broken)
    for shape in ((8,), (2, 2, 2), (8, 0)):
        with pytest.raises(InputError, match=r"have the shape \[n, size\], not \[\d"):
            Whitening.fit(np.ones(shape, np.float32))
    with pytest.raises(UsageError, match="4 dimensions"):
        Whitening.fit(vectors(9, 4), 5)
    for name in ("beta", "gamma"):
        with pytest.raises(UsageError, match=rf"`{name}`: 1\.5"):
            Whitening.fit(vectors(9, 4), **{name: 1.5})


@pytest.mark.parametrize(("beta", "gamma"), [(1, 1), (0, 1), (1, 0.5), (0.3, 0.7), (0, 0)])
def test_beta_and_gamma_are_the_authors_later_formula(beta: float, gamma: float) -> None:
    rows = vectors(300, 12)
    found = Whitening.fit(rows, 5, beta=beta, gamma=gamma).transform(rows, normalize=False)
    mean = rows.astype(np.float64).mean(axis=0)
    u, s, _ = np.linalg.svd(np.cov(rows.T.astype(np.float64)))
    expected = (rows - beta * mean) @ (u * s ** (-gamma / 2))[:, :5]
    assert_same_up_to_sign(found, expected, 1e-3)


def test_beta_and_gamma_of_zero_keep_every_cosine() -> None:
    rows = vectors(6, 16)  # fewer than dimensions: the mean is outside of what varies
    turned = Whitening.fit(rows, beta=0, gamma=0)
    units = unit_rows(rows.astype(np.float64))
    found = turned.transform(rows).astype(np.float64)
    np.testing.assert_allclose(found @ found.T, units @ units.T, atol=1e-5)
    assert turned.remarks() == []


def test_saved_and_loaded_it_does_the_same(tmp_path: Path) -> None:
    rows = vectors(100, 12)
    blocks = iter([rows[:30], rows[30:]])
    fitted = Whitening.fit(blocks, 6, beta=0.5, gamma=0.25, about={"pooling": "mean"})
    fitted.save(tmp_path / "w.safetensors")
    loaded = Whitening.load(tmp_path / "w.safetensors")
    assert np.array_equal(loaded.transform(rows), fitted.transform(rows))
    assert (loaded.count, loaded.rank, loaded.size, loaded.dims) == (100, 12, 6, 12)
    assert loaded.about == {"pooling": "mean"}
    assert (loaded.beta, loaded.gamma) == (0.5, 0.25)
    assert loaded.explained == fitted.explained
    np.testing.assert_allclose(loaded.cut(3).transform(rows, normalize=False),
                               fitted.transform(rows, normalize=False)[:, :3])  # fmt: skip
    with pytest.raises(UsageError, match="6 dimensions"):
        loaded.cut(7)
    with pytest.raises(InputError, match="takes vectors of 12"):
        loaded.transform(rows[:, :5])


def test_what_is_no_whitening_is_said(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"mean": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="not a whitening"):
        Whitening.load(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        Whitening.load(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:20])
    with pytest.raises((CheckpointError, InputError)):
        Whitening.load(tmp_path / "cut.safetensors")
    np.save(tmp_path / "features.npy", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"not a whitening, .*uertool whiten fit"):
        Whitening.load(tmp_path / "features.npy")
    with pytest.raises(UsageError, match=r"\.safetensors"):
        check_path("w.npy")


@pytest.mark.parametrize("missing", ["count", "rank", "whitening"])
def test_metadata_without_a_key_is_said(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "w.safetensors"
    rewrite_metadata(path, {missing: None})
    with pytest.raises(InputError, match=r"w\.safetensors is not a whitening.*whiten fit"):
        Whitening.load(path)


def test_files_without_beta_and_gamma_are_from_before_they_existed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    expected = rewrite_metadata(path, {"beta": None, "gamma": None})
    loaded = Whitening.load(path)
    assert (loaded.beta, loaded.gamma) == (1, 1)
    assert np.array_equal(loaded.kernel, expected.kernel)


def rewrite_metadata(path: Path, changes: dict[str, str | None]) -> Whitening:
    """Save a whitening with other metadata; None takes a key away."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    fitted = Whitening.fit(vectors(20, 4))
    fitted.save(path)
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = {**file.metadata(), **changes}
    save_file(tensors, path, {key: value for key, value in metadata.items() if value is not None})
    return fitted


def test_explained_is_the_share_of_variance() -> None:
    rows = vectors(400, 6, spread=False) * np.array([3, 2, 1, 1, 1, 1], np.float32)
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.T.astype(np.float64))))[::-1]
    assert Whitening.fit(rows, 2).explained == pytest.approx(values[:2].sum() / values.sum())


def test_mean_cosine_is_that_of_all_pairs() -> None:
    rows = np.concatenate([vectors(40, 7), np.zeros((2, 7), np.float32)])
    units = unit_rows(rows[:40].astype(np.float64))
    expected = (units @ units.T)[np.triu_indices(40, 1)].mean()
    gathered = MeanCosine()
    gathered.add(rows[:11])
    gathered.add(rows[11:])
    assert gathered.value == pytest.approx(expected)
    assert np.isnan(MeanCosine().value)
