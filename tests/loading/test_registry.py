"""References, kept models, tokenizers that fit, and models from a hub."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import uertool
from tests.conftest import FIXTURES, MODELS
from tests.models.model_fixtures import files_of
from uertool.errors import CheckpointError, UsageError, VocabError, counted
from uertool.loading import registry
from uertool.loading.registry import forget_models, load_model
from uertool.loading.settings import ModelSettings

BERT = FIXTURES / "bert-modular"
ZH = MODELS / "zh-mlm-small"


def test_a_bundled_model_needs_nothing_else() -> None:
    loaded = uertool.load_model("zh-mlm-small", device="cpu")
    assert loaded.architecture == "bert"
    assert loaded.model.mlm is not None
    assert len(loaded.tokenizer) == loaded.config.vocab_size


def test_the_same_model_is_loaded_once() -> None:
    one = load_model("zh-mlm-small", device="cpu")
    assert load_model("zh-mlm-small", device="cpu") is one
    assert load_model("zh-mlm-small", device="cpu", dtype="bfloat16") is not one
    assert load_model("zh-mlm-small", device="cpu", heads=()) is not one


def test_a_file_that_has_changed_is_loaded_again(tmp_path: Path) -> None:
    path = Path(shutil.copy(BERT / "model.bin", tmp_path))
    one = load_model(path, device="cpu", **files_of(BERT))
    os.utime(path, ns=(1, 1))
    assert load_model(path, device="cpu", **files_of(BERT)) is not one


def test_a_model_with_another_configuration_is_loaded_again(tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "vocab.txt"):
        shutil.copy(BERT / name, tmp_path)
    assert load_model(tmp_path / "model.bin", device="cpu").config.heads_num == 4
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "heads_num": 2}), "utf-8")
    assert load_model(tmp_path / "model.bin", device="cpu").config.heads_num == 2


def test_a_tokenizer_next_to_the_weights_is_a_file_of_the_model(tmp_path: Path) -> None:
    for name in ("model.bin", "model.tokenizer.json", "tgt_vocab.txt"):
        (tmp_path / name).write_bytes(b"")
    files = ModelSettings(load_model_path=str(tmp_path / "model.bin")).files()
    names = {Path(file).name for file in files if file is not None}
    assert names == {"model.bin", "model.tokenizer.json", "tgt_vocab.txt"}


def test_only_a_few_models_are_kept() -> None:
    forget_models()
    for heads in ((), ("mlm",), ("sp",), ("mlm", "sp"), ("pooler",)):
        load_model(BERT / "model.bin", device="cpu", heads=heads, **files_of(BERT))
    assert len(registry._kept) == registry.KEPT


@pytest.mark.parametrize("reference", ["nowhere/model.bin", "zh-mlm-smal"])
def test_a_reference_to_nothing_names_what_there_is(reference: str) -> None:
    with pytest.raises(CheckpointError) as failure:
        load_model(reference)
    assert reference in failure.value.message
    assert "zh-mlm-small" in (failure.value.hint or "")


def test_a_vocabulary_of_another_size_is_refused_with_both_numbers() -> None:
    with pytest.raises(VocabError) as failure:
        load_model(BERT / "model.bin", vocab=ZH / "vocab.txt", config=BERT / "config.json")
    assert "6354 tokens" in failure.value.message
    assert "1040 rows" in failure.value.message
    assert "vocab adapt" in (failure.value.hint or "")


@pytest.mark.parametrize(("surplus", "fits"), [(1, True), (128, True), (129, False)])
def test_a_padded_word_table_is_accepted_and_reported(
    surplus: int, fits: bool, tmp_path: Path
) -> None:
    lines = (BERT / "vocab.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "vocab.txt").write_text("".join(lines[:-surplus]), "utf-8")
    files = {**files_of(BERT), "vocab": tmp_path / "vocab.txt"}
    if not fits:
        with pytest.raises(VocabError, match="911 tokens"):
            load_model(BERT / "model.bin", device="cpu", **files)
        return
    loaded = load_model(BERT / "model.bin", device="cpu", **files)
    assert f"Unused at the end of the word table: {counted(surplus, 'row')}." in loaded.details


def test_a_model_without_vocabulary_asks_for_one(tmp_path: Path) -> None:
    path = shutil.copy(BERT / "model.bin", tmp_path)
    with pytest.raises(UsageError, match="no vocabulary") as failure:
        load_model(path, config=BERT / "config.json")
    assert "`vocab_path`" in (failure.value.hint or "")


def test_the_vocabulary_next_to_a_model_is_used_with_a_note() -> None:
    loaded = load_model(BERT / "model.bin", config=BERT / "config.json", device="cpu")
    assert any("vocab.txt" in note for note in loaded.notes)


def test_a_folder_of_uer_py_is_a_reference(tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "vocab.txt"):
        shutil.copy(BERT / name, tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.config.heads_num == 4
    assert len(loaded.tokenizer) == 1040


def test_an_encoder_decoder_gets_two_vocabularies() -> None:
    folder = FIXTURES / "seq2seq-modular"
    loaded = load_model(folder / "model.bin", device="cpu", **files_of(folder))
    assert loaded.tgt_tokenizer is not None
    assert len(loaded.tgt_tokenizer) == loaded.config.tgt_vocab_size


def test_target_words_of_another_number_need_their_vocabulary(tmp_path: Path) -> None:
    folder = FIXTURES / "seq2seq-modular"
    path = shutil.copy(folder / "model.bin", tmp_path)
    with pytest.raises(UsageError, match="target words") as failure:
        load_model(path, vocab=folder / "vocab.txt", config=folder / "config.json", device="cpu")
    assert "`tgt_vocab_path`" in (failure.value.hint or "")


@pytest.mark.parametrize("name", ["char", "space", "bert"])
def test_tokenizers_are_chosen_by_uer_pys_names(name: str) -> None:
    loaded = load_model(BERT / "model.bin", device="cpu", tokenizer=name, **files_of(BERT))
    assert loaded.tokenizer.name == name


def test_an_unknown_head_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="Unknown head: arm"):
        load_model(BERT / "model.bin", heads=("arm",), **files_of(BERT))


def test_layers_and_positions_can_be_picked() -> None:
    model = load_model(BERT / "model.bin", device="cpu", **files_of(BERT)).model
    ids = torch.tensor([[5, 132, 347, 6, 0], [5, 77, 80, 81, 6]])
    segs = (ids > 0).long()
    with torch.inference_mode():
        last = model.encode(ids, segs)
        layers = model.encode(ids, segs, layers=(-1, 0, 3, 1))
        places = torch.tensor([[0, 3], [4, 1]])
        picked = model.encode(ids, segs, positions=places)
    real = segs > 0
    assert torch.equal(layers[0][real], last[real])
    assert torch.equal(layers[0], layers[2])
    assert not torch.equal(layers[1], layers[3])
    expected = last.gather(1, places[..., None].expand(-1, -1, last.shape[-1]))
    assert torch.allclose(picked, expected, atol=1e-6)


def test_a_layer_that_is_not_there_is_wrong_usage() -> None:
    model = load_model(BERT / "model.bin", device="cpu", **files_of(BERT)).model
    ids = torch.tensor([[5, 6]])
    with pytest.raises(UsageError, match="no layer 4: the model has 3"):
        model.encode(ids, torch.ones_like(ids), layers=(4,))


# -- a hub ----------------------------------------------------------------------------------------

NAME = "uer/tiny"


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as a download asks for: the list of files, and each file."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        path = self.path.split("?")[0]
        files = sorted(file.name for file in self.folder.iterdir())
        if path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/main"):
            listing = {"id": NAME, "sha": "f" * 40, "siblings": [{"rfilename": f} for f in files]}
            self._send(json.dumps(listing).encode(), body, {})
            return
        if path.startswith(f"/api/models/{NAME}/tree/"):
            tree = [{"type": "file", "path": f, "oid": f, "size": self._size(f)} for f in files]
            self._send(json.dumps(tree).encode(), body, {})
            return
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"/{NAME}/resolve/") and name in files:
            data = (self.folder / name).read_bytes()
            self._send(data, body, {"ETag": f'"{name}"', "X-Repo-Commit": "f" * 40})
            return
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _size(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def _send(self, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    served = tmp_path / "served"
    served.mkdir()
    for file in Path(uertool.__file__).parent.joinpath("assets", "zh-mlm-small").iterdir():
        shutil.copy(file, served)
    handler = type("Hub", (_Hub,), {"folder": served})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def cloze_from(reference: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """huggingface_hub reads its environment when it is imported, so each run is a process."""
    return subprocess.run(
        [sys.executable, "-m", "uertool", "cloze", "--model", reference, "--json", "北[MASK]"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_a_model_comes_from_the_hub_and_then_from_its_cache(hub: str, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    first = cloze_from(f"hf:{NAME}", HF_ENDPOINT=hub, HF_HOME=home, HF_HUB_OFFLINE="0")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["masks"]
    again = cloze_from(f"hf:{NAME}", HF_ENDPOINT=hub, HF_HOME=home, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout


@pytest.mark.slow
def test_a_model_that_the_hub_does_not_have_is_named(hub: str, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    run = cloze_from("hf:uer/none", HF_ENDPOINT=hub, HF_HOME=home, HF_HUB_OFFLINE="0")
    assert run.returncode == 1
    assert "uer/none" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_offline_a_model_that_is_not_in_the_cache_is_named(tmp_path: Path) -> None:
    run = cloze_from(f"hf:{NAME}", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert run.returncode == 1
    assert f"hf:{NAME} could not be fetched" in run.stderr
    assert "Traceback" not in run.stderr
