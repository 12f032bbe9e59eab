"""The tokenizer files of a Hugging Face folder, and the vocabulary next to other outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uertool.checkpoints.architectures.base import Architecture
from uertool.checkpoints.model_folder import SPIECE_FILES, TOKENIZER_FILES
from uertool.io.small_files import read_json_object
from uertool.loading.tokenizers import settings_of
from uertool.tasks.convert.hf_sentencepiece import add_special_tokens, rust_sentencepiece
from uertool.text.tokenizers.bert import LONGEST_WORD, rust_wordpiece
from uertool.text.tokenizers.hf_folder import segments_words, tokenizer_from_hf_folder
from uertool.text.tokenizers.huggingface import HuggingFaceTokenizer
from uertool.text.tokenizers.roformer import CLASS
from uertool.text.tokenizers.sentencepiece import SentencePieceTokenizer, XlmRobertaTokenizer
from uertool.text.tokenizers.tokenizer_json import splits_in_its_own_way
from uertool.text.vocab import SPECIAL_TOKENS, Vocab


@dataclass(frozen=True)
class TokenizerSource:
    """Where a folder's tokenizer comes from.

    Attributes:
        vocab_path: a vocabulary, one token a line, or vocab.json of a byte-level BPE.
        merges_path: its merges, for a byte-level BPE.
        spm_path: a sentencepiece model.
        json_path: a tokenizer.json, with its tokenizer_config.json next to it.
        folder: a Hugging Face folder whose tokenizer files are copied as they are.
        do_lower_case: whether BERT's tokenizer lower-cases.
    """

    vocab_path: Path | None = None
    merges_path: Path | None = None
    spm_path: Path | None = None
    json_path: Path | None = None
    folder: Path | None = None
    do_lower_case: bool = True


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as transformers does, so that files compare well."""
    path.write_text(json_text(content), encoding="utf-8")


def json_text(content: Mapping[str, Any] | list[Any]) -> str:
    """JSON in the format of transformers' files."""
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def write_tokenizer(
    folder: Path, source: TokenizerSource, arch: Architecture, max_length: int
) -> bool:
    """Write the tokenizer files of a Hugging Face folder; False if the source has none.

    Args:
        folder: the output.
        source: the tokenizer.
        arch: decides which class reads a sentencepiece model.
        max_length: the longest text of the model.
    """
    if source.folder is not None:
        names = [name for name in TOKENIZER_FILES if (source.folder / name).is_file()]
        for name in names:
            shutil.copyfile(source.folder / name, folder / name)
        return bool(names)
    if source.json_path is not None:
        for name, content in _description(source.json_path):
            (folder / name).write_bytes(content)
    elif source.spm_path is not None:
        _write_pieces(folder, source.spm_path, arch, max_length)
    elif source.vocab_path is not None and source.merges_path is not None:
        shutil.copyfile(source.vocab_path, folder / "vocab.json")
        shutil.copyfile(source.merges_path, folder / "merges.txt")
        kind = "RobertaTokenizer" if arch.from_fairseq else "GPT2Tokenizer"
        settings = {"tokenizer_class": kind, "model_max_length": max_length}
        write_json(folder / "tokenizer_config.json", settings)
    elif source.vocab_path is not None:
        _write_words(folder, Vocab.load(source.vocab_path), source.do_lower_case, max_length)
    return any((source.json_path, source.spm_path, source.vocab_path))


def uer_settings(source: TokenizerSource, arch: Architecture | None) -> dict[str, str]:
    """UER-py's settings of a tokenizer, `tokenizer` and `do_lower_case`; empty without one."""
    names = [name for name, _ in vocab_files(source)]
    if not names or "tokenizer.json" in names:
        return {}
    lower = source.do_lower_case
    if source.folder is not None:
        path = source.folder / "tokenizer_config.json"
        lower = not path.is_file() or read_json_object(path).get("do_lower_case") is not False
    settings = {"do_lower_case": str(lower).lower()}
    if "vocab.json" in names:
        settings["tokenizer"] = "bpe"
    elif "spiece.model" in names:
        is_xlmr = arch is not None and arch.from_fairseq
        settings["tokenizer"] = "xlmroberta" if is_xlmr else "bert"
    return settings


def write_vocab(path: Path, vocab: Vocab) -> None:
    """Write a vocabulary, only the tokens without what may follow them, so that ids agree."""
    text = "".join(f"{token}\n" for token in vocab.tokens)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_tokenizer_settings(folder: Path, vocab: Vocab, max_length: int, **settings: Any) -> None:
    """Write tokenizer_config.json and special_tokens_map.json.

    Args:
        folder: the output.
        vocab: its special tokens are named.
        max_length: the longest text of the model.
        settings: of the tokenizer, at least `tokenizer_class`.
    """
    special = {f"{role}_token": getattr(vocab, role) for role in SPECIAL_TOKENS}
    special = {name: token for name, token in special.items() if token is not None}
    common = {"model_max_length": max_length, "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", {**settings, **common, **special})
    write_json(folder / "special_tokens_map.json", special)


def vocab_files(source: TokenizerSource) -> list[tuple[str, bytes]]:
    """The vocabulary that UER-py takes, as file names and contents; empty if there is none.

    Where UER-py has no tokenizer that splits texts alike, it is tokenizer.json, for uertool.
    """
    if source.json_path is not None:
        return _description(source.json_path)
    if source.spm_path is not None:
        return [("spiece.model", source.spm_path.read_bytes())]
    if source.vocab_path is not None:
        if source.merges_path is None:
            return [("vocab.txt", source.vocab_path.read_bytes())]
        pair = (("vocab.json", source.vocab_path), ("merges.txt", source.merges_path))
        return [(name, path.read_bytes()) for name, path in pair]
    if source.folder is None:
        return []
    if segments_words(source.folder):
        return _segmented(source.folder)
    description = source.folder / "tokenizer.json"
    if not any((source.folder / name).is_file() for name in SPIECE_FILES) and splits_in_its_own_way(
        description
    ):
        return _description(description)
    for name in ("vocab.txt", *SPIECE_FILES, "vocab.json", "merges.txt"):
        if (source.folder / name).is_file():
            kept = "spiece.model" if name in SPIECE_FILES else name
            found = [(kept, (source.folder / name).read_bytes())]
            if name == "vocab.json" and (source.folder / "merges.txt").is_file():
                found.append(("merges.txt", (source.folder / "merges.txt").read_bytes()))
            return found
    if not (source.folder / "tokenizer.json").is_file():
        return []
    tokens = tokenizer_from_hf_folder(source.folder).vocab.tokens
    return [("vocab.txt", "".join(f"{token}\n" for token in tokens).encode())]


def _description(path: Path) -> list[tuple[str, bytes]]:
    """tokenizer.json and, where there is one, its tokenizer_config.json."""
    settings = settings_of(path)
    found = [("tokenizer.json", path.read_bytes())]
    if settings is not None:
        found.append(("tokenizer_config.json", settings.read_bytes()))
    return found


def _segmented(folder: Path) -> list[tuple[str, bytes]]:
    """RoFormer's tokenizer, whose class segments texts: neither file says so without the other."""
    tokenizer = tokenizer_from_hf_folder(folder)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    own = folder / "tokenizer_config.json"
    settings = {"tokenizer_class": CLASS, **(read_json_object(own) if own.is_file() else {})}
    return [
        ("tokenizer.json", tokenizer.segmented_json().encode()),
        ("tokenizer_config.json", json_text(settings).encode()),
    ]


def _write_words(folder: Path, vocab: Vocab, lower: bool, max_length: int) -> None:
    write_vocab(folder / "vocab.txt", vocab)
    write_tokenizer_settings(
        folder,
        vocab,
        max_length,
        tokenizer_class="BertTokenizer",
        do_lower_case=lower,
        do_basic_tokenize=True,
        tokenize_chinese_chars=True,
        strip_accents=None,
    )
    from tokenizers import decoders

    unk = vocab.unk or "[UNK]"
    rust = rust_wordpiece(vocab.mapping, unk, lower, accents=None, longest=LONGEST_WORD)
    rust.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    add_special_tokens(rust, vocab)
    rust.save(str(folder / "tokenizer.json"))


def spiece_tokenizer(spm: Path, arch: Architecture) -> SentencePieceTokenizer:
    """A sentencepiece model with the ids that an architecture gives its pieces."""
    kind = XlmRobertaTokenizer if arch.from_fairseq else SentencePieceTokenizer
    return kind.load(spm)


def _write_pieces(folder: Path, spm: Path, arch: Architecture, max_length: int) -> None:
    own = arch.spiece
    shutil.copyfile(spm, folder / own.name)
    if own.settings:
        settings = {**own.settings, "tokenizer_class": own.kind, "model_max_length": max_length}
        write_json(folder / "tokenizer_config.json", settings)
        return
    kind = own.kind
    tokenizer = spiece_tokenizer(spm, arch)
    rust = rust_sentencepiece(tokenizer, spm)
    if rust is not None:
        # The classes of transformers for such models change ids or letters; this one reads
        # tokenizer.json as it is.
        kind = "PreTrainedTokenizerFast"
        rust.save(str(folder / "tokenizer.json"))
    write_tokenizer_settings(folder, tokenizer.vocab, max_length, tokenizer_class=kind)
