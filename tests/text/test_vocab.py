"""Vocabulary files: what an entry is, special roles, and files that are none."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.conftest import TEXT
from uertool.errors import VocabError
from uertool.text.vocab import Vocab


def write(folder: Path, data: bytes) -> Path:
    path = folder / "vocab.txt"
    path.write_bytes(data)
    return path


def test_an_entry_ends_at_the_first_blank_and_an_empty_line_is_one(tmp_path: Path) -> None:
    vocab = Vocab.load(write(tmp_path, "[PAD]\na b\n\nc\t9\n\u3000\nd\n".encode()))
    assert vocab.tokens == ["[PAD]", "a", "", "c", "\u3000", "d"]
    assert (vocab.find("c"), vocab.find(""), vocab.find("a b")) == (3, 2, None)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf[PAD]\n[UNK]\na\n",
        b"[PAD]\r\n[UNK]\r\na\r\n",
        b"[PAD]\r[UNK]\ra",
        b"[PAD]\n[UNK]\na",
    ],
    ids=["byte order mark", "windows", "old mac", "no last line end"],
)
def test_marks_and_line_ends_do_not_become_tokens(tmp_path: Path, data: bytes) -> None:
    assert Vocab.load(write(tmp_path, data)).tokens == ["[PAD]", "[UNK]", "a"]


def test_unicode_line_separators_do_not_cut_a_line(tmp_path: Path) -> None:
    vocab = Vocab.load(write(tmp_path, "a\n\u2028\n\x85\nb\n".encode()))
    assert vocab.tokens == ["a", "\u2028", "\x85", "b"]


def test_a_duplicate_keeps_its_entry_and_the_later_id_wins(tmp_path: Path) -> None:
    vocab = Vocab.load(write(tmp_path, b"a\nb\na\nc\na\n"))
    assert len(vocab) == 5
    assert vocab.distinct == 3
    assert vocab.find("a") == 4
    assert vocab.token(0) == "a"
    assert vocab.duplicates == {"a": (0, 2, 4)}


def test_an_unknown_token_is_unk_or_an_error_that_says_so() -> None:
    assert Vocab(["[PAD]", "[UNK]"]).id("x") == 1
    with pytest.raises(VocabError, match=r"my.txt has no \[UNK\] token, and the token 'x'"):
        Vocab(["a"], source="my.txt").id("x")


@pytest.mark.parametrize(
    ("tokens", "names"),
    [
        (
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        ),
        (["<s>", "<pad>", "</s>", "<unk>", "<mask>"], ("<pad>", "<unk>", "<s>", "</s>", "<mask>")),
        (["a", "<|endoftext|>"], (None, *["<|endoftext|>"] * 3, None)),
        (["a"], (None,) * 5),
    ],
)
def test_special_tokens_are_found_by_their_spellings(
    tokens: list[str], names: tuple[str | None, ...]
) -> None:
    vocab = Vocab(tokens)
    assert (vocab.pad, vocab.unk, vocab.cls, vocab.sep, vocab.mask) == names
    ids = (vocab.pad_id, vocab.unk_id, vocab.cls_id, vocab.sep_id, vocab.mask_id)
    assert ids == tuple(None if n is None else tokens.index(n) for n in names)


def test_special_tokens_can_be_named_and_must_be_there() -> None:
    assert Vocab(["[UNK]", "<oov>"], special={"unk": "<oov>"}).unk_id == 1
    with pytest.raises(VocabError, match="'<oov>'"):
        Vocab(["[UNK]"], special={"unk": "<oov>"})


def test_sentinels_come_in_the_order_of_their_numbers() -> None:
    vocab = Vocab(["<extra_id_10>", "<extra_id_1>", "x", "<extra_id_0>"])
    assert vocab.sentinels == (3, 1, 0)


def test_the_public_vocabulary_is_read_whole() -> None:
    vocab = Vocab.load(TEXT / "google_zh_vocab.txt")
    assert len(vocab) == vocab.distinct == 21128
    assert (vocab.pad_id, vocab.unk_id, vocab.cls_id, vocab.sep_id, vocab.mask_id) == (
        0,
        100,
        101,
        102,
        103,
    )


def test_pieces_of_a_sentencepiece_model_are_a_vocabulary() -> None:
    vocab = Vocab.load(spm=TEXT / "cluecorpussmall_spm.model")
    assert len(vocab) == 100000
    assert vocab.tokens[:2] == ["[PAD]", "[UNK]"]


def test_a_json_vocabulary_is_read_in_the_order_of_its_ids(tmp_path: Path) -> None:
    assert Vocab.load(write(tmp_path, b'{"b": 1, "a": 0}')).tokens == ["a", "b"]
    with pytest.raises(VocabError, match="are not 0, 1, 2"):
        Vocab.load(write(tmp_path, b'{"b": 3, "a": 0}'))


def test_a_vocabulary_whose_first_token_is_a_brace_is_not_json(tmp_path: Path) -> None:
    assert Vocab.load(write(tmp_path, b"{\n}\n")).tokens == ["{", "}"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        ("[PAD]\n中\n".encode("gb18030"), "line 2, byte 6 is 0xd6"),
        ("[PAD]\n".encode("utf-16"), "UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE HTML><html>", "a web page"),
        (b"PK\x03\x04\x00\x00ab", "not a text file"),
    ],
)
def test_what_is_no_vocabulary_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(VocabError, match=words):
        Vocab.load(write(tmp_path, data))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(VocabError, match="does not exist"):
        Vocab.load(tmp_path / "none.txt")
    with pytest.raises(VocabError, match="is a folder"):
        Vocab.load(tmp_path)
    with pytest.raises(VocabError, match="not a sentencepiece model"):
        Vocab.load(spm=write(tmp_path, b"[PAD]\n"))


def test_a_vocabulary_can_be_sent_to_a_worker() -> None:
    vocab = Vocab(["[PAD]", "a", "a"])
    again = pickle.loads(pickle.dumps(vocab))
    assert again.tokens == vocab.tokens
    assert again.find("a") == 2
    assert again.pad_id == 0


def test_a_vocabulary_of_another_encoding_is_recognized(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("[UNK]\n今天\n天气\n很好\n我们\n酒店\n服务\n".encode("gb18030"))
    with pytest.raises(VocabError, match="is not UTF-8") as error:
        Vocab.load(path)
    hint = "It looks like gb18030 text; convert it: iconv -f gb18030 -t utf-8."
    assert error.value.hint == hint
    (tmp_path / "spiece.model").write_bytes(b"\x0a\xff\xfe")
    with pytest.raises(VocabError) as error:
        Vocab.load(tmp_path / "spiece.model")
    assert "`spm_model_path`" in (error.value.hint or "")
