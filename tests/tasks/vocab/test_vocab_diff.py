"""Comparing vocabularies: the old figures, and those that the old script did not have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TEXT, fixture_folders
from uertool.errors import UsageError
from uertool.tasks.vocab.diff import diff_vocabs
from uertool.tasks.vocab.settings import DiffSettings
from uertool.text.vocab import Vocab


def on(corpus: Path, **more: Any) -> DiffSettings:
    return DiffSettings(corpus_path=(str(corpus),), **more)


@pytest.mark.parametrize(
    "folder", fixture_folders("expected_diff_vocab.txt"), ids=lambda folder: folder.name
)
def test_sizes_and_differences_are_the_old_scripts(folder: Path) -> None:
    text = (folder / "expected_diff_vocab.txt").read_text(encoding="utf-8")
    expected = [int(number) for number in re.findall(r"(?:size: |= )(\d+)", text)]
    diff = diff_vocabs(Vocab.load(folder / "vocab_a.txt"), Vocab.load(folder / "vocab_b.txt"))
    figures = [diff.size_1, diff.size_2, len(diff.only_1), len(diff.only_2), len(diff.common)]
    assert figures == expected


def test_moved_ids_duplicates_and_blanks_are_found() -> None:
    diff = diff_vocabs(Vocab(["a", "b", "", "c", "b"]), Vocab(["a", "c", "d", "b", " ", "d"]))
    assert diff.moved == [("b", 4, 3), ("c", 3, 1)]
    assert (diff.only_1, diff.only_2, diff.common) == ([], ["d"], ["a", "b", "c"])
    assert (diff.duplicates_1, diff.duplicates_2) == ({"b": (1, 4)}, {"d": (2, 5)})
    assert (diff.size_1, diff.size_2, diff.blanks_1, diff.blanks_2) == (3, 4, 1, 1)
    assert diff.jaccard == 3 / 4


def test_equal_vocabularies_differ_in_nothing() -> None:
    vocab = Vocab.load(TEXT / "google_zh_vocab.txt")
    diff = diff_vocabs(vocab, vocab)
    assert (diff.only_1, diff.only_2, diff.moved, diff.jaccard) == ([], [], [], 1.0)
    assert len(diff.common) + diff.blanks_1 == len(vocab)  # one entry is U+2028


def test_a_corpus_shows_what_each_covers(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("今天天气\n\n今今x\n", encoding="utf-8")
    diff = diff_vocabs(Vocab(["[UNK]", "今"]), Vocab(["今", "天", "气", "x"]), on(corpus))
    first, second = diff.coverage_1, diff.coverage_2
    assert first is not None
    assert second is not None
    assert (first.units, first.covered, first.kinds, first.covered_kinds) == (7, 3, 4, 1)
    assert (first.tokens, first.unknown, first.share) == (7, 4, 3 / 7)
    assert (second.covered, second.unknown, second.unknown_rate) == (7, 0, 0.0)
    record = diff.as_record()
    assert json.loads(json.dumps(record)) == record
    assert record["corpus_1"]["unknown_rate"] == 4 / 7
    assert diff.words("only_2") == [["天"], ["气"], ["x"]]


def test_words_are_compared_by_their_own_tokenizer(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("今天 天气\n", encoding="utf-8")
    diff = diff_vocabs(
        Vocab(["今天"]),
        Vocab(["天气", "今天"]),
        on(corpus, delimiter="space", tokenizer="space"),
    )
    assert diff.coverage_1 is not None
    assert diff.coverage_2 is not None
    assert (diff.coverage_1.unknown_rate, diff.coverage_2.unknown_rate) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delimiter": "x"}, "`delimiter`: 'x' .must be one of char, space"),
        ({"tokenizer": "bpe"}, "`tokenizer`: 'bpe'"),
        ({"corpus_path": ("-",)}, "standard input"),
        ({"list": ("all",)}, "`list`: 'all' .must be one of only_1"),
    ],
)
def test_options_that_do_not_exist_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DiffSettings(**options)
