"""Tokenizers: UER-py's ids on every golden line, and a plain second implementation on any text."""

from __future__ import annotations

import json
import pickle
import random
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import TEXT, fixture_folders
from tests.text.plain_tokenizers import bert, bpe
from uertool.errors import InputError, MissingExtraError, UsageError, VocabError
from uertool.text.readers import read_lines
from uertool.text.tokenizers import bert as bert_module
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.byte_bpe import BpeTokenizer, read_merges
from uertool.text.tokenizers.char import CharTokenizer
from uertool.text.tokenizers.factory import TOKENIZERS, make_tokenizer
from uertool.text.vocab import Vocab

ZH_VOCAB = TEXT / "google_zh_vocab.txt"
SPM = TEXT / "cluecorpussmall_spm.model"

# Characters whose treatment differs between libraries, Unicode versions and careless code.
ODD = (
    "\0\t\n\r\x0b\x0c\x1c\x1f\x7f\x85\xa0\xad\u0085\u180e\u1680\u2028\u2029\u200b\u200d\u202f\u3000"
    "\ufeff\ufffd\ufffe\uffff\ue000\uf8ff\U000f0000\U0010ffff"
    "İIıßΣσςſKÅΩǅǆﬁŉΐéÉñ\u0130\u1e9e\u03f4"
    "\u0301\u0308\u0327\u0345\u3099\u302e\u302f\u0c00\u1cd0\U0001d165"
    "\U0002b820\U0002b91f\U0002ceaf\U0002ceb0\u9fff\u3400\uf900\U0002f800\U00030000"
    "。，、！？《》【】—…·“”０１ＡＢａｂ！，$+<=>^`|~_¥€°№™①½²"
    "😀👍🏽\U0001fae8가각ㄱㅏกำहिعの々ー"
)


# -- golden ids -----------------------------------------------------------------------------------


def golden_cases() -> list[Any]:
    cases = []
    for folder in fixture_folders("expected/tokens.json"):
        golden = json.loads((folder / "expected/tokens.json").read_text(encoding="utf-8"))
        for name, rows in golden.items():
            if name.startswith("hf"):
                continue  # in tests/parity/test_family_parity.py
            options: dict[str, Any] = {}
            if isinstance(rows, dict):  # with the arguments of the tokenizer next to the rows
                arguments, rows = rows["args"], rows["lines"]
                lower = arguments.pop("do_lower_case", "true") != "false"
                options = {key: TEXT / Path(file).name for key, file in arguments.items()}
                if not all(file.exists() for file in options.values()):
                    continue  # vocabularies that are not distributed with the tests
                options["do_lower_case"] = lower
            elif name == "spm":
                options = {"spm_model_path": folder / "tokenizer.model"}
            else:
                options = {"vocab_path": folder / "vocab.txt"}
                options["do_lower_case"] = not name.endswith("-cased")
            kind = "bert" if name == "spm" else name.split("-")[0]
            cases.append(pytest.param(folder, kind, options, rows, id=f"{folder.name}:{name}"))
    return cases


@pytest.mark.parametrize(("folder", "kind", "options", "rows"), golden_cases())
def test_ids_and_tokens_are_those_of_uer_py(
    folder: Path, kind: str, options: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    lines = [line.text for line in read_lines(folder / "input.txt")]
    tokenizer = make_tokenizer(kind, **options)
    assert len(lines) == len(rows)
    assert tokenizer.encode_batch(lines) == [row["ids"] for row in rows]
    assert [tokenizer.tokenize(line) for line in lines] == [row["tokens"] for row in rows]


# -- against the plain implementation -------------------------------------------------------------


@cache
def bert_pair(lower: bool) -> tuple[Tokenizer, set[str]]:
    vocab = Vocab.load(ZH_VOCAB)
    return make_tokenizer("bert", vocab_path=ZH_VOCAB, do_lower_case=lower), set(vocab.tokens)


texts = st.text(
    st.one_of(
        st.sampled_from(ODD),
        st.sampled_from("abcXYZ0123 ,.中国今天"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("lower", [True, False], ids=["lower", "cased"])
@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_bert_equals_the_plain_implementation_on_any_text(lower: bool, text: str) -> None:
    tokenizer, known = bert_pair(lower)
    assert tokenizer.tokenize(text) == bert(text, known, lower)


@pytest.mark.slow
@pytest.mark.parametrize("lower", [True, False], ids=["lower", "cased"])
def test_bert_equals_the_plain_implementation_on_every_character(lower: bool) -> None:
    """Single characters between letters, with a vocabulary that has all of them.

    Ids, not tokens, are compared, many characters to a text, to keep this to seconds.
    """
    characters = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) != "Cs"]
    common = [c for c in characters if not bert_module._UNCOMMON.search(c)]
    rest = [c for c in characters if bert_module._UNCOMMON.search(c)]
    sample = common + random.Random(0).sample(rest, 5000)
    known = {f"{lead}{c}" for c in common for lead in ("", "##")} - {"", "##"}
    known |= {w for c in common for p in bert(c, set(), lower) for w in (p, f"##{p}") if p}
    lowered = {unicodedata.normalize("NFD", c.lower()) for c in common}
    known |= {f"{lead}{c}" for word in lowered for c in word for lead in ("", "##")}
    known |= {"x", "y", "##x", "##y", "[UNK]"}
    tokenizer = bert_module.BertTokenizer(Vocab(sorted(known)), do_lower_case=lower)
    wrong = [
        hex(ord(c))
        for c, ids in zip(sample, tokenizer.encode_batch([f"x{c}y" for c in sample]), strict=True)
        if tokenizer.tokens(ids) != bert(f"x{c}y", known, lower)
    ]
    assert wrong == []


@pytest.mark.parametrize("length", [99, 100, 101, 199, 200, 201, 1000])
def test_a_word_is_unknown_from_201_characters_on(length: int) -> None:
    tokenizer, known = bert_pair(True)
    for text in ("a" * length, "é" * length, "a" * length + "\ue000", "中" * length):
        assert tokenizer.tokenize(text) == bert(text, known, True)


def test_the_last_sigma_of_a_word_has_its_own_lower_case() -> None:
    assert bert("ΣΑΣ", {"σας", "[UNK]"}, True) == ["σας"]
    vocab = Vocab(["[UNK]", "σας", "σασ"])
    assert bert_module.BertTokenizer(vocab).tokenize("ΣΑΣ") == ["σας"]


def test_a_batch_gives_what_single_lines_give() -> None:
    tokenizer, _ = bert_pair(True)
    lines = ["今天", "", "a\ue000b", "İ Σ", " ", "x" * 300, "好"]
    assert tokenizer.encode_batch(lines) == [tokenizer.encode(line) for line in lines]
    assert tokenizer.encode_batch([]) == []


def test_an_unknown_word_without_unk_is_an_error_that_names_it(tmp_path: Path) -> None:
    vocab = Vocab(["[PAD]", "今"], source="small.txt")
    tokenizer = bert_module.BertTokenizer(vocab)
    assert tokenizer.encode("今") == [1]
    for broken in (tokenizer, CharTokenizer(vocab)):
        with pytest.raises(VocabError, match=r"small.txt has no \[UNK\] token.*天"):
            broken.encode("今天")


@given(text=texts)
@settings(max_examples=100, deadline=None)
def test_char_and_space_look_up_what_they_cut(text: str) -> None:
    known = set(Vocab.load(SMALL).tokens)
    chars = make_tokenizer("char", vocab_path=SMALL)
    assert chars.tokenize(text) == [c if c in known else "[UNK]" for c in text.strip()]
    words = make_tokenizer("space", vocab_path=SMALL)
    assert words.tokenize(text) == [w if w in known else "[UNK]" for w in text.strip().split(" ")]


SMALL = fixture_folders("vocab.txt", "expected/tokens.json")[0] / "vocab.txt"


# -- byte-level bpe -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A vocabulary and merges trained here on mixed text, as UER-py reads them."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    lines = (TEXT / "parallel_en_zh.tsv").read_text(encoding="utf-8").splitlines()[:400]
    trained.train_from_iterator(lines, vocab_size=900, special_tokens=["[UNK]"])
    folder = tmp_path_factory.mktemp("bpe")
    trained.save_model(str(folder))
    table = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    (folder / "vocab.txt").write_text("\n".join(sorted(table, key=table.get)), encoding="utf-8")
    return folder / "vocab.txt", folder / "merges.txt"


@given(text=texts)
@settings(max_examples=200, deadline=None)
def test_bpe_equals_the_plain_implementation(bpe_files: tuple[Path, Path], text: str) -> None:
    if any(unicodedata.category(c) == "Cn" for c in text):
        return  # which are letters depends on the Unicode version of the library
    vocab, merges = bpe_files
    tokenizer = cached_bpe(vocab, merges)
    expected = bpe(text, read_merges(merges))
    assert tokenizer.tokenize(text) == expected
    assert tokenizer.encode(text) == [tokenizer.vocab.id(piece) for piece in expected]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@cache
def cached_bpe(vocab: Path, merges: Path) -> Tokenizer:
    return make_tokenizer("bpe", vocab_path=vocab, merges_path=merges)


@example(pairs=[("a", "a")] * 3, text=" aa")
@given(
    pairs=st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=3), st.text("abc", min_size=1, max_size=3)),
        max_size=12,
    ),
    text=st.text("abc d", max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_bpe_with_odd_merges_equals_the_plain_implementation(
    pairs: list[tuple[str, str]], text: str
) -> None:
    """Merges out of order, twice, and of pieces that are not in the vocabulary."""
    vocab = Vocab(["[UNK]", "a", "b", "c", "ab", "abc", "bc", "Ġ"])
    tokenizer = BpeTokenizer(vocab, pairs)
    expected = bpe(text, pairs)
    assert tokenizer.tokenize(text) == expected
    assert tokenizer.encode(text) == [vocab.id(piece) for piece in expected]


def test_merges_lose_their_heading_and_what_follows_the_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "merges.txt"
    path.write_bytes(b"#version: 0.2\r\na b\r\nab c\r\nx y z\r\n")
    assert read_merges(path) == [("a", "b"), ("ab", "c")]
    path.write_bytes(b"#version: 0.2\na b\nab c")
    assert read_merges(path) == [("a", "b")]
    assert read_merges(path, as_uer=False) == [("a", "b"), ("ab", "c")]
    path.write_bytes(b"#version: 0.2\n")
    with pytest.raises(VocabError, match="holds no merges"):
        read_merges(path)


# -- sentencepiece --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spm() -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(SPM))


@pytest.mark.parametrize("kind", ["bert-spm", "xlmroberta"])
def test_sentencepiece_ids_follow_from_the_pieces(kind: str, spm: Any) -> None:
    tokenizer = make_tokenizer(kind, spm_model_path=SPM)
    lines = [line.text for line in read_lines(TEXT / "corpus_zh.txt")][:50] + ["", " ", "龘a</s>"]
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [spm.id_to_piece(i) for i in range(spm.get_piece_size())]
    order = pieces if kind == "bert-spm" else [*first, *pieces, "<mask>"]
    ids = {piece: index for index, piece in enumerate(order)}
    for line in lines:
        tokens = spm.encode(line, out_type=str)
        assert tokenizer.tokenize(line) == tokens
        assert tokenizer.encode(line) == [ids.get(token, ids["[UNK]"]) for token in tokens]


def test_bert_with_a_sentencepiece_model_takes_its_pieces() -> None:
    plain = make_tokenizer("bert", spm_model_path=SPM)
    assert plain.encode("今天天气很好") == make_tokenizer("bert-spm", spm_model_path=SPM).encode(
        "今天天气很好"
    )


def test_a_number_with_a_comma_is_cut_before_it() -> None:
    tokenizer = make_tokenizer("bert-spm", spm_model_path=SPM)
    assert "。1," in tokenizer.vocab
    # The rest is encoded anew, and keeps the word mark that this puts in front of it.
    assert tokenizer.tokenize("好。1,好") == ["▁", "好", "▁", "。", "1", ",", "好"]


# -- special tokens -------------------------------------------------------------------------------


def every_tokenizer() -> list[str]:
    return [name for name in TOKENIZERS if name != "bpe"]


def make(name: str) -> Tokenizer:
    spm = name in ("xlmroberta", "bert-spm")
    return make_tokenizer(name, **({"spm_model_path": SPM} if spm else {"vocab_path": ZH_VOCAB}))


@pytest.mark.parametrize("name", every_tokenizer())
def test_a_mask_written_in_the_text_is_one_token_when_asked(name: str) -> None:
    tokenizer = make(name)
    plain = tokenizer.encode("今天天气很[MASK]。")
    if name in ("bert", "char"):
        assert tokenizer.mask_id not in plain
    tokenizer.special_in_text = True
    ids = tokenizer.encode("今天天气很[MASK]。")
    assert ids.count(tokenizer.mask_id) == 1
    assert tokenizer.tokenize("今天天气很[MASK]。").count("[MASK]") == 1
    if name in ("bert", "char"):
        assert ids == [*tokenizer.encode("今天天气很"), 103, *tokenizer.encode("。")]
    assert tokenizer.encode("今天") == make(name).encode("今天")
    assert tokenizer.encode("[MASK]") == [tokenizer.mask_id]


@pytest.mark.parametrize("name", ["bert", "char", "space"])
def test_a_sequence_is_between_cls_and_sep(name: str) -> None:
    tokenizer = make(name)
    assert tokenizer.with_special([5, 6]) == [101, 5, 6, 102]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (101, 102, 0)


@pytest.mark.parametrize("name", every_tokenizer())
def test_a_tokenizer_can_be_sent_to_a_worker(name: str) -> None:
    tokenizer = make(name)
    before = tokenizer.encode_batch(["今天天气很好", "Hello Σ"])
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode_batch(["今天天气很好", "Hello Σ"]) == before
    assert again.prefix_ids == tokenizer.prefix_ids


# -- mistakes -------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'bret'.*bert, char, space"):
        make_tokenizer("bret", vocab_path=ZH_VOCAB)


@pytest.mark.parametrize(
    ("name", "option"),
    [("bert", "vocab_path"), ("xlmroberta", "spm_model_path"), ("bpe", "vocab_path")],
)
def test_a_file_that_is_missing_is_asked_for(name: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"{name} needs `{option}`"):
        make_tokenizer(name)


@pytest.mark.parametrize("name", ["xlmroberta", "bert-spm"])
def test_half_a_character_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match="not a character"):
        make(name).encode("a\ud800")


def test_sentencepiece_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"uertool\[spm\]"):
        make_tokenizer("xlmroberta", spm_model_path=SPM)
