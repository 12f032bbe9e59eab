"""The tokenizer of a Hugging Face folder, as transformers' AutoTokenizer would make it.

tokenizer.json says everything. Without it the kind follows from the files that are there
(vocab.txt, vocab.json with merges.txt, a sentencepiece model) and from tokenizer_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uertool.errors import InputError, VocabError
from uertool.text import detokenize
from uertool.text.tokenizers.base import Tokenizer, check_characters
from uertool.text.tokenizers.sentencepiece import SentencePieceTokenizer, XlmRobertaTokenizer
from uertool.text.vocab import Vocab, load_sentencepiece, pieces_of, read_vocab_text, split_lines

_ROLES = ("pad", "unk", "cls", "sep", "mask")
_SPIECE_NAMES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_T5_SENTINELS = 100
# What stands around a sequence, by the kind of tokenizer class.
_ROBERTA_LIKE = ("Roberta", "Bart", "Longformer", "MVP", "LED")


def tokenizer_from_hf_folder(path: str | Path) -> Tokenizer:
    """The tokenizer that a Hugging Face folder describes.

    Raises:
        VocabError: there is no folder, no tokenizer file in it, or one that is not understood.
        MissingExtraError: a sentencepiece model without the package.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise VocabError(f"{folder} is not a folder.", "Name the folder that holds config.json.")
    settings = _settings(folder)
    for names, maker in _LAYOUTS:
        if all((folder / name).is_file() for name in names):
            return maker(folder, settings)
    raise VocabError(
        f"{folder} holds no tokenizer.",
        "It needs tokenizer.json, vocab.txt, vocab.json with merges.txt, or "
        f"{', '.join(_SPIECE_NAMES)}; or give `vocab_path`.",
    )


class HuggingFaceTokenizer(Tokenizer):
    """A Rust tokenizer with its own rules.

    Special tokens written in a text are recognised, as transformers does; `special_in_text` set to
    False takes them for ordinary characters.
    """

    name = "huggingface"

    def __init__(self, rust: Any, settings: Mapping[str, Any], source: str) -> None:
        size = rust.get_vocab_size(with_added_tokens=True)
        table: dict[str, int] = rust.get_vocab(with_added_tokens=True)
        tokens = [""] * max(size, 1 + max(table.values(), default=-1))
        for token, index in table.items():
            tokens[index] = token
        special = {
            role: token
            for role in _ROLES
            if (token := _token_text(settings.get(f"{role}_token"))) in table
        }
        super().__init__(Vocab(tokens, source=source, special=special), special_in_text=True)
        self._rust = rust
        self.joining = _joining(json.loads(rust.to_str()))
        self.bos_id = table.get(_token_text(settings.get("bos_token")), self.cls_id)
        self.eos_id = table.get(_token_text(settings.get("eos_token")), self.sep_id)
        self.prefix_ids, self.suffix_ids = _around(rust)

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode(texts, special=False)

    def _encode_batch_with_special(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode(texts, special=True)

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        check_characters(texts)
        self._rust.encode_special_tokens = not special
        try:
            found = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # noqa: BLE001
            # The library raises bare exceptions, for example for an unknown word without [UNK].
            raise InputError(f"{self.vocab.source} cannot tokenize a text: {error}.") from None
        return [encoding.ids for encoding in found]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        if self.joining not in ("wordpieces", "blanks"):
            return None  # pieces carry blanks, and bytes are parts of characters
        self._rust.encode_special_tokens = not self.special_in_text
        return list(self._rust.encode(text, add_special_tokens=False).offsets)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without special tokens around them."""
        return self.tokens(self.encode_batch([text])[0])


def _token_text(value: object) -> str:
    """A token in a config: a string, or an object with its text."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _joining(description: Mapping[str, Any]) -> detokenize.Joining:
    kind = (description.get("model") or {}).get("type")
    if kind == "WordPiece":
        return "wordpieces"
    if kind == "WordLevel":
        return "blanks"
    if kind == "BPE" and "ByteLevel" in json.dumps(description.get("pre_tokenizer")):
        return "bytes"
    return "pieces"


def _around(rust: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a Rust tokenizer puts before and after a text."""
    for probe in ("a", "1", "一", "."):
        try:
            plain = rust.encode(probe, add_special_tokens=False).ids
            full = rust.encode(probe, add_special_tokens=True).ids
        except Exception:  # noqa: BLE001 - the library raises nothing narrower
            continue  # a vocabulary without [UNK] that lacks this character
        for start in range(len(full) - len(plain) + 1):
            if plain and full[start : start + len(plain)] == plain:
                return tuple(full[:start]), tuple(full[start + len(plain) :])
    return (), ()


# -- settings -------------------------------------------------------------------------------------


def _settings(folder: Path) -> dict[str, Any]:
    """config.json's model_type, special_tokens_map.json and tokenizer_config.json in one table."""
    config = _json(folder / "config.json")
    table: dict[str, Any] = {"model_type": config.get("model_type")}
    table.update(_json(folder / "special_tokens_map.json"))
    table.update(_json(folder / "tokenizer_config.json"))
    return table


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise VocabError(f"{path} is not JSON: {error}.") from None
    if not isinstance(table, dict):
        raise VocabError(f"{path} is JSON, but no object.")
    return table


def _is_like(settings: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether the tokenizer class, or else the model type, starts with one of the names."""
    kind = str(settings.get("tokenizer_class") or settings.get("model_type") or "")
    kind = kind.lower().replace("-", "").replace("_", "")
    return kind.startswith(tuple(name.lower() for name in names))


# -- layouts --------------------------------------------------------------------------------------


def _from_tokenizer_json(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer as RustTokenizer

    path = folder / "tokenizer.json"
    try:
        rust = RustTokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise VocabError(f"{path} is not a tokenizer that can be read: {error}.") from None
    rust.no_padding()
    rust.no_truncation()
    return HuggingFaceTokenizer(rust, settings, str(path))


def _from_wordpieces(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """vocab.txt: BERT's tokenizer in Hugging Face's version (words of up to 100 characters)."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    path = folder / "vocab.txt"
    # Lines are not cut at blanks here: transformers takes them whole.
    vocab = Vocab(split_lines(read_vocab_text(path)), source=str(path))
    lower = bool(settings.get("do_lower_case", True))
    names = {role: _token_text(settings.get(f"{role}_token")) for role in _ROLES}
    tokens = {role: names[role] or f"[{role.upper()}]" for role in _ROLES}
    rust = RustTokenizer(WordPiece(dict(vocab.mapping), unk_token=tokens["unk"]))
    rust.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
        lowercase=lower,
    )
    rust.pre_tokenizer = BertPreTokenizer()
    known = [token for token in tokens.values() if token in vocab]
    rust.add_special_tokens([AddedToken(token, special=True) for token in known])
    _add_declared_tokens(rust, settings)
    if tokens["cls"] in vocab and tokens["sep"] in vocab:
        rust.post_processor = TemplateProcessing(
            single=f"{tokens['cls']} $A {tokens['sep']}",
            pair=f"{tokens['cls']} $A {tokens['sep']} $B:1 {tokens['sep']}:1",
            special_tokens=[(t, vocab.id(t)) for t in (tokens["cls"], tokens["sep"])],
        )
    return HuggingFaceTokenizer(rust, {**settings, **_role_settings(tokens)}, str(path))


def _from_byte_bpe(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """vocab.json and merges.txt: GPT-2's tokenizer, or RoBERTa's with <s> and </s> around."""
    from tokenizers import AddedToken, processors
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    from uertool.text.tokenizers.byte_bpe import read_merges

    path = folder / "vocab.json"
    vocab = Vocab.load(path)
    roberta = _is_like(settings, _ROBERTA_LIKE)
    end = "</s>" if roberta else "<|endoftext|>"
    defaults = {"bos": "<s>" if roberta else end, "eos": end, "unk": "<unk>" if roberta else end}
    if roberta:
        defaults.update(cls="<s>", sep="</s>", pad="<pad>", mask="<mask>")
    tokens = {role: _token_text(settings.get(f"{role}_token")) for role in (*_ROLES, "bos", "eos")}
    tokens = {role: text or defaults.get(role, "") for role, text in tokens.items()}
    merges = read_merges(folder / "merges.txt", as_uer=False)
    try:
        rust = RustTokenizer(BPE(dict(vocab.mapping), merges))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise VocabError(f"{folder / 'merges.txt'} does not fit {path}: {error}.") from None
    blank = bool(settings.get("add_prefix_space", False))
    rust.pre_tokenizer = ByteLevel(add_prefix_space=blank, use_regex=True)
    special = [text for text in dict.fromkeys(tokens.values()) if text in vocab]
    rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    _add_declared_tokens(rust, settings)
    if roberta and tokens["cls"] in vocab and tokens["sep"] in vocab:
        rust.post_processor = processors.RobertaProcessing(
            (tokens["sep"], vocab.id(tokens["sep"])),
            (tokens["cls"], vocab.id(tokens["cls"])),
            add_prefix_space=blank,
        )
    return HuggingFaceTokenizer(rust, {**settings, **_role_settings(tokens)}, str(path))


def _role_settings(tokens: Mapping[str, str]) -> dict[str, str]:
    return {f"{role}_token": token for role, token in tokens.items() if token}


def _add_declared_tokens(rust: Any, settings: Mapping[str, Any]) -> None:
    """The tokens that tokenizer_config.json lists beside the vocabulary, in the order of ids."""
    from tokenizers import AddedToken

    declared = settings.get("added_tokens_decoder")
    if not isinstance(declared, Mapping):
        return
    for _, entry in sorted(declared.items(), key=lambda item: int(item[0])):
        if not (isinstance(entry, Mapping) and _token_text(entry)):
            continue
        flags = {k: bool(entry.get(k, False)) for k in ("single_word", "lstrip", "rstrip")}
        special = bool(entry.get("special", False))
        token = AddedToken(
            _token_text(entry),
            normalized=bool(entry.get("normalized", not special)),
            special=special,
            **flags,
        )
        (rust.add_special_tokens if special else rust.add_tokens)([token])


class _T5Tokenizer(SentencePieceTokenizer):
    """A sentencepiece model with sentinels behind it, highest number first, as T5 has them."""

    name = "t5"

    def _unknown_id(self) -> int | None:
        return int(self._processor.unk_id())


def _from_spiece(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """A sentencepiece model: XLM-R's order of ids, T5's sentinels, or the model's own ids."""
    path = next(folder / name for name in _SPIECE_NAMES if (folder / name).is_file())
    tokenizer: SentencePieceTokenizer
    if _is_like(settings, ("XLMRoberta", "Camembert")):
        tokenizer = XlmRobertaTokenizer.load(path)
        tokenizer.unk_id = tokenizer.vocab.find("<unk>")
        _surround(tokenizer, ("<s>",), ("</s>",))
    elif _is_like(settings, ("T5", "MT5", "UMT5")):
        processor = load_sentencepiece(path)
        pieces = pieces_of(processor)
        extra = int(settings.get("extra_ids", _T5_SENTINELS))
        sentinels = [f"<extra_id_{n}>" for n in reversed(range(extra))]
        pieces += [token for token in sentinels if token not in pieces]
        tokenizer = _T5Tokenizer(processor, Vocab(pieces, source=str(path)))
        _surround(tokenizer, (), ("</s>",))
    elif _is_like(settings, ("Albert", "XLNet", "BigBird")) or "[CLS]" in set(
        pieces_of(load_sentencepiece(path))
    ):
        tokenizer = SentencePieceTokenizer.load(path)
        _surround(tokenizer, ("[CLS]",), ("[SEP]",))
    else:
        kind = settings.get("tokenizer_class") or settings.get("model_type") or "unknown"
        raise VocabError(
            f"{path} belongs to a tokenizer of the kind {kind!r}, whose ids are not known.",
            "Add its tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained(folder).",
        )
    tokenizer.special_in_text = True
    return tokenizer


def _surround(tokenizer: Tokenizer, before: Iterable[str], after: Iterable[str]) -> None:
    vocab = tokenizer.vocab
    tokenizer.prefix_ids = tuple(vocab.id(token) for token in before)
    tokenizer.suffix_ids = tuple(vocab.id(token) for token in after)
    if tokenizer.suffix_ids:
        tokenizer.eos_id = tokenizer.suffix_ids[-1]


_LAYOUTS: tuple[tuple[tuple[str, ...], Callable[[Path, Mapping[str, Any]], Tokenizer]], ...] = (
    (("tokenizer.json",), _from_tokenizer_json),
    (("vocab.txt",), _from_wordpieces),
    (("vocab.json", "merges.txt"), _from_byte_bpe),
    *(((name,), _from_spiece) for name in _SPIECE_NAMES),
)
