"""Files around the weights of a conversion: companions, round trips, what overwriting leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import FIXTURES, TEXT
from tests.tasks.convert.test_conversion import (
    _GPT2,
    _ROBERTA,
    BERT,
    FAST,
    MLM,
    made,
    with_words,
)
from uertool.errors import ConfigError, OutputError
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings

transformers = pytest.importorskip("transformers")


def test_a_file_of_uer_py_gets_companions_of_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(MLM, tmp_path / "hf", "hf", FAST)
    report = convert(tmp_path / "hf", tmp_path / "out" / "m.bin", "uer", FAST)
    assert sorted(file.name for file in report.files) == ["m.bin", "m.config.json", "m.vocab.txt"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(report.files)
    vocab = (tmp_path / "out" / "m.vocab.txt").read_text()
    assert vocab == MLM.with_name("vocab.txt").read_text()
    settings = json.loads((tmp_path / "out" / "m.config.json").read_text())
    stated = json.loads(MLM.with_name("config.json").read_text())
    for name in ("hidden_size", "layers_num", "heads_num", "hidden_act", "embedding", "mask"):
        assert settings[name] == stated[name], name
    assert settings["uertool_hf_config"]["model_type"] == "bert"


def test_the_2021_generation_gets_a_configuration_in_its_words(tmp_path: Path) -> None:
    convert(MLM, tmp_path / "m.bin", "uer", ConvertSettings(layout="legacy", verify=False))
    settings = json.loads((tmp_path / "m.config.json").read_text())
    assert settings["embedding"] == "word_pos_seg"
    assert settings["heads_num"] == 4
    assert "target" not in settings


def test_nothing_else_is_needed_to_run_or_convert_an_output(tmp_path: Path) -> None:
    from uertool.loading.registry import load_model

    convert(BERT, tmp_path / "hf", "hf", FAST)
    convert(tmp_path / "hf", tmp_path / "m.bin", "uer", FAST)
    (tmp_path / "vocab.txt").write_text("another\nmodel's\n")
    (tmp_path / "config.json").write_text('{"heads_num": 2}')
    loaded = load_model(tmp_path / "m.bin", device="cpu")
    assert loaded.config.heads_num == 4
    assert len(loaded.tokenizer) == 1040
    assert not loaded.notes
    convert(tmp_path / "m.bin", tmp_path / "back", "hf", FAST)
    content = json.loads((tmp_path / "back" / "config.json").read_text())
    assert content["num_attention_heads"] == 4
    assert (tmp_path / "back" / "vocab.txt").read_text() == BERT.with_name("vocab.txt").read_text()


def test_a_cased_vocabulary_stays_cased(tmp_path: Path) -> None:
    from uertool.loading.registry import load_model

    convert(BERT, tmp_path / "hf", "hf", ConvertSettings(do_lower_case=False, verify=False))
    convert(tmp_path / "hf", tmp_path / "m.bin", "uer", FAST)
    assert not load_model(tmp_path / "m.bin", device="cpu").tokenizer.do_lower_case
    convert(tmp_path / "m.bin", tmp_path / "back", "hf", FAST)
    settings = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] is False


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["xlm-roberta", "bert"])
def test_a_sentencepiece_model_is_a_companion_too(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    from uertool.loading.registry import load_model

    spm = TEXT / "cluecorpussmall_spm.model"
    source = with_words(tmp_path / "in", 100_005 if arch == "xlm-roberta" else 100_000)
    settings = ConvertSettings(arch=arch, spm_model_path=spm, verify=False)
    convert(source, tmp_path / "m.bin", "uer", settings)
    assert (tmp_path / "m.spiece.model").read_bytes() == spm.read_bytes()
    tokenizer = load_model(tmp_path / "m.bin", device="cpu").tokenizer
    assert tokenizer.name == ("xlmroberta" if arch == "xlm-roberta" else "bert-spm")
    report = convert(tmp_path / "m.bin", tmp_path / "hf", "hf", ConvertSettings(arch=arch))
    assert report.architecture == arch
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs("今天", add_special_tokens=False)["input_ids"] == tokenizer.encode("今天")


def test_a_byte_level_bpe_is_a_companion_too(tmp_path: Path) -> None:
    made(tmp_path / "hf", "GPT2LMHeadModel", "GPT2Config", _GPT2)
    tokens = ["<|endoftext|>", "<unk>", "a", "b", "ab", *(f"t{n}" for n in range(56))]
    vocab = json.dumps({token: number for number, token in enumerate(tokens)})
    (tmp_path / "hf" / "vocab.json").write_text(vocab)
    (tmp_path / "hf" / "merges.txt").write_text("#version: 0.2\na b\n")
    convert(tmp_path / "hf", tmp_path / "m.bin", "uer", FAST)
    names = {item.name for item in tmp_path.iterdir()} - {"hf"}
    assert names == {"m.bin", "m.config.json", "m.merges.txt", "m.vocab.json"}
    assert json.loads((tmp_path / "m.config.json").read_text())["tokenizer"] == "bpe"
    convert(tmp_path / "m.bin", tmp_path / "back", "hf", FAST)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "back" / name).read_text() == (tmp_path / "hf" / name).read_text()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert theirs("ab")["input_ids"] == [4]


def test_files_of_another_model_are_never_replaced(tmp_path: Path) -> None:
    for name in ("vocab.txt", "config.json", "other.bin", "notes.md"):
        (tmp_path / name).write_text(name)
    convert(MLM, tmp_path / "m.bin", "uer", ConvertSettings(overwrite=True, verify=False))
    for name in ("vocab.txt", "config.json", "other.bin", "notes.md"):
        assert (tmp_path / name).read_text() == name
    (tmp_path / "n.vocab.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"n\.vocab\.txt exists"):
        convert(MLM, tmp_path / "n.bin", "uer", FAST)
    assert not (tmp_path / "n.bin").exists()
    convert(MLM, tmp_path / "n.bin", "uer", ConvertSettings(overwrite=True, verify=False))
    assert (tmp_path / "n.vocab.txt").read_text() == MLM.with_name("vocab.txt").read_text()


def test_other_files_stay_in_a_folder_that_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    convert(MLM, folder, "hf", ConvertSettings(max_shard_size="60KB", verify=False))
    (folder / "README.md").write_text("mine")
    (folder / "pytorch_model.bin").write_bytes(b"also mine")
    (folder / "data.npy").symlink_to(folder / "README.md")
    convert(MLM, folder, "hf", ConvertSettings(overwrite=True, verify=False))
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "pytorch_model.bin").read_bytes() == b"also mine"
    assert (folder / "data.npy").is_symlink()
    # The old model's shards are gone with it.
    assert [item.name for item in folder.glob("model*")] == ["model.safetensors"]


def test_files_that_only_look_like_a_models_stay(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "merges.txt").write_text("company news")
    (folder / "model.safetensors.index.json").write_text("{}")
    convert(MLM, folder, "hf", ConvertSettings(overwrite=True, verify=False))
    assert (folder / "merges.txt").read_text() == "company news"


@pytest.mark.parametrize(("kind", "rows"), [("roberta", 1), ("xlm-roberta", 1), ("roberta", 2)])
def test_a_roberta_of_uer_pys_names_is_known_by_its_configuration(
    kind: str, rows: int, tmp_path: Path
) -> None:
    name = "Roberta" if kind == "roberta" else "XLMRoberta"
    settings = {**_ROBERTA, "type_vocab_size": rows, "pad_token_id": 1}
    made(tmp_path / "hf", f"{name}ForMaskedLM", f"{name}Config", settings)
    convert(tmp_path / "hf", tmp_path / "m.bin", "uer", FAST)
    (tmp_path / "m.config.json").unlink()
    named = ConvertSettings(config_path=tmp_path / "hf" / "config.json")
    assert convert(tmp_path / "m.bin", tmp_path / "back", "hf", named).architecture == "xlm-roberta"
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written == json.loads((tmp_path / "hf" / "config.json").read_text())


def test_arch_roberta_writes_a_roberta(tmp_path: Path) -> None:
    source = FIXTURES / "xlm-roberta-modular" / "model.bin"
    convert(source, tmp_path / "hf", "hf", ConvertSettings(arch="roberta", verify=False))
    content = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert content["model_type"] == "roberta"
    assert content["architectures"] == ["RobertaForMaskedLM"]


def test_a_head_count_is_not_guessed_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "model.bin"
    model = dict(torch.load(MLM, weights_only=True))
    sizes = {32: 128, 64: 200}
    torch.save(
        {n: torch.zeros([sizes.get(x, x) for x in t.shape]) for n, t in model.items()}, source
    )
    with pytest.raises(ConfigError, match="number of attention heads") as failure:
        convert(source, tmp_path / "hf", "hf", FAST)
    for way in ("`heads_num`", "`config_path`", "heads=hidden/64"):
        assert way in (failure.value.hint or "")
    assert not (tmp_path / "hf").exists()
    accepted = ConvertSettings(assume="heads=hidden/64", verify=False)
    convert(source, tmp_path / "hf", "hf", accepted)
    assert json.loads((tmp_path / "hf/config.json").read_text())["num_attention_heads"] == 2
    # Names alone can be converted; the companion then says nothing about heads.
    convert(source, tmp_path / "m.bin", "uer", FAST)
    assert "heads_num" not in json.loads((tmp_path / "m.config.json").read_text())
