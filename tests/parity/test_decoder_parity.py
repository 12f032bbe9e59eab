"""Language models of other families: texts, logits and probabilities of their own libraries."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import FIXTURES, fixture_folders
from uertool import Model, load_model
from uertool.models.states import make_incremental
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings
from uertool.tasks.convert.verification import OUTPUT_AND_TRANSFORMERS, SOURCE_AND_OUTPUT
from uertool.tasks.generation.job import Generator
from uertool.tasks.generation.prompts import Prompt
from uertool.tasks.generation.settings import make_decoding
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder

TOLERANCE = 1e-4

FOLDERS = [
    folder
    for folder in fixture_folders("expected/lm.json")
    if folder.name.startswith(("hf-", "llama-"))
]
SCORED = [folder for folder in FOLDERS if (folder / "expected/lm_scores.json").exists()]


def by_folder(folders: list[Path]) -> Any:
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


@functools.cache
def loaded(folder: Path) -> Model:
    """A folder of Hugging Face, or TencentPretrain's file with what belongs to it."""
    if folder.name.startswith("hf-"):
        return load_model(folder, device="cpu")
    more: dict[str, Any] = {}
    own = folder
    if folder.name == "llama-lora":
        own = FIXTURES / "llama-modular"
        alpha = json.loads((folder / "lora.json").read_text())["lora_alpha"]
        more = {"lora": folder / "lora.bin", "lora_alpha": alpha}
    return load_model(own / "model.bin", device="cpu", **more)


def prompts(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "expected/lm.json").read_text("utf-8")))


def greedy(folder: Path, cases: list[dict[str, Any]], **settings: Any) -> list[Any]:
    decoding = make_decoding(temperature=0, seq_length=48, stop_token=(), **settings)
    texts = [Prompt(number, case["beginning"]) for number, case in enumerate(cases)]
    return [text for (text,) in Generator(loaded(folder)).generate(texts, decoding)]


@by_folder(FOLDERS)
def test_greedy_texts(folder: Path) -> None:
    cases = prompts(folder)
    for case, text in zip(cases, greedy(folder, cases), strict=True):
        assert list(text.prompt_ids) == case["prompt_ids"]
        assert [*text.prompt_ids, *text.ids] == case["ids"]


@by_folder(FOLDERS)
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_texts_do_not_depend_on_the_batch(folder: Path, rows: int) -> None:
    cases = prompts(folder)[:4]
    for case, text in zip(cases, greedy(folder, cases, batch_size=rows), strict=True):
        assert [*text.prompt_ids, *text.ids] == case["ids"]


@by_folder(FOLDERS)
def test_logits_after_the_prompts(folder: Path) -> None:
    expected = np.load(folder / "expected/lm_first_logits.npz")["logits"]
    model = make_incremental(loaded(folder).model)
    for case, row in zip(prompts(folder), expected, strict=True):
        found = model.start([case["prompt_ids"]], 2).logits[0]
        np.testing.assert_allclose(found.numpy(), row, rtol=0, atol=TOLERANCE)


@by_folder(SCORED)
def test_probabilities_of_texts(folder: Path) -> None:
    expected = json.loads((folder / "expected/lm_scores.json").read_text("utf-8"))
    long = [line for line in expected if len(line["ids"]) > 1]
    found = make_incremental(loaded(folder).model).log_probabilities([one["ids"] for one in long])
    for line, values in zip(long, found, strict=True):
        np.testing.assert_allclose(values.numpy(), line["logprobs"], rtol=0, atol=5e-4)
        assert float(-values.double().mean()) == pytest.approx(line["mean_nll"], abs=TOLERANCE)


@by_folder([FIXTURES / "llama-gqa-modular", FIXTURES / "hf-qwen3"])
def test_rounded_weights_write_nearly_the_same(folder: Path) -> None:
    ids = prompts(folder)[0]["prompt_ids"]
    exact = make_incremental(loaded(folder).model)
    rounded = make_incremental(loaded(folder).model, precision="int8")
    first, second = (model.start([ids], 4).logits for model in (exact, rounded))
    assert torch.cosine_similarity(first, second).item() > 0.99
    assert not torch.equal(first, second)


@by_folder(FOLDERS)
def test_what_is_streamed_is_the_text(folder: Path) -> None:
    """No half character is ever shown, and nothing is shown twice."""
    case = prompts(folder)[0]
    pieces: list[str] = []
    decoding = make_decoding(temperature=0, seq_length=48, stop_token=())
    ((text,),) = Generator(loaded(folder)).generate(
        [Prompt(0, case["beginning"])], decoding, on_text=lambda *told: pieces.append(told[2])
    )
    assert "".join(pieces) == text.new_text
    assert len(pieces) > 1
    # A character that is not complete is held back, so that a piece ends with one only at the end.
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


# -- tokenizers and vectors -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hf-llama", "hf-qwen2", "hf-qwen3"])
def test_tokens_without_a_tokenizer_json(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / name
    for file in ("tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json"):
        if (folder / file).exists():
            shutil.copy(folder / file, tmp_path)
    tokenizer = tokenizer_from_hf_folder(tmp_path)
    golden = json.loads((folder / "expected/tokens.json").read_text("utf-8"))
    lines = (folder / "input.txt").read_text("utf-8").split("\n")
    for line, plain, whole in zip(lines, golden["hf"], golden["hf_special"], strict=False):
        assert tokenizer.encode(line) == plain["ids"]
        assert tokenizer.with_special(plain["ids"]) == whole["ids"]


@pytest.mark.parametrize("pooling", ["first", "mean", "max", "last"])
@pytest.mark.parametrize("name", ["llama-modular", "llama-gqa-modular", "llama-spm-modular"])
def test_vectors_of_lines_have_the_end_mark_of_tencentpretrain(name: str, pooling: str) -> None:
    folder = FIXTURES / name
    stored = np.load(folder / "expected/hidden.npz")
    lines = (folder / "input.txt").read_text("utf-8").split("\n")
    texts = [lines[number] for number in stored["line"]]
    found = loaded(folder).encode(texts, pooling=pooling, seq_length=stored["src"].shape[1])
    expected = np.load(folder / f"expected/features_{pooling}.npy")
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_the_end_mark_of_an_embedding_model_is_read() -> None:
    folder = FIXTURES / "hf-qwen3-embedding"
    stored = np.load(folder / "expected/hidden.npz")
    lines = (folder / "input.txt").read_text("utf-8").split("\n")
    texts = [lines[number] for number in stored["line"]]
    found = load_model(folder, device="cpu").encode(
        texts, pooling="last", normalize=True, seq_length=48
    )
    expected = np.load(folder / "expected/features_last_normalized.npy")
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@by_folder([FIXTURES / "llama-gqa-modular", FIXTURES / "hf-qwen3", FIXTURES / "hf-llama3"])
def test_beams_do_not_depend_on_the_batch(folder: Path) -> None:
    texts = [Prompt(number, case["beginning"]) for number, case in enumerate(prompts(folder)[:3])]
    decoding = make_decoding(beam=3, max_new_tokens=8, num_return=2, stop_token=())
    together = list(Generator(loaded(folder)).generate(texts, decoding))
    for prompt, rows in zip(texts, together, strict=True):
        ((alone),) = Generator(loaded(folder)).generate([prompt], decoding)
        assert [text.ids for text in rows] == [text.ids for text in alone]


@by_folder([FIXTURES / "llama-gqa-modular", FIXTURES / "hf-qwen3"])
def test_16_bits_compute_nearly_the_same(folder: Path) -> None:
    own = folder / "model.bin" if folder.name.startswith("llama") else folder
    half = load_model(own, device="cpu", dtype="bfloat16")
    ids = torch.tensor([prompts(folder)[0]["ids"][:20]])
    with torch.inference_mode():
        first, second = (
            model.model.encode(ids, torch.ones_like(ids)).float()
            for model in (loaded(folder), half)
        )
    assert torch.cosine_similarity(first, second, dim=-1).min() > 0.99


# -- what no fixture has --------------------------------------------------------------------------

_SIZES = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 40,
}
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "biases of attention": ("Llama", {"num_key_value_heads": 3, "attention_bias": True}),
    "one key head, linear": ("Llama", {"num_key_value_heads": 1, "rope": ("linear", 2.0)}),
    "dynamic": ("Llama", {"rope": ("dynamic", 2.0)}),
    "yarn": ("Qwen2", {"num_key_value_heads": 2, "rope": ("yarn", 4.0)}),
    "tied": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": True}),
    "biases and norms": (
        "Qwen3",
        {"num_key_value_heads": 2, "head_dim": 16, "attention_bias": True},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", _VARIANTS)
def test_other_settings_compute_what_transformers_does(variant: str, tmp_path: Path) -> None:
    import transformers
    from tokenizers import Tokenizer, models

    family, settings = _VARIANTS[variant]
    settings = {**_SIZES, **settings}
    if "rope" in settings:
        kind, factor = settings.pop("rope")
        settings["rope_parameters"] = {"rope_theta": 5e5, "rope_type": kind, "factor": factor}
        if kind == "yarn":
            settings["rope_parameters"]["original_max_position_embeddings"] = 10
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3)
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(99)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    own = load_model(folder, device="cpu")
    ids = torch.randint(5, 99, (1, 70))  # longer than the original length
    with torch.inference_mode():
        theirs = model(ids, output_hidden_states=True)
        hidden = own.model.encode(ids, torch.ones_like(ids))
    torch.testing.assert_close(hidden, theirs.hidden_states[-1], rtol=0, atol=TOLERANCE)
    convert(folder, tmp_path / "uer.bin", "uer", ConvertSettings())
    report = convert(tmp_path / "uer.bin", tmp_path / "back", "hf", ConvertSettings())
    assert report.verification is not None
    found = report.verification.differences
    assert found[SOURCE_AND_OUTPUT] == {"hidden states": 0.0, "lm": 0.0}
    assert max(found[OUTPUT_AND_TRANSFORMERS].values()) < TOLERANCE
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "back"))
    assert all(torch.equal(before[name], after[name]) for name in before)
