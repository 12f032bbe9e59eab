"""Files of tokenizers that would harm the process are refused in one sentence."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from uertool.errors import UertoolError, VocabError
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder
from uertool.text.vocab import Vocab, load_sentencepiece

PLAIN: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
}


def replacing(pattern: object, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def template(single: list[object], tokens: dict[str, Any]) -> dict[str, Any]:
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": [*single, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": pair,
        "special_tokens": tokens,
    }


def charsmap(data: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


CLS: list[object] = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]
TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
HOSTILE: dict[str, dict[str, Any]] = {
    "id": {"model": {**PLAIN["model"], "vocab": {"[UNK]": 0, "a": 300_000_000}}},
    "negative id": {"model": {**PLAIN["model"], "vocab": {"[UNK]": 0, "a": -1}}},
    "text id": {"model": {**PLAIN["model"], "vocab": {"[UNK]": "0"}}},
    "added id": {"added_tokens": [{"id": 1 << 31, "content": "z", "special": True, **TOKEN}]},
    "doubling": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [replacing({"String": "a"}, "aa")] * 30,
        }
    },
    "long content": {"normalizer": replacing({"Regex": "."}, "a" * 900)},
    "huge content": {"normalizer": {"type": "Prepend", "prepend": "a" * 1_000_000}},
    "many rules": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1000}
    },
    "broken charsmap": {"normalizer": charsmap(b"\xff" * 20)},
    "empty charsmap": {"normalizer": charsmap(b"")},
    "growing charsmap": {"normalizer": charsmap((4).to_bytes(4, "little") + bytes(4) + b"a" * 999)},
    "unknown token": {"post_processor": template(CLS, {})},
    "token beyond": {
        "post_processor": template(
            CLS, {"[CLS]": {"id": "[CLS]", "ids": [300_000_000], "tokens": ["[CLS]"]}}
        )
    },
    "many around": {
        "post_processor": template(
            CLS, {"[CLS]": {"id": "[CLS]", "ids": [1] * 10_000, "tokens": ["a"] * 10_000}}
        )
    },
    "bert beyond": {"post_processor": {"type": "BertProcessing", "sep": ["x", 9], "cls": ["y", 5]}},
    "no model": {"model": None},
    "no vocabulary": {"model": {"type": "BPE", "vocab": 5, "merges": []}},
    "merge beyond": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
    "broken regex": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(a"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "empty unigram": {"model": {"type": "Unigram", "vocab": [], "unk_id": 0}},
    "unigram of numbers": {"model": {"type": "Unigram", "vocab": [1, 2], "unk_id": 0}},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tokenizer_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({**PLAIN, **HOSTILE[kind]}))
    with pytest.raises(VocabError, match=r"tokenizer\.json") as caught:
        tokenizer_from_hf_folder(tmp_path)
    assert len(str(caught.value)) < 400


def test_the_plain_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(PLAIN))
    assert tokenizer_from_hf_folder(tmp_path).encode("a b") == [1, 0]


def test_a_panic_while_encoding_is_an_error(tmp_path: Path) -> None:
    # A trie that points outside itself: the library notices only when it meets a character.
    trie = b"".join(((1 << 31) - 1 - n).to_bytes(4, "little") for n in range(300))
    data = len(trie).to_bytes(4, "little") + trie + b"x\0"
    (tmp_path / "tokenizer.json").write_text(json.dumps({**PLAIN, "normalizer": charsmap(data)}))
    try:
        tokenizer_from_hf_folder(tmp_path).encode("b天\u00e9")
    except UertoolError as error:
        assert len(str(error)) < 400


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"x": {"content": "y"}}},
        {"added_tokens_decoder": {"9": 5, "10": {"content": 5}, "11": {"content": "y"}}},
        {"strip_accents": "yes", "do_lower_case": None},
        {"unk_token": 5, "cls_token": {"content": []}},
        {"tokenizer_class": 5},
    ],
    ids=str,
)
def test_settings_of_wrong_types_do_no_harm(config: object, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    assert tokenizer_from_hf_folder(tmp_path).encode("a") == [4]


@pytest.mark.parametrize("kind", ["zero", "fifo", "folder"])
def test_what_is_not_a_regular_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if kind == "zero" else tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    for read in (Vocab.load, load_sentencepiece):
        with pytest.raises(VocabError, match="regular file|folder"):
            read(path)
    if kind != "zero":
        path.rename(tmp_path / "config.json")
        with pytest.raises(VocabError, match="regular file|folder"):
            tokenizer_from_hf_folder(tmp_path)
