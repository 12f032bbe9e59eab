"""What ships with the package is there, complete and readable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from uertool import bundled
from uertool.checkpoints.reader import open_checkpoint
from uertool.config import ACTIVATIONS, ModelConfig
from uertool.loading.settings import BUNDLED_LM, BUNDLED_MODEL
from uertool.text.vocab import Vocab

#: Keys of UER-py's configuration files that only its training reads.
TRAINING_ONLY = {"dropout", "data_processor"}


@pytest.mark.parametrize("name", sorted(bundled.bundled_models()))
def test_a_bundled_model_is_complete(name: str) -> None:
    folder = bundled.bundled_models()[name]
    checkpoint = open_checkpoint(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert checkpoint.unmapped == ()
    rows = checkpoint.info("embedding.word.embedding.weight").shape[0]
    assert rows == len(Vocab.load(folder / "vocab.txt"))
    assert config == checkpoint.stored_config
    assert (folder / "README.md").stat().st_size > 0


def test_there_are_bundled_models_and_a_text_for_cloze() -> None:
    assert {BUNDLED_MODEL, BUNDLED_LM} == set(bundled.bundled_models())
    lines = bundled.DEMO_TEXT.read_text("utf-8").splitlines()
    assert lines
    assert all("[MASK]" in line for line in lines)


@pytest.mark.parametrize("name", sorted(bundled.presets()))
def test_a_preset_has_known_settings_that_agree(name: str) -> None:
    preset = json.loads(bundled.presets()[name].read_text("utf-8"))
    assert set(preset) - TRAINING_ONLY <= set(ModelConfig.names())
    assert preset["hidden_act"] in ACTIVATIONS
    if "attention_head_size" not in preset:
        assert preset["hidden_size"] % preset["heads_num"] == 0
    settings = {key: value for key, value in preset.items() if key not in TRAINING_ONLY}
    assert ModelConfig(vocab_size=8, **settings).layers_num == preset["layers_num"]


def test_the_sizes_people_ask_for_are_presets() -> None:
    wanted = {
        *(f"bert/{size}" for size in ("tiny", "mini", "small", "medium", "base", "large")),
        *(f"gpt2/{size}" for size in ("base", "distil", "medium", "large", "xlarge")),
        *("albert/base", "t5/small", "t5/base", "t5-v1_1/small", "transformer/base", "bert_small"),
    }
    assert wanted <= set(bundled.presets())


@pytest.mark.parametrize(
    "written",
    ["bert/base", "models/bert/base_config.json", "./models/bert/base_config.json"],
)
def test_a_preset_is_found_as_old_command_lines_name_it(written: str) -> None:
    assert bundled.find_config(written) == bundled.presets()["bert/base"]


def test_a_file_goes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "models" / "bert" / "base_config.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert bundled.find_config("models/bert/base_config.json") == Path(
        "models/bert/base_config.json"
    )


def test_an_unknown_configuration_is_none() -> None:
    assert bundled.find_config("models/no/such_config.json") is None
