"""Readers of vocabularies, texts, vectors, configurations: any bytes are read or explained."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import FIXTURES, TEXT
from uertool.checkpoints.reader import open_checkpoint
from uertool.errors import UertoolError
from uertool.loading.config_resolution import resolve_config
from uertool.tasks.check.inspection import inspect_checkpoint
from uertool.tasks.embeddings.word_files import WordFile
from uertool.tasks.vocab.building import build_vocab
from uertool.tasks.vocab.settings import BuildSettings
from uertool.text.readers import read_lines
from uertool.text.tokenizers.byte_bpe import read_merges
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder
from uertool.text.vocab import Vocab

BERT = FIXTURES / "bert-modular"


def read_config(path: Path) -> object:
    with open_checkpoint(BERT / "model.bin") as checkpoint:
        return resolve_config(checkpoint, path)


def read_folder(path: Path) -> object:
    """The bytes as config.json and as the index of a Hugging Face folder."""
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors.index.json"):
        (folder / name).write_bytes(path.read_bytes())
    inspect_checkpoint(folder)
    return open_checkpoint(folder)


def read_tokenizer(path: Path) -> object:
    folder = path.with_suffix(".tokenizer")
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes(path.read_bytes())
    return tokenizer_from_hf_folder(folder).encode("天气 play")


READERS: dict[str, Callable[[Path], object]] = {
    "vocabulary": lambda path: Vocab.load(path),
    "sentencepiece": lambda path: Vocab.load(spm=path),
    "lines": lambda path: list(read_lines(path)),
    "table": lambda path: list(read_lines(path, column="text")),
    "records": lambda path: list(read_lines(path, field="text")),
    "corpus": lambda path: build_vocab([path]),
    "words": lambda path: build_vocab([path], BuildSettings(delimiter="space")),
    "merges": lambda path: read_merges(path),
    "vectors": lambda path: list(WordFile(path).blocks()),
    "configuration": read_config,
    "folder": read_folder,
    "tokenizer": read_tokenizer,
}

SEEDS = {
    "vocabulary": "[PAD]\n[UNK]\n天\n".encode() * 20,
    "gzip": gzip.compress("天气\n".encode() * 200),
    "table": "text\tlabel\n天气\t1\n".encode() * 9,
    "records": json.dumps({"text": "天气", "n": [1, None]}).encode() * 3,
    "vectors": b"3 2\na 1 2\nb 3 4\nc 5 6\n",
    "configuration": (BERT / "config.json").read_bytes(),
    "index": json.dumps({"weight_map": {"a.weight": "model-1.safetensors"}}).encode(),
    "hf-config": b'{"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4}',
}


def damaged(seed: bytes, draw: st.DataObject) -> bytes:
    content = bytearray(seed)
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.integers(0, len(content) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    return bytes(content[: draw.draw(st.integers(0, len(content)))])


fast = settings(
    max_examples=25,
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def try_to_read(reader: str, content: bytes, folder: Path) -> None:
    path = folder / "input"
    path.write_bytes(content)
    try:
        READERS[reader](path)
    except UertoolError as error:
        assert error.message.strip()
        assert len(error.message) < 2000


@pytest.mark.parametrize("reader", READERS)
@fast
@given(content=st.binary(max_size=300))
@example(content=b"")
@example(content=b"\x1f\x8b")
@example(content=b"\xff\xfea\x00")
@example(content=b"[" * 100_000)
@example(content=b'{"a":' * 50_000)
@example(content=b'{"weight_map": {"a": 1}}')
@example(content=b'{"hidden_size": 1e999, "layers_num": -1, "heads_num": "x"}')
@example(content=b"99999999999 99999999999\n")
def test_any_bytes(reader: str, tmp_path: Path, content: bytes) -> None:
    try_to_read(reader, content, tmp_path)


@pytest.mark.parametrize("reader", READERS)
@fast
@given(data=st.data())
def test_damaged_files(reader: str, tmp_path: Path, data: st.DataObject) -> None:
    seed = SEEDS[data.draw(st.sampled_from(sorted(SEEDS)))]
    try_to_read(reader, damaged(seed, data), tmp_path)


@fast
@given(data=st.data())
def test_damaged_sentencepiece_models(tmp_path: Path, data: st.DataObject) -> None:
    pytest.importorskip("sentencepiece")
    whole = (TEXT / "cluecorpussmall_spm.model").read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    try_to_read("sentencepiece", whole[:size], tmp_path)
    content = bytearray(whole[:20_000])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try_to_read("sentencepiece", bytes(content), tmp_path)
