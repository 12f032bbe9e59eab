"""Tokenizers on a sentencepiece model, with the ids that UER-py gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uertool.text.tokenizers.base import Tokenizer, check_characters
from uertool.text.vocab import Vocab, load_sentencepiece, pieces_of

# Where a word starts in sentencepiece.
UNDERLINE = "\u2581"


class SentencePieceTokenizer(Tokenizer):
    """The pieces of a sentencepiece model with the model's own ids.

    Args:
        processor: the loaded model.
        vocab: tokens in the order of the ids.
    """

    name = "bert-spm"
    joining = "pieces"

    def __init__(self, processor: Any, vocab: Vocab) -> None:
        super().__init__(vocab)
        self._processor = processor
        #: Whether characters without a piece become bytes.
        self.has_bytes = "<0x00>" in vocab
        self.unk_id = self._unknown_id()

    @classmethod
    def load(cls, path: str | Path) -> SentencePieceTokenizer:
        """Raises VocabError for a file that is no model, MissingExtraError without the package."""
        processor = load_sentencepiece(path)
        return cls(processor, Vocab(cls.order(pieces_of(processor)), source=str(path)))

    @staticmethod
    def order(pieces: Iterable[str]) -> list[str]:
        """The vocabulary made of the model's pieces."""
        return list(pieces)

    def _unknown_id(self) -> int | None:
        return int(self._processor.unk_id())

    def decode(self, ids: Iterable[int], *, raw: bool = False) -> str:
        """As Tokenizer.decode; of a model with bytes, raw text is sentencepiece's own.

        TencentPretrain prints that.
        """
        if raw and self.has_bytes:
            return str(self._processor.decode(self.tokens(ids)))
        return super().decode(ids, raw=raw)

    def _tokenize(self, text: str) -> list[str]:
        return self._split([text])[0]

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids_of(row) for row in self._split(texts)]

    def _split(self, texts: Sequence[str]) -> list[list[str]]:
        check_characters(texts)
        rows: list[list[str]] = self._processor.encode(list(texts), out_type=str)
        for row in rows:
            if any(piece[-1:] == "," and len(piece) > 1 for piece in row):
                row[:] = self._split_numbers(row)
        return rows

    def _split_numbers(self, row: list[str]) -> list[str]:
        """A piece that ends in a digit and a comma is cut before the comma, as XLNet's code did.

        What is before it is encoded again without its word mark; the mark that this puts in front
        stays, as it does in UER-py under Python 3.
        """
        pieces: list[str] = []
        for piece in row:
            if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
                pieces += self._processor.encode(piece[:-1].replace(UNDERLINE, ""), out_type=str)
                pieces.append(",")
            else:
                pieces.append(piece)
        return pieces

    def _encode_batch_with_special(self, texts: Sequence[str]) -> list[list[int]]:
        # A part that follows a special token without a blank does not start a word.
        encoded: list[list[int]] = []
        mapping = self.vocab.mapping
        for text in texts:
            ids: list[int] = []
            for place, (part, special) in enumerate(self._parts(text)):
                if special:
                    ids.append(mapping[part])
                elif place == 0 or part[:1].isspace():
                    ids += self._encode_batch([part])[0]
                else:
                    ids += self._continued(part)
            encoded.append(ids)
        return encoded

    def encode_parts(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        first = iter(self._encode_batch([row[0] for row in rows if row]))
        return [
            [
                next(first)
                if place == 0
                else self._encode_batch([part])[0]
                if part[:1].isspace()
                else self._continued(part)
                for place, part in enumerate(row)
            ]
            for row in rows
        ]

    def _continued(self, part: str) -> list[int]:
        pieces = self._split([part])[0]
        if pieces and pieces[0].startswith(UNDERLINE):
            rest = pieces[0].removeprefix(UNDERLINE)
            if not rest:
                pieces = pieces[1:]
            elif rest in self.vocab:
                pieces[0] = rest
        return self._ids_of(pieces)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_processor": self._processor.serialized_model_proto()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import sentencepiece

        self.__dict__.update(state)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=state["_processor"])


class T5Tokenizer(SentencePieceTokenizer):
    """The pieces of a model with sentinels after them, highest number first, as T5 has them."""

    name = "t5"


class LlamaTokenizer(SentencePieceTokenizer):
    """The pieces of a model as transformers' LlamaTokenizer gives them.

    A text that begins with a blank gets no further one, and numbers stay whole.
    """

    name = "llama"

    def _split(self, texts: Sequence[str]) -> list[list[str]]:
        check_characters(texts)
        texts = [text.removeprefix(" ") for text in texts]
        return list(self._processor.encode(texts, out_type=str))


class XlmRobertaTokenizer(SentencePieceTokenizer):
    """The pieces in fairseq's order: <s> <pad> </s> <unk>, all other pieces, <mask>.

    An unknown piece is [UNK] where the model has that piece, else <unk>.
    """

    name = "xlmroberta"

    _FIRST = ("<s>", "<pad>", "</s>", "<unk>")

    @staticmethod
    def order(pieces: Iterable[str]) -> list[str]:
        """Fairseq's four first, then the model's other pieces, then <mask>."""
        first = XlmRobertaTokenizer._FIRST
        return [*first, *(piece for piece in pieces if piece not in first), "<mask>"]

    def _unknown_id(self) -> int | None:
        return self.vocab.unk_id
