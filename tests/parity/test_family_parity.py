"""The numbers of other families' own libraries, for every fixture folder with Hugging Face's names.

The cases are found by listing the folder, so a new one is tested by being there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES, fixture_folders
from uertool import Model, load_model
from uertool.checkpoints.reader import open_checkpoint
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.settings import ConvertSettings, Target

TOLERANCE = 1e-4

WEIGHTS = "model.safetensors"


def cases(*needed: str) -> Any:
    """Parametrise over the fixture folders that hold these files."""
    folders = fixture_folders(WEIGHTS, *needed)
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


@functools.cache
def loaded(folder: Path, **settings: Any) -> Model:
    return load_model(folder, device="cpu", **settings)


def arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "expected" / name))


def hidden_of(model: Model, src: np.ndarray, seg: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.model.encode(torch.from_numpy(src), torch.from_numpy(seg)).numpy()


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@cases("expected/hidden.npz")
def test_hidden_states(folder: Path) -> None:
    expected = arrays(folder, "hidden.npz")
    real = expected["seg"] > 0
    found = hidden_of(loaded(folder), expected["src"], expected["seg"])
    assert_near(found[real], expected["hidden"][real])


@cases("expected/hidden.npz")
def test_a_line_alone_gives_what_it_gives_among_others(folder: Path) -> None:
    expected = arrays(folder, "hidden.npz")
    for src, seg, whole in zip(*(expected[n] for n in ("src", "seg", "hidden")), strict=True):
        length = int((seg > 0).sum())
        found = hidden_of(loaded(folder), src[None, :length], seg[None, :length])
        assert_near(found[0], whole[:length])


@cases("expected/hidden.npz")
def test_padding_to_any_length_changes_nothing(folder: Path) -> None:
    expected = arrays(folder, "hidden.npz")
    real = expected["seg"] > 0
    src, seg = (np.pad(expected[name], ((0, 0), (0, 3))) for name in ("src", "seg"))
    found = hidden_of(loaded(folder), src, seg)
    assert_near(found[:, :-3][real], expected["hidden"][real])


@cases("expected/layers.npz")
def test_every_layer(folder: Path) -> None:
    expected = arrays(folder, "layers.npz")
    model = loaded(folder)
    src = torch.from_numpy(expected["src"])[None]
    numbers = range(model.config.layers_num + 1)
    with torch.inference_mode():
        found = model.model.encode(src, torch.ones_like(src), layers=numbers)
    layers = expected["layers"]
    # Where vectors of words are narrower than the model, their own are not among them.
    assert_near(torch.cat(found).numpy()[-len(layers) :], layers)


@cases("expected/pair.npz")
def test_a_pair_of_texts(folder: Path) -> None:
    expected = arrays(folder, "pair.npz")
    found = hidden_of(loaded(folder), expected["src"][None], expected["seg"][None])
    assert_near(found[0], expected["hidden"])


@cases("expected/features_mean.npy", "input.txt")
@pytest.mark.parametrize("pooling", ["first", "mean", "max", "last"])
def test_vectors_of_lines(folder: Path, pooling: str) -> None:
    expected = np.load(folder / f"expected/features_{pooling}.npy")
    length = arrays(folder, "hidden.npz")["src"].shape[1]
    lines = (folder / "input.txt").read_text("utf-8").split("\n")
    texts = [lines[number] for number in arrays(folder, "hidden.npz")["line"]]
    found = loaded(folder).encode(texts, pooling=pooling, seq_length=length)
    assert_near(found, expected)


@cases("expected/hidden.npz", "input.txt")
def test_ids_of_every_line(folder: Path) -> None:
    expected = arrays(folder, "hidden.npz")
    tokenizer = loaded(folder).tokenizer
    lines = (folder / "input.txt").read_text("utf-8").split("\n")
    ends = tokenizer.suffix_ids
    length = expected["src"].shape[1] - len(ends)
    for number, ids, segs in zip(*(expected[n] for n in ("line", "src", "seg")), strict=True):
        own = [*tokenizer.prefix_ids, *tokenizer.encode(lines[number])][:length]
        assert [*own, *ends] == ids[segs > 0].tolist()


@cases("expected/tokens.json", "input.txt")
def test_tokens_of_every_line(folder: Path) -> None:
    golden = json.loads((folder / "expected/tokens.json").read_text("utf-8"))
    tokenizer = loaded(folder).tokenizer
    lines = (folder / "input.txt").read_text("utf-8").split("\n")
    for line, plain in zip(lines, golden["hf"], strict=False):
        ids = tokenizer.encode(line)
        assert ids == plain["ids"]
        assert tokenizer.tokens(ids) == plain["tokens"]
    for line, whole in zip(lines, golden["hf_special"], strict=False):
        ids = [*tokenizer.prefix_ids, *tokenizer.encode(line), *tokenizer.suffix_ids]
        assert ids == whole["ids"]


@cases("expected/logits.npz")
def test_replaced_words(folder: Path) -> None:
    expected = arrays(folder, "logits.npz")
    model = loaded(folder)
    assert model.model.rtd is not None
    hidden = torch.from_numpy(hidden_of(model, expected["src"], expected["seg"]))
    with torch.inference_mode():
        found = model.model.rtd(hidden).numpy()
    real = expected["seg"] > 0
    assert_near(found[real], expected["logits"][real])


def test_the_task_type_of_ernie_can_be_chosen() -> None:
    folder = FIXTURES / "hf-ernie"
    expected = arrays(folder, "hidden.npz")
    real = expected["seg"] > 0
    found = hidden_of(loaded(folder, task_type=1), expected["src"], expected["seg"])
    assert_near(found[real], expected["hidden_task1"][real])


# -- conversion -----------------------------------------------------------------------------------


def digests(path: Path) -> dict[str, str]:
    """sha256 of the float32 bytes of every tensor under its raw names."""
    with open_checkpoint(path) as checkpoint:
        file = checkpoint.file
        return {
            name: hashlib.sha256(
                file.tensor(name).float().contiguous().numpy().tobytes()
            ).hexdigest()
            for name in file.keys()  # noqa: SIM118
        }


SUFFIXES: Any = pytest.mark.parametrize("suffix", [".safetensors", ".bin"])


def converted(folder: Path, path: Path) -> Path:
    """The model of a folder in a file with UER-py's names, verified."""
    to: Target = "uer" if path.suffix == ".bin" else "safetensors"
    convert(folder, path, to, ConvertSettings())
    return path


@SUFFIXES
@cases("expected/hf_state_dict.json")
def test_to_uer_names_and_back_bit_for_bit(folder: Path, suffix: str, tmp_path: Path) -> None:
    expected = json.loads((folder / "expected/hf_state_dict.json").read_text())
    file = converted(folder, tmp_path / f"uer{suffix}")
    with open_checkpoint(file) as made:
        assert made.layout == "uer"
    convert(file, tmp_path / "hf", "hf", ConvertSettings())
    found = digests(tmp_path / "hf")
    assert set(expected) <= set(found)
    for name, value in found.items():
        if name in expected:
            assert value == expected[name]["sha256"], name
        else:  # a tied tensor that other versions ask for
            assert value in {one["sha256"] for one in expected.values()}, name
    before = json.loads((folder / "config.json").read_text())
    after = json.loads((tmp_path / "hf/config.json").read_text())
    # Where transformers 4 says nothing about ties, the new file does.
    after = {name: value for name, value in after.items() if name in before}
    assert after == before


@SUFFIXES
@cases("expected/hidden.npz", "input.txt")
def test_a_file_with_uer_names_computes_the_same(folder: Path, suffix: str, tmp_path: Path) -> None:
    config = loaded(folder).config
    own_norm = config.norm == "standard" and config.layernorm == "normal"
    if suffix == ".bin" and own_norm and not config.is_beyond_uer:
        pytest.skip("UER-py can read it and has a layer norm of its own")
    expected = arrays(folder, "hidden.npz")
    real = expected["seg"] > 0
    model = load_model(converted(folder, tmp_path / f"uer{suffix}"), device="cpu")
    assert not model.notes
    found = hidden_of(model, expected["src"], expected["seg"])
    assert_near(found[real], expected["hidden"][real])
    if not (folder / "tokenizer.model").exists():  # transformers reads blanks in its own way there
        lines = (folder / "input.txt").read_text("utf-8").split("\n")
        assert model.tokenize(lines) == loaded(folder).tokenize(lines)


@cases("expected/cloze.json")
def test_exact_norms_keep_what_is_computed(folder: Path, tmp_path: Path) -> None:
    """UER-py's layer norm is folded in where UER-py can read the model, and kept out elsewhere."""
    options = ConvertSettings(exact_norm=True)
    convert(folder, tmp_path / "uer.safetensors", "safetensors", options)
    expected = arrays(folder, "hidden.npz")
    real = expected["seg"] > 0
    model = load_model(tmp_path / "uer.safetensors", device="cpu")
    assert (model.config.norm == "uer") == (not loaded(folder).config.is_beyond_uer)
    assert_near(hidden_of(model, expected["src"], expected["seg"])[real], expected["hidden"][real])


@cases("config_v4.json", "expected/hidden.npz")
def test_the_spelling_of_older_configurations(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "old")
    shutil.copy(folder / "config_v4.json", tmp_path / "old" / "config.json")
    expected = arrays(folder, "hidden.npz")
    real = expected["seg"] > 0
    found = hidden_of(load_model(tmp_path / "old", device="cpu"), expected["src"], expected["seg"])
    assert_near(found[real], expected["hidden"][real])
