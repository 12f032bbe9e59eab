"""RoFormer's tokenizer: words of jieba that are in the vocabulary stay whole."""

from __future__ import annotations

from typing import Any

#: The class of transformers that reads it.
CLASS = "RoFormerTokenizer"


class _Words:
    """A step of a Rust tokenizer that cuts texts into words, as RoFormerTokenizer does.

    A word that the vocabulary does not have is cut at Chinese characters and blanks.
    """

    def __init__(self, vocab: dict[str, int]) -> None:
        import rjieba
        from tokenizers.normalizers import BertNormalizer

        self.vocab = vocab
        self.words = rjieba.tokenize
        self.spaced = BertNormalizer(
            clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )

    def pre_tokenize(self, text: Any) -> None:
        """Called by the library with a text that has been normalized."""
        text.split(self._split)

    def _split(self, _: int, text: Any) -> list[Any]:
        parts = []
        for word, start, end in self.words(str(text), hmm=False):
            if word in self.vocab:
                parts.append(text[start:end])
                continue
            # The offsets of the library's own tokenizer, blanks inside of words included.
            for piece in self.spaced.normalize_str(word).split():
                parts.append(text[start : start + len(piece)])
                start += len(piece)
        return parts


def segment_words(rust: Any) -> None:
    """Make a Rust tokenizer of word pieces segment texts with jieba first."""
    from tokenizers.pre_tokenizers import PreTokenizer

    rust.normalizer.handle_chinese_chars = False
    rust.pre_tokenizer = PreTokenizer.custom(_Words(rust.get_vocab()))


def without_words(rust: Any) -> str:
    """tokenizer.json of such a tokenizer, without the step that the library cannot write."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    rust.pre_tokenizer = BertPreTokenizer()
    text: str = rust.to_str(pretty=True)
    segment_words(rust)
    return text
