"""The tokenizer of a Hugging Face folder, as transformers' AutoTokenizer would make it.

tokenizer.json is complete. Without it the kind follows from the files that are there
(vocab.txt, vocab.json with merges.txt, a sentencepiece model) and from tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from uertool.errors import VocabError
from uertool.io.small_files import read_json_object
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.tokenizers.bert import rust_wordpiece
from uertool.text.tokenizers.byte_bpe import read_merges
from uertool.text.tokenizers.huggingface import ROLES, HuggingFaceTokenizer, token_text
from uertool.text.tokenizers.roformer import segment_words
from uertool.text.tokenizers.sentencepiece import (
    LlamaTokenizer,
    SentencePieceTokenizer,
    T5Tokenizer,
    XlmRobertaTokenizer,
)
from uertool.text.tokenizers.tokenizer_json import read_tokenizer_json, rust_errors
from uertool.text.vocab import Vocab, load_sentencepiece, pieces_of, read_vocab_text, split_lines

_SPIECE_NAMES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_T5_SENTINELS = 100
_MOST_SENTINELS = 10_000
# Tokenizer classes that segment texts with jieba first.
_SEGMENTED = ("RoFormer",)
# How Qwen splits texts: as GPT-2, but digits one by one and line ends apart.
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Tokenizer classes that put <s> and </s> around a sequence.
_ROBERTA_LIKE = ("Roberta", "Bart", "Longformer", "MVP", "LED")


def tokenizer_from_hf_folder(path: str | Path) -> Tokenizer:
    """The tokenizer that a Hugging Face folder describes.

    Raises:
        VocabError: there is no folder, no tokenizer file in it, or one that cannot be read.
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


def segments_words(folder: Path) -> bool:
    """Whether the tokenizer of a Hugging Face folder is RoFormer's, which knows words."""
    return _is_like(_settings(folder), _SEGMENTED)


# -- settings -------------------------------------------------------------------------------------


def _settings(folder: Path) -> dict[str, Any]:
    """config.json's model_type, special_tokens_map.json and tokenizer_config.json in one table."""
    table: dict[str, Any] = {}
    for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            found = read_json_object(folder / name, error=VocabError)
            own = found if name != "config.json" else {"model_type": found.get("model_type")}
            table.update(own)
    return table


def _is_like(settings: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether the tokenizer class, or else the model type, starts with one of the names."""
    kind = str(settings.get("tokenizer_class") or settings.get("model_type") or "")
    kind = kind.lower().replace("-", "").replace("_", "")
    return kind.startswith(tuple(name.lower() for name in names))


# -- layouts --------------------------------------------------------------------------------------


def tokenizer_from_json(path: Path, settings_path: Path | None = None) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes.

    Args:
        path: the file.
        settings_path: its tokenizer_config.json, which names the special tokens.

    Raises:
        VocabError: a file cannot be read, or is not a tokenizer.
    """
    found = {} if settings_path is None else read_json_object(settings_path, error=VocabError)
    return _of_json(path, found)


def _of_json(path: Path, settings: Mapping[str, Any]) -> Tokenizer:
    rust, joining = read_tokenizer_json(path)
    if _is_like(settings, _SEGMENTED) and joining == "wordpieces":
        segment_words(rust)  # the library cannot save this step
    return HuggingFaceTokenizer(rust, settings, str(path), joining)


def _from_wordpieces(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """vocab.txt: BERT's tokenizer in Hugging Face's version (words of up to 100 characters)."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    path = folder / "vocab.txt"
    # Lines are not cut at blanks here: transformers takes them whole.
    vocab = Vocab(split_lines(read_vocab_text(path)), source=str(path))
    names = {role: token_text(settings.get(f"{role}_token")) for role in ROLES}
    tokens = {role: names[role] or f"[{role.upper()}]" for role in ROLES}
    accents = settings.get("strip_accents")
    rust = rust_wordpiece(
        vocab.mapping,
        tokens["unk"],
        bool(settings.get("do_lower_case", True)),
        accents=accents if isinstance(accents, bool) else None,
        chinese=bool(settings.get("tokenize_chinese_chars", True)),
    )
    if _is_like(settings, _SEGMENTED):
        segment_words(rust)
    known = [token for token in tokens.values() if token in vocab]
    rust.add_special_tokens([AddedToken(token, special=True) for token in known])
    _add_declared_tokens(rust, settings)
    if tokens["cls"] in vocab and tokens["sep"] in vocab:
        rust.post_processor = TemplateProcessing(
            single=f"{tokens['cls']} $A {tokens['sep']}",
            pair=f"{tokens['cls']} $A {tokens['sep']} $B:1 {tokens['sep']}:1",
            special_tokens=[(t, vocab.id(t)) for t in (tokens["cls"], tokens["sep"])],
        )
    names = {**settings, **_role_settings(tokens)}
    return HuggingFaceTokenizer(rust, names, str(path), "wordpieces")


def _from_byte_bpe(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """vocab.json and merges.txt: the tokenizer of GPT-2, of RoBERTa (<s>, </s>), or of Qwen."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    path = folder / "vocab.json"
    vocab = Vocab.load(path)
    roberta = _is_like(settings, _ROBERTA_LIKE)
    end = "</s>" if roberta else "<|endoftext|>"
    defaults = {"bos": "<s>" if roberta else end, "eos": end, "unk": "<unk>" if roberta else end}
    if roberta:
        defaults.update(cls="<s>", sep="</s>", pad="<pad>", mask="<mask>")
    tokens = {role: token_text(settings.get(f"{role}_token")) for role in (*ROLES, "bos", "eos")}
    tokens = {role: text or defaults.get(role, "") for role, text in tokens.items()}
    merges = read_merges(folder / "merges.txt", as_uer=False)
    with rust_errors(VocabError, f"{folder / 'merges.txt'} does not fit {path}"):
        rust = RustTokenizer(BPE(dict(vocab.mapping), merges))
    blank = bool(settings.get("add_prefix_space", False))
    rust.pre_tokenizer = ByteLevel(add_prefix_space=blank, use_regex=True)
    if _is_like(settings, ("Qwen2", "Qwen3")):
        rust.normalizer = normalizers.NFC()
        rust.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN_WORDS), "isolated"),
                ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    special = [text for text in dict.fromkeys(tokens.values()) if text in vocab]
    rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    _add_declared_tokens(rust, settings)
    if roberta and tokens["cls"] in vocab and tokens["sep"] in vocab:
        rust.post_processor = processors.RobertaProcessing(
            (tokens["sep"], vocab.id(tokens["sep"])),
            (tokens["cls"], vocab.id(tokens["cls"])),
            add_prefix_space=blank,
        )
    names = {**settings, **_role_settings(tokens)}
    return HuggingFaceTokenizer(rust, names, str(path), "bytes")


def _role_settings(tokens: Mapping[str, str]) -> dict[str, str]:
    return {f"{role}_token": token for role, token in tokens.items() if token}


def _add_declared_tokens(rust: Any, settings: Mapping[str, Any]) -> None:
    """The tokens that tokenizer_config.json adds to the vocabulary, in the order of their ids."""
    from tokenizers import AddedToken

    declared = settings.get("added_tokens_decoder")
    if not isinstance(declared, Mapping):
        return
    numbered = {int(key): value for key, value in declared.items() if key.isdecimal()}
    for _, entry in sorted(numbered.items()):
        if not (isinstance(entry, Mapping) and token_text(entry)):
            continue
        flags = {k: bool(entry.get(k, False)) for k in ("single_word", "lstrip", "rstrip")}
        special = bool(entry.get("special", False))
        token = AddedToken(
            token_text(entry),
            normalized=bool(entry.get("normalized", not special)),
            special=special,
            **flags,
        )
        (rust.add_special_tokens if special else rust.add_tokens)([token])


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
        extra = settings.get("extra_ids", _T5_SENTINELS)
        if type(extra) is not int or not 0 <= extra <= _MOST_SENTINELS:
            raise VocabError(f"{folder / 'tokenizer_config.json'} has invalid extra_ids.")
        sentinels = [f"<extra_id_{n}>" for n in reversed(range(extra))]
        pieces += [token for token in sentinels if token not in pieces]
        tokenizer = T5Tokenizer(processor, Vocab(pieces, source=str(path)))
        _surround(tokenizer, (), ("</s>",))
    elif _is_like(settings, ("Llama",)):
        tokenizer = LlamaTokenizer.load(path)
        _surround(
            tokenizer,
            ("<s>",) if settings.get("add_bos_token", True) else (),
            ("</s>",) if settings.get("add_eos_token", False) else (),
        )
    elif _is_like(settings, ("Albert", "XLNet", "BigBird")) or "[CLS]" in set(
        pieces_of(load_sentencepiece(path))
    ):
        tokenizer = SentencePieceTokenizer.load(path)
        _surround(tokenizer, ("[CLS]",), ("[SEP]",))
    else:
        kind = settings.get("tokenizer_class") or settings.get("model_type") or "unknown"
        raise VocabError(
            f"{path} belongs to a tokenizer of the unsupported kind {kind!r}.",
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
    (("tokenizer.json",), lambda folder, given: _of_json(folder / "tokenizer.json", given)),
    (("vocab.txt",), _from_wordpieces),
    (("vocab.json", "merges.txt"), _from_byte_bpe),
    *(((name,), _from_spiece) for name in _SPIECE_NAMES),
)
