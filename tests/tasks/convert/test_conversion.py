"""Conversions judged by transformers, by UER-py's numbers and by the way back."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES, TEXT, fixture_folders
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.reader import open_checkpoint
from uertool.checkpoints.writer import save_tensors
from uertool.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    UertoolError,
    UsageError,
    VocabError,
)
from uertool.tasks.convert.job import checkpoints_in, convert, convert_folder
from uertool.tasks.convert.results import ConversionReport
from uertool.tasks.convert.settings import ConvertSettings
from uertool.tasks.convert.verification import OUTPUT_AND_TRANSFORMERS, SOURCE_AND_OUTPUT

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

ARCH = {"xlm-roberta-modular": "xlm-roberta"}
WRONG_HF = {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}
FAST = ConvertSettings(verify=False)

#: transformers ties T5's words whatever the config says, notices that they differ and leaves them.
WARNS = {"t5-modular", "t5-v1_1-modular", "t5-v1_1-legacy"}


def options(folder: Path, **more: Any) -> ConvertSettings:
    more.setdefault("verify", False)
    return ConvertSettings(arch=ARCH.get(folder.name), **more)


def ids(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


@contextmanager
def library_log() -> Iterator[io.StringIO]:
    """What transformers logs."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        yield stream
    finally:
        logger.removeHandler(handler)


def load(folder: Path, name: str) -> Any:
    """The model as transformers loads it, and its report of missing and unexpected keys."""
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    return model.eval(), {key: value for key, value in info.items() if value}


def ran(report: ConversionReport) -> float:
    """How far an output's hidden states are from its source's; transformers agrees on all outputs.

    Every head that went along was compared.
    """
    assert report.verification is not None
    found = report.verification.differences
    assert set(found) == {SOURCE_AND_OUTPUT, OUTPUT_AND_TRANSFORMERS}
    for values in found.values():
        assert {"hidden states", *report.heads} - {"pooler"} <= set(values)
    assert max(found[OUTPUT_AND_TRANSFORMERS].values()) < 1e-4
    return found[SOURCE_AND_OUTPUT]["hidden states"]


HF = fixture_folders("model.bin", "expected/hf_state_dict.json")


@pytest.mark.parametrize("folder", HF, ids=ids(HF))
def test_a_folder_loads_without_a_word_and_holds_what_was_written(
    folder: Path, tmp_path: Path
) -> None:
    report = convert(folder / "model.bin", tmp_path / "hf", "hf", options(folder, verify=True))
    away = ran(report)
    # The norm of T5 and LLaMA is the same everywhere; the others' is not, and gamma was copied.
    assert away == 0.0 if folder.name.startswith(("t5", "llama")) else away > 1e-3
    with library_log() as log:
        model, faults = load(tmp_path / "hf", report.hf_class)
    assert faults == {}
    text = log.getvalue()
    assert ("will NOT tie" in text) == (folder.name in WARNS)
    assert folder.name in WARNS or not text
    held = model.state_dict()
    written = open_tensor_file(tmp_path / "hf")
    for name in written.keys():
        assert torch.equal(held[name], written.tensor(name)), name
    expected = json.loads((folder / "expected/hf_state_dict.json").read_text())
    for name in set(expected) - WRONG_HF:
        data = written.tensor(name).float().contiguous().numpy().tobytes()
        assert hashlib.sha256(data).hexdigest() == expected[name]["sha256"], name


HIDDEN = [f for f in HF if (f / "expected/hidden.npz").exists()]


@pytest.mark.parametrize("folder", HIDDEN, ids=ids(HIDDEN))
def test_exact_norm_makes_transformers_compute_what_uer_py_did(
    folder: Path, tmp_path: Path
) -> None:
    report = convert(
        folder / "model.bin", tmp_path / "hf", "hf", options(folder, exact_norm=True, verify=True)
    )
    assert ran(report) < 5e-5
    model, faults = load(tmp_path / "hf", report.hf_class)
    assert faults == {}
    stored = np.load(folder / "expected/hidden.npz")
    src, seg = torch.tensor(stored["src"]).long(), torch.tensor(stored["seg"]).long()
    body = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    with torch.no_grad():
        if "gpt2" in folder.name:  # UER-py's causal mask does not hide padding
            hidden = body(src).last_hidden_state
        else:
            hidden = body(src, attention_mask=(seg > 0).long()).last_hidden_state
    difference = (hidden - torch.tensor(stored["hidden"]))[seg > 0].abs().max()
    assert difference < 5e-5


FIRST = [f for f in HF if (f / "expected/seq2seq_first_logits.npz").exists()]


@pytest.mark.parametrize("folder", FIRST, ids=ids(FIRST))
def test_first_logits_of_a_decoder_are_uer_pys(folder: Path, tmp_path: Path) -> None:
    report = convert(folder / "model.bin", tmp_path / "hf", "hf", options(folder, exact_norm=True))
    model, _ = load(tmp_path / "hf", report.hf_class)
    logits = np.load(folder / "expected/seq2seq_first_logits.npz")["logits"]
    lines = json.loads((folder / "expected/seq2seq.json").read_text())
    assert len(logits) == len(lines)
    for row, line in zip(logits, lines, strict=True):
        src = torch.tensor([line["src_ids"]])
        start = torch.tensor([line["tgt_ids"][:1]])
        with torch.no_grad():
            out = model(input_ids=src, decoder_input_ids=start).logits[0, -1]
        # Its scores are not scaled, which makes more of float32's last digits.
        limit = 5e-4 if "v1_1" in folder.name else 5e-5
        assert (out - torch.tensor(row)).abs().max() < limit


LOGITS = [f for f in HF if (f / "expected/logits.npz").exists()]


@pytest.mark.parametrize("folder", LOGITS, ids=ids(LOGITS))
def test_logits_of_classifiers_are_uer_pys(folder: Path, tmp_path: Path) -> None:
    report = convert(folder / "model.bin", tmp_path / "hf", "hf", options(folder, exact_norm=True))
    model, _ = load(tmp_path / "hf", report.hf_class)
    stored = np.load(folder / "expected/logits.npz")
    src = torch.tensor(stored["src"]).long()
    seg = torch.tensor(stored["seg"]).long()
    with torch.no_grad():
        out = model(src, attention_mask=(seg > 0).long(), token_type_ids=(seg - 1).clamp(min=0))
    if "start_logits" in out:
        found = torch.stack([out.start_logits, out.end_logits], -1)
    else:
        found = out.logits
    expected = torch.tensor(stored["logits"])
    if found.ndim == 3:
        found, expected = found[seg > 0], expected[seg > 0]
    assert (found - expected).abs().max() < 5e-5


# Models of transformers, there and back

_BERT = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
}
_SEQ2SEQ = {
    "vocab_size": 61,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 24,
}
_T5 = {
    "vocab_size": 61,
    "d_model": 16,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "d_kv": 10,
    "d_ff": 40,
}
_GPT2 = {
    "vocab_size": 61,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ROBERTA = {**_BERT, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
MADE = [
    ("BertModel", "BertConfig", _BERT),
    ("BertForMaskedLM", "BertConfig", {**_BERT, "hidden_act": "gelu_new"}),
    ("BertForPreTraining", "BertConfig", {**_BERT, "layer_norm_eps": 1e-5}),
    ("BertForSequenceClassification", "BertConfig", {**_BERT, "num_labels": 5}),
    ("BertForTokenClassification", "BertConfig", _BERT),
    ("BertForQuestionAnswering", "BertConfig", {**_BERT, "hidden_act": "relu"}),
    ("RobertaModel", "RobertaConfig", _ROBERTA),
    ("RobertaForSequenceClassification", "RobertaConfig", _ROBERTA),
    ("XLMRobertaForMaskedLM", "XLMRobertaConfig", _ROBERTA),
    ("RobertaForMaskedLM", "RobertaConfig", {**_BERT, "type_vocab_size": 2}),
    ("AlbertForPreTraining", "AlbertConfig", {**_BERT, "embedding_size": 8}),
    ("AlbertForMaskedLM", "AlbertConfig", {**_BERT, "embedding_size": 8}),
    ("AlbertModel", "AlbertConfig", {**_BERT, "embedding_size": 8}),
    ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    ("GPT2Model", "GPT2Config", {**_GPT2, "n_inner": 24}),
    ("T5ForConditionalGeneration", "T5Config", _T5),
    (
        "T5ForConditionalGeneration",
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    ("T5EncoderModel", "T5Config", _T5),
    ("BartForConditionalGeneration", "BartConfig", _SEQ2SEQ),
    ("BartModel", "BartConfig", _SEQ2SEQ),
    ("PegasusForConditionalGeneration", "PegasusConfig", {**_SEQ2SEQ, "scale_embedding": True}),
]

#: Rows that UER-py's tables have no place for.
UNUSED_ROWS = ("embed_positions.weight", "position_embeddings.weight")


def made(folder: Path, model: str, config: str, settings: dict[str, Any]) -> Any:
    """A small model of transformers with random weights, norms included, saved."""
    torch.manual_seed(7)
    values = getattr(transformers, config)(**settings)
    built = getattr(transformers, model)(values).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    built.save_pretrained(folder)
    return built


def told(config: Any) -> dict[str, Any]:
    """What a configuration of transformers says, but for who wrote it and where."""
    values: dict[str, Any] = config.to_dict()
    return {
        name: values[name]
        for name in values
        if name not in ("transformers_version", "_name_or_path")
    }


@pytest.mark.parametrize(
    ("model", "config", "settings"), MADE, ids=[f"{m}-{n}" for n, (m, _, _) in enumerate(MADE)]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_from_hugging_face_and_back_changes_no_bit(
    model: str, config: str, settings: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    built = made(tmp_path / "hf", model, config, settings)
    to = "safetensors" if suffix == ".safetensors" else "uer"
    convert(tmp_path / "hf", tmp_path / f"uer{suffix}", to)
    back = convert(tmp_path / f"uer{suffix}", tmp_path / "back", "hf")
    assert back.verification is not None
    assert back.hf_class == model
    first, second = open_tensor_file(tmp_path / "hf"), open_tensor_file(tmp_path / "back")
    offset = 2 if config in ("BartConfig", "RobertaConfig", "XLMRobertaConfig") else 0
    for name in first.keys():
        one, other = first.tensor(name), second.tensor(name)
        if name.endswith(UNUSED_ROWS):
            one, other = one[offset:], other[offset:]
        assert torch.equal(one, other), name
    again, faults = load(tmp_path / "back", back.hf_class)
    assert faults == {}
    assert told(again.config) == told(built.config)
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written == json.loads((tmp_path / "hf" / "config.json").read_text())
    words = torch.arange(3, 15)[None]
    inputs = {"input_ids": words}
    if built.config.is_encoder_decoder and "Encoder" not in model:
        inputs["decoder_input_ids"] = words[:, :4]
    with torch.no_grad():
        assert torch.equal(built(**inputs)[0], again(**inputs)[0])


def test_settings_that_uer_py_has_no_word_for_survive_in_safetensors(tmp_path: Path) -> None:
    built = made(
        tmp_path / "hf",
        "BertForSequenceClassification",
        "BertConfig",
        {**_BERT, "id2label": {0: "bad", 1: "good"}, "layer_norm_eps": 3e-7, "pad_token_id": 4},
    )
    convert(tmp_path / "hf", tmp_path / "uer.safetensors", "safetensors", FAST)
    convert(tmp_path / "uer.safetensors", tmp_path / "back", "hf", FAST)
    again, _ = load(tmp_path / "back", "BertForSequenceClassification")
    assert again.config.id2label == built.config.id2label
    assert again.config.layer_norm_eps == 3e-7
    assert again.config.pad_token_id == 4


# Google

GOOGLE = [FIXTURES / f"{name}-modular" for name in ("bert", "mlm", "albert")]


@pytest.mark.parametrize("folder", GOOGLE, ids=ids(GOOGLE))
def test_google_and_back_changes_no_bit(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    source = open_checkpoint(folder / "model.bin")
    tensors = {name: source.tensor(name).clone() for name in source}
    tensors["target.mlm.linear_2.weight"] = tensors["embedding.word.embedding.weight"]
    tensors["embedding.seg.embedding.weight"][0] = 0.0
    save_tensors(tensors, tmp_path / "tied.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    convert(tmp_path / "tied.bin", tmp_path / "bert_model.ckpt", "google")
    convert(tmp_path / "bert_model.ckpt", tmp_path / "back.bin", "uer")
    back = open_checkpoint(tmp_path / "back.bin")
    assert set(back.keys()) == set(tensors)
    assert all(torch.equal(back.tensor(name), tensors[name]) for name in tensors)


def test_an_untied_output_layer_is_not_dropped_in_silence(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    source = FIXTURES / "mlm-modular" / "model.bin"
    with pytest.raises(CheckpointError, match="no place for it"):
        convert(source, tmp_path / "bert_model.ckpt", "google")
    assert not list(tmp_path.iterdir())
    report = convert(
        source, tmp_path / "bert_model.ckpt", "google", ConvertSettings(allow_loss=True)
    )
    assert any("no place for it" in note for note in report.notes)


def test_a_missing_data_shard_is_named(tmp_path: Path) -> None:
    for item in (FIXTURES / "bert-modular" / "google").iterdir():
        if ".data-" not in item.name:
            (tmp_path / item.name).write_bytes(item.read_bytes())
    with pytest.raises(CheckpointError, match="data-00000-of-00001"):
        convert(tmp_path / "bert_model.ckpt", tmp_path / "out.bin", "uer", FAST)


# Generations

PAIRS = [f for f in fixture_folders("model.bin", "config.json") if "seq2seq" not in f.name]


@pytest.mark.parametrize("folder", PAIRS, ids=ids(PAIRS))
def test_generations_there_and_back(folder: Path, tmp_path: Path) -> None:
    if folder.name.startswith(("sbert", "pegasus")):
        pytest.skip("the 2021 generation has no such model")
    first = "legacy" if folder.name.endswith("modular") else "modular"
    second = "modular" if first == "legacy" else "legacy"
    convert(folder / "model.bin", tmp_path / "a.bin", "uer", options(folder, layout=first))
    convert(tmp_path / "a.bin", tmp_path / "b.bin", "uer", options(folder, layout=second))
    before = torch.load(folder / "model.bin", weights_only=True)
    after = torch.load(tmp_path / "b.bin", weights_only=True)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    twin = folder.with_name(folder.name.replace(second, first))
    if twin.exists():
        theirs = torch.load(twin / "model.bin", weights_only=True)
        assert set(theirs) == set(torch.load(tmp_path / "a.bin", weights_only=True))


@pytest.mark.parametrize(
    ("name", "layout"),
    [("seq2seq-legacy", "modular"), ("seq2seq-modular", "legacy"), ("pegasus-modular", "legacy")],
)
def test_sinusoids_are_not_renamed_into_others(name: str, layout: Any, tmp_path: Path) -> None:
    source = FIXTURES / name / "model.bin"
    with pytest.raises(CheckpointError, match="another formula"):
        convert(source, tmp_path / "x.bin", "uer", ConvertSettings(layout=layout, verify=False))
    assert not list(tmp_path.iterdir())


def test_tied_tensors_stay_one_in_a_torch_file(tmp_path: Path) -> None:
    convert(FIXTURES / "gpt2-legacy" / "model.bin", tmp_path / "m.bin", "uer", FAST)
    model = torch.load(tmp_path / "m.bin", weights_only=True)
    word, output = model["embedding.word.embedding.weight"], model["target.lm.output_layer.weight"]
    assert word.data_ptr() == output.data_ptr()


# Options

MLM = FIXTURES / "mlm-modular" / "model.bin"
BERT = FIXTURES / "bert-modular" / "model.bin"


def test_layers_that_contradict_the_file_are_an_error_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`layers_num` is 12.*3 layers"):
        convert(MLM, tmp_path / "hf", "hf", ConvertSettings(layers_num=12))


def test_target_takes_a_part_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    report = convert(BERT, tmp_path / "hf", "hf", ConvertSettings(target=("mlm",)))
    assert report.hf_class == "BertForMaskedLM"
    names = open_tensor_file(tmp_path / "hf").keys()
    assert not [name for name in names if "seq_relationship" in name or "pooler" in name]
    with pytest.raises(ConfigError, match=r"no sp head; it has mlm"):
        convert(MLM, tmp_path / "x", "hf", ConvertSettings(target=("bert",)))


def test_a_dry_run_writes_nothing_and_lists_everything(tmp_path: Path) -> None:
    report = convert(MLM, tmp_path / "hf", "hf", dry_run=True)
    assert not list(tmp_path.iterdir())
    rows = {row.name: row for row in report.rows}
    segments = rows["bert.embeddings.token_type_embeddings.weight"]
    assert segments.shape == (2, 32)
    assert segments.sources == ("embedding.seg.embedding.weight",)
    assert "dropped" in segments.change


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out.bin").write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        convert(MLM, tmp_path / "out.bin", "uer", FAST)
    assert (tmp_path / "out.bin").read_text() == "mine"


def test_a_weight_path_gets_the_weights_alone(tmp_path: Path) -> None:
    convert(MLM, tmp_path / "pytorch_model.bin", "hf")
    assert [item.name for item in tmp_path.iterdir()] == ["pytorch_model.bin"]
    names = set(torch.load(tmp_path / "pytorch_model.bin", weights_only=True))
    expected = FIXTURES / "mlm-modular" / "expected" / "hf_state_dict.json"
    assert names == set(json.loads(expected.read_text()))


def test_shards_are_written_and_loaded(tmp_path: Path) -> None:
    convert(MLM, tmp_path / "hf", "hf", ConvertSettings(max_shard_size="60KB"))
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 2
    _, faults = load(tmp_path / "hf", "BertForMaskedLM")
    assert faults == {}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_type_of_the_output_is_what_was_asked_for(dtype: str, tmp_path: Path) -> None:
    convert(MLM, tmp_path / "hf", "hf", ConvertSettings(dtype=dtype))
    model, faults = load(tmp_path / "hf", "BertForMaskedLM")
    assert faults == {}
    assert str(model.dtype) == f"torch.{dtype}"


def test_labels_are_named_and_counted(tmp_path: Path) -> None:
    source = FIXTURES / "bert-classifier-modular" / "model.bin"
    convert(source, tmp_path / "hf", "hf", ConvertSettings(labels=("a", "b", "c")))
    content = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert content["id2label"] == {"0": "a", "1": "b", "2": "c"}
    with pytest.raises(UsageError, match="2 labels"):
        convert(source, tmp_path / "x", "hf", ConvertSettings(labels=("a", "b")))
    assert not (tmp_path / "x").exists()


def test_the_tokenizer_gives_uer_pys_ids(tmp_path: Path) -> None:
    from uertool.text.tokenizers.factory import make_tokenizer

    convert(BERT, tmp_path / "hf", "hf", FAST)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = make_tokenizer("bert", vocab_path=BERT.with_name("vocab.txt"))
    for line in BERT.with_name("input.txt").read_text().splitlines():
        assert theirs(line, add_special_tokens=False)["input_ids"] == ours.encode(line)
    assert theirs("好")["input_ids"][0] == ours.cls_id
    assert theirs("好")["input_ids"][-1] == ours.sep_id


def with_words(folder: Path, rows: int) -> Path:
    """The MLM fixture with word tables of another length."""
    model = dict(torch.load(MLM, weights_only=True))
    for name in ("embedding.word.embedding", "target.mlm.linear_2"):
        model[f"{name}.weight"] = torch.zeros(rows, 32)
    model["target.mlm.linear_2.bias"] = torch.zeros(rows)
    folder.mkdir()
    torch.save(model, folder / "model.bin")
    for name in ("config.json", "vocab.txt"):
        (folder / name).write_bytes(MLM.with_name(name).read_bytes())
    return folder / "model.bin"


def test_a_vocabulary_of_another_model_does_not_go_along(tmp_path: Path) -> None:
    source = with_words(tmp_path / "in", 1000)
    report = convert(source, tmp_path / "hf", "hf", FAST)
    assert any("1040 tokens, the model has 1000 words" in note for note in report.notes)
    assert not (tmp_path / "hf" / "vocab.txt").exists()
    named = ConvertSettings(vocab_path=MLM.with_name("vocab.txt"), verify=False)
    with pytest.raises(VocabError, match=r"1040 tokens, .* 1000 rows"):
        convert(source, tmp_path / "x", "hf", named)
    (tmp_path / "short.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    named = ConvertSettings(vocab_path=tmp_path / "short.txt", verify=False)
    report = convert(source, tmp_path / "x", "hf", named)
    assert any("5 tokens, the model 1000 words" in note for note in report.notes)


@pytest.mark.parametrize("arch", ["xlm-roberta", "bert"])
def test_a_sentencepiece_model_gives_uer_pys_ids(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    from uertool.text.tokenizers.factory import make_tokenizer

    spm = TEXT / "cluecorpussmall_spm.model"
    source = with_words(tmp_path / "in", 100_005 if arch == "xlm-roberta" else 100_000)
    settings = ConvertSettings(arch=arch, spm_model_path=spm, verify=False)
    convert(source, tmp_path / "hf", "hf", settings)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    name = "xlmroberta" if arch == "xlm-roberta" else "bert"
    ours = make_tokenizer(name, spm_model_path=spm)
    for line in MLM.with_name("input.txt").read_text().splitlines():
        assert theirs(line, add_special_tokens=False)["input_ids"] == ours.encode(line)


def test_a_folder_of_checkpoints_is_converted_one_by_one(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("mlm-modular", "gpt2-legacy"):
        (source / f"{name}.bin").write_bytes((FIXTURES / name / "model.bin").read_bytes())
    (source / "broken.bin").write_text("<html>")
    settings = ConvertSettings(heads_num=4, verify=False)
    assert len(checkpoints_in(source)) == 3
    outcomes = dict(convert_folder(source, tmp_path / "out", "hf", settings))
    kinds = {path.stem: isinstance(outcome, UertoolError) for path, outcome in outcomes.items()}
    assert kinds == {"broken": True, "gpt2-legacy": False, "mlm-modular": False}
    assert (tmp_path / "out" / "gpt2-legacy" / "config.json").is_file()


# Hostile input


def changed(tmp_path: Path, **tensors: torch.Tensor | None) -> Path:
    """The MLM fixture with some tensors replaced (None: removed)."""
    model = dict(torch.load(MLM, weights_only=True))
    for name, tensor in tensors.items():
        plain = name.replace("__", ".")
        model.pop(plain, None)
        if tensor is not None:
            model[plain] = tensor
    (tmp_path / "in").mkdir(exist_ok=True)
    torch.save(model, tmp_path / "in" / "model.bin")
    (tmp_path / "in" / "config.json").write_text(MLM.with_name("config.json").read_text())
    return tmp_path / "in" / "model.bin"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinite_weights_are_reported(bad: float, tmp_path: Path) -> None:
    norm = torch.ones(32)
    norm[3] = bad
    source = changed(tmp_path, embedding__layer_norm__gamma=norm)
    with pytest.raises(
        CheckpointError, match=r"embedding\.layer_norm\.gamma holds NaN or infinite values: 1"
    ):
        convert(source, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()
    report = convert(source, tmp_path / "hf", "hf", ConvertSettings(allow_nan=True))
    assert any("NaN" in note for note in report.notes)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    source = changed(tmp_path, embedding__layer_norm__gamma=torch.ones(32, dtype=torch.int64))
    with pytest.raises(CheckpointError, match=r"embedding\.layer_norm\.gamma is int64"):
        convert(source, tmp_path / "hf", "hf")


def test_unknown_names_stop_a_conversion_by_default(tmp_path: Path) -> None:
    source = changed(tmp_path, adapter__down=torch.zeros(3))
    with pytest.raises(CheckpointError, match=r"adapter\.down"):
        convert(source, tmp_path / "hf", "hf")
    report = convert(source, tmp_path / "hf", "hf", ConvertSettings(allow_loss=True))
    assert any("adapter.down" in note for note in report.notes)


def test_everything_missing_is_named_at_once(tmp_path: Path) -> None:
    source = changed(
        tmp_path,
        encoder__transformer__1__feed_forward__linear_2__bias=None,
        target__mlm__layer_norm__beta=None,
    )
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "hf", "hf")
    assert "encoder.transformer.1.feed_forward.linear_2.bias" in str(caught.value)
    assert "target.mlm.layer_norm.beta" in str(caught.value)


def test_two_names_of_one_tensor_are_an_error(tmp_path: Path) -> None:
    table = torch.zeros(1040, 32)
    source = changed(tmp_path, embedding__word_embedding__weight=table)
    with pytest.raises(CheckpointError, match=r"are both embedding\.word\.embedding\.weight"):
        convert(source, tmp_path / "hf", "hf")


def test_models_of_uer_pys_own_have_no_other_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="UER-py only"):
        convert(FIXTURES / "enc-lstm-legacy" / "model.bin", tmp_path / "hf", "hf")


def test_a_direction_refuses_another_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"names of UER-py, not of Hugging Face"):
        convert(MLM, tmp_path / "x.bin", "uer", sources=("hf",))


def test_a_damaged_output_is_noticed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uertool.tasks.convert import writing

    def damaged(tensors: Any, *args: Any, **more: Any) -> Any:
        pairs = ((n, t + 1.0 if n.endswith("query.weight") else t) for n, t in tensors)
        return save_tensors(pairs, *args, **more)

    monkeypatch.setattr(writing, "save_tensors", damaged)
    with pytest.raises(CheckpointError, match=r"linear_layers\.0\.weight differs"):
        convert(MLM, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


class Malicious:
    """A pickle that would run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return (os.system, (f"touch {self.marker}",))


def test_a_pickle_with_code_is_named_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"embedding.word.embedding.weight": Malicious(marker)}, tmp_path / "evil.bin")
    with pytest.raises(CheckpointError, match="system"):
        convert(tmp_path / "evil.bin", tmp_path / "hf", "hf")
    assert not marker.exists()
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("offsets", [[0, 1 << 60], [-8, 8], [0, 64]])
def test_absurd_safetensors_offsets_are_refused(offsets: list[int], tmp_path: Path) -> None:
    table = {
        "embedding.word.embedding.weight": {
            "dtype": "F32",
            "shape": [4, 4],
            "data_offsets": offsets,
        },
        "embedding.pos.embedding.weight": {
            "dtype": "F32",
            "shape": [4, 4],
            "data_offsets": [32, 96],
        },
    }
    head = json.dumps(table).encode()
    data = len(head).to_bytes(8, "little") + head + bytes(96)
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        convert(tmp_path / "bad.safetensors", tmp_path / "out.bin", "uer")
    assert not (tmp_path / "out.bin").exists()


def test_an_index_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    index = {"weight_map": {"bert.pooler.dense.bias": "../../secret.safetensors"}}
    (tmp_path / "in" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside its folder"):
        convert(tmp_path / "in", tmp_path / "out.bin", "uer")


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64 << 20))
    with pytest.raises(CheckpointError, match=r"bomb\.bin"):
        convert(tmp_path / "bomb.bin", tmp_path / "out.bin", "uer")


# Siamese models


def test_a_bert_body_becomes_both_streams_when_asked(tmp_path: Path) -> None:
    made(tmp_path / "hf", "BertModel", "BertConfig", _BERT)
    convert(tmp_path / "hf", tmp_path / "m.bin", "uer", ConvertSettings(arch="sbert"))
    model = torch.load(tmp_path / "m.bin", weights_only=True)
    first = model["embedding.dual.embedding_0.word.embedding.weight"]
    second = model["embedding.dual.embedding_1.word.embedding.weight"]
    assert first.data_ptr() == second.data_ptr()
    assert open_checkpoint(tmp_path / "m.bin").architecture == "sbert"


def test_the_spelling_of_uer_pys_siamese_converter_is_read(tmp_path: Path) -> None:
    source = open_checkpoint(FIXTURES / "sbert-modular" / "model.bin")
    renamed = {
        name.replace("embedding.dual.", "embedding."): source.tensor(name) for name in source
    }
    save_tensors(renamed, tmp_path / "model.bin")
    config = (FIXTURES / "sbert-modular" / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    report = convert(tmp_path / "model.bin", tmp_path / "hf", "hf")
    assert report.architecture == "sbert"
    assert report.hf_class == "BertModel"


def test_a_pooler_next_to_another_head_is_not_written(tmp_path: Path) -> None:
    made(tmp_path / "hf", "BertForPreTraining", "BertConfig", _BERT)
    whole = open_tensor_file(tmp_path / "hf")
    kept = {n: whole.tensor(n) for n in whole.keys() if "seq_relationship" not in n}
    (tmp_path / "in").mkdir()
    save_tensors(kept, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text((tmp_path / "hf" / "config.json").read_text())
    convert(tmp_path / "in", tmp_path / "uer.safetensors", "safetensors", FAST)
    report = convert(tmp_path / "uer.safetensors", tmp_path / "back", "hf")
    assert any("cannot be stored" in note for note in report.notes)
    _, faults = load(tmp_path / "back", "BertForMaskedLM")
    assert faults == {}
