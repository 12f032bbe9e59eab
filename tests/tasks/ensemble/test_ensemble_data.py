"""Labels and feature files of ensembles: what is read, and what is refused and how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tasks.ensemble.ensemble_data import made_up, write_case, write_labels
from uertool.errors import InputError
from uertool.tasks.ensemble import data, scores
from uertool.tasks.ensemble.ensemble import BaseModel


def test_labels_come_from_the_column_called_label_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("text_a\tlabel\r\n好\t2\r\n坏\t0\r\n\r\n".encode())
    assert data.read_labels(path).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label\ttext_a\n1\ta\n-1\tb\n", "line 3: invalid label '-1'"),
        ("label\ttext_a\n1.5\ta\n", "line 2: invalid label '1.5'"),
        ("label\ttext_a\nx\ta\n", "line 2: invalid label 'x'"),
        ("label\ttext_a\n\tno label\n", "line 2: invalid label ''"),
        ("label\ttext_a\n1\ta\n\n0\tb\n", "line 3 is blank"),
        ("label\ttext_a\n", "no line of data"),
        ("class\ttext_a\n1\ta\n", "no column 'label'"),
    ],
)
def test_a_bad_label_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        data.read_labels(path)


def test_a_label_outside_labels_num_is_named_with_its_line_and_a_way_out(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.tsv", np.array([0, 1, 5, 2, 6]))
    with pytest.raises(InputError) as caught:
        data.check_labels(data.read_labels(tmp_path / "a.tsv"), 3, tmp_path / "a.tsv")
    assert "line 4: the label 5 is outside 0..2 (2 lines" in caught.value.message
    assert "`labels_num` 7" in str(caught.value.hint)


# -- finding files ----------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/", "/run_"])
def test_a_prefix_finds_numbered_files_as_the_old_scripts_did(tmp_path: Path, prefix: str) -> None:
    stem = f"{tmp_path}{prefix if prefix != '' else '/'}"
    for i in range(12):
        np.save(f"{stem}train_features_{i}.npy", np.zeros((2, 2)))
    found = data.find_features([f"{tmp_path}{prefix}"], "train")
    assert [path.name[-6:] for path in found] == [f"_{i}.npy"[-6:] for i in range(12)]
    assert len(data.find_features([f"{tmp_path}{prefix}"], "train", 5)) == 5


def test_a_glob_gives_files_of_all_kinds_in_natural_order(tmp_path: Path) -> None:
    for name in ("m10.npy", "m2.pt", "m1.safetensors", "m3.parquet", "notes.txt"):
        (tmp_path / name).touch()
    found = data.find_features([str(tmp_path / "*")], "train")
    assert [path.name for path in found] == ["m1.safetensors", "m2.pt", "m3.parquet", "m10.npy"]


@pytest.mark.parametrize(
    ("models_num", "words"),
    [
        (4, "base model 2 are missing.*train_features_2.npy"),
        (None, "train_features_3.npy is there"),
    ],
)
def test_a_missing_features_file_is_named(
    tmp_path: Path, models_num: int | None, words: str
) -> None:
    for i in (0, 1, 3):
        np.save(tmp_path / f"train_features_{i}.npy", np.zeros((2, 2)))
    with pytest.raises(InputError, match=words):
        data.find_features([str(tmp_path)], "train", models_num)


def test_no_features_at_all_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .*test_features_0\.npy"):
        data.find_features([f"{tmp_path}/"], "test")
    with pytest.raises(InputError, match="matches no feature file"):
        data.find_features([f"{tmp_path}/*.npy"], "test")


def test_a_glob_must_give_the_number_of_models_that_was_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"1 feature files were found .* `models_num` is 3"):
        data.find_features([f"{tmp_path}/*.npy"], "train", 3)


# -- reading files ----------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = np.random.default_rng(0).random((7, 3), dtype=np.float32)
    tensor = torch.from_numpy(values)
    np.save(tmp_path / "a.npy", values.astype(np.float64))
    torch.save(tensor, tmp_path / "b.pt")
    torch.save({"features": tensor, "more": torch.zeros(1)}, tmp_path / "c.pt")
    save_file({"anything": tensor}, tmp_path / "d.safetensors")
    columns = {"line": list(range(7)), **{f"p{i}": values[:, i] for i in range(3)}}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    pq.write_table(pa.table({"line": list(range(7)), "x": values.tolist()}), tmp_path / "f.parquet")
    models = data.load_features(data.find_features([f"{tmp_path}/*"], "train"), 7, "labels.tsv")
    assert len(models) == 6
    for model in models:
        np.testing.assert_array_equal(model.values, values)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors", ".parquet"])
def test_what_extract_features_writes_is_read(tmp_path: Path, suffix: str, precision: str) -> None:
    from uertool.io.vector_writer import Note, open_sink

    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    with open_sink(tmp_path / f"mean{suffix}", 5, precision=precision) as sink:
        sink.write(values, [Note(line=i, text=str(i)) for i in range(6)])
    (model,) = data.load_features(data.find_features([f"{tmp_path}/*"], "train"), 6, "x")
    tolerance = {"float32": 0, "float16": 2e-3, "int8": 2e-2}[precision]
    np.testing.assert_allclose(model.values, values, atol=tolerance)


def test_half_precision_features_are_read(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3, 2, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    np.save(tmp_path / "b.npy", np.ones((3, 2), dtype=np.float16))
    models = data.load_features(data.find_features([f"{tmp_path}/*"], "train"), 3, "labels.tsv")
    assert all((model.values == 1).all() for model in models)


def write_bad(path: Path, values: object) -> None:
    np.save(path, np.asarray(values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 2)), "has 4 rows, but .*labels.tsv has 3 lines"),
        ([[0, 1], [np.nan, 0], [1, 0]], "NaN or infinity in 1 of 3 rows, the first in row 1"),
        ([[0, 1], [np.inf, 0], [1, 0]], "NaN or infinity"),
        ([[0, 1e300], [1, 0], [1, 0]], "NaN or infinity"),
        (np.zeros((3, 2, 2)), r"has the shape \[3, 2, 2\]"),
        ([["a", "b"]] * 3, "but numbers were expected"),
    ],
)
def test_bad_features_are_refused_in_words(tmp_path: Path, values: object, words: str) -> None:
    write_bad(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=words) as caught:
        data.load_features([tmp_path / "a.npy"], 3, "labels.tsv")
    assert "a.npy" in caught.value.message


def test_faults_of_several_files_are_reported_together(tmp_path: Path) -> None:
    write_bad(tmp_path / "a.npy", np.zeros((4, 2)))
    write_bad(tmp_path / "b.npy", np.zeros((3, 2)))
    write_bad(tmp_path / "c.npy", np.full((3, 2), np.nan))
    with pytest.raises(InputError) as caught:
        data.load_features(sorted(tmp_path.iterdir()), 3, "labels.tsv")
    assert "a.npy has 4 rows" in caught.value.message
    assert "c.npy holds NaN" in caught.value.message
    assert "b.npy" not in caught.value.message


@pytest.mark.parametrize("name", ["a.npy", "a.pt", "a.safetensors", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"no such format", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_a_broken_file_is_an_input_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        data.load_features([tmp_path / name], 3, "labels.tsv")


def test_pickles_are_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "sprung").touch, ())

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    torch.save(Trap(), tmp_path / "b.pt")
    for name in ("a.npy", "b.pt"):
        with pytest.raises(InputError, match=name):
            data.load_features([tmp_path / name], 1, "labels.tsv")
    assert not (tmp_path / "sprung").exists()


# -- both together ----------------------------------------------------------------------------


def test_one_base_model_only_is_noticed(tmp_path: Path) -> None:
    write_case(tmp_path, models_num=1)
    read = data.load_labelled(tmp_path / "train.tsv", [str(tmp_path)], "train")
    assert any("only one base model" in notice for notice in read.notices)


def test_a_label_without_lines_is_noticed(tmp_path: Path) -> None:
    write_case(tmp_path)
    read = data.load_labelled(tmp_path / "train.tsv", [str(tmp_path)], "train", labels_num=4)
    assert any("no line with the label 3" in notice for notice in read.notices)


def test_names_of_base_models_come_from_their_files(tmp_path: Path) -> None:
    for name in ("train_features_0.npy", "train_mean-pool.npy", "oof_features_big.npy"):
        np.save(tmp_path / name, np.zeros((2, 2)))
    models = data.load_features(sorted(tmp_path.iterdir()), 2, "x")
    assert {model.name for model in models} == {"model 0", "mean_pool", "big"}


def test_other_base_models_in_the_test_set_are_refused_or_noticed() -> None:
    _, outputs = made_up(5, models_num=2)
    models = tuple(
        data.Features(f"m{i}", Path(f"m{i}.npy"), values.astype(np.float32))
        for i, values in enumerate(outputs)
    )
    m0, m1, m2, other = (BaseModel(name, 3, "logits") for name in ("m0", "m1", "m2", "other"))
    assert data.check_pairs([m0, m1], models) == ()
    assert "paired by order" in data.check_pairs([m0, other], models)[0]
    with pytest.raises(InputError, match=r"m1\.npy has 3 columns, but m1 had 2 in training"):
        data.check_pairs([m0, BaseModel("m1", 2, "logits")], models)
    with pytest.raises(InputError, match="has 3 base models, but 2 feature files"):
        data.check_pairs([m0, m1, m2], models)


# -- folds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_folds_are_even_for_every_label_and_seeded(count: int) -> None:
    labels = np.repeat([0, 1, 2, 4], [57, 23, 10, 31])
    fold = scores.fold_of_each_line(labels, count, seed=7)
    for lines in (fold, *(fold[labels == label] for label in (0, 1, 2, 4))):
        sizes = np.bincount(lines, minlength=count)
        assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold, scores.fold_of_each_line(labels, count, seed=7))
    assert (fold != scores.fold_of_each_line(labels, count, seed=8)).any()


def test_a_label_that_would_be_absent_from_a_fold_is_named() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2] * 3)
    with pytest.raises(InputError, match="absent from a fold: label 2 has 3") as caught:
        scores.fold_of_each_line(labels, 5, seed=0)
    assert "`folds` 3" in str(caught.value.hint)


def test_a_holdout_has_its_share_of_every_label() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 2])
    held = scores.holdout(labels, seed=0)
    assert np.bincount(labels[held]).tolist() == [10, 4, 1]


def test_a_holdout_needs_a_label_with_two_lines() -> None:
    with pytest.raises(InputError, match="all 4 lines differ"):
        scores.holdout(np.arange(4), seed=0)
