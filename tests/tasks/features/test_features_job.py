"""Vectors of lines: UER-py's own on every fixture, other poolings against their definitions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import uertool
from tests.conftest import FIXTURES, MODELS, fixture_folders
from uertool import Model, load_model
from uertool.engine.batching import collate
from uertool.engine.jobs import run_job
from uertool.errors import ConfigError, InputError, UsageError
from uertool.tasks.features.job import FeatureJob, encode
from uertool.tasks.features.pooling import POOLINGS, find_pooling, pool, resolve_layers
from uertool.tasks.features.settings import FeatureSettings
from uertool.text.readers import Line, read_lines

UER_POOLINGS = ("first", "mean", "max", "last")
#: UER-py ran its fixtures at this length.
LENGTH = 32

WITH_HIDDEN = fixture_folders("expected/hidden.npz", "model.bin", "vocab.txt")
WITH_FEATURES = fixture_folders("expected/features_mean.npy", "model.bin", "vocab.txt")


def tokenizer_of(folder: Path) -> str:
    return "space" if folder.name.startswith("word-") else "bert"


def loaded_fixture(folder: Path) -> Model:
    return load_model(
        folder / "model.bin",
        vocab=folder / "vocab.txt",
        config=folder / "config.json",
        tokenizer=tokenizer_of(folder),
        heads=(),
        device="cpu",
    )


def vectors_of(loaded: Model, folder: Path, **settings: object) -> np.ndarray:
    chosen = FeatureSettings(seq_length=LENGTH, blank="skip", **settings)
    job = FeatureJob(loaded, chosen)
    found = list(run_job(job, read_lines(folder / "input.txt")))
    return np.concatenate([one.vectors for one in found])


def expected_pooling(folder: Path, pooling: str) -> np.ndarray:
    """UER-py's pooling of its own hidden states: the modular definition, for both generations."""
    stored = np.load(folder / "expected/hidden.npz")
    hidden, real = torch.from_numpy(stored["hidden"]), torch.from_numpy(stored["seg"]) > 0
    rows = []
    for states, seen in zip(hidden, real, strict=True):
        tokens = states[seen]
        how = {
            "first": tokens[0],
            "last": tokens[-1],
            "mean": tokens.mean(0),
            "max": tokens.amax(0),
        }
        rows.append(how[pooling])
    return torch.stack(rows).numpy()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    # Gated convolutions reach 1e4, so large values are compared relatively.
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("folder", WITH_HIDDEN, ids=lambda folder: folder.name)
def test_poolings_are_those_of_uer_py(folder: Path) -> None:
    loaded = loaded_fixture(folder)
    lengths = (np.load(folder / "expected/hidden.npz")["seg"] > 0).sum(1)
    siamese = folder.name.startswith("sbert")  # these were read with [SEP], cut off of long ones
    same = lengths < LENGTH if siamese else lengths > 0
    for pooling in UER_POOLINGS:
        found = vectors_of(loaded, folder, pooling=pooling, add_sep=siamese or None)
        assert_close(found[same], expected_pooling(folder, pooling)[same])


@pytest.mark.parametrize(
    "folder",
    [folder for folder in WITH_FEATURES if folder.name.endswith("-modular")],
    ids=lambda folder: folder.name,
)
def test_vectors_are_those_of_the_modular_script(folder: Path) -> None:
    loaded = loaded_fixture(folder)
    for pooling in UER_POOLINGS:
        expected = np.load(folder / f"expected/features_{pooling}.npy")
        assert_close(vectors_of(loaded, folder, pooling=pooling), expected)


# -- the model that was really trained ------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(MODELS / "zh-mlm-small", device="cpu")


SENTENCES = ["今天天气很好。", "", "酒店", "我们一起去公园吧，今天的天气真的很好很好。"]


@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "cls-pooler"])
def test_a_line_does_not_depend_on_its_neighbours(small: Model, pooling: str) -> None:
    together = encode(small, SENTENCES, pooling=pooling)
    alone = np.concatenate([encode(small, [text], pooling=pooling) for text in SENTENCES])
    assert together.shape == (4, 192)
    np.testing.assert_allclose(together, alone, atol=2e-5)
    assert not together[1].any()


def test_batch_size_does_not_matter(small: Model) -> None:
    whole = encode(small, SENTENCES * 5, pooling="mean")
    np.testing.assert_allclose(encode(small, SENTENCES * 5, pooling="mean", batch_size=2), whole,
                               atol=2e-5)  # fmt: skip


def test_named_layers_are_averaged(small: Model) -> None:
    ids = [small.tokenizer.cls_id, *small.tokenizer.encode(SENTENCES[0])]
    batch = torch.tensor([ids])
    states = small.model.encode(batch, torch.ones_like(batch), layers=(0, 1, 2, 3, 4))
    mean = [layer[0].mean(0).numpy() for layer in states]
    text = SENTENCES[:1]
    for settings, layers in (
        ({"pooling": "last4-mean"}, (1, 2, 3, 4)),
        ({"pooling": "first-last-mean"}, (1, 4)),
        ({"pooling": "mean", "layers": (0, -2)}, (0, 3)),
    ):
        expected = np.mean([mean[layer] for layer in layers], axis=0)
        np.testing.assert_allclose(encode(small, text, **settings)[0], expected, atol=2e-5)
    first = encode(small, text, pooling="first", layers=[2])[0]
    np.testing.assert_allclose(first, states[2][0, 0].numpy(), atol=2e-5)


def test_layers_below_the_first_are_left_out() -> None:
    assert resolve_layers((-4, -3, -2, -1), 3) == (1, 2, 3)
    assert resolve_layers((0, -1), 3) == (0, 3)
    with pytest.raises(UsageError, match="no layer 4"):
        resolve_layers((4,), 3)


def test_sep_can_be_added_and_stays_when_a_line_is_cut(small: Model) -> None:
    text = [SENTENCES[3]]
    plain = FeatureJob(small, FeatureSettings(seq_length=8))
    ended = FeatureJob(small, FeatureSettings(seq_length=8, add_sep=True))
    lines = [Line(0, text[0])]
    assert len(plain.encode(lines)[0].ids) == 8
    ids = list(ended.encode(lines)[0].ids)
    assert (len(ids), ids[0], ids[-1]) == (8, small.tokenizer.cls_id, small.tokenizer.sep_id)
    assert ids[1:-1] == list(plain.encode(lines)[0].ids)[1:-1]
    assert not np.allclose(encode(small, text), encode(small, text, add_sep=True))


def test_tokens_have_a_row_each(small: Model) -> None:
    job = FeatureJob(small, FeatureSettings(tokens=True))
    lines = [Line(number, text) for number, text in enumerate(SENTENCES)]
    found = list(run_job(job, lines, window=256))
    assert found[0].tokens == ("[CLS]", *SENTENCES[0])
    assert found[0].vectors.shape == (8, 192)
    assert found[1].vectors.shape == (0, 192)
    np.testing.assert_allclose(
        found[2].vectors.mean(0), encode(small, SENTENCES[2], pooling="mean")[0], atol=2e-5
    )


def test_a_blank_line_can_be_an_error(small: Model) -> None:
    job = FeatureJob(small, FeatureSettings(blank="error"))
    lines = [Line(0, "好"), Line(1, " \u3000")]
    with pytest.raises(InputError, match="Line 2 is blank"):
        list(run_job(job, lines))


def test_whitening_of_given_sentences_and_of_later_ones(small: Model, tmp_path: Path) -> None:
    lines = [line.text for line in read_lines(MODELS.parent / "text/reviews_test.tsv", column="1")]
    vectors = small.encode([*lines[1:120], ""], pooling="mean", whitening=16, seq_length=32)
    assert vectors.shape == (120, 16)
    assert not vectors[-1].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[:-1], axis=1), 1, atol=1e-5)
    raw = small.encode(lines[1:120], pooling="mean", seq_length=32)
    fitted = uertool.Whitening.fit(raw, 16)
    fitted.save(tmp_path / "w.safetensors")
    later = small.encode(lines[7], pooling="mean", seq_length=32, whitening=fitted)
    np.testing.assert_allclose(later[0], vectors[6], atol=1e-4)
    again = small.encode(
        lines[7], pooling="mean", seq_length=32, whitening=tmp_path / "w.safetensors"
    )
    assert np.array_equal(later, again)


def test_a_line_that_the_reader_cut_counts_as_cut(small: Model) -> None:
    job = FeatureJob(small, FeatureSettings())
    lines = [Line(0, "天气"), Line(1, "天气", cut=True)]
    found = list(run_job(job, lines))
    assert [features.was_cut for features in found] == [False, True]


def test_nothing_gives_no_rows(small: Model) -> None:
    assert small.encode([]).shape == (0, 192)


def test_normalize(small: Model) -> None:
    lengths = np.linalg.norm(small.encode(SENTENCES, normalize=True), axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 1, 1], atol=1e-5)


# -- poolings by themselves -----------------------------------------------------------------------


def random_states() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for lengths in ([5], [3, 1, 5]):
        yield torch.randn(len(lengths), 5, 4, generator=generator), torch.tensor(lengths)


def test_padding_never_counts() -> None:
    for hidden, lengths in random_states():
        for how in UER_POOLINGS:
            whole = pool(how, hidden, lengths)
            for row, length in enumerate(lengths.tolist()):
                alone = pool(how, hidden[row : row + 1, :length], lengths[row : row + 1])
                torch.testing.assert_close(whole[row], alone[0])


def test_the_pooler_of_a_checkpoint() -> None:
    folder = next(f for f in WITH_FEATURES if f.name == "bert-modular")
    loaded = load_model(folder / "model.bin", device="cpu", heads=("pooler",))
    found = encode(loaded, "今天", pooling="cls-pooler")
    first = torch.from_numpy(encode(loaded, "今天", pooling="first"))
    np.testing.assert_allclose(found, loaded.model.pooler(first).numpy(), atol=1e-5)
    mlm = load_model(folder.parent / "mlm-modular" / "model.bin", device="cpu")
    with pytest.raises(ConfigError, match="no pooler"):
        encode(mlm, "今天", pooling="cls-pooler")


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="first, mean"):
        find_pooling("middle")
    with pytest.raises(UsageError, match="layers of its own"):
        FeatureSettings(pooling="last4-mean", layers=(1,))
    with pytest.raises(UsageError, match="at least 1"):
        FeatureSettings(seq_length=0)
    with pytest.raises(UsageError, match="pooler uses"):
        FeatureSettings(pooling="cls-pooler", tokens=True)


def test_a_batch_on_its_own_gives_one_result_a_row(small: Model) -> None:
    job = FeatureJob(small, FeatureSettings())
    batch = collate(job.encode([Line(0, "好"), Line(1, "天气")]))
    assert [found.line for found in job.step(batch).get()] == [0, 1]


# -- other people's models ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hugging_face_folder_is_read_as_its_tokenizer_says(tmp_path: Path) -> None:
    import transformers

    vocab = (FIXTURES / "bert-modular/vocab.txt").read_text("utf-8")
    (tmp_path / "vocab.txt").write_text(vocab, "utf-8")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(vocab.splitlines()), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(1)
    peer = transformers.BertModel(config).eval()
    peer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    inputs = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        SENTENCES[3], return_tensors="pt", truncation=True, max_length=12
    )
    assert inputs["input_ids"][0, -1] == loaded.tokenizer.sep_id
    with torch.inference_mode():
        found = peer(**inputs)
    expected = {"mean": found.last_hidden_state[0].mean(0), "cls-pooler": found.pooler_output[0]}
    for pooling, vector in expected.items():
        ours = loaded.encode(SENTENCES[3], pooling=pooling, seq_length=12)[0]
        np.testing.assert_allclose(ours, vector.numpy(), atol=1e-5)
    without = FeatureJob(loaded, FeatureSettings(add_sep=False)).encode([Line(0, "好")])[0]
    assert len(without.ids) == 2
