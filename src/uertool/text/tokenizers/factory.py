"""make_tokenizer: the tokenizer of a UER-py name, made of the files that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from uertool.errors import UsageError
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.bert import BertTokenizer
from uertool.text.tokenizers.byte_bpe import BpeTokenizer, read_merges
from uertool.text.tokenizers.char import CharTokenizer
from uertool.text.tokenizers.sentencepiece import SentencePieceTokenizer, XlmRobertaTokenizer
from uertool.text.tokenizers.space import SpaceTokenizer
from uertool.text.vocab import Vocab


class _Given(NamedTuple):
    """What `make_tokenizer` was given."""

    name: str
    vocab_path: str | Path | None
    spm_model_path: str | Path | None
    merges_path: str | Path | None
    do_lower_case: bool

    def file(self, setting: str) -> str | Path:
        path: str | Path | None = getattr(self, setting)
        if path is None:
            raise UsageError(f"The tokenizer {self.name} needs `{setting}`.")
        return path

    def vocab(self) -> Vocab:
        """The vocabulary file, or the pieces of the sentencepiece model where one is given."""
        if self.spm_model_path is not None:
            return Vocab.load(spm=self.spm_model_path)
        return Vocab.load(self.file("vocab_path"))


def _bert(given: _Given) -> Tokenizer:
    if given.spm_model_path is not None:
        return _bert_spm(given)
    return BertTokenizer(given.vocab(), do_lower_case=given.do_lower_case)


def _bert_spm(given: _Given) -> Tokenizer:
    return SentencePieceTokenizer.load(given.file("spm_model_path"))


def _xlmroberta(given: _Given) -> Tokenizer:
    return XlmRobertaTokenizer.load(given.file("spm_model_path"))


def _bpe(given: _Given) -> Tokenizer:
    vocab = Vocab.load(given.file("vocab_path"))
    return BpeTokenizer(vocab, read_merges(given.file("merges_path")))


TOKENIZERS: Mapping[str, Callable[[_Given], Tokenizer]] = {
    "bert": _bert,
    "char": lambda given: CharTokenizer(given.vocab()),
    "space": lambda given: SpaceTokenizer(given.vocab()),
    "bpe": _bpe,
    "xlmroberta": _xlmroberta,
    "bert-spm": _bert_spm,
}


def make_tokenizer(
    name: str = "bert",
    *,
    vocab_path: str | Path | None = None,
    spm_model_path: str | Path | None = None,
    merges_path: str | Path | None = None,
    do_lower_case: bool = True,
) -> Tokenizer:
    """The tokenizer with UER-py's name for it.

    Args:
        name: one of `TOKENIZERS`; "bert" with a `spm_model_path` is "bert-spm".
        vocab_path: one token a line.
        spm_model_path: a sentencepiece model, in place of a vocabulary.
        merges_path: the merges of "bpe".
        do_lower_case: for "bert": lower-case and strip accents.

    Raises:
        UsageError: an unknown name, or a file that this tokenizer needs was not given.
        VocabError: a file cannot be read, or does not fit.
        MissingExtraError: a sentencepiece tokenizer without sentencepiece.
    """
    maker = TOKENIZERS.get(name)
    if maker is None:
        raise UsageError(f"Unknown tokenizer: {name!r}.", f"Choose one of {', '.join(TOKENIZERS)}.")
    return maker(_Given(name, vocab_path, spm_model_path, merges_path, do_lower_case))
