"""A model with another vocabulary: shared rows bit for bit, new ones as asked, none forgotten."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIXTURES, TEXT, fixture_folders
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.reader import open_checkpoint
from uertool.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    OutputError,
    UertoolError,
    UsageError,
    VocabError,
)
from uertool.tasks.vocab.adaptation import AdaptReport, adapt_vocab
from uertool.tasks.vocab.change import VocabChange
from uertool.tasks.vocab.rows import Similar, joining_of, plan_rows, read_similar, surface
from uertool.tasks.vocab.settings import AdaptSettings, BuildSettings
from uertool.text.tokenizers.bert import BertTokenizer
from uertool.text.tokenizers.char import CharTokenizer
from uertool.text.tokenizers.factory import make_tokenizer
from uertool.text.vocab import Vocab

FOLDERS = fixture_folders("model.bin", "vocab.txt")
GENERATIONS = ["legacy", "modular"]


def vocab_file(path: Path, tokens: list[str]) -> Path:
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    with open_tensor_file(path) as file:
        return {name: file.tensor(name).clone() for name in file}


def adapt_model(
    model: Path,
    output: Path | None,
    change: VocabChange,
    target: VocabChange | None = None,
    **more: Any,
) -> AdaptReport:
    target = target or VocabChange()
    return adapt_vocab(
        AdaptSettings(
            old_model_path=str(model),
            new_model_path=output,
            old_vocab_path=change.old,
            new_vocab_path=change.new,
            old_spm_model_path=change.old_spm,
            new_spm_model_path=change.new_spm,
            old_tgt_vocab_path=target.old,
            new_tgt_vocab_path=target.new,
            **more,
        )
    )


def adapt(folder: Path, new: Path, output: Path, **more: Any) -> AdaptReport:
    change = VocabChange(folder / "vocab.txt", new)
    return adapt_model(folder / "model.bin", output, change, **more)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_shared_rows_are_those_of_uer_pys_script(generation: str, tmp_path: Path) -> None:
    folder, misc = FIXTURES / f"mlm-{generation}", FIXTURES / f"misc-{generation}"
    adapt(folder, misc / "new_vocab.txt", tmp_path / "m.bin")
    ours = torch.load(tmp_path / "m.bin", weights_only=True)
    theirs = torch.load(misc / "adapted.bin", weights_only=True)
    assert ours.keys() == theirs.keys()
    old = set(Vocab.load(folder / "vocab.txt").tokens)
    tokens = Vocab.load(misc / "new_vocab.txt").tokens
    shared = torch.tensor([token in old for token in tokens])
    assert int(shared.sum()) > 600
    for name, tensor in theirs.items():
        words = tensor.shape[0] == len(tokens)
        if words:
            assert torch.equal(ours[name][shared], tensor[shared]), name
        else:
            assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_same_vocabulary_in_another_order_moves_rows_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    tokens = Vocab.load(folder / "vocab.txt").tokens
    order = list(range(len(tokens)))
    random.Random(1).shuffle(order)
    new = vocab_file(tmp_path / "new.txt", [tokens[index] for index in order])
    report = adapt(folder, new, tmp_path / "m.bin")
    before, after = tensors_of(folder / "model.bin"), tensors_of(tmp_path / "m.bin")
    assert list(before) == list(after)
    changed = {tensor.name for tensor in report.tensors}
    with open_checkpoint(folder / "model.bin") as checkpoint:
        sized = {
            checkpoint.source_name(name)
            for name in checkpoint
            if checkpoint.info(name).shape[0] == len(tokens)
        }
    assert changed == sized
    for name, tensor in before.items():
        expected = tensor[order] if name in changed else tensor
        assert torch.equal(after[name], expected), name
    (side,) = report.sides
    others = dict.fromkeys(("renamed", "composed", "drawn", "zero", "dropped"), 0)
    assert side.numbers == {"copied": len(tokens), **others}


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    tensors = torch.load(FIXTURES / "mlm-modular" / "model.bin", weights_only=True)
    tensors["target.mlm.linear_2.weight"] = tensors["embedding.word.embedding.weight"]
    torch.save(tensors, tmp_path / "tied.bin")
    vocab = FIXTURES / "mlm-modular" / "vocab.txt"
    new = vocab_file(tmp_path / "new.txt", ["[PAD]", "[UNK]", "天气", "天", "气", "龘"])
    for output in ("out.bin", "out.safetensors"):
        adapt_model(tmp_path / "tied.bin", tmp_path / output, VocabChange(vocab, new))
        with open_tensor_file(tmp_path / output) as file:
            names = ("target.mlm.linear_2.weight", "embedding.word.embedding.weight")
            assert file.storage_key(names[0]) == file.storage_key(names[1])
            assert file.info(names[0]).shape == (6, 32)


def test_a_decoder_with_its_own_vocabulary_stays_or_follows_its_own(tmp_path: Path) -> None:
    folder = FIXTURES / "seq2seq-modular"
    new = vocab_file(tmp_path / "new.txt", Vocab.load(folder / "vocab.txt").tokens[:300])
    report = adapt(folder, new, tmp_path / "a.bin")
    assert [tensor.name for tensor in report.tensors] == ["embedding.word.embedding.weight"]
    assert any("`old_tgt_vocab_path`" in note for note in report.notes)
    target = Vocab.load(folder / "tgt_vocab.txt").tokens
    new_target = vocab_file(tmp_path / "tgt.txt", target[::-1])
    report = adapt_model(
        folder / "model.bin",
        tmp_path / "b.bin",
        VocabChange(folder / "vocab.txt", new),
        VocabChange(folder / "tgt_vocab.txt", new_target),
    )
    assert {side.side for side in report.sides} == {"source", "target"}
    before, after = tensors_of(folder / "model.bin"), tensors_of(tmp_path / "b.bin")
    for name in ("tgt_embedding.word.embedding.weight", "target.lm.output_layer.weight"):
        assert torch.equal(after[name], before[name].flip(0))
    assert after["embedding.word.embedding.weight"].shape[0] == 300


# -- how new rows are made ------------------------------------------------------------------------


def small(new: list[str], old: list[str] | None = None, **more: Any) -> Any:
    before = Vocab(old or ["[PAD]", "[UNK]", "[CLS]", "天", "气", "play", "##ing", "##s", "a"])
    more.setdefault("rows", len(before))
    return plan_rows(before, Vocab(new), BertTokenizer(before), **more)


def test_a_new_word_is_the_mean_of_its_pieces() -> None:
    plan = small(["[PAD]", "天气", "plays", "##ings", "天天气", "龘"])
    rows = torch.arange(18.0).reshape(9, 2)
    made = plan.apply(rows, "w")
    assert torch.equal(made[0], rows[0])
    assert torch.equal(made[1], (rows[3] + rows[4]) / 2)
    assert torch.equal(made[2], (rows[5] + rows[7]) / 2)
    assert torch.equal(made[3], (rows[6] + rows[7]) / 2)
    assert torch.allclose(made[4], (2 * rows[3] + rows[4]) / 3)
    assert plan.drawn == (5,)
    assert torch.equal(plan.apply(rows[:, 0], "b")[:5], made[:5, 0])
    leading = plan.apply(rows[:, :1].T, "b", axis=1)
    assert leading.shape == (1, 6)
    assert torch.equal(leading[0, :5], made[:5, 0])


def test_special_tokens_are_no_text_and_keep_their_role() -> None:
    plan = small(["<pad>", "<unk>", "<s>", "[unused1]", "<extra_id_0>", "a", "[MASK]"])
    assert plan.copied == ((0, 0), (1, 1), (2, 2), (5, 8))
    assert plan.renamed == 3
    assert plan.drawn == (3, 4, 6)


def test_drawn_rows_depend_on_the_seed_and_the_name_alone() -> None:
    rows = torch.randn(9, 64)
    plan = small([f"龘{number}" for number in range(400)], init="normal", seed=3)
    made = plan.apply(rows, "w")
    assert float(made.std()) == pytest.approx(0.02, rel=0.05)
    assert abs(float(made.mean())) < 1e-3
    assert torch.equal(made, plan.apply(rows, "w"))
    assert not torch.equal(made, plan.apply(rows, "v"))
    other = small([f"龘{number}" for number in range(400)], init="normal", seed=4)
    assert not torch.equal(made, other.apply(rows, "w"))


def test_a_word_without_pieces_begins_as_an_average_word() -> None:
    rows = torch.randn(9, 64) * 3 + 5
    plan = small([f"龘{number}" for number in range(400)])
    made = plan.apply(rows, "w")
    assert len(plan.drawn) == 400
    assert torch.allclose(made.mean(0), rows.mean(0), atol=0.01)
    assert float((made - rows.mean(0)).std()) == pytest.approx(0.02, rel=0.05)


def test_zero_rows_are_zero_and_types_stay() -> None:
    plan = small(["天", "天气", "龘"], init="zero")
    made = plan.apply(torch.ones(9, 3, dtype=torch.bfloat16), "w")
    assert made.dtype == torch.bfloat16
    assert made.tolist() == [[1.0] * 3, [0.0] * 3, [0.0] * 3]


def test_similar_weighs_the_nearest_old_words_by_a_softmax() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [1.0, 0.0]])
    similar = Similar({"天": 0, "气": 1, "a": 2, "龘": 3}, vectors, 2, 0.5)
    plan = small(["龘", "天气", "##s"], init="similar", similar=similar)
    near = torch.softmax(torch.tensor([1.0, 0.6], dtype=torch.float64) / 0.5, 0)
    assert plan.composed[0] == pytest.approx({3: float(near[0]), 4: float(near[1])})
    assert plan.composed[1] == {3: 0.5, 4: 0.5}  # no vector: its pieces


def test_marks_of_other_tokenizers_are_read() -> None:
    pieces = Vocab(["<unk>", "▁天气", "▁play", "气"])
    assert joining_of(pieces) == "pieces"
    assert surface("▁天气", "pieces")[0].strip() == "天气"
    assert joining_of(Vocab(["Ġplay", "ing"])) == "bytes"
    assert surface("å¤©", "bytes") == ("天", False)
    assert surface("å¤", "bytes")[0] == "\ufffd"
    plan = small(pieces.tokens, new_joining="pieces")
    assert plan.composed[1] == {3: 0.5, 4: 0.5}
    assert plan.composed[2] == {5: 1.0}


def test_rows_that_the_tensor_lacks_are_not_taken() -> None:
    plan = small(["天", "a", "##s"], rows=8)
    assert plan.copied == ((0, 3), (2, 7))
    assert plan.drawn == (1,)


def test_characters_are_pieces_for_the_char_tokenizer() -> None:
    old = Vocab(["[UNK]", "天", "气"])
    plan = plan_rows(old, Vocab(["天气"]), CharTokenizer(old), rows=3)
    assert plan.composed == {0: {1: 0.5, 2: 0.5}}


def test_only_wanted_words_of_a_vector_file_are_kept_at_length_one(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("4 2\n天气 3 4\nplay 0 2\nnull 0 0\nother 1 1\n", encoding="utf-8")
    similar = read_similar(str(path), {"天气", "play", "null", "none"})
    assert set(similar.vectors) == {"天气", "play"}
    assert similar.table[similar.vectors["天气"]].tolist() == pytest.approx([0.6, 0.8])
    with pytest.raises(InputError, match="not exist"):
        read_similar(str(tmp_path / "none"), set())


# -- what is refused ------------------------------------------------------------------------------


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = FIXTURES / "mlm-modular"
    few = vocab_file(tmp_path / "few.txt", ["[PAD]", "[UNK]", "天"])
    with pytest.raises(VocabError, match="3 words.*1040 rows"):
        adapt_model(folder / "model.bin", tmp_path / "o.bin", VocabChange(few, few))
    assert not (tmp_path / "o.bin").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"init": "similar"}, "`similar_path`"),
        ({"similar_path": "vectors.txt"}, "only that method does"),
        ({"init": "average"}, "mean-of-pieces"),
        ({"neighbours": 0}, "`neighbours`: 0 .must be at least 1"),
        ({"temperature": 0.0}, "`temperature`: 0.0 .must be above 0"),
        ({"old_spm_model_path": "old.model"}, "`old_vocab_path` and `old_spm_model_path`"),
        ({"new_spm_model_path": "new.model"}, "`new_vocab_path` and `new_spm_model_path`"),
        ({"new_tgt_vocab_path": "new.txt"}, "go together"),
        ({"list": ("all",)}, "must be one of composed"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_named(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        AdaptSettings("m.bin", "old.txt", "new.txt", "out.bin", **more)  # type: ignore[arg-type]


def test_a_folder_is_not_written_with_a_guess(tmp_path: Path) -> None:
    folder = FIXTURES / "mlm-modular"
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.bin", "vocab.txt"):
        shutil.copyfile(folder / name, model / name)
    with pytest.raises(ConfigError, match=r"`heads_num` of .*cannot be read.* config.json"):
        adapt_model(model, tmp_path / "out", VocabChange(None, folder / "vocab.txt"))
    assert not (tmp_path / "out").exists()
    adapt_model(model, tmp_path / "out.bin", VocabChange(None, folder / "vocab.txt"))


def test_wrong_usage_is_one_sentence(tmp_path: Path) -> None:
    folder = FIXTURES / "mlm-modular"
    model, vocab = tmp_path / "model.bin", folder / "vocab.txt"
    shutil.copyfile(folder / "model.bin", model)  # without a vocabulary next to it
    output = tmp_path / "o.bin"
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[UertoolError], str]] = [
        ((model, None, VocabChange(vocab, vocab)), {}, UsageError, "There is no output"),
        ((model, output, VocabChange(vocab)), {}, UsageError, "No new vocabulary"),
        ((model, output, VocabChange(None, vocab)), {}, UsageError, "`old_vocab_path`"),
        ((model, tmp_path / "o", VocabChange(vocab, vocab)), {}, OutputError, "must end in"),
        (
            (model, output, VocabChange(vocab, vocab)),
            {"target": VocabChange(vocab, vocab)},
            UsageError,
            "no target embedding",
        ),
        ((model, output, VocabChange(vocab, "none.txt")), {}, VocabError, "does not exist"),
    ]
    for arguments, more, kind, words in cases:
        with pytest.raises(kind, match=words):
            adapt_model(*arguments, **more)
    output.write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        adapt_model(model, output, VocabChange(vocab, vocab))
    assert output.read_text() == "old"


def test_unknown_tensors_of_the_vocabularys_size_are_not_left_behind(tmp_path: Path) -> None:
    folder = FIXTURES / "mlm-modular"
    tensors = torch.load(folder / "model.bin", weights_only=True)
    torch.save({**tensors, "my.table": torch.ones(1040, 2)}, tmp_path / "m.bin")
    change = VocabChange(folder / "vocab.txt", folder / "vocab.txt")
    with pytest.raises(CheckpointError, match=r"my\.table"):
        adapt_model(tmp_path / "m.bin", tmp_path / "o.bin", change)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    folder = FIXTURES / "mlm-modular"
    new = FIXTURES / "misc-modular" / "new_vocab.txt"
    report = adapt(folder, new, tmp_path / "o.bin", dry_run=True)
    assert report.written == ()
    assert list(tmp_path.iterdir()) == []
    assert {t.new_shape[0] for t in report.tensors} == {698}


# -- folders --------------------------------------------------------------------------------------


def test_a_folder_of_uer_py_gets_vocabulary_and_configuration(tmp_path: Path) -> None:
    folder = FIXTURES / "mlm-modular"
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.bin", "vocab.txt"):
        shutil.copyfile(folder / name, model / name)
    config = {**json.loads((folder / "config.json").read_text()), "vocab_size": 1040}
    (model / "config.json").write_text(json.dumps(config))
    new = FIXTURES / "misc-modular" / "new_vocab.txt"
    adapt_model(model, tmp_path / "out", VocabChange(None, new))
    names = sorted(item.name for item in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.bin", "vocab.txt"]
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert made == {**config, "vocab_size": 698}
    assert Vocab.load(tmp_path / "out" / "vocab.txt").tokens == Vocab.load(new).tokens


def test_a_configuration_inside_safetensors_gets_the_new_size(tmp_path: Path) -> None:
    from uertool.checkpoints.reader import CONFIG_KEY, HF_CONFIG_KEY
    from uertool.checkpoints.writer import save_tensors

    folder = FIXTURES / "mlm-modular"
    tensors = torch.load(folder / "model.bin", weights_only=True)
    hf_config = {"model_type": "bert", "vocab_size": 1040, "pad_token_id": 0}
    save_tensors(
        tensors,
        tmp_path / "m.safetensors",
        metadata={
            CONFIG_KEY: json.dumps({"vocab_size": 1040, "layers_num": 3}),
            HF_CONFIG_KEY: json.dumps(hf_config),
        },
    )
    new = vocab_file(tmp_path / "new.txt", ["天", "[PAD]", "[UNK]"])
    change = VocabChange(folder / "vocab.txt", new)
    report = adapt_model(tmp_path / "m.safetensors", tmp_path / "o.safetensors", change)
    with open_checkpoint(tmp_path / "o.safetensors") as found:
        assert found.stored_config == {"vocab_size": 3, "layers_num": 3}
        assert found.stored_hf_config == {**hf_config, "vocab_size": 3, "pad_token_id": 1}
    assert any("[PAD] at 1" in note for note in report.notes)


HF = fixture_folders("model.bin", "vocab.txt", "expected/hf_state_dict.json")


@pytest.mark.slow
@pytest.mark.parametrize("folder", HF, ids=lambda path: path.name)
def test_transformers_computes_the_same_with_the_words_in_another_order(
    folder: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    from uertool.tasks.convert.job import convert
    from uertool.tasks.convert.settings import ConvertSettings

    arch = "xlm-roberta" if folder.name.startswith("xlm") else None
    options = ConvertSettings(arch=arch, verify=False, vocab_path=folder / "vocab.txt")
    kind = convert(folder / "model.bin", tmp_path / "hf", "hf", options).hf_class
    tokens = Vocab.load(folder / "vocab.txt").tokens
    order = list(range(len(tokens)))
    middle = order[5:]
    random.Random(2).shuffle(middle)
    order = [*order[:5], *middle]
    new = vocab_file(tmp_path / "new.txt", [tokens[index] for index in order])
    report = adapt_model(tmp_path / "hf", tmp_path / "out", VocabChange(None, new))
    assert report.sides[0].copied == len(tokens)
    models = [
        getattr(transformers, kind).from_pretrained(tmp_path / name).eval()
        for name in ("hf", "out")
    ]
    fast = [transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("hf", "out")]
    results = []
    for model, tokenizer in zip(models, fast, strict=True):
        ids = tokenizer("今天天气很好 play 中国人民", return_tensors="pt").input_ids
        with torch.inference_mode():
            more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            results.append((ids, model(input_ids=ids, **more)[0]))
    (ids, first), (moved, second) = results
    assert moved[0].tolist() == [order.index(index) for index in ids[0].tolist()]
    if first.shape[-1] == len(tokens):
        second = second[..., [order.index(index) for index in range(len(tokens))]]
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.slow
def test_special_ids_in_config_json_follow_their_tokens(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from uertool.tasks.convert.job import convert
    from uertool.tasks.convert.settings import ConvertSettings

    folder = FIXTURES / "gpt2-modular"
    options = ConvertSettings(verify=False, vocab_path=folder / "vocab.txt")
    convert(folder / "model.bin", tmp_path / "hf", "hf", options)
    old = Vocab.load(folder / "vocab.txt").tokens
    kept = [token for token in old if token != "[SEP]"]
    new = vocab_file(tmp_path / "new.txt", [*kept[::-1], "天天"])
    report = adapt_model(tmp_path / "hf", tmp_path / "out", VocabChange(None, new))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(old)
    assert config["bos_token_id"] == kept[::-1].index("[CLS]")
    assert config["pad_token_id"] == kept[::-1].index("[PAD]")
    assert config["eos_token_id"] is None
    assert any("eos_token_id" in note for note in report.notes)
    assert make_tokenizer("bert", vocab_path=tmp_path / "out" / "vocab.txt").cls_id is not None


def hf_folder(name: str, tmp_path: Path) -> Path:
    from uertool.tasks.convert.job import convert
    from uertool.tasks.convert.settings import ConvertSettings

    folder = FIXTURES / name
    options = ConvertSettings(verify=False, vocab_path=folder / "vocab.txt")
    convert(folder / "model.bin", tmp_path / "hf", "hf", options)
    return tmp_path / "hf"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["wordpiece", "bpe", "unigram"])
def test_a_trained_vocabulary_brings_its_tokenizer_into_the_folder(
    model: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    from uertool.tasks.vocab.building import save_vocab
    from uertool.tasks.vocab.subwords import train_vocab

    source = hf_folder("gpt2-modular", tmp_path)
    built = train_vocab([TEXT / "reviews_test.tsv"], BuildSettings(model=model, vocab_size=3500))
    save_vocab(built, tmp_path / "new.txt")
    report = adapt_model(source, tmp_path / "out", VocabChange(None, tmp_path / "new.txt"))
    assert report.sides[0].numbers["composed"] > 300
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert network.get_input_embeddings().weight.shape[0] == len(built.tokens)
    ids = tokenizer("酒店的服务很好 hotel", add_special_tokens=False).input_ids
    assert [built.tokens[index] for index in ids] == tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.cls_token == "[CLS]" and tokenizer.pad_token_id == 0


@pytest.mark.slow
def test_a_sentencepiece_model_or_a_tokenizer_folder_can_be_the_new_vocabulary(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sentencepiece")
    source = hf_folder("t5-modular", tmp_path)
    spm = TEXT / "cluecorpussmall_spm.model"
    report = adapt_model(source, tmp_path / "spm", VocabChange(None, new_spm=spm))
    (side,) = report.sides
    assert side.numbers["composed"] > 1000 and side.copied > 500
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "spm")
    ours = Vocab.load(spm=spm)
    ids = tokenizer("今天天气很好，play", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [ours.tokens[index] for index in ids]
    adapt_model(source, tmp_path / "folder", VocabChange(None, tmp_path / "spm"))
    one, other = tensors_of(tmp_path / "spm"), tensors_of(tmp_path / "folder")
    assert all(torch.equal(one[name], other[name]) for name in one)
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("spm", "folder")]
    assert files[0] == files[1]


def test_a_hugging_face_file_alone_keeps_its_names_and_says_what_its_config_needs(
    tmp_path: Path,
) -> None:
    source = hf_folder("bert-modular", tmp_path)
    new = FIXTURES / "misc-modular" / "new_vocab.txt"
    output = tmp_path / "weights.bin"
    change = VocabChange(FIXTURES / "bert-modular" / "vocab.txt", new)
    report = adapt_model(source / "model.safetensors", output, change)
    before, after = tensors_of(source), tensors_of(output)
    assert list(before) == list(after)
    assert after["bert.embeddings.word_embeddings.weight"].shape == (698, 32)
    assert torch.equal(after["cls.predictions.bias"], after["cls.predictions.decoder.bias"])
    assert any("vocab_size 698" in note for note in report.notes)


def test_only_the_decoders_vocabulary_may_change_in_a_folder(tmp_path: Path) -> None:
    folder = FIXTURES / "seq2seq-modular"
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.bin", "vocab.txt", "tgt_vocab.txt", "config.json"):
        shutil.copyfile(folder / name, model / name)
    new = vocab_file(tmp_path / "new.txt", Vocab.load(folder / "tgt_vocab.txt").tokens[:400])
    adapt_model(
        model,
        tmp_path / "out",
        VocabChange(),
        VocabChange(model / "tgt_vocab.txt", new),
    )
    kept = (tmp_path / "out" / "vocab.txt").read_bytes()
    assert kept == (folder / "vocab.txt").read_bytes()
    assert (tmp_path / "out" / "tgt_vocab.txt").read_bytes() == new.read_bytes()
    tensors = tensors_of(tmp_path / "out")
    assert tensors["tgt_embedding.word.embedding.weight"].shape[0] == 400
    assert tensors["embedding.word.embedding.weight"].shape[0] == 1040
