"""What open_checkpoint makes of wrapped, partly unknown and unusual files."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch

from tests.checkpoints.malicious import pack, torch_zip
from tests.checkpoints.test_naming import exported, opened
from tests.conftest import FIXTURES
from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.reader import open_checkpoint
from uertool.checkpoints.writer import save_tensors
from uertool.errors import CheckpointError, ConfigError


def weights(name: str) -> dict[str, torch.Tensor]:
    with open_tensor_file(FIXTURES / name / "model.bin") as file:
        return {key: file.tensor(key).clone() for key in file}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "base_model.",
        "model._orig_mod.",
        "module._orig_mod.model.",
    ],
)
def test_prefixes_of_wrappers_are_removed_and_reported(prefix: str, tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    torch.save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "m.bin")
    found = open_checkpoint(tmp_path / "m.bin")
    assert set(found.keys()) == set(tensors)
    assert found.layout == "uer"
    assert found.unmapped == ()
    for part in prefix.split(".")[:-1]:
        assert any(f"'{part}.'" in notice for notice in found.notices)
    name = next(iter(tensors))
    assert found.source_name(name) == prefix + name
    assert found.multi_gpu is ("module" in prefix)


@pytest.mark.parametrize("outer", ["state_dict", "model_state_dict", "model"])
def test_groups_of_a_training_checkpoint_are_unwrapped(outer: str, tmp_path: Path) -> None:
    tensors = weights("bert-modular")
    lightning = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch.save({outer: lightning, "epoch": 3, "lr_schedulers": []}, tmp_path / "last.ckpt")
    found = open_checkpoint(tmp_path / "last.ckpt")
    assert set(found.keys()) == set(tensors)
    assert any(outer in notice for notice in found.notices)


def test_a_prefix_that_a_few_names_lack_is_removed_from_the_others(tmp_path: Path) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in weights("bert-modular").items()}
    torch.save({**tensors, "loss.weight": torch.ones(2)}, tmp_path / "m.bin")
    found = open_checkpoint(tmp_path / "m.bin")
    assert found.unmapped == ("loss.weight",)
    assert len(found) == len(tensors)


def test_hugging_faces_own_names_keep_their_prefix(tmp_path: Path) -> None:
    names = ("model.encoder.layernorm_embedding.weight", "model.shared.weight")
    torch.save({name: torch.ones(2, 2) for name in names}, tmp_path / "m.bin")
    found = open_checkpoint(tmp_path / "m.bin")
    assert found.architecture == "bart"
    assert found.notices == ()


@pytest.mark.parametrize(
    ("patterns", "ignored"),
    [
        ((), ()),
        (("cls.species.*",), ("cls.species.bias", "cls.species.weight")),
        (("*.bias", "nothing"), ("cls.species.bias",)),
    ],
)
def test_unexpected_tensors_are_ignored_by_patterns(
    patterns: tuple[str, ...], ignored: tuple[str, ...], tmp_path: Path
) -> None:
    extra = {"cls.species.weight": torch.ones(2), "cls.species.bias": torch.ones(2)}
    save_tensors({**weights("bert-modular"), **extra}, tmp_path / "m.bin")
    found = open_checkpoint(tmp_path / "m.bin", ignore_unexpected=patterns)
    assert tuple(sorted(found.ignored)) == ignored
    assert set(found.ignored) | set(found.unmapped) == set(extra)
    assert found.missing == ()  # what the model needs is never ignored


_EIGHT = [
    kind
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    + ("float8_e8m0fnu",)
    if (kind := getattr(torch, name, None)) is not None
]


@pytest.mark.parametrize("form", ["torch", "safetensors", "torch.save", "legacy"])
@pytest.mark.parametrize("kind", _EIGHT, ids=str)
def test_float8_tensors_are_read_and_written(kind: torch.dtype, form: str, tmp_path: Path) -> None:
    raw = torch.arange(24, dtype=torch.uint8).reshape(4, 6)
    path = tmp_path / "m"
    if form == "torch.save":
        torch.save({"a": raw.view(kind)}, path)
    elif form == "legacy":
        try:
            torch.save({"a": raw.view(kind)}, path, _use_new_zipfile_serialization=False)
        except (RuntimeError, TypeError, KeyError):
            pytest.skip("torch itself cannot write this")
    else:
        save_tensors({"a": raw.view(kind)}, path, format=form)  # type: ignore[arg-type]
    with open_tensor_file(path) as file:
        assert file.info("a").dtype is kind
        assert torch.equal(file.tensor("a").view(torch.uint8), raw)
        assert file.info("a").nbytes == 24


def test_names_that_are_not_unicode_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(torch_zip({"aXYZb": torch.ones(2)}))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    broken = {name: data.replace(b"aXYZb", b"a\xed\xa0\x80b") for name, data in entries.items()}
    (tmp_path / "m.bin").write_bytes(pack(broken))
    with pytest.raises(CheckpointError, match=r"a\\ud800b.*not valid Unicode"):
        open_tensor_file(tmp_path / "m.bin")


def test_shapes_that_overflow_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.empty(0, 1 << 31)}, tmp_path / "m.bin")
    assert open_tensor_file(tmp_path / "m.bin").tensor("a").shape == (0, 1 << 31)
    tensor = torch.empty(0).as_strided((0, 1 << 31, 1 << 31), (1, 1, 1))
    torch.save({"a": tensor}, tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match="claims the shape"):
        open_tensor_file(tmp_path / "m.bin")


def test_tensors_of_unexpected_dimensions_do_not_crash(tmp_path: Path) -> None:
    for shape in ((), (1,), (2, 2, 2)):
        names = {name: torch.ones(shape) for name in weights("bert-modular")}
        torch.save(names, tmp_path / "m.bin")
        open_checkpoint(tmp_path / "m.bin")


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": 5},
        {"architectures": [[]]},
        {"architectures": {"a": 1}},
        {"hidden_act": []},
        {"hidden_act": {}},
        {"num_hidden_layers": "x"},
        {"num_hidden_layers": 1e400},
        {"layer_norm_eps": float("nan")},
        {"hidden_size": 10**30},
        {"tie_word_embeddings": [1]},
        {"model_type": ["bert"]},
        {"pad_token_id": {}},
        {"type_vocab_size": -1},
        {"is_decoder": [[]]},
        {"position_embedding_type": {"a": [1]}},
    ],
    ids=str,
)
def test_config_json_of_wrong_types_is_refused_or_read(config: object, tmp_path: Path) -> None:
    save_tensors(exported(opened(FIXTURES / "bert-modular")), tmp_path / "model.safetensors")
    known = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2}
    assert isinstance(config, dict)
    (tmp_path / "config.json").write_text(json.dumps({**known, **config}))
    try:
        found = open_checkpoint(tmp_path)
        assert found.hf_config is not None
        for name in ("bert", "xlm-roberta", "albert", "gpt2", "t5", "bart", "pegasus", "sbert"):
            try:
                architecture(name).config_from_hf(found.hf_config)
            except ConfigError as error:
                assert len(str(error)) < 400
    except (CheckpointError, ConfigError) as error:
        assert len(str(error)) < 500
