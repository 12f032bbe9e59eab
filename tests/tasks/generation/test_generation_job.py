"""Prompts to texts: UER-py's outputs, lengths, ends, marks, scores, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIXTURES, MODELS, fixture_folders
from tests.tasks.generation import peers
from uertool.errors import InputError, UertoolError, UsageError, VocabError
from uertool.loading.registry import LoadedModel, load_model
from uertool.tasks.generation.job import Generator, generate, perplexity
from uertool.tasks.generation.prompts import Prompt
from uertool.tasks.generation.settings import make_decoding
from uertool.tasks.generation.special_tokens import find_special_tokens

LMS = fixture_folders("model.bin", "expected/lm.json")
SEQ2SEQS = fixture_folders("model.bin", "expected/seq2seq.json")
SMALL = MODELS / "zh-lm-small"


@cache
def loaded(path: Path) -> LoadedModel:
    return load_model(path, heads=("lm",), device="cpu")


def small(prompts: str | list[str], **settings: Any) -> Any:
    return generate(loaded(SMALL), prompts, **settings)


def prompts_of(*texts: str) -> list[Prompt]:
    return [Prompt(number, text) for number, text in enumerate(texts)]


def test_rows_beyond_the_vocabulary_are_never_generated(tmp_path: Path) -> None:
    folder = FIXTURES / "gpt2-modular"
    lines = (folder / "vocab.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "vocab.txt").write_text("".join(lines[:-100]), "utf-8")
    padded = load_model(
        folder / "model.bin",
        config=folder / "config.json",
        vocab=tmp_path / "vocab.txt",
        heads=("lm",),
        device="cpu",
    )
    ((text,),) = generate(padded, "今天", temperature=50, top_k=0, max_new_tokens=60, seed=1)
    assert max(text.ids) < 940


# -- UER-py's outputs -----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", LMS, ids=lambda folder: folder.name)
def test_continuations_are_those_of_uer(folder: Path) -> None:
    cases = json.loads((folder / "expected/lm.json").read_text("utf-8"))
    found = generate(
        loaded(folder / "model.bin"),
        [case["beginning"] for case in cases],
        temperature=0,
        seq_length=48,
        stop_token=(),
    )
    for case, (text,) in zip(cases, found, strict=True):
        assert [*text.prompt_ids, *text.ids] == case["ids"]
        assert text.raw == case["text"]
        assert text.text.startswith(case["beginning"])
        assert text.reason == "length"


@pytest.mark.parametrize("folder", SEQ2SEQS, ids=lambda folder: folder.name)
def test_targets_are_those_of_uer(folder: Path) -> None:
    cases = json.loads((folder / "expected/seq2seq.json").read_text("utf-8"))
    found = generate(
        loaded(folder / "model.bin"),
        [case["source"] for case in cases],
        temperature=0,
        tgt_seq_length=32,
        stop_token=(),
    )
    for case, (text,) in zip(cases, found, strict=True):
        assert list(text.prompt_ids) == case["src_ids"]
        assert [5, *text.ids] == case["tgt_ids"]
        assert text.raw == case["text"]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gatedcnn"])
@pytest.mark.parametrize("generation", ["legacy", "modular"])
def test_recurrent_and_convolutional_models_continue_texts(cell: str, generation: str) -> None:
    model = loaded(FIXTURES / f"enc-{cell}-{generation}" / "model.bin")
    texts = [text for (text,) in generate(model, ["今天", "他说这件"], greedy=True, seq_length=12)]
    for text in texts:
        ids = [*text.prompt_ids, *text.ids]
        for end in range(len(text.prompt_ids), len(ids)):
            given = torch.tensor([ids[:end]])
            hidden = model.model.encode(given, torch.ones_like(given))
            assert isinstance(hidden, torch.Tensor) and model.model.lm is not None
            assert int(model.model.lm(hidden[0, -1]).argmax()) == ids[end]


# -- seeds ----------------------------------------------------------------------------------------


def test_a_text_depends_on_its_line_and_the_seed_only() -> None:
    lines = ["酒店", "今天", "这本书", "酒店"]
    first = small(lines, max_new_tokens=12)
    assert [t.ids for (t,) in small(lines, max_new_tokens=12, batch_size=1)] == [
        t.ids for (t,) in first
    ]
    assert first[0][0].ids != first[3][0].ids  # the same prompt on another line
    assert small(lines, max_new_tokens=12, seed=8)[0][0].ids != first[0][0].ids
    generator = Generator(loaded(SMALL))
    backwards = generator.generate(reversed(prompts_of(*lines)), make_decoding(max_new_tokens=12))
    assert [row[0].ids for row in backwards] == [t.ids for (t,) in reversed(first)]


def test_several_texts_of_a_prompt_differ() -> None:
    (texts,) = small("酒店", num_return=5, max_new_tokens=8)
    assert len({text.ids for text in texts}) == 5
    assert [text.number for text in texts] == [0, 1, 2, 3, 4]


def test_many_prompts_come_back_in_order() -> None:
    lines = [str(number) for number in range(150)]
    found = small(lines, max_new_tokens=2, batch_size=7)
    assert [text.prompt.text for (text,) in found] == lines


# -- lengths and ends -----------------------------------------------------------------------------


def test_the_length_counts_the_prompt_unless_new_tokens_are_counted() -> None:
    ((text,),) = small("今天天气", seq_length=10, stop_token=())
    assert len(text.prompt_ids) + len(text.ids) == 10
    ((text,),) = small("今天天气", max_new_tokens=3, stop_token=())
    assert len(text.ids) == 3
    ((text,),) = small("今天天气", seq_length=7, max_new_tokens=30, stop_token=())
    assert len(text.prompt_ids) + len(text.ids) == 7


def test_a_text_ends_at_its_end_mark_or_at_what_was_named() -> None:
    ((text,),) = small("他说", greedy=True)
    assert text.reason == "stop_token" and text.ids[-1] == 3 and text.text.endswith("。")
    ((named,),) = small("他说", greedy=True, stop_token=["，"])
    assert text.text.startswith(named.text) and "，" not in named.text
    ((words,),) = small("他说", greedy=True, stop_string=["会去"])
    assert words.reason == "stop_string" and words.text == text.text.split("会去")[0]
    ((longer,),) = small("他说", greedy=True, min_new_tokens=30)
    assert len(longer.ids) >= 30


def test_forbidden_words_are_not_written() -> None:
    ((free,),) = small("他说", greedy=True)
    word = free.new_text[1:3]
    ((text,),) = small("他说", greedy=True, forbid=[word])
    assert word in free.text and word not in text.text


LONG = "今天" * 200


@pytest.mark.parametrize(("side", "kept"), [("left", "好酒店"), ("right", "酒店好")])
def test_a_long_prompt_is_truncated_on_the_given_side(side: Any, kept: str) -> None:
    prompt = f"{'酒店好' * 5}{LONG}{'好酒店' * 5}"
    ((text,),) = small(prompt, seq_length=30, truncate=side, max_new_tokens=4, stop_token=())
    tokens = loaded(SMALL).tokenizer.tokens(text.prompt_ids[1:])
    assert len(text.prompt_ids) == 26 and len(text.ids) == 4
    assert (tokens[-3:] if side == "left" else tokens[:3]) == list(kept)
    assert text.truncated == len(prompt) + 1 - 26


def test_a_long_prompt_is_refused_by_default() -> None:
    with pytest.raises(InputError, match="Line 2 has 401 tokens .* 128 are allowed") as error:
        small(["好", LONG])
    assert error.value.hint == "Cut it with `truncate` left or `truncate` right."
    with pytest.raises(InputError, match="only 20 are allowed") as error:
        small(LONG, seq_length=20)
    assert "raise `seq_length`" in str(error.value.hint)


def test_a_source_may_fill_all_its_places() -> None:
    model = loaded(FIXTURES / "bart-modular" / "model.bin")
    source = "今" * 62
    ((text,),) = generate(model, source, greedy=True, tgt_seq_length=4)
    assert len(text.prompt_ids) == 64
    with pytest.raises(InputError, match="Line 1 has 65 tokens"):
        generate(model, "今" * 63, greedy=True)
    ((text,),) = generate(model, "今" * 63, greedy=True, tgt_seq_length=4, truncate="right")
    assert len(text.prompt_ids) == 64 and text.truncated == 1


def test_lengths_beyond_the_position_table_are_refused() -> None:
    with pytest.raises(UsageError, match="`seq_length` 129 is beyond .* 128 rows"):
        small("好", seq_length=129)
    with pytest.raises(UsageError, match="`tgt_seq_length` 65 is beyond"):
        generate(loaded(FIXTURES / "bart-modular" / "model.bin"), "好", tgt_seq_length=65)


def test_an_empty_prompt_begins_from_the_start_mark() -> None:
    told: list[int] = []
    found = Generator(loaded(SMALL)).generate(
        prompts_of("好", "", "  "),
        make_decoding(max_new_tokens=3),
        on_empty=lambda prompt: told.append(prompt.number),
    )
    assert [len(text.prompt_ids) for (text,) in found] == [2, 1, 1]
    assert told == [1, 2]


def test_a_prompt_may_be_checked_without_generating() -> None:
    generator = Generator(loaded(SMALL))
    assert generator.check(prompts_of("好", "今天"), make_decoding()) == 2
    with pytest.raises(InputError, match="Line 2"):
        generator.check(prompts_of("好", LONG), make_decoding())


# -- as it grows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"greedy": True}, {"stop_string": ["，"]}, {"num_return": 3}])
def test_the_streamed_pieces_make_the_text(settings: dict[str, Any]) -> None:
    told: dict[tuple[int, int], list[str]] = {}
    found = Generator(loaded(SMALL)).generate(
        prompts_of("他说", "The hotel is", "酒店"),
        make_decoding(max_new_tokens=25, **settings),
        on_text=lambda prompt, number, more: told.setdefault((prompt.number, number), []).append(
            more
        ),
    )
    for texts in found:
        for text in texts:
            pieces = told.get((text.prompt.number, text.number), [])
            assert "".join(pieces) == text.new_text
            assert len(pieces) > 3 or len(text.ids) < 5


def test_beams_have_nothing_to_tell() -> None:
    with pytest.raises(UsageError, match="nothing to stream"):
        list(
            Generator(loaded(SMALL)).generate(
                prompts_of("好"), make_decoding(beam=2), on_text=lambda *_: None
            )
        )


# -- scores ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = peers.make("gpt2", tmp_path)
    lines = [*peers.texts(6), ""]
    scored = list(Generator(loaded(tmp_path)).score(prompts_of(*lines), tokens=30))
    assert [score.prompt.text for score in scored] == lines
    for score in scored[:-1]:
        ids = torch.tensor([[peers.START, *(peers.VOCAB.index(c) for c in score.prompt.text)]])
        with torch.no_grad():
            loss = float(theirs(ids, labels=ids).loss)
        assert score.tokens == ids.shape[1] - 1
        assert math.log(score.perplexity) == pytest.approx(loss, abs=1e-4)
    assert scored[-1].tokens == 0 and math.isnan(scored[-1].perplexity)


@pytest.mark.slow
def test_int8_hardly_changes_the_perplexity_of_a_trained_model() -> None:
    lines = (MODELS.parent / "text" / "corpus_zh.txt").read_text("utf-8").splitlines()
    found = []
    for precision in ("native", "int8"):
        generator = Generator(loaded(SMALL), precision)  # type: ignore[arg-type]
        scored = list(generator.score(prompts_of(*lines[:60]), truncate="right"))
        total = sum(score.log_probability for score in scored)
        found.append(perplexity(total, sum(score.tokens for score in scored)))
    assert found[1] == pytest.approx(found[0], rel=0.01)


def test_perplexities_out_of_range_are_infinite() -> None:
    assert perplexity(-1e6, 1) == math.inf
    assert math.isnan(perplexity(0.0, 0))


def test_an_encoder_decoder_has_no_perplexity() -> None:
    generator = Generator(loaded(FIXTURES / "t5-modular" / "model.bin"))
    with pytest.raises(UsageError, match="is an encoder-decoder"):
        list(generator.score(prompts_of("好")))


# -- marks ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hugging_face_folder_says_where_texts_start_and_end(tmp_path: Path) -> None:
    peers.make("bart", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"decoder_start_token_id": 3, "forced_bos_token_id": 4, "forced_eos_token_id": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").unlink()
    model = load_model(tmp_path, heads=("lm",), device="cpu")
    special = find_special_tokens(model)
    assert (special.target, special.stop) == ((3,), frozenset({3}))
    ((text,),) = generate(model, peers.texts(1), greedy=True, max_new_tokens=6)
    assert text.ids[0] == 4 and text.ids[-1] == 3


@pytest.mark.slow
def test_marks_of_another_vocabulary_are_no_marks(tmp_path: Path) -> None:
    peers.make("gpt2", tmp_path)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps({**content, "eos_token_id": 50256}))
    special = find_special_tokens(load_model(tmp_path, heads=("lm",), device="cpu"))
    assert special.stop == frozenset({peers.END})


def test_targets_with_a_vocabulary_of_their_own_are_read_with_it() -> None:
    model = loaded(FIXTURES / "seq2seq-modular" / "model.bin")
    ((text,),) = generate(model, "今天天气很好，我们去公园", greedy=True, tgt_seq_length=4)
    assert model.tgt_tokenizer is not None
    assert text.new_text == "".join(model.tgt_tokenizer.tokens(text.ids))


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_return": 0}, "Invalid `num_return`: 0 .must be at least 1"),
        ({"batch_size": 0}, "Invalid `batch_size`: 0 .must be at least 1"),
        ({"max_new_tokens": 0}, "Invalid `max_new_tokens`: 0"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "`min_new_tokens` 9 is more than"),
        ({"repetition_penalty": 0}, "Invalid `repetition_penalty`: 0 .must be above 0"),
        ({"beam": 2, "num_return": 3}, "`num_return` 3 is more than `beam` 2"),
        ({"greedy": True, "num_return": 2}, "the same text 2 times"),
        ({"greedy": True, "temperature": 0.5}, "contradict each other"),
        ({"beam": 2, "top_k": 5, "temperature": 0.9}, "`beam` and `temperature`, `top_k`"),
        ({"length_penalty": 2.0}, "`length_penalty` is about beam search"),
        ({"stop_string": [""]}, "Invalid `stop_string`: '' .must not be empty"),
        ({"truncate": "middle"}, "Invalid `truncate`: 'middle' .must be one of left, right, error"),
        ({"top_p": 1.2}, r"Invalid `top_p`: 1.2 \(must be in \[0, 1\]\)"),
        ({"stop_token": ["没有这个"]}, "`stop_token` '没有这个': not in"),
        ({"forbid": ["\U0001f600"]}, "`forbid`"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        small("好", **settings)


@pytest.mark.parametrize(
    ("folder", "command"),
    [("bert-modular", "uertool cloze"), ("bert-classifier-modular", "extract-features")],
)
def test_a_model_that_cannot_generate_is_named_with_what_fits(folder: str, command: str) -> None:
    with pytest.raises(UertoolError) as error:
        Generator(load_model(FIXTURES / folder / "model.bin", heads=("lm",), device="cpu"))
    assert command in str(error.value)
    with pytest.raises(UertoolError) as error:
        Generator(load_model(FIXTURES / folder / "model.bin", device="cpu"))
    assert command in str(error.value)


def test_a_tied_masked_language_model_is_no_language_model() -> None:
    tied = load_model(MODELS / "zh-mlm-small", heads=("lm",), device="cpu", tie_weights=True)
    with pytest.raises(UsageError, match="a masked-language model") as error:
        Generator(tied)
    assert "uertool cloze" in str(error.value)


def test_a_target_needs_a_start_mark(tmp_path: Path) -> None:
    folder = FIXTURES / "t5-modular"
    shutil.copy(folder / "model.bin", tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    vocab = (folder / "vocab.txt").read_text("utf-8").replace("[CLS]", "[KLS]")
    (tmp_path / "vocab.txt").write_text(vocab, encoding="utf-8")
    with pytest.raises(VocabError, match=r"no \[CLS\]"):
        Generator(load_model(tmp_path / "model.bin", heads=("lm",), device="cpu"))
