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
from uertool.tasks.convert.hf_sentencepiece import rust_sentencepiece
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder
from uertool.text.tokenizers.sentencepiece import SentencePieceTokenizer, XlmRobertaTokenizer
from uertool.text.vocab import Vocab

#: Roles of special tokens, as transformers names them.
_ROLES = ("unk", "sep", "pad", "cls", "mask")

#: Names that a sentencepiece model has in the folders of an architecture.
_SPIECE_NAMES: Mapping[str, str] = {"xlm-roberta": "sentencepiece.bpe.model"}

#: Classes that read a sentencepiece model.
_SPIECE_CLASSES: Mapping[str, str] = {
    "xlm-roberta": "XLMRobertaTokenizer",
    "albert": "AlbertTokenizer",
    "t5": "T5Tokenizer",
    "t5-v1_1": "T5Tokenizer",
    "pegasus": "PegasusTokenizer",
}


@dataclass(frozen=True)
class TokenizerSource:
    """Where a folder's tokenizer comes from.

    Attributes:
        vocab_path: a vocabulary, one token a line.
        spm_path: a sentencepiece model.
        folder: a Hugging Face folder whose tokenizer files are copied as they are.
        do_lower_case: whether BERT's tokenizer lower-cases.
    """

    vocab_path: Path | None = None
    spm_path: Path | None = None
    folder: Path | None = None
    do_lower_case: bool = True


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as transformers does, so that files compare well."""
    path.write_text(json_text(content), encoding="utf-8")


def json_text(content: Mapping[str, Any]) -> str:
    """JSON in the format of transformers' files."""
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def write_tokenizer(
    folder: Path, source: TokenizerSource, arch: Architecture, max_length: int
) -> list[str]:
    """Write the tokenizer files of a Hugging Face folder; returns their names.

    Args:
        folder: the output.
        source: the tokenizer; if it is empty, nothing is written.
        arch: decides which class reads a sentencepiece model.
        max_length: the longest text of the model.
    """
    if source.folder is not None:
        return _copied(folder, source.folder)
    if source.spm_path is not None:
        return _sentence_pieces(folder, source.spm_path, arch, max_length)
    if source.vocab_path is not None:
        return _word_pieces(folder, source, max_length)
    return []


def vocab_files(source: TokenizerSource) -> list[tuple[str, bytes]]:
    """The vocabulary that UER-py takes, as file names and contents; empty if there is none."""
    if source.spm_path is not None:
        return [("spiece.model", source.spm_path.read_bytes())]
    if source.vocab_path is not None:
        return [("vocab.txt", source.vocab_path.read_bytes())]
    if source.folder is None:
        return []
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


def _copied(folder: Path, source: Path) -> list[str]:
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in names:
        shutil.copyfile(source / name, folder / name)
    return names


def _word_pieces(folder: Path, source: TokenizerSource, max_length: int) -> list[str]:
    assert source.vocab_path is not None
    vocab = Vocab.load(source.vocab_path)
    # Only the tokens, without what may follow them on a line, so that ids agree.
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab.tokens), "utf-8")
    special = _special(vocab)
    lower = source.do_lower_case
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": lower,
        "do_basic_tokenize": True,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)
    _rust_word_pieces(vocab, lower).save(str(folder / "tokenizer.json"))
    return ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


def _special(vocab: Vocab) -> dict[str, str]:
    """The special tokens under transformers' names."""
    found = {f"{role}_token": getattr(vocab, role) for role in _ROLES}
    return {name: token for name, token in found.items() if token is not None}


def _rust_word_pieces(vocab: Vocab, lower: bool) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    rust = Tokenizer(
        WordPiece(dict(vocab.mapping), unk_token=vocab.unk or "[UNK]", max_input_chars_per_word=200)
    )
    rust.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower
    )
    rust.pre_tokenizer = BertPreTokenizer()
    rust.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    named = (vocab.pad, vocab.unk, vocab.cls, vocab.sep, vocab.mask)
    rust.add_special_tokens([AddedToken(token, special=True) for token in named if token])
    if vocab.cls is not None and vocab.sep is not None:
        rust.post_processor = TemplateProcessing(
            single=f"{vocab.cls}:0 $A:0 {vocab.sep}:0",
            pair=f"{vocab.cls}:0 $A:0 {vocab.sep}:0 $B:1 {vocab.sep}:1",
            special_tokens=[(vocab.cls, vocab.id(vocab.cls)), (vocab.sep, vocab.id(vocab.sep))],
        )
    return rust


def spiece_tokenizer(spm: Path, arch: Architecture) -> SentencePieceTokenizer:
    """A sentencepiece model with the ids that an architecture gives its pieces."""
    kind = XlmRobertaTokenizer if arch.name == "xlm-roberta" else SentencePieceTokenizer
    return kind.load(spm)


def _sentence_pieces(folder: Path, spm: Path, arch: Architecture, max_length: int) -> list[str]:
    name = _SPIECE_NAMES.get(arch.name, "spiece.model")
    shutil.copyfile(spm, folder / name)
    tokenizer = spiece_tokenizer(spm, arch)
    vocab = tokenizer.vocab
    special = _special(vocab)
    settings: dict[str, Any] = {
        # The classes of transformers for such models change ids or letters; this one reads
        # tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    written = [name]
    rust = rust_sentencepiece(tokenizer, spm)
    if rust is None:
        settings["tokenizer_class"] = _SPIECE_CLASSES.get(arch.name, "T5Tokenizer")
    else:
        rust.save(str(folder / "tokenizer.json"))
        written.append("tokenizer.json")
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)
    return [*written, "tokenizer_config.json", "special_tokens_map.json"]
