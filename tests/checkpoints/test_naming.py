"""Names both ways: bit for bit what UER-py's own converters wrote, for every registered table."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIXTURES, fixture_folders
from uertool.checkpoints.architectures import NAMES, architecture
from uertool.checkpoints.export import plan_out, plan_uer
from uertool.checkpoints.generations import is_uer_name, to_canonical, to_legacy
from uertool.checkpoints.naming import layers_upto
from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.checkpoints.writer import save_tensors
from uertool.errors import CheckpointError, UsageError
from uertool.loading.config_resolution import resolve_config

#: The architectures of fixtures whose names do not tell it.
ARCH = {"xlm-roberta-modular": "xlm-roberta"}

#: UER-py's converter writes another position table than its model uses (TABLES.md, section 4).
WRONG_HF = {
    "pegasus-modular": {
        "model.encoder.embed_positions.weight",
        "model.decoder.embed_positions.weight",
    }
}

#: The 2021 converter has 768 built in, so that smaller models come out wrong.
WRONG_UER = {"gpt2-legacy"}


def digest(tensor: torch.Tensor) -> str:
    """sha256 of the little-endian float32 bytes."""
    return hashlib.sha256(tensor.float().contiguous().numpy().tobytes()).hexdigest()


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(folder / "model.bin", arch=ARCH.get(folder.name))


def hf_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """config.json of a model with rotary positions, whose table depends on the size of heads."""
    assert checkpoint.architecture is not None
    arch = architecture(checkpoint.architecture)
    # Settings that a user would have to name.
    known = {"max_relative_position": 8, "rotary_position_embedding": True, "local_attention": 8}
    asked = {name: known[name] for name in arch.unseen} if checkpoint.layout == "uer" else {}
    config = resolve_config(checkpoint, None, asked, complete=False).config
    if not config.rotary_position_embedding:
        return None
    return {"model_type": arch.model_types[0], **arch.config_to_hf(config)}


def save_exported(checkpoint: Checkpoint, path: Path) -> None:
    """Everything under Hugging Face's names in a file, with a config.json if it needs one."""
    save_tensors(exported(checkpoint), path)
    config = hf_config(checkpoint)
    if config is not None:
        path.with_name("config.json").write_text(json.dumps(config))


def exported(checkpoint: Checkpoint, side: str = "hf") -> dict[str, torch.Tensor]:
    """Everything under the names of the other side, as UER-py's converters have it."""
    assert checkpoint.architecture is not None
    infos = {name: checkpoint.info(name) for name in checkpoint.keys()}
    plan = plan_out(
        infos,
        architecture(checkpoint.architecture),
        checkpoint.heads,
        side,  # type: ignore[arg-type]
        as_script=True,
        hf_config=hf_config(checkpoint),
    )
    made = {}
    for planned in plan.tensors:
        made[planned.name] = planned.transform.out([checkpoint.tensor(n) for n in planned.sources])
        assert tuple(made[planned.name].shape) == planned.info.shape
    return made


def folder_ids(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


HF = fixture_folders("model.bin", "expected/hf_state_dict.json")


@pytest.mark.parametrize("folder", HF, ids=folder_ids(HF))
def test_hugging_face_tensors_are_those_of_uer_py(folder: Path) -> None:
    expected = json.loads((folder / "expected/hf_state_dict.json").read_text())
    made = exported(opened(folder))
    skipped = WRONG_HF.get(folder.name, set())
    assert set(made) == set(expected) - skipped
    for name in made:
        assert digest(made[name]) == expected[name]["sha256"], name


BACK = fixture_folders("model.bin", "expected/hf_state_dict.json", "expected/uer_from_hf.json")


@pytest.mark.parametrize("folder", BACK, ids=folder_ids(BACK))
def test_uer_tensors_from_hugging_face_are_those_of_uer_py(folder: Path, tmp_path: Path) -> None:
    if folder.name in WRONG_UER:
        pytest.skip("UER-py's converter is wrong here")
    expected = json.loads((folder / "expected/uer_from_hf.json").read_text())
    source = opened(folder)
    save_exported(source, tmp_path / "pytorch_model.bin")
    back = open_checkpoint(tmp_path / "pytorch_model.bin", arch=source.architecture)
    back.require_complete()
    assert not back.unmapped
    expected = {to_canonical(name): value for name, value in expected.items()}
    assert set(back.keys()) == set(expected)
    for name in back.keys():
        tensor = back.tensor(name)
        if folder.name == "xlm-roberta-modular" and name == "embedding.seg.embedding.weight":
            tensor = tensor.clone()
            tensor[1] = 0.0  # its script fills row 2 only
        assert digest(tensor) == expected[name]["sha256"], name


GOOGLE = fixture_folders("google/bert_model.ckpt.index", "expected/uer_from_google.json")


@pytest.mark.slow
@pytest.mark.parametrize("folder", GOOGLE, ids=folder_ids(GOOGLE))
def test_uer_tensors_from_google_are_those_of_uer_py(folder: Path) -> None:
    pytest.importorskip("tensorflow")
    expected = json.loads((folder / "expected/uer_from_google.json").read_text())
    checkpoint = open_checkpoint(folder / "google" / "bert_model.ckpt")
    checkpoint.require_complete()
    assert checkpoint.layout == "tf"
    assert set(checkpoint.keys()) == {to_canonical(name) for name in expected}
    for name, value in expected.items():
        assert digest(checkpoint.tensor(to_canonical(name))) == value["sha256"], name


@pytest.mark.slow
@pytest.mark.parametrize("folder", GOOGLE, ids=folder_ids(GOOGLE))
def test_google_tensors_are_those_of_uer_py(folder: Path) -> None:
    pytest.importorskip("tensorflow")
    theirs = open_checkpoint(folder / "google" / "bert_model.ckpt").file
    ours = exported(opened(folder), "tf")
    assert set(ours) == set(theirs.keys())
    assert all(torch.equal(ours[name], theirs.tensor(name)) for name in ours)


WHOLE = [folder for folder in fixture_folders("model.bin") if opened(folder).architecture]


@pytest.mark.parametrize("folder", WHOLE, ids=folder_ids(WHOLE))
def test_what_a_rule_carries_survives_the_way_out_and_back(folder: Path, tmp_path: Path) -> None:
    source = opened(folder)
    assert source.architecture is not None
    save_exported(source, tmp_path / "pytorch_model.bin")
    back = open_checkpoint(tmp_path / "pytorch_model.bin", arch=source.architecture)
    places = architecture(source.architecture).weight_map().canonical(layers_upto(source.keys()))
    compared = 0
    for name in back.keys():
        rule = places[name].rule
        carried = rule.transform("hf", as_script=True).carried
        left, right = carried(source.tensor(name)), carried(back.tensor(name))
        assert torch.equal(left, right), name
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("name", NAMES)
def test_every_table_names_a_thing_once(name: str) -> None:
    arch = architecture(name)
    for heads in [[head] for head in arch.heads] or [[]]:
        rules = arch.weight_map(heads).rules
        for side in ("hf", "tf"):
            names = [n for rule in rules for n in rule.names(side)]  # type: ignore[arg-type]
            assert len(names) == len(set(names))
        uer = [n for rule in rules for n in rule.uer]
        assert len(uer) == len(set(uer))
        assert all(is_uer_name(n.replace("{i}", "7")) for n in uer)


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_is_met_in_the_fixtures(name: str) -> None:
    folders = [folder for folder in HF if opened(folder).architecture == name]
    theirs = fixture_folders("model.safetensors", "expected/hf_state_dict.json")
    assert folders or name in {open_checkpoint(folder).architecture for folder in theirs}


LEGACY = [f for f in fixture_folders("model.bin") if f.name.endswith("-legacy")]


@pytest.mark.parametrize("folder", LEGACY, ids=folder_ids(LEGACY))
def test_legacy_names_come_back(folder: Path) -> None:
    checkpoint = opened(folder)
    assert checkpoint.generation == "legacy"
    infos = {name: checkpoint.info(name) for name in checkpoint.keys()}
    pair_head = "sop" if checkpoint.architecture == "albert" else "nsp"
    plan = plan_uer(infos, "legacy", pair_head=pair_head)
    assert [planned.name for planned in plan.tensors] == checkpoint.file.keys()


@pytest.mark.parametrize("folder", LEGACY, ids=folder_ids(LEGACY))
def test_legacy_and_modular_fixtures_share_their_canonical_names(folder: Path) -> None:
    twin = folder.with_name(folder.name.replace("-legacy", "-modular"))
    if "seq2seq" in folder.name:
        pytest.skip("the generations differ here by more than names")
    modular = open_checkpoint(twin / "model.bin")
    assert modular.generation == "modular"
    assert set(opened(folder).keys()) == set(modular.keys())


@pytest.mark.parametrize(
    ("name", "legacy"),
    [
        ("embedding.word.embedding.weight", "embedding.word_embedding.weight"),
        ("tgt_embedding.layer_norm.gamma", "target.embedding.layer_norm.gamma"),
        ("embedding.sinusoidalpos.pe", "embedding.pe"),
        ("tgt_embedding.sinusoidalpos.pe", "target.embedding.pe"),
        ("decoder.layer_norm.gamma", "target.decoder.layer_norm.gamma"),
        ("target.lm.output_layer.weight", "target.output_layer.weight"),
        ("target.mlm.layer_norm.beta", "target.layer_norm.beta"),
        ("output_layer_1.weight", "output_layer_1.weight"),
        ("encoder.transformer.11.layer_norm_2.gamma", "encoder.transformer.11.layer_norm_2.gamma"),
    ],
)
def test_renames_between_generations(name: str, legacy: str) -> None:
    assert to_legacy(name) == legacy
    assert to_canonical(legacy) == name


@pytest.mark.parametrize("word", ["nsp", "sop", "sp"])
def test_every_name_of_the_pair_head_is_read(word: str) -> None:
    assert to_canonical(f"target.{word}_linear_2.bias") == "target.sp.linear_2.bias"


def test_both_spellings_of_siamese_embeddings_are_read() -> None:
    expected = "embedding.dual.embedding_0.word.embedding.weight"
    assert to_canonical("embedding.embedding_0.word.embedding.weight") == expected
    assert to_canonical(expected) == expected


def test_several_gpus_are_noticed_and_their_prefix_dropped() -> None:
    for generation in ("legacy", "modular"):
        checkpoint = open_checkpoint(FIXTURES / f"misc-{generation}" / "multi_gpu.bin")
        assert checkpoint.multi_gpu
        assert checkpoint.generation == generation
        assert checkpoint.has("embedding.word.embedding.weight")
        assert checkpoint.source_name("embedding.word.embedding.weight").startswith("module.")


def bert_folder(path: Path, **renames: str) -> Path:
    """The BERT fixture with Hugging Face's names, parts of which are replaced."""
    tensors = exported(opened(FIXTURES / "bert-modular"))
    for old, new in renames.items():
        tensors = {n.replace(old.replace("_DOT", "."), new): t for n, t in tensors.items()}
    save_tensors(tensors, path / "pytorch_model.bin")
    return path / "pytorch_model.bin"


@pytest.mark.parametrize("prefix", ["", "model.", "roberta.", "albert."])
def test_the_body_is_found_under_other_prefixes(prefix: str, tmp_path: Path) -> None:
    source = opened(FIXTURES / "bert-modular")
    file = bert_folder(tmp_path, bert_DOT=prefix)
    found = open_checkpoint(file)
    assert found.architecture == "bert"
    assert set(found.keys()) == set(source.keys())


def test_gamma_and_beta_of_old_files_are_read(tmp_path: Path) -> None:
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in exported(opened(FIXTURES / "bert-modular")).items()
    }
    save_tensors(tensors, tmp_path / "old.bin")
    found = open_checkpoint(tmp_path / "old.bin")
    assert found.has("encoder.transformer.2.layer_norm_2.gamma")
    assert found.has("target.mlm.layer_norm.beta")
    assert not found.unmapped


def test_useless_buffers_are_dropped_and_strangers_named(tmp_path: Path) -> None:
    tensors = exported(opened(FIXTURES / "bert-modular"))
    tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
    tensors["something.new"] = torch.zeros(1)
    save_tensors(tensors, tmp_path / "more.bin")
    found = open_checkpoint(tmp_path / "more.bin")
    assert found.dropped == ("bert.embeddings.position_ids",)
    assert found.unmapped == ("something.new",)


def test_everything_missing_is_named_at_once(tmp_path: Path) -> None:
    tensors = exported(opened(FIXTURES / "bert-modular"))
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    del tensors["cls.predictions.bias"]
    save_tensors(tensors, tmp_path / "less.bin")
    found = open_checkpoint(tmp_path / "less.bin")
    with pytest.raises(CheckpointError) as caught:
        found.require_complete()
    assert "encoder.transformer.1.feed_forward.linear_2.bias" in str(caught.value)
    assert "target.mlm.linear_2.bias" in str(caught.value)


def test_a_tied_output_is_the_word_table(tmp_path: Path) -> None:
    tensors = exported(opened(FIXTURES / "bert-modular"))
    del tensors["cls.predictions.decoder.weight"]
    save_tensors(tensors, tmp_path / "tied.bin")
    found = open_checkpoint(tmp_path / "tied.bin")
    word, output = "embedding.word.embedding.weight", "target.mlm.linear_2.weight"
    assert (word, output) in found.tied
    assert torch.equal(found.tensor(word), found.tensor(output))


def test_a_missing_head_is_no_fault(tmp_path: Path) -> None:
    tensors = exported(opened(FIXTURES / "bert-modular"))
    kept = {n: t for n, t in tensors.items() if not n.startswith(("cls.", "bert.pooler"))}
    save_tensors(kept, tmp_path / "bare.bin")
    found = open_checkpoint(tmp_path / "bare.bin")
    found.require_complete()
    assert found.heads == ()


def test_contradicting_arch_is_an_error_that_names_both() -> None:
    with pytest.raises(CheckpointError, match=r"no gpt2 names.*bert"):
        open_checkpoint(FIXTURES / "bert-modular" / "model.bin", arch="gpt2")


def test_unknown_arch_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match="xlm-roberta"):
        open_checkpoint(FIXTURES / "bert-modular" / "model.bin", arch="mamba")


def test_unknown_names_are_an_error_that_shows_some(tmp_path: Path) -> None:
    save_tensors({"blocks.0.weight": torch.zeros(2)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.weight"):
        open_checkpoint(tmp_path / "x.bin")


def test_a_model_type_that_is_not_known_is_named(tmp_path: Path) -> None:
    save_tensors(exported(opened(FIXTURES / "bert-modular")), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(CheckpointError, match="mamba"):
        open_checkpoint(tmp_path)


def test_a_layer_number_of_a_million_is_refused(tmp_path: Path) -> None:
    tensors = exported(opened(FIXTURES / "bert-modular"))
    tensors["bert.encoder.layer.999999.output.dense.bias"] = torch.zeros(32)
    save_tensors(tensors, tmp_path / "far.bin")
    with pytest.raises(CheckpointError, match=r"layer\.999999\.output.*cannot have that many"):
        open_checkpoint(tmp_path / "far.bin")


# Every registered architecture, at sizes that no fixture has

_SIZES = {"vocab": 37, "hidden": 24, "inner": 36, "ff": 50, "emb": 12, "positions": 19}


def invented(name: str, layers: int = 2) -> dict[str, torch.Tensor]:
    """Random canonical tensors of every rule of an architecture's body and pretraining heads.

    Shapes are made up by the kind of the name; attention is narrower or wider than the model.
    """
    arch = architecture(name)
    heads = [head for head in arch.heads if head.name in ("mlm", "sp", "lm")]
    sizes = dict(_SIZES)
    hidden = sizes["hidden"]
    inner = sizes["inner"] if name.startswith("t5") else hidden
    narrow = any(row.uer[0] == "encoder.linear.weight" for row in arch.core)
    word = sizes["emb"] if narrow else hidden
    tables = {
        "word.embedding.weight": (sizes["vocab"], word),
        "pos.embedding.weight": (sizes["positions"], word),
        "seg.embedding.weight": (3, word),
        "task.embedding.weight": (3, word),
        "relative_attention_bias.weight": (8, 3),
        "encoder.linear.weight": (hidden, word),
        "final_linear.weight": (hidden, inner),
        "feed_forward.linear_2.weight": (hidden, sizes["ff"]),
        "feed_forward.linear_1.weight": (sizes["ff"], hidden),
        "feed_forward.linear_gate.weight": (sizes["ff"], hidden),
        "feed_forward.linear_1.bias": (sizes["ff"],),
        "mlm.linear_1.weight": (word, hidden),
        "mlm.linear_1.bias": (word,),
        "mlm.layer_norm.gamma": (word,),
        "mlm.layer_norm.beta": (word,),
        "mlm.linear_2.weight": (sizes["vocab"], word),
        "mlm.linear_2.bias": (sizes["vocab"],),
        "sp.linear_2.weight": (2, hidden),
        "sp.linear_2.bias": (2,),
        "output_layer.weight": (sizes["vocab"], hidden),
        "output_layer.bias": (sizes["vocab"],),
    }
    torch.manual_seed(3)
    made = {}
    for place in arch.weight_map(heads).places(layers):
        for canonical in place.uer:
            shape = next((s for end, s in tables.items() if canonical.endswith(end)), None)
            if shape is None and "linear_layers" in canonical:
                shape = (inner, hidden) if canonical.endswith("weight") else (inner,)
            if shape is None and "embedding" in canonical:
                shape = (word,)
            if shape is None:
                shape = (hidden, hidden) if canonical.endswith("linear_1.weight") else (hidden,)
            made[canonical] = torch.randn(shape)
    for canonical in made:  # both streams of a siamese model are tied
        twin = canonical.replace("_1.", "_0.", 1)
        if name == "sbert" and twin in made:
            made[canonical] = made[twin]
    return made


@pytest.mark.parametrize("name", NAMES)
def test_an_invented_model_is_recognised_and_comes_back(name: str, tmp_path: Path) -> None:
    tensors = invented(name)
    save_tensors(tensors, tmp_path / "uer.bin")
    source = open_checkpoint(tmp_path / "uer.bin")
    assert name in source.candidates
    source = open_checkpoint(tmp_path / "uer.bin", arch=name)
    source.require_complete()
    save_exported(source, tmp_path / "hf.bin")
    back = open_checkpoint(tmp_path / "hf.bin", arch=name)
    back.require_complete()
    assert not back.unmapped
    assert set(back.keys()) == set(tensors)
    assert back.heads == source.heads
    places = architecture(name).weight_map().canonical(2)
    for canonical, tensor in tensors.items():
        carried = places[canonical].rule.transform("hf", as_script=True).carried
        assert torch.equal(carried(back.tensor(canonical)), carried(tensor)), canonical
        assert back.info(canonical).shape == tuple(tensor.shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if architecture(n).google])
def test_an_invented_model_comes_back_from_google(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    from uertool.checkpoints.formats.tf_writer import save_google

    tensors = invented(name)
    tensors["target.mlm.linear_2.weight"] = tensors["embedding.word.embedding.weight"]
    save_tensors(tensors, tmp_path / "uer.bin")
    out = exported(open_checkpoint(tmp_path / "uer.bin", arch=name), "tf")
    extra = {
        "global_step": torch.tensor(7),
        "bert/pooler/dense/kernel/adam_m": torch.zeros(2),
        "bert/pooler/dense/kernel/adam_v": torch.zeros(2),
    }
    save_google({**out, **extra}.items(), tmp_path / "bert_model.ckpt")
    back = open_checkpoint(tmp_path / "bert_model.ckpt")
    back.require_complete()
    assert back.architecture == name
    assert set(back.dropped) == set(extra)
    assert not back.unmapped
    assert set(back.keys()) == set(tensors)
    for canonical, tensor in tensors.items():
        found = back.tensor(canonical)
        if canonical == "embedding.seg.embedding.weight":
            tensor, found = tensor[1:], found[1:]
        assert torch.equal(found, tensor), canonical
