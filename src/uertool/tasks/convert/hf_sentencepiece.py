"""tokenizer.json of a sentencepiece model, with the ids of uertool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from uertool.text.tokenizers.sentencepiece import UNDERLINE, SentencePieceTokenizer
from uertool.text.vocab import Vocab

# Fields of sentencepiece's ModelProto, by their numbers in sentencepiece_model.proto.
_TRAINER, _NORMALIZER = 2, 3
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA = 2, 3, 4
_UNIGRAM = 1


def rust_sentencepiece(tokenizer: SentencePieceTokenizer, spm: Path) -> Any | None:
    """A Rust tokenizer with the pieces and ids of `tokenizer`; None for models other than unigram.

    Args:
        tokenizer: the model with its ids.
        spm: its file.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import Unigram

    proto = dict(_fields(spm.read_bytes()))
    trainer = dict(_fields(_bytes(proto.get(_TRAINER))))
    rules = dict(_fields(_bytes(proto.get(_NORMALIZER))))
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        return None
    rust = Tokenizer(
        Unigram(
            _scored(tokenizer),
            unk_id=tokenizer.unk_id,
            byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        )
    )
    steps: list[Any] = []
    charsmap = _bytes(rules.get(_CHARSMAP))
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    if rules.get(_REMOVE_EXTRA, 1):
        steps.append(normalizers.Strip(left=True, right=True))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    rust.normalizer = normalizers.Sequence(steps)
    prefix = "always" if rules.get(_DUMMY_PREFIX, 1) else "never"
    rust.pre_tokenizer = pre_tokenizers.Metaspace(UNDERLINE, prepend_scheme=prefix)
    rust.decoder = decoders.Metaspace(UNDERLINE, prepend_scheme=prefix)
    vocab = tokenizer.vocab
    add_special_tokens(rust, vocab, [vocab.token(index) for index in vocab.sentinels])
    return rust


def add_special_tokens(rust: Any, vocab: Vocab, more: Sequence[str] = ()) -> None:
    """Give a Rust tokenizer the special tokens of a vocabulary, [CLS] and [SEP] around texts."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    cls, sep = vocab.cls, vocab.sep
    named = [token for token in (vocab.pad, vocab.unk, cls, sep, vocab.mask) if token]
    rust.add_special_tokens([AddedToken(token, special=True) for token in [*named, *more]])
    if cls is not None and sep is not None:
        rust.post_processor = TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, vocab.id(cls)), (sep, vocab.id(sep))],
        )


def _scored(tokenizer: SentencePieceTokenizer) -> list[tuple[str, float]]:
    """Every piece with its score, in the order of the ids."""
    import sentencepiece

    proto: Any = tokenizer.__getstate__()["_processor"]
    processor: Any = sentencepiece.SentencePieceProcessor(model_proto=proto)
    known = {
        processor.id_to_piece(index): float(processor.get_score(index))
        for index in range(processor.get_piece_size())
    }
    return [(token, known.get(token, 0.0)) for token in tokenizer.vocab.tokens]


def _bytes(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer message, repeated ones included."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
        elif kind == 2:
            size, place = _varint(message, place)
            yield number, message[place : place + size]
            place += size
        else:
            place += {1: 8, 5: 4}.get(kind, len(message))


def _varint(message: Sequence[int], place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        shift += 7
        place += 1
        if byte < 0x80:
            break
    return value, place
