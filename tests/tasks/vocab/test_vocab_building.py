"""Building vocabularies: UER-py's result without its lost lines, in any blocks."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import TEXT, fixture_folders
from uertool.errors import InputError, OutputError, UsageError
from uertool.tasks.vocab import counting as corpus_counting
from uertool.tasks.vocab.building import (
    BuiltVocab,
    build_vocab,
    load_reserved,
    reserved_tokens,
    save_vocab,
    side_file,
)
from uertool.tasks.vocab.counting import _Range, count_corpus
from uertool.tasks.vocab.settings import BuildSettings
from uertool.tasks.vocab.subwords import train_vocab
from uertool.tasks.vocab.tallies import Counting
from uertool.text.readers import read_lines
from uertool.text.tokenizers.factory import make_tokenizer
from uertool.text.vocab import Vocab

MISC = fixture_folders("corpus.txt")


def plain_count(text: str, delimiter: str, form: str | None = None) -> dict[str, int]:
    """The counts by the old script's rules, line by line; the empty word left out."""
    counts: Counter[str] = Counter()
    for line in io.StringIO(text, newline=None):
        if form:
            line = unicodedata.normalize(form, line)
        line = line.strip()
        counts.update(list(line) if delimiter == "char" else filter(None, line.split(" ")))
    return dict(counts)


def write(folder: Path, text: str | bytes, name: str = "corpus.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# -- against UER-py's script ----------------------------------------------------------------------


@pytest.mark.parametrize("min_count", [1, 2])
@pytest.mark.parametrize("delimiter", ["char", "space"])
@pytest.mark.parametrize("folder", MISC, ids=lambda folder: folder.name)
def test_the_vocabulary_is_the_old_scripts_but_for_the_line_it_lost(
    folder: Path, delimiter: Literal["char", "space"], min_count: int, tmp_path: Path
) -> None:
    name = "corpus.txt" if delimiter == "char" else "corpus_space.txt"
    lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
    golden = (folder / f"expected_vocab_{delimiter}_w1_min{min_count}.txt").read_text("utf-8")
    expected = [token for token in golden.split("\n")[:-1] if token != ""]
    without_last = write(tmp_path, "".join(lines[:-1]))
    settings = BuildSettings(delimiter=delimiter, min_count=min_count)
    assert build_vocab([without_last], settings).tokens == expected
    whole = build_vocab([folder / name], settings)
    counts = Counter(dict(whole.counts))
    assert dict(counts) == plain_count("".join(lines), delimiter)
    assert set(whole.tokens) == {*reserved_tokens(), *(t for t in counts if counts[t] >= min_count)}


def test_reserved_tokens_are_the_old_ones() -> None:
    reserved = reserved_tokens()
    assert len(reserved) == 104
    assert (reserved[0], reserved[1], reserved[99], reserved[100:]) == (
        "[PAD]",
        "[unused1]",
        "[unused99]",
        ("[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    )
    assert load_reserved(TEXT / "reserved_vocab.txt") == reserved
    root = Path(__file__).parents[3]
    assert load_reserved(root / "configs" / "reserved_vocab.txt") == reserved


# -- any text, any cut ----------------------------------------------------------------------------

alphabet = st.sampled_from("aab b  今天天\n\n\r\t\u3000\xa0\u2028\x0b\x1cé😀ｱﾞ\u0301\u3099か①[")
texts = st.text(alphabet, max_size=60)


@pytest.mark.parametrize("form", [None, "NFC", "NFKC"])
@pytest.mark.parametrize("delimiter", ["char", "space"])
@settings(max_examples=150, deadline=None)
@given(text=texts, cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_counts_and_order_do_not_depend_on_the_blocks(
    delimiter: Any, form: Any, text: str, cuts: list[int]
) -> None:
    text = text.removeprefix("\ufeff")
    expected = plain_count(text, delimiter, form)

    def blocks(piece: object, encoding: str, report: object) -> Any:
        rest = text.replace("\r\n", "\n").replace("\r", "\n")
        turn = 0
        while rest:
            size = cuts[turn % len(cuts)]
            yield rest[:size]
            rest, turn = rest[size:], turn + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_counting, "_blocks", blocks)
        *_, (_, tally) = corpus_counting._count_range(
            _Range("x", 0, 0, 0), Counting(delimiter, form)
        )
    assert tally.counts == expected
    assert list(tally.counts) == list(expected)


@pytest.mark.parametrize("delimiter", ["char", "space"])
@settings(max_examples=80, deadline=None)
@given(text=texts, size=st.integers(1, 12))
def test_counts_and_order_do_not_depend_on_the_ranges(
    delimiter: Any, text: str, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("c"), text)
    expected = plain_count(text.removeprefix("\ufeff"), delimiter)
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_counting, "_RANGE", size)
        patch.setattr(corpus_counting, "_BLOCK", size)
        tally = count_corpus([path], Counting(delimiter), on_bytes=done.append)
    assert tally.counts == expected
    assert list(tally.counts) == list(expected)
    assert sum(done) == len(text.encode())


@pytest.mark.parametrize("blanks", [3, 31, 32, 33, 500])
def test_long_runs_of_blanks_are_taken_off_the_edges_only(tmp_path: Path, blanks: int) -> None:
    run = " \u3000" * blanks
    text = f"{run}a{run}b{run}\n{run}\nc{run}\n\n{run}d"
    counts = dict(build_vocab([write(tmp_path, text)]).counts)
    assert counts == plain_count(text, "char")


@pytest.mark.slow
def test_several_processes_give_the_same_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (MISC[0] / "corpus.txt").read_text(encoding="utf-8")
    files = [
        write(tmp_path, text * 3, "a.txt"),
        write(tmp_path, gzip.compress(("新" + text).encode()), "b.gz"),
        write(tmp_path, "末" + text, "c.txt"),
    ]
    monkeypatch.setattr(corpus_counting, "_RANGE", 20_000)
    done: list[int] = []
    one = build_vocab(files, BuildSettings(workers_num=1))
    three = build_vocab(files, BuildSettings(workers_num=3), on_bytes=done.append)
    assert three == one
    assert sum(done) == sum(file.stat().st_size for file in files)


# -- sources --------------------------------------------------------------------------------------


def test_folders_archives_and_standard_input_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    write(folder, "b", "b.txt")
    write(folder / "deep", gzip.compress(b"c"), "c.gz")
    write(folder, "x", ".hidden")
    write(folder, "x", "vocab.txt.123.partial")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    built = build_vocab(["-", folder], reserved=["[UNK]"])
    assert built.tokens == ["[UNK]", "a", "b", "c"]


def test_marks_and_line_ends_are_no_characters(tmp_path: Path) -> None:
    built = build_vocab([write(tmp_path, b"\xef\xbb\xbfab\r\nc\rd\n")], reserved=[])
    assert built.tokens == ["a", "b", "c", "d"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_invalid_utf8_is_named_by_file_line_and_byte(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_counting, "_RANGE", 4)
    path = write(tmp_path, b"good\nfine\nba\xffd\n")
    with pytest.raises(InputError, match=r"corpus.txt, line 3 \(byte 12\): invalid UTF-8"):
        build_vocab([path], BuildSettings(workers_num=workers))


def test_invalid_utf8_on_standard_input_is_named_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good\n\xff\n")))
    with pytest.raises(InputError, match="standard input, line 2: invalid UTF-8, 0xff"):
        build_vocab(["-"])


def test_what_is_no_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        build_vocab([tmp_path / "none.txt"])
    with pytest.raises(InputError, match="holds no files"):
        build_vocab([tmp_path])
    with pytest.raises(InputError, match="nothing to count"):
        build_vocab([write(tmp_path, " \n\n")])
    with pytest.raises(InputError, match="utf-16"):
        build_vocab([write(tmp_path, "今天".encode("utf-16")[:-1])])
    with pytest.raises(UsageError, match="No corpus"):
        build_vocab([])
    with pytest.raises(UsageError, match="only once"):
        build_vocab(["-", "-"])


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16", "utf-16-be"])
def test_a_corpus_of_another_encoding_gives_the_same_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr(corpus_counting, "_RANGE", 7)
    text = "今天很好\r\n天下\n\n好天 good\r好\n" * 3
    found = build_vocab([write(tmp_path, text.encode(encoding))], BuildSettings(encoding=encoding))
    assert found.tokens == build_vocab([write(tmp_path, text)]).tokens
    trained = BuildSettings(model="bpe", vocab_size=400, encoding=encoding)
    again = train_vocab([write(tmp_path, text.encode(encoding))], trained)
    expected = train_vocab([write(tmp_path, text)], BuildSettings(model="bpe", vocab_size=400))
    assert again.tokens == expected.tokens


# -- choosing -------------------------------------------------------------------------------------


def test_ties_are_in_the_order_of_first_appearance(tmp_path: Path) -> None:
    built = build_vocab([write(tmp_path, "dcba\nabxx\n")], reserved=[])
    assert built.tokens == ["b", "a", "x", "d", "c"]


def test_a_reserved_token_in_the_corpus_is_not_listed_again(tmp_path: Path) -> None:
    path = write(tmp_path, "a [MASK] [MASK] b")
    assert build_vocab(
        [path], BuildSettings(delimiter="space"), reserved=["[UNK]", "[MASK]"]
    ).tokens == [
        "[UNK]",
        "[MASK]",
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("options", "tokens", "coverage"),
    [
        ({"min_count": 2}, "abc", 0.9),
        ({"max_size": 2}, "ab", 0.7),
        ({"coverage": 0.7}, "ab", 0.7),
        ({"coverage": 0.71}, "abc", 0.9),
        ({"coverage": 1.0}, "abcd", 1.0),
        ({"coverage": 0.9, "min_count": 3}, "ab", 0.7),
    ],
)
def test_rare_tokens_are_left_out_by_count_size_or_coverage(
    tmp_path: Path, options: dict[str, Any], tokens: str, coverage: float
) -> None:
    built = build_vocab(
        [write(tmp_path, "aaaa\nbbb\ncc\nd")], BuildSettings(**options), reserved=[]
    )
    assert "".join(built.tokens) == tokens
    assert built.coverage == pytest.approx(coverage)
    assert (built.total, built.distinct) == (10, 4)


def test_full_width_forms_are_left_alone_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "Ａ①か\u3099")
    assert build_vocab([path], reserved=[]).tokens == ["Ａ", "①", "か", "\u3099"]
    assert build_vocab([path], BuildSettings(normalization="NFC"), reserved=[]).tokens == [
        "Ａ",
        "①",
        "が",
    ]
    assert build_vocab([path], BuildSettings(normalization="nfkc"), reserved=[]).tokens == [
        "A",
        "1",
        "が",
    ]


def test_words_that_hold_other_blanks_are_listed(tmp_path: Path) -> None:
    built = build_vocab(
        [write(tmp_path, "a\u3000b c")], BuildSettings(delimiter="space"), reserved=[]
    )
    assert built.tokens == ["a\u3000b", "c"]
    assert built.cut == ["a\u3000b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delimiter": "line"}, "`delimiter`: 'line'"),
        ({"min_count": 0}, "`min_count`: 0 .must be at least 1"),
        ({"max_size": 3}, "no room for the 104"),
        ({"max_size": 0}, "`max_size`: 0 .must be at least 1"),
        ({"coverage": 1.5}, r"`coverage`: 1.5 .must be in .0, 1"),
        ({"normalization": "NFX"}, "`normalization`: 'NFX'"),
        ({"workers_num": 0}, "`workers_num`: 0"),
    ],
)
def test_options_out_of_range_are_named(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        build_vocab([write(tmp_path, "a")], BuildSettings(**options))


# -- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = (TEXT / "parallel_en_zh.tsv").read_text(encoding="utf-8").splitlines()[:300]
    return write(tmp_path_factory.mktemp("mixed"), "\n".join(lines) + "\n\n")


def test_trained_wordpieces_keep_chinese_characters_apart(mixed: Path, tmp_path: Path) -> None:
    done: list[int] = []
    built = train_vocab(
        [mixed], BuildSettings(model="wordpiece", vocab_size=3000), on_bytes=done.append
    )
    assert sum(done) == mixed.stat().st_size
    assert built.tokens[:104] == list(reserved_tokens())
    assert len(built.tokens) <= 3000
    assert len(set(built.tokens)) == len(built.tokens)
    chinese = [t for t in built.tokens if any("\u4e00" <= c <= "\u9fff" for c in t)]
    assert chinese
    assert all(len(t.removeprefix("##")) == 1 for t in chinese)
    save_vocab(built, tmp_path / "v.txt")
    tokenizer = make_tokenizer("bert", vocab_path=tmp_path / "v.txt")
    assert tokenizer.unk_id not in tokenizer.encode("the world 的")


def test_trained_bpe_brings_the_merges_that_its_tokenizer_reads(
    mixed: Path, tmp_path: Path
) -> None:
    built = train_vocab([mixed], BuildSettings(model="bpe", vocab_size=900))
    written = save_vocab(built, tmp_path / "v.txt")
    assert tmp_path / "v.merges.txt" in written
    tokenizer = make_tokenizer(
        "bpe", vocab_path=tmp_path / "v.txt", merges_path=tmp_path / "v.merges.txt"
    )
    from tokenizers import Tokenizer

    judge = Tokenizer.from_file(str(tmp_path / "v.tokenizer.json"))
    text = "The world 今天 is  flat\n"
    assert tokenizer.encode(text) == judge.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_trained_unigram_pieces_are_those_of_its_tokenizer(mixed: Path, tmp_path: Path) -> None:
    built = train_vocab([mixed], BuildSettings(model="unigram", vocab_size=2000))
    save_vocab(built, tmp_path / "v.txt")
    from tokenizers import Tokenizer

    judge = Tokenizer.from_file(str(tmp_path / "v.tokenizer.json"))
    pieces = judge.encode("the world").tokens
    assert all(piece in Vocab.load(tmp_path / "v.txt") for piece in pieces)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size"), [("wordpiece", 1800), ("wordpiece", 3000), ("bpe", 900), ("unigram", 2500)]
)
def test_training_twice_gives_the_same(mixed: Path, model: str, size: int) -> None:
    settings = BuildSettings(model=model, vocab_size=size)
    assert train_vocab([mixed], settings) == train_vocab([mixed], settings)


def test_wordpieces_are_those_of_the_librarys_own_trainer(mixed: Path) -> None:
    """Where nothing has to be chosen between equals: all pairs that occur often enough."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    judge = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    judge.normalizer = normalizers.BertNormalizer()
    judge.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=100_000, min_frequency=20, special_tokens=["[UNK]"], show_progress=False
    )
    judge.train_from_iterator((line.text for line in read_lines(mixed)), trainer)
    built = train_vocab(
        [mixed],
        BuildSettings(model="wordpiece", vocab_size=100_000, min_count=20),
        reserved=["[UNK]"],
    )
    ours, theirs = set(built.tokens), set(judge.get_vocab())
    assert len(ours & theirs) / len(ours | theirs) > 0.97
    letters = {token for token in theirs if len(token.removeprefix("##")) == 1}
    assert letters == {token for token in ours if len(token.removeprefix("##")) == 1}


@pytest.mark.parametrize(
    ("options", "reserved", "words"),
    [
        ({"model": "words", "vocab_size": 500}, None, "must be one of wordpiece, bpe, unigram"),
        ({"model": "wordpiece", "vocab_size": 104}, None, "has room only for"),
        ({"model": "bpe", "vocab_size": 300}, None, "no room"),
        ({"model": "unigram", "vocab_size": 300}, None, "no room"),
        ({"model": "wordpiece", "vocab_size": 300}, None, "no room"),
        ({"model": "bpe", "vocab_size": 500}, ["[PAD]"], r"no \[UNK\]"),
    ],
)
def test_invalid_training_is_refused(
    mixed: Path, options: dict[str, Any], reserved: list[str] | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        train_vocab([mixed], BuildSettings(**options), reserved=reserved)


def test_training_on_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text"):
        train_vocab([write(tmp_path, "\n \n")], BuildSettings(model="wordpiece", vocab_size=500))


# -- writing --------------------------------------------------------------------------------------


def test_what_was_built_is_read_back(tmp_path: Path) -> None:
    built = build_vocab([write(tmp_path, "a b\u3000\u2028\x85c")])
    save_vocab(built, tmp_path / "v.txt", counts_path=tmp_path / "c.tsv")
    assert Vocab.load(tmp_path / "v.txt").tokens == built.tokens
    rows = (tmp_path / "c.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    assert [(t, int(c)) for t, c in (row.rsplit("\t", 1) for row in rows)] == list(built.counts)


def test_existing_outputs_are_kept_all_or_none_written(tmp_path: Path) -> None:
    built = BuiltVocab(["a"], 0, counts=[("a", 1)], files={".merges.txt": "x"})
    for taken in ("v.txt", "v.merges.txt", "counts.tsv"):
        folder = tmp_path / taken.replace(".", "_")
        folder.mkdir()
        write(folder, "old", taken)
        with pytest.raises(OutputError, match="exists already"):
            save_vocab(built, folder / "v.txt", counts_path=folder / "counts.tsv")
        assert [p.name for p in folder.iterdir()] == [taken]
        save_vocab(built, folder / "v.txt", counts_path=folder / "counts.tsv", overwrite=True)
        assert (folder / "v.txt").read_text() == "a\n"


def test_a_vocabulary_can_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert save_vocab(BuiltVocab(["今", "b"], 0), "-") == []
    assert capsys.readouterr().out == "今\nb\n"
    with pytest.raises(UsageError, match="more than one file"):
        save_vocab(BuiltVocab(["a"], 0, files={".merges.txt": "x"}), "-")


def test_side_files_are_named_after_the_vocabulary() -> None:
    assert side_file("x/vocab.txt", ".merges.txt") == Path("x/vocab.merges.txt")


_MEASURED = """
import resource, sys
from uertool.tasks.vocab.building import build_vocab
from uertool.tasks.vocab.settings import BuildSettings

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

for delimiter in ("char", "space"):
    total = build_vocab([sys.argv[1]] * 4, BuildSettings(delimiter=delimiter)).total
    before = peak()
    assert build_vocab([sys.argv[1]] * 24, BuildSettings(delimiter=delimiter)).total == 6 * total
    print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    text = (TEXT / "corpus_zh.txt").read_text("utf-8")
    words = " ".join(text[at : at + 2] for at in range(0, len(text), 2))
    corpus.write_text(words + "\n", encoding="utf-8")
    assert corpus.stat().st_size > 1_400_000
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(corpus)],
        env={**os.environ, "PYTHONPATH": str(TEXT.parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(int(grown) < 10 for grown in done.stdout.split()), done.stdout  # of 34 MB read


def test_more_distinct_tokens_than_memory_is_meant_for_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, " ".join(map(str, range(100))))
    with pytest.raises(InputError, match="more than 99 distinct tokens"):
        count_corpus([path], Counting("space"), max_types=99)
    assert len(count_corpus([path], Counting("space"), max_types=100).counts) == 100
