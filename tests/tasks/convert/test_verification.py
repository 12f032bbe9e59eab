"""A conversion is verified before it is put in its place: read back, and run like its source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIXTURES, fixture_folders
from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.reader import open_checkpoint
from uertool.checkpoints.writer import save_tensors
from uertool.errors import CheckpointError, ConfigError
from uertool.loading.config_resolution import resolve_config
from uertool.tasks.convert import plan, verification
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings
from uertool.tasks.convert.verification import SOURCE_AND_OUTPUT
from uertool.tasks.convert.writing import ConversionWriter

pytestmark = pytest.mark.slow

MLM = FIXTURES / "mlm-modular" / "model.bin"
ALBERT = FIXTURES / "albert-modular" / "model.bin"


UER = [f for f in fixture_folders("model.bin", "config.json") if f.name.endswith("legacy")]


@pytest.mark.parametrize("folder", UER, ids=lambda folder: folder.name)
def test_other_names_compute_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    options = ConvertSettings(layout="legacy" if "seq2seq" in folder.name else "modular")
    report = convert(folder / "model.bin", tmp_path / "m.bin", "uer", options)
    assert report.verification is not None
    found = report.verification.differences
    assert set(found) == {SOURCE_AND_OUTPUT}
    assert set(found[SOURCE_AND_OUTPUT].values()) == {0.0}


def wrong_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    def config_json(*args: Any, **more: Any) -> dict[str, Any]:
        return {**before(*args, **more), "hidden_act": "relu"}

    before = plan.config_json
    monkeypatch.setattr(plan, "config_json", config_json)


def test_an_output_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_activation(monkeypatch)
    with pytest.raises(CheckpointError, match=r"not right; source and output.*hidden states by"):
        convert(MLM, tmp_path / "hf", "hf", ConvertSettings(exact_norm=True))
    assert not list(tmp_path.iterdir())


def test_a_refused_output_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(MLM, tmp_path / "hf", "hf")
    before = {item.name: item.read_bytes() for item in (tmp_path / "hf").iterdir()}
    wrong_activation(monkeypatch)
    with pytest.raises(CheckpointError):
        convert(MLM, tmp_path / "hf", "hf", ConvertSettings(exact_norm=True, overwrite=True))
    assert {item.name: item.read_bytes() for item in (tmp_path / "hf").iterdir()} == before
    assert [item.name for item in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("name", ["m.bin", "m.safetensors", "bert_model.ckpt"])
def test_a_damaged_file_never_takes_the_place_of_a_good_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to: Any = {".bin": "uer", ".safetensors": "safetensors", ".ckpt": "google"}[Path(name).suffix]
    if to == "google":
        pytest.importorskip("tensorflow")
    tensors = {name: tensor.clone() for name, tensor in torch.load(MLM, weights_only=True).items()}
    tensors["target.mlm.linear_2.weight"] = tensors["embedding.word.embedding.weight"]
    (tmp_path / "in").mkdir()
    save_tensors(tensors, tmp_path / "in" / "model.bin")
    shutil.copy(MLM.with_name("config.json"), tmp_path / "in")
    source, target = tmp_path / "in" / "model.bin", tmp_path / name
    convert(source, target, to)
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir() if item.is_file()}
    changed = ConversionWriter._tensors

    def damaged(job: Any) -> Any:
        return ((n, t + 1.0 if "layer_norm_1.gamma" in n else t) for n, t in changed(job))

    def damaged_google(job: Any) -> Any:
        return ((n, t + 1.0 if n.endswith("LayerNorm/gamma") else t) for n, t in changed(job))

    wrong = damaged_google if to == "google" else damaged
    monkeypatch.setattr(ConversionWriter, "_tensors", wrong)
    with pytest.raises(CheckpointError, match="differs"):
        convert(source, target, to, ConvertSettings(overwrite=True))
    after = {item.name: item.read_bytes() for item in tmp_path.iterdir() if item.is_file()}
    assert after == before


def test_what_cannot_be_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "free_memory", lambda: 1000)
    report = convert(MLM, tmp_path / "a", "hf")
    assert report.verification is not None
    assert report.verification.differences == {}
    assert "memory are free" in report.verification.notes[0]
    monkeypatch.undo()
    monkeypatch.setattr(verification, "transformers_outputs", lambda *_: None)
    report = convert(MLM, tmp_path / "b", "hf", ConvertSettings(verify_full=True))
    assert report.verification is not None
    assert set(report.verification.differences) == {SOURCE_AND_OUTPUT}
    assert "not installed" in report.verification.notes[0]


# What tensors cannot tell


def alone(source: Path, tmp_path: Path) -> Path:
    """A checkpoint without its configuration."""
    (tmp_path / "alone").mkdir(exist_ok=True)
    return Path(shutil.copy(source, tmp_path / "alone" / "model.bin"))


def test_an_unknown_number_of_heads_is_asked_for_where_it_matters(tmp_path: Path) -> None:
    source = alone(MLM, tmp_path)
    with pytest.raises(ConfigError, match="attention heads"):
        convert(source, tmp_path / "hf", "hf")
    report = convert(source, tmp_path / "legacy.bin", "uer", ConvertSettings(layout="legacy"))
    assert report.verification is not None
    assert report.verification.differences[SOURCE_AND_OUTPUT]["mlm"] == 0.0
    assert "`heads_num`" in report.verification.notes[0]
    report = convert(source, tmp_path / "m.safetensors", "safetensors")
    assert report.verification is not None
    assert report.verification.differences[SOURCE_AND_OUTPUT]["mlm"] == 0.0
    assert open_checkpoint(tmp_path / "m.safetensors").stored_config["heads_num"] == 0
    convert(source, tmp_path / "hf", "hf", ConvertSettings(heads_num=4))
    assert json.loads((tmp_path / "hf/config.json").read_text())["num_attention_heads"] == 4


def test_the_runs_of_a_shared_layer_come_from_the_configuration_or_a_flag(tmp_path: Path) -> None:
    def layers(**more: Any) -> int:
        shutil.rmtree(tmp_path / "hf", ignore_errors=True)
        options = ConvertSettings(heads_num=4, hidden_act="gelu", **more)
        convert(source, tmp_path / "hf", "hf", options)
        found: int = json.loads((tmp_path / "hf/config.json").read_text())["num_hidden_layers"]
        return found

    source = ALBERT
    assert layers() == 3
    with pytest.raises(ConfigError, match=r"`layers_num` is 12, but the encoder has 3 layers"):
        layers(layers_num=12)
    source = alone(ALBERT, tmp_path)
    assert layers(layers_num=5) == 5
    assert layers(config_path=ALBERT.with_name("config.json")) == 3


def test_a_vocabulary_is_written_next_to_googles_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    convert(MLM, tmp_path / "bert_model.ckpt", "google", ConvertSettings(allow_loss=True))
    assert (tmp_path / "vocab.txt").read_bytes() == MLM.with_name("vocab.txt").read_bytes()
    config = json.loads((tmp_path / "bert_config.json").read_text())
    assert config["num_attention_heads"] == 4
    convert(tmp_path / "bert_model.ckpt", tmp_path / "hf", "hf")
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


def test_names_that_mean_one_tensor_and_differ_are_reported(tmp_path: Path) -> None:
    convert(MLM, tmp_path / "hf", "hf")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "hf" / "model.safetensors")
    weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"] + 1.0
    save_file(weights, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False  # so transformers uses the decoder's
    report = convert(tmp_path / "hf", tmp_path / "m.bin", "uer")
    assert any("decoder.bias is taken" in note for note in report.notes)
    found = open_checkpoint(tmp_path / "m.bin").tensor("target.mlm.linear_2.bias")
    assert torch.equal(found, weights["cls.predictions.decoder.bias"])


def test_the_encoder_of_bart_has_its_own_word_table_if_it_differs(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    convert(FIXTURES / "bart-modular" / "model.bin", tmp_path / "hf", "hf")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    weights["model.shared.weight"] += 1.0  # unused by transformers, which trains the other
    save_file(weights, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    found = open_checkpoint(tmp_path / "hf").tensor("embedding.word.embedding.weight")
    assert torch.equal(found, weights["model.encoder.embed_tokens.weight"])


def test_how_far_relative_positions_reach_is_kept_next_to_a_file(tmp_path: Path) -> None:
    convert(FIXTURES / "t5-modular" / "model.bin", tmp_path / "hf", "hf")
    path = tmp_path / "hf" / "config.json"
    changed = {"relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-5}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    report = convert(tmp_path / "hf", tmp_path / "m.bin", "uer")
    assert any("reach 20 tokens, UER-py's 128" in note for note in report.notes)
    assert report.verification is not None
    assert report.verification.differences[SOURCE_AND_OUTPUT]["hidden states"] == 0.0
    config = resolve_config(open_checkpoint(tmp_path / "m.bin")).config
    assert (config.relative_attention_max_distance, config.norm_eps) == (20, 1e-5)
    convert(tmp_path / "m.bin", tmp_path / "back", "hf")
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {name: back[name] for name in changed} == changed


def test_ernie_without_task_types_is_a_bert_of_uer_py(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    convert(MLM, tmp_path / "hf", "hf")
    path = tmp_path / "hf" / "config.json"
    ernie = {"model_type": "ernie", "architectures": ["ErnieForMaskedLM"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **ernie}))
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    weights = {name.replace("bert.", "ernie."): value for name, value in weights.items()}
    save_file(weights, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    for exact, least, most in ((True, 0.0, 1e-4), (False, 1e-3, 1.0)):
        options = ConvertSettings(exact_norm=exact)
        report = convert(tmp_path / "hf", tmp_path / f"{exact}.bin", "uer", options)
        assert report.verification is not None
        assert least <= max(report.verification.differences[SOURCE_AND_OUTPUT].values()) <= most


def test_an_epsilon_that_uer_py_does_not_have_is_named(tmp_path: Path) -> None:
    convert(MLM, tmp_path / "hf", "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 0.1}))
    with pytest.raises(CheckpointError, match=r"cannot become UER-py's: their epsilon 0\.1"):
        convert(tmp_path / "hf", tmp_path / "m.bin", "uer", ConvertSettings(exact_norm=True))


def test_the_segment_row_of_xlm_r_is_used_in_safetensors(tmp_path: Path) -> None:
    source = FIXTURES / "xlm-roberta-modular" / "model.bin"
    report = convert(source, tmp_path / "hf", "hf", ConvertSettings(arch="xlm-roberta"))
    assert any("Row 2 is written" in note for note in report.notes)
    assert report.verification is not None
    assert report.verification.differences[SOURCE_AND_OUTPUT]["hidden states"] > 0.1
    report = convert(tmp_path / "hf", tmp_path / "m.safetensors", "safetensors")
    assert report.verification is not None
    assert set(report.verification.differences[SOURCE_AND_OUTPUT].values()) == {0.0}


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("bart", {"scale_embedding": True}, "root of the hidden size"),
        ("roberta", {"hidden_act": "relu"}, "activation gelu"),
    ],
)
def test_what_uer_py_has_no_setting_for_is_reported_and_kept_in_safetensors(
    kind: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from tests.parity.hf_models import make

    arch = architecture("xlm-roberta" if kind == "roberta" else kind)
    make(tmp_path / "hf", arch, kind, "mlm" if kind == "roberta" else "lm", **settings)
    report = convert(tmp_path / "hf", tmp_path / "m.bin", "uer", ConvertSettings(exact_norm=True))
    assert any(words in note for note in report.notes)
    report = convert(tmp_path / "hf", tmp_path / "m.safetensors", "safetensors")
    assert not any(words in note for note in report.notes)
    assert report.verification is not None
    assert set(report.verification.differences[SOURCE_AND_OUTPUT].values()) == {0.0}


def test_a_folder_that_transformers_cannot_load_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    before, right = plan.config_json, resolve_config(open_checkpoint(MLM))

    def config_json(*args: Any, **more: Any) -> dict[str, Any]:
        return {**before(*args, **more), "num_hidden_layers": 4}

    monkeypatch.setattr(plan, "config_json", config_json)
    monkeypatch.setattr(verification, "resolve_config", lambda *_: right)  # uertool is deceived
    with pytest.raises(CheckpointError, match=r"transformers finds .* missing keys such as bert"):
        convert(MLM, tmp_path / "hf", "hf", ConvertSettings(verify_full=True))
    assert not (tmp_path / "hf").exists()


def test_a_bundled_model_is_converted_by_its_name(tmp_path: Path) -> None:
    report = convert("zh-mlm-small", tmp_path / "hf", "hf", ConvertSettings(verify=False))
    assert report.hf_class == "BertForMaskedLM"
    assert (tmp_path / "hf" / "tokenizer.json").is_file()
