"""Outputs and configurations of converted checkpoints, compared with transformers.

(a) transformers and uertool agree on the converted folder; (b) with `--exact-norm` transformers
computes what uertool computes of the original; (c) is in tests/tasks/test_conversion.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tests.conftest import fixture_folders
from tests.parity.hf_models import Texts, computed, loaded, ours, texts
from uertool.loading.registry import load_model
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings

pytestmark = pytest.mark.slow

FOLDERS = fixture_folders("model.bin", "expected/hf_state_dict.json")
ARCH = {"xlm-roberta-modular": "xlm-roberta"}
SAME_FOLDER, ORIGINAL = 1e-5, 5e-5


def options(folder: Path, **more: Any) -> ConvertSettings:
    return ConvertSettings(arch=ARCH.get(folder.name), verify=False, **more)


def limits(
    folder: Path, hf_class: str, given: Texts, theirs: dict[str, torch.Tensor], least: float
) -> dict[str, float]:
    """How near two programs can come: `least`, or twice what float32 costs transformers alone.

    Each of the two rounds. Random weights are hard on float32, most of all T5's, whose scores are
    not scaled, so that its softmax is near a maximum.
    """
    exact = computed(loaded(folder, hf_class, torch.float64), given)
    own = {name: float((theirs[name] - exact[name]).abs().max()) for name in theirs}
    return {name: max(least, 2 * value) for name, value in own.items()}


def compare(
    found: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], limit: dict[str, float]
) -> None:
    common = set(found) & set(theirs) - {"layers", "pooler"}
    assert "hidden" in common
    for name in common:
        assert (found[name] - theirs[name]).abs().max() <= limit[name], name


def sample(folder: Path, vocab: int) -> Texts:
    return texts(vocab, pairs=folder.name.startswith(("bert", "albert", "mlm", "sbert")))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_uertool_and_transformers_agree_on_the_converted_folder(
    folder: Path, tmp_path: Path
) -> None:
    report = convert(folder / "model.bin", tmp_path / "hf", "hf", options(folder))
    model = loaded(tmp_path / "hf", report.hf_class)
    own = load_model(tmp_path / "hf", device="cpu")
    given = sample(folder, model.config.vocab_size)
    theirs = computed(model, given)
    found = ours(own.model, given)
    assert set(found) - {"pooler", "decoder"} <= set(theirs)
    compare(found, theirs, limits(tmp_path / "hf", report.hf_class, given, theirs, SAME_FOLDER))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_with_exact_norm_transformers_computes_what_the_original_does(
    folder: Path, tmp_path: Path
) -> None:
    report = convert(folder / "model.bin", tmp_path / "hf", "hf", options(folder, exact_norm=True))
    model = loaded(tmp_path / "hf", report.hf_class)
    original = load_model(
        folder / "model.bin",
        device="cpu",
        vocab=folder / "vocab.txt" if (folder / "vocab.txt").exists() else None,
        config=folder / "config.json",
        arch=ARCH.get(folder.name),
    )
    given = sample(folder, model.config.vocab_size)
    theirs = computed(model, given)
    found = ours(original.model, given)
    compare(found, theirs, limits(tmp_path / "hf", report.hf_class, given, theirs, ORIGINAL))


#: Our word for a setting, and transformers' words for it.
WORDS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size",),
    "layers_num": ("num_hidden_layers",),
    "decoder_layers_num": ("decoder_layers", "num_decoder_layers"),
    "heads_num": ("num_attention_heads",),
    "local_kv_heads_num": ("num_key_value_heads",),
    "layernorm_eps": ("rms_norm_eps",),
    "feedforward_size": ("intermediate_size", "n_inner", "encoder_ffn_dim", "d_ff"),
    "max_seq_length": ("max_position_embeddings",),
    "vocab_size": ("vocab_size",),
}
ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_new", "relu": "relu", "silu": "silu"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_loaded_configuration_is_that_of_the_source(folder: Path, tmp_path: Path) -> None:
    report = convert(folder / "model.bin", tmp_path / "hf", "hf", options(folder))
    model = loaded(tmp_path / "hf", report.hf_class)
    held = model.config
    told = json.loads((folder / "config.json").read_text())
    if (folder / "vocab.txt").exists():
        told["vocab_size"] = len((folder / "vocab.txt").read_text().splitlines())
    for word, theirs in WORDS.items():
        for name in theirs:
            if word in told and hasattr(held, name):
                assert getattr(held, name) == told[word], name
    if "t5" not in folder.name:
        acts = ("hidden_act", "activation_function")
        names = [getattr(held, name) for name in acts if hasattr(held, name)]
        assert names == [ACTIVATIONS[told["hidden_act"]]]
        # BART and Pegasus have no setting for it: theirs is 1e-5 always.
        names = [name for name in ("layer_norm_eps", "layer_norm_epsilon") if hasattr(held, name)]
        assert all(getattr(held, name) == 1e-12 for name in names)
    else:
        assert held.layer_norm_epsilon == 1e-6
        assert held.scale_decoder_outputs is False
        assert held.is_gated_act == ("v1_1" in folder.name)
        assert held.dense_act_fn == ("gelu_new" if "v1_1" in folder.name else "relu")
        heads = told["heads_num"]
        assert held.d_kv == told.get("attention_head_size", told["hidden_size"] // heads)
    if "xlm-roberta" in folder.name:
        # Positions are counted from it, so it is not the vocabulary's.
        assert held.pad_token_id == 1
        assert held.type_vocab_size == 1
    else:
        # LLaMA's sentencepiece models have no padding token.
        assert held.pad_token_id == (0 if (folder / "vocab.txt").exists() else None)
    if held.is_encoder_decoder:
        words = (folder / "vocab.txt").read_text().splitlines()
        assert held.bos_token_id == held.decoder_start_token_id == words.index("[CLS]")
        assert held.eos_token_id == words.index("[SEP]")
        assert model.generation_config.decoder_start_token_id == words.index("[CLS]")
        assert model.generation_config.eos_token_id == words.index("[SEP]")
    output = model.get_output_embeddings()
    if output is not None:
        words = model.get_input_embeddings().weight
        source = torch.load(folder / "model.bin", weights_only=True)
        last = next(
            source[name]
            for name in source
            if name.endswith(("mlm_linear_2.weight", "mlm.linear_2.weight", "output_layer.weight"))
        )
        assert torch.equal(output.weight, last)
        same = torch.equal(last, words)
        assert torch.equal(words, source[next(n for n in source if "word" in n)])
        if "t5" not in folder.name:
            assert held.tie_word_embeddings == same
            assert (output.weight.data_ptr() == words.data_ptr()) == same
