"""Where every setting comes from, who wins, and what contradicts the tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIXTURES, MODELS, fixture_folders
from tests.models.model_fixtures import saved, weights
from uertool.checkpoints.inference import infer_config
from uertool.checkpoints.reader import open_checkpoint
from uertool.config import ModelConfig
from uertool.errors import ConfigError, UertoolError, UsageError
from uertool.loading.assumptions import HEADS_BY_SIZE, require_known
from uertool.loading.config_resolution import Resolved, resolve_config

#: Settings of UER-py that its fixtures name and that tensors tell.
TOLD = (
    "hidden_size",
    "feedforward_size",
    "layers_num",
    "decoder_layers_num",
    "max_seq_length",
    "encoder",
    "layernorm",
    "layernorm_positioning",
    "feed_forward",
    "relative_position_embedding",
    "remove_transformer_bias",
    "factorized_embedding_parameterization",
    "parameter_sharing",
    "bidirectional",
)


def resolve(path: Path, config: Path | str | None = None, **flags: Any) -> Resolved:
    with open_checkpoint(path) as checkpoint:
        return resolve_config(checkpoint, config, flags)


def alone(name: str, folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """The weights of a reference case without other files."""
    return saved(tensors or weights(name), folder / "alone.bin")


def write(folder: Path, **settings: Any) -> Path:
    path = folder / "settings.json"
    path.write_text(json.dumps(settings), "utf-8")
    return path


@pytest.mark.parametrize(
    "folder", fixture_folders("model.bin", "config.json"), ids=lambda f: f.name
)
def test_tensors_tell_what_the_configuration_says(folder: Path) -> None:
    stated = json.loads((folder / "config.json").read_text("utf-8"))
    stated = {**stated.get("stream_0", {}), **stated}
    with open_checkpoint(folder / "model.bin") as checkpoint:
        inferred = infer_config(checkpoint)
    skipped = set()
    if stated["encoder"] not in ("transformer", "dual"):
        skipped = {"feedforward_size", "layernorm", "layernorm_positioning", "feed_forward"}
    if "embedding" in inferred and "pos" not in inferred["embedding"]:
        skipped.add("max_seq_length")
    if inferred["decoder"] is None:
        skipped.add("decoder_layers_num")
    compared = [n for n in TOLD if n in inferred and n in stated and n not in skipped]
    assert {n: inferred[n] for n in compared} == {n: stated[n] for n in compared}
    assert "hidden_size" in compared


def test_later_sources_win_and_are_remembered(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    settings = write(tmp_path, heads_num=8, hidden_act="relu", mask="causal")
    found = resolve(path, settings, heads_num=4)
    config = found.config
    assert (config.heads_num, config.sources["heads_num"]) == (4, "command line")
    assert (config.hidden_act, config.sources["hidden_act"]) == ("relu", "config file")
    assert (config.layers_num, config.sources["layers_num"]) == (3, "inferred")
    assert (config.mask, config.sources["mask"]) == ("causal", "config file")
    assert "kernel_size" not in config.sources


def test_a_layer_count_that_the_file_contradicts_is_an_error_with_both(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    with pytest.raises(ConfigError) as failure:
        resolve(path, heads_num=4, layers_num=6)
    assert "`layers_num` is 6, but the tensors have 3" in failure.value.message


def test_all_contradictions_are_in_one_message(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    settings = write(tmp_path, hidden_size=64, emb_size=64, embedding=["word", "pos"], heads_num=4)
    with pytest.raises(ConfigError) as failure:
        resolve(path, settings, layernorm_positioning="pre")
    for part in (
        f"hidden_size in {settings} is 64, but the tensors have 32",
        "emb_size",
        "is word pos, but the tensors have word pos seg",
        "`layernorm_positioning` is pre, but the tensors have post",
    ):
        assert part in failure.value.message


def test_an_unknown_head_count_is_assumed_with_a_note(tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    wide = {name: _doubled(tensor) for name, tensor in tensors.items()}
    found = resolve(alone("bert-modular", tmp_path, wide))
    assert (found.config.heads_num, found.config.sources["heads_num"]) == (1, "assumed")
    assert any("1 attention heads are assumed" in note for note in found.notes)


def sized(hidden: int, feed_forward: int) -> dict[str, torch.Tensor]:
    """The reference BERT with other sizes and no meaning."""
    sizes = {32: hidden, 64: feed_forward}
    return {
        name: torch.zeros([sizes.get(size, size) for size in tensor.shape])
        for name, tensor in weights("bert-modular").items()
    }


@pytest.mark.parametrize(
    ("hidden", "feed_forward", "heads", "source"),
    [
        (384, 1536, 12, "published size"),
        (312, 1200, 12, "published size"),
        (384, 1024, 6, "assumed"),
        (96, 200, 0, "unknown"),
    ],
)
def test_published_sizes_tell_the_head_count(
    tmp_path: Path, hidden: int, feed_forward: int, heads: int, source: str
) -> None:
    path = alone("bert-modular", tmp_path, sized(hidden, feed_forward))
    with open_checkpoint(path) as checkpoint:
        config = resolve_config(checkpoint, complete=False).config
        assert (config.heads_num, config.sources["heads_num"]) == (heads, source)
        if source == "published size":
            require_known(checkpoint, config)
            return
        with pytest.raises(ConfigError, match="number of attention heads .* guess") as failure:
            require_known(checkpoint, config)
        assert "`heads_num`" in (failure.value.hint or "")
        if heads:
            assert HEADS_BY_SIZE in (failure.value.hint or "")
            require_known(checkpoint, config, HEADS_BY_SIZE)
        else:
            with pytest.raises(ConfigError):
                require_known(checkpoint, config, HEADS_BY_SIZE)


def test_the_passes_through_a_shared_layer_are_not_guessed_for_writing(tmp_path: Path) -> None:
    path = alone("albert-modular", tmp_path)
    with open_checkpoint(path) as checkpoint:
        config = resolve_config(checkpoint, settings={"heads_num": 4}).config
        with pytest.raises(ConfigError) as failure:
            require_known(checkpoint, config)
    assert "`layers_num`, `hidden_act`" in (failure.value.hint or "")


def test_scores_of_relative_positions_are_scaled_unless_the_model_is_a_t5(tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    name = "encoder.relative_pos_emb.relative_attention_bias.weight"
    tensors[name] = torch.zeros(32, 4)
    config = resolve(alone("bert-modular", tmp_path, tensors)).config
    assert config.relative_position_embedding
    assert not config.remove_attention_scale


def test_the_files_own_configuration_comes_before_another_one(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    (tmp_path / "config.json").write_text('{"heads_num": 8}', "utf-8")
    (tmp_path / "alone.config.json").write_text('{"heads_num": 2}', "utf-8")
    assert resolve(path).config.heads_num == 2
    (tmp_path / "alone.config.json").unlink()
    assert resolve(path).config.heads_num == 8


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    for axis, size in enumerate(tensor.shape):
        if size in (32, 64) and tensor.shape != (64, 32):
            tensor = torch.cat([tensor, tensor], axis)
    return torch.cat([tensor, tensor], 1) if tensor.shape == (64, 32) else tensor


def test_a_head_count_that_cannot_be_guessed_must_be_given(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    with pytest.raises(ConfigError, match="heads") as failure:
        resolve(path)
    assert "`heads_num`" in (failure.value.hint or "")


def test_heads_that_do_not_divide_the_channels_are_refused(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    with pytest.raises(ConfigError, match="32 channels .* 5 attention"):
        resolve(path, heads_num=5)


@pytest.mark.parametrize("name", ["t5-legacy", "t5-modular", "t5-v1_1-legacy", "t5-v1_1-modular"])
def test_t5_needs_no_configuration(tmp_path: Path, name: str) -> None:
    config = resolve(alone(name, tmp_path)).config
    stated = json.loads((FIXTURES / name / "config.json").read_text("utf-8"))
    assert config.heads_num == stated["heads_num"]
    assert config.head_size == stated.get("attention_head_size", 8)
    assert config.hidden_act == stated["hidden_act"]
    assert config.remove_attention_scale
    assert config.norm == "rms"


def test_a_language_model_is_taken_to_be_causal(tmp_path: Path) -> None:
    config = resolve(alone("gpt2-modular", tmp_path), heads_num=4).config
    assert (config.mask, config.sources["mask"]) == ("causal", "assumed")
    assert (config.hidden_act, config.sources["hidden_act"]) == ("gelu_fast", "assumed")


def test_computed_positions_are_assumed_with_a_note_where_none_are_stored(tmp_path: Path) -> None:
    found = resolve(alone("seq2seq-modular", tmp_path), heads_num=4)
    assert found.config.embedding == ("word", "sinusoidalpos")
    assert found.config.tgt_embedding == ("word", "sinusoidalpos")
    assert any("Sinusoidal positions are assumed" in note for note in found.notes)


def test_the_configuration_next_to_the_checkpoint_is_used(tmp_path: Path) -> None:
    folder = MODELS / "zh-mlm-small"
    assert resolve(folder / "model.bin").config.heads_num == 6


def test_the_configuration_of_another_model_is_ignored(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 768, "heads_num": 12}', "utf-8")
    found = resolve(path, heads_num=4)
    assert found.config.heads_num == 4
    assert any("config.json is not used" in note for note in found.notes)


def test_a_hugging_face_configuration_is_no_uer_configuration(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    settings = write(tmp_path, model_type="bert", num_attention_heads=4, hidden_size=32)
    with pytest.raises(ConfigError, match="Hugging Face configuration"):
        resolve(path, settings)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"mask": "sideways"}, "mask: 'sideways'"),
        ({"heads_num": "four"}, "heads_num: 'four'"),
        ({"heads_num": -4}, "heads_num: -4"),
        ({"heads_num": 4.0}, "heads_num: 4.0"),
        ({"heads_num": 10**400}, "heads_num: 1000"),
        ({"hidden_act": "swoosh"}, "hidden_act: 'swoosh'"),
        ({"hidden_act": []}, "hidden_act: []"),
        ({"embedding": ["word", "time"]}, "embedding: ['word', 'time']"),
        ({"embedding": 5}, "embedding: 5"),
        ({"embedding": [["word"]]}, "embedding: [['word']]"),
        ({"parameter_sharing": 1}, "parameter_sharing: 1"),
        ({"norm_eps": "small"}, "norm_eps: 'small'"),
        ({"lm_scale": float("nan")}, "lm_scale: nan"),
    ],
)
def test_impossible_values_in_a_file_are_named(
    tmp_path: Path, settings: dict[str, Any], part: str
) -> None:
    path = alone("bert-modular", tmp_path)
    with pytest.raises(ConfigError) as failure:
        resolve(path, write(tmp_path, **settings))
    assert part in failure.value.message


def test_impossible_flags_are_wrong_usage(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    with pytest.raises(UsageError, match="Invalid `mask`: 'sideways'"):
        resolve(path, heads_num=4, mask="sideways")


def test_unknown_settings_are_reported(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    found = resolve(path, write(tmp_path, heads_num=4, colour="red"))
    assert any("colour" in note for note in found.notes)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"text"', "\x00\x01"])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    path = alone("bert-modular", tmp_path)
    settings = tmp_path / "settings.json"
    settings.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match="settings.json"):
        resolve(path, settings)


def test_old_names_of_configurations_are_presets(tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    with pytest.raises(ConfigError, match="hidden_size in .* is 768"):
        resolve(alone("bert-modular", tmp_path, tensors), "models/bert/base_config.json")


def test_a_configuration_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = alone("bert-modular", tmp_path)
    with pytest.raises(ConfigError, match="nowhere.json does not exist"):
        resolve(path, tmp_path / "nowhere.json")


def test_legacy_embedding_words_are_understood(tmp_path: Path) -> None:
    path = alone("bert-legacy", tmp_path)
    found = resolve(path, heads_num=4, embedding="word_pos_seg")
    assert found.config.embedding == ("word", "pos", "seg")


def test_every_field_of_a_configuration_can_be_given() -> None:
    config = ModelConfig(vocab_size=10, hidden_size=8, layers_num=1)
    assert set(config.to_json()) == set(config.names())


def test_a_file_without_an_encoder_is_no_model(tmp_path: Path) -> None:
    word = "embedding.word.embedding.weight"
    path = alone("bert-modular", tmp_path, {word: weights("bert-modular")[word]})
    with pytest.raises(UertoolError, match="not a complete model"):
        resolve(path)
