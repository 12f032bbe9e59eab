"""Folders for sentence-transformers: the same vectors there, and what has no counterpart."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES, MODELS, TEXT
from uertool import Whitening, load_model
from uertool.errors import CheckpointError, InputError, UertoolError, UsageError, VocabError
from uertool.tasks.convert import sentence_modules
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings

BERT = FIXTURES / "bert-modular" / "model.bin"
SMALL = MODELS / "zh-mlm-small"
LINES = [
    line.partition("\t")[2] for line in (TEXT / "reviews_test.tsv").read_text("utf-8").split("\n")
][1:80] + ["mixed English 123, ＡＢＣ", "长" * 300]


def deliver(source: Path, target: Path, **settings: Any) -> Path:
    settings = {"exact_norm": True, **settings}
    convert(source, target, "sentence-transformers", ConvertSettings(**settings))
    return target


def whitening_of(path: Path, size: int, pooling: str = "mean", **about: str) -> Path:
    rows = load_model(SMALL / "model.bin", device="cpu").encode(LINES, pooling=pooling)
    saved = path / "w.safetensors"
    Whitening.fit(rows, size, about={"pooling": pooling, **about}).save(saved)
    return saved


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / lengths


def encoded_there(folder: Path, texts: list[str]) -> np.ndarray:
    there = pytest.importorskip("sentence_transformers")
    found: np.ndarray = there.SentenceTransformer(str(folder), device="cpu").encode(texts)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["first", "mean", "max", "last"])
def test_vectors_there_are_those_of_the_source_here(tmp_path: Path, pooling: str) -> None:
    folder = deliver(SMALL / "model.bin", tmp_path / "out", pooling=pooling)
    expected = load_model(SMALL / "model.bin", device="cpu").encode(LINES, pooling=pooling)
    found = encoded_there(folder, LINES)
    assert cosines(found, expected).min() > 0.99999
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_a_whitening_becomes_a_layer_of_its_own(tmp_path: Path) -> None:
    saved = whitening_of(tmp_path, 32)
    folder = deliver(SMALL / "model.bin", tmp_path / "out", whitening=saved)
    found = encoded_there(folder, LINES)
    model = load_model(SMALL / "model.bin", device="cpu")
    expected = model.encode(LINES, pooling="mean", whitening=saved)
    assert found.shape == (len(LINES), 32)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_a_hugging_face_folder_keeps_its_tokenizer(tmp_path: Path) -> None:
    convert(SMALL / "model.bin", tmp_path / "hf", "hf", ConvertSettings(exact_norm=True))
    folder = deliver(tmp_path / "hf", tmp_path / "out", pooling="mean", exact_norm=False)
    expected = load_model(tmp_path / "hf", device="cpu").encode(LINES, pooling="mean")
    assert cosines(encoded_there(folder, LINES), expected).min() > 0.99999
    again = load_model(folder, device="cpu").encode(LINES, pooling="mean")
    np.testing.assert_allclose(again, expected, atol=1e-5)


@pytest.mark.slow
def test_sep_follows_texts_where_that_was_asked_for(tmp_path: Path) -> None:
    folder = deliver(SMALL / "model.bin", tmp_path / "out", add_sep=True, normalize=True)
    model = load_model(SMALL / "model.bin", device="cpu")
    expected = model.encode(LINES, add_sep=True, normalize=True)
    np.testing.assert_allclose(encoded_there(folder, LINES), expected, atol=1e-4)


@pytest.mark.slow
def test_sentence_transformers_runs_the_output_if_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers")
    settings = ConvertSettings(exact_norm=True, verify_full=True, pooling="mean")
    source = SMALL / "model.bin"
    report = convert(source, tmp_path / "one", "sentence-transformers", settings)
    assert report.verification is not None and report.verification.cosine is not None
    assert report.verification.cosine > 0.99999
    assert "gives the same vectors" in report.verification.notes[-1]

    def wrong(self: object, folder: Path, texts: list[str]) -> torch.Tensor:
        return torch.eye(len(texts), 192)

    monkeypatch.setattr(sentence_modules.SentenceModules, "encoded", wrong)
    with pytest.raises(CheckpointError, match="not those of its source"):
        convert(source, tmp_path / "two", "sentence-transformers", settings)
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("albert-modular", "bert-classifier-legacy", "bert-modular", "sbert-modular"),
        *("hf-electra-discriminator", "hf-ernie", "hf-modernbert", "hf-roformer"),
        "xlm-roberta-modular",
    ],
)
def test_every_encoder_gives_the_same_vectors_there(tmp_path: Path, name: str) -> None:
    pytest.importorskip("sentence_transformers")
    source = FIXTURES / name
    source = source / "model.bin" if (source / "model.bin").exists() else source
    arch = "xlm-roberta" if name.startswith("xlm") else None
    settings = ConvertSettings(exact_norm=True, verify_full=True, pooling="mean", arch=arch)
    report = convert(source, tmp_path / "out", "sentence-transformers", settings)
    assert report.verification is not None
    assert "gives the same vectors" in report.verification.notes[-1]


def test_a_model_that_transformers_removed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not have nezha"):
        deliver(FIXTURES / "hf-nezha", tmp_path / "out", verify=False)


@pytest.mark.slow
def test_wrong_modules_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = sentence_modules.SentenceModules.write

    def write(self: sentence_modules.SentenceModules, folder: Path) -> None:
        written(dataclasses.replace(self, how="max"), folder)

    monkeypatch.setattr(sentence_modules.SentenceModules, "write", write)
    with pytest.raises(CheckpointError, match="not those of its source"):
        deliver(SMALL / "model.bin", tmp_path / "out", pooling="mean")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"exact_norm": False}, CheckpointError, r"layer norm, which .*`exact_norm`"),
        ({"pooling": "first-last-mean"}, UsageError, "no counterpart of the pooling first-last"),
        ({"pooling": "cls-pooler"}, UsageError, "no counterpart"),
        ({"pooling": "median"}, UsageError, "no counterpart"),
        ({"whitening": "w", "pooling": "max"}, UsageError, "pooling mean, not of max"),
        ({"whitening": "layers"}, UsageError, "no counterpart of the layers 1,4"),
    ],
)
def test_what_has_no_counterpart_is_said_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], error: type[UertoolError], text: str
) -> None:
    if "whitening" in settings:
        about = {"layers": "1,4"} if settings["whitening"] == "layers" else {}
        settings = {**settings, "whitening": whitening_of(tmp_path, 8, **about)}
    with pytest.raises(error, match=text):
        deliver(SMALL / "model.bin", tmp_path / "out", **settings)
    assert not list(tmp_path.glob("*out*"))


def test_a_whitening_of_another_model_does_not_fit(tmp_path: Path) -> None:
    saved = whitening_of(tmp_path, 8)
    with pytest.raises(InputError, match="takes vectors of 192 numbers, but these have"):
        deliver(BERT, tmp_path / "out", whitening=saved)


def test_a_tokenizer_is_needed(tmp_path: Path) -> None:
    shutil.copy(BERT, tmp_path / "model.bin")
    shutil.copy(BERT.with_name("config.json"), tmp_path / "config.json")
    with pytest.raises(VocabError, match="needs the tokenizer"):
        deliver(tmp_path / "model.bin", tmp_path / "out")


@pytest.mark.parametrize("name", ["gpt2-modular", "t5-modular"])
def test_a_decoder_has_no_sentence_vectors(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="come from an encoder"):
        deliver(FIXTURES / name / "model.bin", tmp_path / "out", verify=False)


def test_settings_of_sentence_vectors_need_their_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`pooling` was given"):
        convert(BERT, tmp_path / "out", "hf", ConvertSettings(pooling="mean"))
    with pytest.raises(UsageError, match="must be a folder"):
        deliver(BERT, tmp_path / "out.safetensors")


def test_the_files_are_in_the_format_of_every_release(tmp_path: Path) -> None:
    folder = deliver(BERT, tmp_path / "out", pooling="mean", normalize=True, verify=False)
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert {module["type"].rpartition(".")[0] for module in modules} == {
        "sentence_transformers.models"
    }
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert [name for name, value in pooling.items() if value is True] == [
        "pooling_mode_mean_tokens"
    ]
