"""Tokenizers: text to the ids that UER-py gives, and back to readable text.

`make_tokenizer` picks one by UER-py's name, `tokenizer_from_hf_folder` the one that a Hugging Face
folder describes. All of them are `Tokenizer`s, and all can be pickled and sent to a worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from uertool.errors import InputError, UsageError, VocabError
from uertool.text import detokenize
from uertool.text.vocab import SPECIAL_TOKENS, Vocab


class Tokenizer:
    """Text to ids and back; a subclass says how one stretch of plain text is cut.

    Attributes:
        name: how it is called on the command line.
        vocab: the entries; ids index them.
        special_in_text: whether a special token written out in a text, such as [MASK], is that
            token. Off by default, since UER-py takes it for ordinary characters.
        prefix_ids, suffix_ids: what `with_special` puts around a sequence.
        joining: how tokens become words again, see `uertool.text.detokenize`.
    """

    name: ClassVar[str] = ""
    joining: detokenize.Joining = "characters"

    def __init__(self, vocab: Vocab, *, special_in_text: bool = False) -> None:
        self.vocab = vocab
        self.special_in_text = special_in_text
        self.pad_id = vocab.pad_id
        self.unk_id = vocab.unk_id
        self.cls_id = vocab.cls_id
        self.sep_id = vocab.sep_id
        self.mask_id = vocab.mask_id
        self.bos_id = vocab.cls_id
        self.eos_id = vocab.sep_id
        self.prefix_ids: tuple[int, ...] = () if vocab.cls_id is None else (vocab.cls_id,)
        self.suffix_ids: tuple[int, ...] = () if vocab.sep_id is None else (vocab.sep_id,)
        self._special_pattern: re.Pattern[str] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} tokenizer, {len(self.vocab)} tokens from {self.vocab.source}>"

    def __len__(self) -> int:
        return len(self.vocab)

    # -- text to tokens -----------------------------------------------------------------------

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without special tokens around them."""
        if not self.special_in_text:
            return self._tokenize(text)
        found: list[str] = []
        for part, special in self._parts(text):
            found.extend([part] if special else self._tokenize(part))
        return found

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens around them.

        Raises:
            VocabError: a token is unknown and the vocabulary has no [UNK].
            InputError: the text is not Unicode text (it holds half surrogates).
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts: the same as `encode` of each, but faster. Raises as `encode`."""
        if not self.special_in_text:
            return self._encode_batch(texts)
        return self._encode_batch_with_special(texts)

    def _encode_batch_with_special(self, texts: Sequence[str]) -> list[list[int]]:
        parts = [self._parts(text) for text in texts]
        plain = iter(self._encode_batch([p for row in parts for p, special in row if not special]))
        mapping = self.vocab.mapping
        encoded: list[list[int]] = []
        for row in parts:
            ids: list[int] = []
            for part, special in row:
                ids.extend([mapping[part]] if special else next(plain))
            encoded.append(ids)
        return encoded

    def _parts(self, text: str) -> list[tuple[str, bool]]:
        """A text cut at the special tokens written in it: (part, is it a special token)."""
        if self._special_pattern is None:
            names = sorted(self._special_names(), key=len, reverse=True)
            # A pattern that never matches where there are none.
            self._special_pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        parts: list[tuple[str, bool]] = []
        end = 0
        for match in self._special_pattern.finditer(text):
            if match.start() > end:
                parts.append((text[end : match.start()], False))
            parts.append((match.group(), True))
            end = match.end()
        if end < len(text) or not parts:
            parts.append((text[end:], False))
        return parts

    def _special_names(self) -> list[str]:
        return [self.vocab.tokens[index] for index in self.vocab.special_ids]

    def _tokenize(self, text: str) -> list[str]:
        """The tokens of plain text."""
        tokens = self.vocab.tokens
        return [tokens[index] for index in self._encode_batch([text])[0]]

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of plain texts."""
        raise NotImplementedError

    def encode_parts(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """The ids of texts that come in parts, with something that is no text between the parts.

        Args:
            rows: the parts of each text; a part other than the first goes on where one ended.

        Returns:
            For every text the ids of each part. Raises as `encode`.
        """
        plain = iter(self._encode_batch([part for row in rows for part in row]))
        return [[next(plain) for _ in row] for row in rows]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        """Where in a text each token of `encode` stands, as (start, stop).

        None where this tokenizer cannot tell, or where a token is no stretch of characters.
        """
        return None

    def with_special(self, ids: Sequence[int]) -> list[int]:
        """The ids with what the model expects around a sequence, [CLS] and [SEP] for UER-py's."""
        return [*self.prefix_ids, *ids, *self.suffix_ids]

    # -- tokens to text -----------------------------------------------------------------------

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids. Raises VocabError for an id outside the vocabulary."""
        return [self.vocab.token(index) for index in ids]

    def decode(self, ids: Iterable[int], *, raw: bool = False) -> str:
        """Readable text: Chinese without blanks, Latin words apart, special tokens left out.

        Args:
            ids: what to read.
            raw: join the tokens as they are, special tokens and ## included, as the old scripts do.
        """
        if raw:
            return "".join(self.tokens(ids))
        special = self.vocab.special_ids
        return detokenize.join(self.tokens(i for i in ids if i not in special), self.joining)

    def whole_words(self, tokens: Sequence[str] | Sequence[int]) -> list[range]:
        """Positions grouped into words: `range(2, 4)` says that tokens 2 and 3 are one word.

        Every position is in one range. Where nothing marks words, as in Chinese, each character
        is its own.
        """
        named = [t if isinstance(t, str) else self.vocab.token(t) for t in tokens]
        special = frozenset(self._special_names())
        return detokenize.words(named, self.joining, special)


class _LookupTokenizer(Tokenizer):
    """A tokenizer whose pieces are looked up as they are: a table in Python, nothing to batch."""

    def _pieces(self, text: str) -> Sequence[str]:
        raise NotImplementedError

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        find = self.vocab.mapping.get
        unk = self.unk_id
        encoded: list[list[int]] = []
        for text in texts:
            if unk is None:
                encoded.append([self.vocab.id(piece) for piece in self._pieces(text)])
            else:
                encoded.append([find(piece, unk) for piece in self._pieces(text)])
        return encoded


class CharTokenizer(_LookupTokenizer):
    """Every character is a token, blanks within the line too; blanks around it are cut off."""

    name = "char"
    joining = "characters"

    def _pieces(self, text: str) -> Sequence[str]:
        return text.strip()

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        start = len(text) - len(text.lstrip())
        return [(place, place + 1) for place in range(start, start + len(text.strip()))]


class SpaceTokenizer(_LookupTokenizer):
    """What stands between blanks is a token.

    As in UER-py, two blanks in a row hold an empty token between them, and an empty line is one.
    """

    name = "space"
    joining = "blanks"

    def _pieces(self, text: str) -> Sequence[str]:
        return text.strip().split(" ")

    def encode_parts(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        # Blanks beside what stands between two parts are not an empty token.
        return [
            [
                ids if part.strip() or len(row) == 1 else []
                for part, ids in zip(row, found, strict=True)
            ]
            for row, found in zip(rows, super().encode_parts(rows), strict=True)
        ]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        start = len(text) - len(text.lstrip())
        found = []
        for piece in self._pieces(text):
            found.append((start, start + len(piece)))
            start += len(piece) + 1
        return found


def check_characters(texts: Iterable[str]) -> None:
    """Raises InputError for a text with half surrogates, which libraries below Python refuse."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"A text holds {text[error.start]!r}, which is no character.",
                "It was not UTF-8 where it came from.",
            ) from None


# -- making one -----------------------------------------------------------------------------------


def make_tokenizer(
    name: str = "bert",
    *,
    vocab_path: str | Path | None = None,
    spm_model_path: str | Path | None = None,
    merges_path: str | Path | None = None,
    do_lower_case: bool = True,
    special: Mapping[str, str] | None = None,
    special_in_text: bool = False,
) -> Tokenizer:
    """The tokenizer with UER-py's name for it.

    Args:
        name: one of `TOKENIZERS`; "bert" with a `spm_model_path` is "bert-spm".
        vocab_path: one token a line.
        spm_model_path: a sentencepiece model, in place of a vocabulary.
        merges_path: the merges of "bpe".
        do_lower_case: for "bert": lower-case and strip accents.
        special: role ("pad", "unk", "cls", "sep", "mask") to token where they are unusual.
        special_in_text: see `Tokenizer`.

    Raises:
        UsageError: an unknown name, or a file that this tokenizer needs was not named.
        VocabError: a file cannot be read, or does not fit.
        MissingExtraError: a sentencepiece tokenizer without sentencepiece.
    """
    maker = TOKENIZERS.get(name)
    if maker is None:
        raise UsageError(
            f"There is no tokenizer {name!r}.", f"Choose one of {', '.join(TOKENIZERS)}."
        )
    files = _Files(name, vocab_path, spm_model_path, merges_path, do_lower_case, special)
    tokenizer = maker(files)
    tokenizer.special_in_text = special_in_text
    return tokenizer


class _Files:
    """What `make_tokenizer` was given, with the complaint about what it was not given."""

    def __init__(
        self,
        name: str,
        vocab_path: str | Path | None,
        spm_model_path: str | Path | None,
        merges_path: str | Path | None,
        do_lower_case: bool,
        special: Mapping[str, str] | None,
    ) -> None:
        self.name = name
        self._paths = {
            "vocab_path": vocab_path,
            "spm_model_path": spm_model_path,
            "merges_path": merges_path,
        }
        self.do_lower_case = do_lower_case
        self.special = special

    def has(self, option: str) -> bool:
        return self._paths[option] is not None

    def need(self, option: str) -> str | Path:
        path = self._paths[option]
        if path is None:
            raise UsageError(f"The tokenizer {self.name} needs --{option}.")
        return path

    def vocab(self) -> Vocab:
        """The vocabulary file, or the pieces of the sentencepiece model where that is named."""
        if self.has("spm_model_path"):
            return Vocab.load(spm=self.need("spm_model_path"), special=self.special)
        return Vocab.load(self.need("vocab_path"), special=self.special)


def _make_bert(files: _Files) -> Tokenizer:
    if files.has("spm_model_path"):
        return _make_bert_spm(files)
    from uertool.text.tokenizers.bert import BertTokenizer

    return BertTokenizer(files.vocab(), do_lower_case=files.do_lower_case)


def _make_bert_spm(files: _Files) -> Tokenizer:
    from uertool.text.tokenizers.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer.load(files.need("spm_model_path"), special=files.special)


def _make_xlmroberta(files: _Files) -> Tokenizer:
    from uertool.text.tokenizers.sentencepiece import XlmRobertaTokenizer

    return XlmRobertaTokenizer.load(files.need("spm_model_path"), special=files.special)


def _make_bpe(files: _Files) -> Tokenizer:
    from uertool.text.tokenizers.byte_bpe import BpeTokenizer, read_merges

    vocab = Vocab.load(files.need("vocab_path"), special=files.special)
    return BpeTokenizer(vocab, read_merges(files.need("merges_path")))


TOKENIZERS: Mapping[str, Callable[[_Files], Tokenizer]] = {
    "bert": _make_bert,
    "char": lambda files: CharTokenizer(files.vocab()),
    "space": lambda files: SpaceTokenizer(files.vocab()),
    "bpe": _make_bpe,
    "xlmroberta": _make_xlmroberta,
    "bert-spm": _make_bert_spm,
}


def tokenizer_from_hf_folder(path: str | Path) -> Tokenizer:
    """The tokenizer that a Hugging Face folder describes; see `uertool.text.tokenizers.hf_folder`.

    Raises:
        VocabError: the folder holds no tokenizer that is understood.
    """
    from uertool.text.tokenizers.hf_folder import load

    return load(path)


__all__ = [
    "SPECIAL_TOKENS",
    "TOKENIZERS",
    "CharTokenizer",
    "SpaceTokenizer",
    "Tokenizer",
    "VocabError",
    "make_tokenizer",
    "tokenizer_from_hf_folder",
]
