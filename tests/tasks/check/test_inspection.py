"""A check names what a checkpoint is, what is wrong with it, and what it can be used for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints.malicious import corpus
from tests.conftest import FIXTURES, fixture_folders
from uertool.tasks.check.inspection import inspect_checkpoint, part_of
from uertool.tasks.check.report import Inspection, as_json
from uertool.tasks.check.settings import CompanionSettings

FOLDERS = fixture_folders("model.bin")
GENERATIONS = ["legacy", "modular"]


def words(result: Inspection) -> str:
    return "\n".join(finding.what for finding in result.problems)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_sound_checkpoint_is_good(folder: Path) -> None:
    vocab = folder / "vocab.txt" if (folder / "vocab.txt").exists() else None
    result = inspect_checkpoint(
        folder / "model.bin",
        CompanionSettings(vocab, folder / "config.json"),
    )
    assert result.good, words(result)
    tensors = torch.load(folder / "model.bin", weights_only=True)
    assert result.tensors == len(tensors)
    assert result.parameters == sum(
        t.numel() for t in {t.data_ptr(): t for t in tensors.values()}.values()
    )
    assert sum(part.tensors for part in result.parts) == len(tensors)
    assert sum(part.parameters for part in result.parts) == result.parameters
    assert sum(part.bytes for part in result.parts) == result.bytes
    assert result.generation == folder.name.rpartition("-")[2]
    assert result.dtypes == {"float32": len(tensors)}
    json.dumps(as_json(result))


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        (
            "bert-modular",
            {"cloze", "extract-features", "topn dep", "extract-embeddings", "convert"},
        ),
        ("gpt2-legacy", {"generate lm", "extract-features", "extract-embeddings", "convert"}),
        ("t5-modular", {"generate seq2seq", "convert"}),
        ("enc-lstm-modular", {"extract-features", "extract-embeddings"}),
        ("bert-classifier-legacy", {"extract-features", "convert"}),
    ],
)
def test_it_says_for_which_commands_a_checkpoint_serves(name: str, possible: set[str]) -> None:
    result = inspect_checkpoint(FIXTURES / name / "model.bin", numbers=False)
    serves = {service.command for service in result.services if service.possible}
    assert possible <= serves
    lacks = {service.command: service.lacks for service in result.services}
    if "generate seq2seq" not in possible:
        assert lacks["generate seq2seq"]
    if name == "gpt2-legacy":
        assert lacks["cloze"] == "an MLM head"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_multi_gpu_names_are_reported(generation: str) -> None:
    result = inspect_checkpoint(FIXTURES / f"misc-{generation}" / "multi_gpu.bin")
    assert result.good
    assert result.multi_gpu
    assert any("module." in f.what and "`fix`" in (f.hint or "") for f in result.findings)


def test_broken_numbers_are_problems(tmp_path: Path) -> None:
    tensors = torch.load(FIXTURES / "bert-modular" / "model.bin", weights_only=True)
    name = "encoder.transformer.1.feed_forward.linear_1.bias"
    tensors[name][3] = float("nan")
    path = tmp_path / "m.bin"
    torch.save(tensors, path)
    result = inspect_checkpoint(path)
    assert not result.good
    assert f"{name} (1)" in words(result)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(bytes(content))
    assert "checksum" in words(inspect_checkpoint(path))


def test_missing_and_unknown_names_are_problems(tmp_path: Path) -> None:
    tensors = torch.load(FIXTURES / "bert-modular" / "model.bin", weights_only=True)
    del tensors["encoder.transformer.1.layer_norm_1.gamma"]
    tensors["my.adapter"] = torch.ones(2)
    torch.save(tensors, tmp_path / "m.bin")
    found = words(inspect_checkpoint(tmp_path / "m.bin"))
    assert "encoder.transformer.1.layer_norm_1.gamma" in found
    assert "my.adapter" in found


@pytest.mark.parametrize("attack", ["os-system", "torch-zip", "torch-legacy", "whole-model"])
def test_a_dangerous_pickle_is_reported_and_never_run(attack: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "m.bin"
    path.write_bytes(corpus(canary)[attack])
    result = inspect_checkpoint(path)
    assert not result.good
    assert any(not report.safe for report in result.security)
    assert "would import" in words(result)
    assert not canary.exists()
    json.dumps(as_json(result))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!doctype html><html>", "an HTML page"),
        (b"", "an empty file"),
        (b'{"model_type": "bert"}', "a JSON file"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    result = inspect_checkpoint(path)
    assert not result.good
    assert what in words(result)


def test_a_truncated_download_is_named(tmp_path: Path) -> None:
    content = (FIXTURES / "bert-modular" / "model.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(content[: len(content) // 2])
    assert "truncated download" in words(inspect_checkpoint(tmp_path / "m.bin"))


def test_a_vocabulary_of_another_size_is_a_problem_with_a_way_out(tmp_path: Path) -> None:
    folder = FIXTURES / "bert-legacy"
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join(tokens[:-7]) + "\n", encoding="utf-8")
    result = inspect_checkpoint(
        folder / "model.bin", CompanionSettings(vocab_path=tmp_path / "vocab.txt"), numbers=False
    )
    assert f"{len(tokens) - 7} tokens, the embedding {len(tokens)} rows" in words(result)
    assert "vocab adapt" in (result.problems[0].hint or "")


def test_a_vocabulary_without_mask_is_a_problem_for_an_mlm(tmp_path: Path) -> None:
    folder = FIXTURES / "bert-legacy"
    text = (folder / "vocab.txt").read_text(encoding="utf-8").replace("[MASK]", "[masked]")
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8")
    result = inspect_checkpoint(
        folder / "model.bin", CompanionSettings(vocab_path=tmp_path / "vocab.txt"), numbers=False
    )
    assert "no [MASK]" in words(result)


def test_a_hugging_face_config_given_for_a_uer_model_is_recognised(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 3}))
    result = inspect_checkpoint(
        FIXTURES / "bert-legacy" / "model.bin", CompanionSettings(config_path=config), numbers=False
    )
    assert "Hugging Face configuration" in words(result)


def test_a_config_that_contradicts_the_tensors_is_a_problem_with_both_numbers(
    tmp_path: Path,
) -> None:
    folder = FIXTURES / "bert-legacy"
    values = json.loads((folder / "config.json").read_text())
    layers = values["layers_num"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**values, "layers_num": layers + 4}))
    found = words(
        inspect_checkpoint(
            folder / "model.bin", CompanionSettings(config_path=config), numbers=False
        )
    )
    assert "layers_num" in found
    assert str(layers) in found and str(layers + 4) in found


def test_a_sentencepiece_model_that_does_not_fit_is_a_problem() -> None:
    pytest.importorskip("sentencepiece")
    spm = FIXTURES.parent / "text" / "cluecorpussmall_spm.model"
    result = inspect_checkpoint(
        FIXTURES / "bert-legacy" / "model.bin", CompanionSettings(spm_model_path=spm), numbers=False
    )
    assert "cluecorpussmall_spm.model" in words(result)
    wrong = FIXTURES / "bert-legacy" / "vocab.txt"
    result = inspect_checkpoint(
        FIXTURES / "bert-legacy" / "model.bin",
        CompanionSettings(spm_model_path=wrong),
        numbers=False,
    )
    assert not result.good


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("embedding.word.embedding.weight", "embedding"),
        ("encoder.transformer.0.self_attn.final_linear.bias", "encoder"),
        ("target.mlm.linear_1.weight", "target.mlm"),
        ("output_layer_1.weight", "task head"),
        ("tgt_embedding.word.embedding.weight", "tgt_embedding"),
    ],
)
def test_parts(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_setting_has_a_value_and_a_source(folder: Path) -> None:
    result = inspect_checkpoint(folder / "model.bin", numbers=False)
    told = json.loads((folder / "config.json").read_text())
    settings = {setting.name: setting for setting in result.settings}
    for name in ("hidden_size", "layers_num", "emb_size", "encoder"):
        if name in told:
            assert settings[name].value == told[name], name
        if settings[name].source == "inferred":
            assert settings[name].how
    assert {setting.source for setting in settings.values()} <= {
        *("inferred", "config file", "assumed", "default")
    }


def test_what_only_a_configuration_tells_is_a_warning_without_one(tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes((FIXTURES / "bert-legacy" / "model.bin").read_bytes())
    result = inspect_checkpoint(model, numbers=False)
    assert result.good
    heads = next(setting for setting in result.settings if setting.name == "heads_num")
    assert (heads.value, heads.source) == (None, "unknown")
    assert any("attention heads" in finding.what for finding in result.warnings)


def test_a_decoders_vocabulary_is_compared_with_its_own_table() -> None:
    folder = FIXTURES / "seq2seq-modular"
    vocab, target = folder / "vocab.txt", folder / "tgt_vocab.txt"
    good = inspect_checkpoint(
        folder / "model.bin",
        CompanionSettings(vocab_path=vocab, tgt_vocab_path=target),
        numbers=False,
    )
    assert good.good, words(good)
    bad = inspect_checkpoint(
        folder / "model.bin", CompanionSettings(tgt_vocab_path=vocab), numbers=False
    )
    assert "1040 tokens, the embedding 524 rows" in words(bad)
    none = inspect_checkpoint(
        FIXTURES / "bert-modular" / "model.bin",
        CompanionSettings(tgt_vocab_path=target),
        numbers=False,
    )
    assert any("no decoder" in finding.what for finding in none.findings)


def test_the_tokenizer_of_a_hugging_face_folder_is_compared(tmp_path: Path) -> None:
    from uertool.tasks.convert.job import convert
    from uertool.tasks.convert.settings import ConvertSettings

    folder = FIXTURES / "bert-modular"
    options = ConvertSettings(verify=False, vocab_path=folder / "vocab.txt")
    convert(folder / "model.bin", tmp_path / "hf", "hf", options)
    (tmp_path / "hf" / "vocab.txt").unlink()
    assert inspect_checkpoint(tmp_path / "hf", numbers=False).good
    other = json.loads((tmp_path / "hf" / "tokenizer.json").read_text(encoding="utf-8"))
    other["model"]["vocab"]["更多"] = 5000
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(other), encoding="utf-8")
    assert "The tokenizer of" in words(inspect_checkpoint(tmp_path / "hf", numbers=False))
