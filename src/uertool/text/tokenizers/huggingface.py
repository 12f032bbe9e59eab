"""A tokenizer of Hugging Face's Rust library with its own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from uertool.errors import InputError, VocabError
from uertool.text import detokenize
from uertool.text.tokenizers.base import Tokenizer, check_characters
from uertool.text.tokenizers.roformer import without_words
from uertool.text.tokenizers.tokenizer_json import rust_errors
from uertool.text.vocab import Vocab

#: The special tokens that configurations name, as <role>_token.
ROLES = ("pad", "unk", "cls", "sep", "mask")

#: More special tokens than any tokenizer puts around a text.
_MOST_AROUND = 16


def token_text(value: object) -> str:
    """A token in a configuration: a string, or an object with its text."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


class HuggingFaceTokenizer(Tokenizer):
    """A Rust tokenizer with its own rules.

    Special tokens written in a text are recognised, as transformers does; `special_in_text` set to
    False takes them for ordinary characters.
    """

    name = "huggingface"
    ends_texts = True

    def __init__(
        self,
        rust: Any,
        settings: Mapping[str, Any],
        source: str,
        joining: detokenize.Joining,
    ) -> None:
        size = rust.get_vocab_size(with_added_tokens=True)
        table: dict[str, int] = rust.get_vocab(with_added_tokens=True)
        tokens = [""] * max(size, 1 + max(table.values(), default=-1))
        for token, index in table.items():
            tokens[index] = token
        special = {
            role: token
            for role in ROLES
            if (token := token_text(settings.get(f"{role}_token"))) in table
        }
        added = rust.get_added_tokens_decoder().values()
        others = [token.content for token in added if token.special]
        vocab = Vocab(tokens, source=source, special=special, more_special=others)
        super().__init__(vocab, special_in_text=True)
        self._rust = rust
        self.joining = joining
        self.bos_id = table.get(token_text(settings.get("bos_token")), self.cls_id)
        self.eos_id = table.get(token_text(settings.get("eos_token")), self.sep_id)
        self.prefix_ids, self.suffix_ids = self._around()

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode(texts, special=False)

    def _encode_batch_with_special(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode(texts, special=True)

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        check_characters(texts)
        self._rust.encode_special_tokens = not special
        with rust_errors(InputError, f"{self.vocab.source} cannot tokenize a text"):
            found = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        if self.joining not in ("wordpieces", "blanks"):
            return None  # pieces carry blanks, and bytes are parts of characters
        self._rust.encode_special_tokens = not self.special_in_text
        with rust_errors(InputError, f"{self.vocab.source} cannot tokenize a text"):
            return list(self._rust.encode(text, add_special_tokens=False).offsets)

    def places(self, text: str) -> list[tuple[int, int]] | None:
        return self.spans(text)  # the library finds special tokens itself

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without special tokens around them."""
        return self.tokens(self.encode_batch([text])[0])

    def segmented_json(self) -> str:
        """tokenizer.json of a tokenizer that segments words; see `without_words`."""
        return without_words(self._rust)

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the tokenizer puts before and after a text."""
        for probe in ("a", "1", "一", "."):
            try:
                with rust_errors(VocabError, f"{self.vocab.source} is not a valid tokenizer"):
                    plain = self._rust.encode(probe, add_special_tokens=False).ids
                    full = self._rust.encode(probe, add_special_tokens=True).ids
            except VocabError:
                continue  # a vocabulary without [UNK] that lacks this character
            if len(full) - len(plain) > _MOST_AROUND or max(full, default=0) >= len(self.vocab):
                raise VocabError(
                    f"{self.vocab.source} puts tokens around a text that its vocabulary of "
                    f"{len(self.vocab)} tokens does not have."
                )
            for start in range(len(full) - len(plain) + 1):
                if plain and full[start : start + len(plain)] == plain:
                    return tuple(full[:start]), tuple(full[start + len(plain) :])
        return (), ()
