"""What stands beside the weights in a Hugging Face folder: configuration and tokenizer files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uertool.checkpoints.architectures.base import Architecture
from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.tasks.convert.hf_sentencepiece import rust_sentencepiece
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder
from uertool.text.tokenizers.sentencepiece import SentencePieceTokenizer, XlmRobertaTokenizer
from uertool.text.vocab import Vocab

#: Tokens of a role, in the words of transformers.
_ROLES = ("unk", "sep", "pad", "cls", "mask")

#: Files of a Hugging Face folder that belong to its tokenizer.
TOKENIZER_FILES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.jinja",
)

#: Names under which folders keep a sentencepiece model.
_SPIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

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


@dataclass(frozen=True)
class SpecialIds:
    """Ids of special tokens, None where there is none."""

    pad: int | None = None
    bos: int | None = None
    eos: int | None = None
    mask: int | None = None


def special_ids(arch: Architecture, tokenizer: TokenizerSource) -> SpecialIds:
    """The ids that config.json names; UER-py's texts begin with [CLS] and end with [SEP]."""
    if tokenizer.spm_path is not None:
        vocab = spiece_tokenizer(tokenizer.spm_path, arch).vocab
    elif tokenizer.vocab_path is not None:
        vocab = Vocab.load(tokenizer.vocab_path)
    else:
        return SpecialIds()
    return SpecialIds(vocab.pad_id, vocab.cls_id, vocab.sep_id, vocab.mask_id)


def config_json(
    config: ModelConfig,
    arch: Architecture,
    hf_class: str,
    *,
    tied: bool,
    ids: SpecialIds,
    labels: Sequence[str] = (),
    dtype: str = "float32",
    original: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """config.json for the weights of a conversion.

    Args:
        config: the model as UER-py has it.
        arch: what it becomes.
        hf_class: Hugging Face's class, for `architectures`.
        tied: whether the output layer holds the numbers of the word table.
        ids: special tokens.
        labels: names of the labels of a classifier.
        dtype: of the weights, as transformers spells it.
        original: config.json that the model once had; what UER-py has no word for is taken from it.
    """
    before = dict(original or {})
    made: dict[str, Any] = {**before, "architectures": [hf_class], **arch.config_to_hf(config)}
    for name in _KEPT:
        if name in before:
            made[name] = before[name]
    if arch.name not in ("t5", "t5-v1_1"):  # there the word means another thing
        made["tie_word_embeddings"] = tied
    made["dtype"] = dtype
    if config.decoder is None and "num_decoder_layers" in before:
        made["num_decoder_layers"] = before["num_decoder_layers"]  # of a decoder that is not there
    for name, value in _ids_in_config(arch, config, ids).items():
        if value is not None or (name not in made and not before):
            made[name] = value
    if made.get("pad_token_id") is None and not before:
        made["pad_token_id"] = 0  # UER-py's is 0 always
    if "ForSequenceClassification" in hf_class or "ForTokenClassification" in hf_class:
        names = list(labels) or _labels_of(before, config.labels_num)
        if len(names) != config.labels_num:
            raise UsageError(
                f"{len(names)} labels were named, but the classifier has {config.labels_num}."
            )
        made["id2label"] = {str(number): name for number, name in enumerate(names)}
        made["label2id"] = {name: number for number, name in enumerate(names)}
    return made


#: Settings that do not change what is computed, or that only the original tells.
_KEPT = (
    "model_type",
    "type_vocab_size",
    "n_inner",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "dropout",
    "dropout_rate",
    "init_std",
    "initializer_range",
    "use_cache",
)

#: How the classes of a model type begin, where an architecture reads several.
_CLASS_PREFIXES: Mapping[str, str] = {
    "roberta": "Roberta",
    "camembert": "Camembert",
    "mt5": "MT5",
}


def written_class(
    arch: Architecture, heads: Sequence[str], original: Mapping[str, Any] | None
) -> str:
    """Hugging Face's class for some heads, of the model type that the model once had."""
    hf_class = arch.hf_class(heads)
    model_type = (original or {}).get("model_type", arch.model_types[0])
    usual = arch.classes[""].removesuffix("Model").removesuffix("Encoder")
    return _CLASS_PREFIXES.get(model_type, usual) + hf_class.removeprefix(usual)


def _labels_of(original: Mapping[str, Any], count: int) -> list[str]:
    """Names of labels that config.json once gave, or transformers' own."""
    known = original.get("id2label")
    if isinstance(known, dict) and len(known) == count:
        return [str(known.get(str(number), f"LABEL_{number}")) for number in range(count)]
    return [f"LABEL_{number}" for number in range(count)]


def _ids_in_config(arch: Architecture, config: ModelConfig, ids: SpecialIds) -> dict[str, Any]:
    if "pad_token_id" in arch.config_to_hf(config):
        return {}  # transformers counts positions from it: the table, not the vocabulary, decides
    values: dict[str, Any] = {"pad_token_id": ids.pad}
    if arch.name == "gpt2" or config.decoder is not None:
        values["bos_token_id"] = ids.bos
        values["eos_token_id"] = ids.eos
    if config.decoder is not None:
        values["decoder_start_token_id"] = ids.bos
        if arch.name == "bart":
            values["forced_eos_token_id"] = None
    return values


def generation_config(config: ModelConfig, arch: Architecture, ids: SpecialIds) -> dict[str, Any]:
    """generation_config.json of a model that writes text, otherwise an empty dictionary."""
    if arch.name != "gpt2" and config.decoder is None:
        return {}
    values = {
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
        "decoder_start_token_id": ids.bos if config.decoder is not None else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as transformers does, so that files compare well."""
    text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_tokenizer(
    folder: Path, source: TokenizerSource, arch: Architecture, max_length: int
) -> list[str]:
    """Write the tokenizer files of a Hugging Face folder; returns their names.

    Args:
        folder: where to.
        source: what from; with nothing in it nothing is written.
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
    for name in ("vocab.txt", *_SPIECES, "vocab.json", "merges.txt"):
        if (source.folder / name).is_file():
            kept = "spiece.model" if name in _SPIECES else name
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
    # Line by line as uertool reads it, so that ids agree whatever stood behind a blank.
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab.tokens), "utf-8")
    roles = {"unk": vocab.unk, "sep": vocab.sep, "pad": vocab.pad, "cls": vocab.cls}
    roles["mask"] = vocab.mask
    special = {f"{role}_token": token for role in _ROLES if (token := roles[role]) is not None}
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
    special = {
        "unk_token": vocab.token(tokenizer.unk_id) if tokenizer.unk_id is not None else None,
        "pad_token": vocab.pad,
        "cls_token": vocab.cls,
        "sep_token": vocab.sep,
        "mask_token": vocab.mask,
    }
    special = {role: token for role, token in special.items() if token is not None}
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
