"""Special tokens around prompts and texts: what starts, separates and ends them in a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uertool.errors import InputError, UsageError, VocabError
from uertool.io.small_files import read_json_object

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel
    from uertool.text.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of special tokens around texts.

    Attributes:
        before: before a prompt or source.
        after: after a source; nothing follows a prompt that is continued.
        target: the start of a target; empty for a language model.
        stop: ids that end a text.
        forced_first, forced_last: the first and last new token that a Hugging Face model forces.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    target: tuple[int, ...]
    stop: frozenset[int]
    forced_first: int | None = None
    forced_last: int | None = None


def find_special_tokens(loaded: LoadedModel) -> SpecialTokens:
    """The special tokens that a model was trained with.

    UER-py's models start with [CLS] and end with [SEP]; Hugging Face folders define theirs in
    generation_config.json, config.json and the tokenizer's own files.
    """
    tokenizer = loaded.tokenizer
    target_tokenizer = loaded.tgt_tokenizer or tokenizer
    decoder = loaded.config.decoder is not None
    settings = _folder_settings(loaded.reference)
    size = len(target_tokenizer)

    def ids(name: str) -> list[int]:
        value = settings.get(name)
        values = value if isinstance(value, list) else [value]
        # Defaults of another vocabulary (50256 with 21128 Chinese tokens) are left out.
        return [v for v in values if isinstance(v, int) and 0 <= v < size]

    stop = ids("eos_token_id") or [i for i in (target_tokenizer.eos_id,) if i is not None]
    target: tuple[int, ...] = ()
    if decoder:
        start = ids("decoder_start_token_id") or [
            i for i in (target_tokenizer.cls_id, target_tokenizer.bos_id) if i is not None
        ]
        if not start:
            raise VocabError(
                f"{target_tokenizer.vocab.source} has no [CLS] token, and a target starts with it."
            )
        target = (start[0],)
    forced_first, forced_last = ids("forced_bos_token_id"), ids("forced_eos_token_id")
    return SpecialTokens(
        before=tokenizer.prefix_ids,
        after=tokenizer.suffix_ids if decoder else (),
        target=target,
        stop=frozenset(stop),
        forced_first=forced_first[0] if decoder and forced_first else None,
        forced_last=forced_last[0] if decoder and forced_last else None,
    )


def _folder_settings(reference: str | Path) -> Mapping[str, Any]:
    """The generation settings of a Hugging Face folder; empty for other checkpoints."""
    folder = Path(reference)
    found: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = read_json_object(path)
        except InputError:
            continue
        found.update({key: value for key, value in values.items() if value is not None})
    return found if "model_type" in found else {}


def stop_ids(tokenizer: Tokenizer, tokens: Sequence[str]) -> frozenset[int]:
    """The ids of stop tokens by name.

    Raises:
        UsageError: one of them is not in the vocabulary.
    """
    found = {token: tokenizer.vocab.find(token) for token in tokens}
    unknown = [token for token, index in found.items() if index is None]
    if unknown:
        raise UsageError(
            f"`stop_token` {', '.join(map(repr, unknown))}: not in {tokenizer.vocab.source}.",
            "A stop token is one entry of the vocabulary; use `stop_string` for other text.",
        )
    return frozenset(index for index in found.values() if index is not None)


def word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """The ids of forbidden words.

    Raises:
        UsageError: a word has no tokens, or unknown ones.
    """
    encoded = tokenizer.encode_batch(list(words))
    for word, ids in zip(words, encoded, strict=True):
        if not ids or tokenizer.unk_id in ids:
            raise UsageError(
                f"`forbid` {word!r}: the vocabulary {tokenizer.vocab.source} cannot write it.",
                "It will not be generated anyway; leave it out.",
            )
    return encoded
