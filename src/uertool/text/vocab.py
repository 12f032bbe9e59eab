"""Vocabularies: tokens, their ids, and the special tokens among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from uertool.errors import InputError, VocabError, import_extra
from uertool.io.small_files import parse_json, read_file, read_text_file

# The spellings a role may have, UER's own first: a vocabulary is searched in this order.
SPECIAL_TOKENS: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}

_SENTINEL = re.compile(r"<extra_id_(\d+)>")

# Bytes and lines of a file; the largest published vocabularies have a tenth of that.
_LIMIT = 64 << 20
_MOST_LINES = 5_000_000

# Files that are often found in place of a vocabulary: (first characters, what it is, hint).
_IMPOSTORS = (
    ("version https://git-lfs", "a git-lfs pointer", "Fetch the file itself: git lfs pull."),
    ("<!doctype html", "a web page", "Download the file itself, not the page about it."),
    ("<html", "a web page", "Download the file itself, not the page about it."),
)


class Vocab:
    """An ordered list of tokens with a mapping from token to id.

    As in UER-py an id is a line number, so every line is an entry, the empty one too. A token that
    occurs twice keeps both entries, and its id is that of the later one; `duplicates` lists them.

    Args:
        tokens: the entries, in the order of their ids.
        source: where they came from, for messages.
        special: role ("pad", "unk", "cls", "sep", "mask") to token, where the usual spellings of
            `SPECIAL_TOKENS` do not apply.
        more_special: special tokens without a role here, such as <|im_end|>.

    Attributes:
        pad, unk, cls, sep, mask: the special tokens, or None.
        pad_id, unk_id, cls_id, sep_id, mask_id: their ids, or None.

    Raises:
        VocabError: a token of `special` is not in the vocabulary, or there are no tokens.
    """

    def __init__(
        self,
        tokens: Iterable[str],
        *,
        source: str = "vocabulary",
        special: Mapping[str, str] | None = None,
        more_special: Iterable[str] = (),
    ) -> None:
        self.tokens: list[str] = list(tokens)
        self.source = source
        if not self.tokens:
            raise VocabError(f"{source} holds no tokens.", "Give a file with one token a line.")
        self._ids: dict[str, int] = {token: index for index, token in enumerate(self.tokens)}
        self._more_special = frozenset(self._ids[t] for t in more_special if t in self._ids)
        roles: dict[str, str | None] = {}
        for role, spellings in SPECIAL_TOKENS.items():
            chosen = special.get(role) if special else None
            if chosen is not None and chosen not in self._ids:
                raise VocabError(
                    f"{source} has no token {chosen!r}, which was named as its {role} token."
                )
            roles[role] = chosen or next((s for s in spellings if s in self._ids), None)
        self.pad, self.unk, self.cls, self.sep, self.mask = roles.values()
        ids = (None if token is None else self._ids[token] for token in roles.values())
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids

    # -- reading ------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path | None = None, *, spm: str | Path | None = None) -> Vocab:
        """Read a vocabulary file, or the pieces of a sentencepiece model.

        A line is cut at its first blank, as UER-py does; a line of nothing but blanks is kept as
        it is. A byte order mark and Windows line ends are taken away. A JSON object of token to
        id, as GPT-2 has it, is read as well.

        Args:
            path: the vocabulary file.
            spm: a sentencepiece model; its pieces are the vocabulary (then no `path`).

        Raises:
            VocabError: the file is missing, empty, not text, or its ids have holes.
            MissingExtraError: `spm` is given and sentencepiece is not installed.
        """
        if spm is not None:
            return cls(pieces_of(load_sentencepiece(spm)), source=str(spm))
        if path is None:
            raise VocabError(
                "No vocabulary was given.", "Name one with `vocab_path` or `spm_model_path`."
            )
        text = read_vocab_text(path)
        if text.lstrip().startswith("{"):
            tokens = _tokens_of_json(text, path)
            if tokens is not None:
                return cls(tokens, source=str(path))
        return cls(map(_entry, split_lines(text)), source=str(path))

    # -- looking up ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number of entries, duplicates and empty lines included: ids run below it."""
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def __repr__(self) -> str:
        return f"Vocab({len(self)} tokens from {self.source})"

    def find(self, token: str) -> int | None:
        """The id of `token`, or None where it is not in the vocabulary."""
        return self._ids.get(token)

    def id(self, token: str) -> int:
        """The id of `token`, or that of [UNK] where it is not in the vocabulary.

        Raises:
            VocabError: the token is unknown and the vocabulary has no [UNK].
        """
        found = self._ids.get(token)
        return self.require("unk", f"the token {token!r} is not in it") if found is None else found

    def token(self, index: int) -> str:
        """The token with this id.

        Raises:
            VocabError: the id is outside the vocabulary.
        """
        if not 0 <= index < len(self.tokens):
            raise VocabError(
                f"Id {index} is outside {self.source}, which has {len(self.tokens)} tokens."
            )
        return self.tokens[index]

    def require(self, role: str, reason: str) -> int:
        """The id of the special token with this role.

        Args:
            role: "pad", "unk", "cls", "sep" or "mask".
            reason: why it is needed, a clause that ends the message.

        Raises:
            VocabError: the vocabulary has no such token.
        """
        token: str | None = getattr(self, role)
        if token is None:
            raise VocabError(
                f"{self.source} has no {SPECIAL_TOKENS[role][0]} token, and {reason}.",
                f"Add one of {', '.join(SPECIAL_TOKENS[role])} to it, or use the vocabulary that "
                "the model was trained with.",
            )
        return self._ids[token]

    @property
    def mapping(self) -> Mapping[str, int]:
        """Token to id; the later id of a token that occurs twice."""
        return self._ids

    @cached_property
    def sentinels(self) -> tuple[int, ...]:
        """The ids of <extra_id_0>, <extra_id_1>, ... in the order of their numbers."""
        numbered = [
            (int(match.group(1)), index)
            for token, index in self._ids.items()
            if (match := _SENTINEL.fullmatch(token))
        ]
        return tuple(index for _, index in sorted(numbered))

    @cached_property
    def duplicates(self) -> dict[str, tuple[int, ...]]:
        """Every token that occurs more than once, with all its ids."""
        if len(self._ids) == len(self.tokens):
            return {}
        places: dict[str, list[int]] = {}
        for index, token in enumerate(self.tokens):
            if self._ids[token] != index or token in places:
                places.setdefault(token, []).append(index)
        return {token: tuple(indexes) for token, indexes in places.items()}

    @property
    def distinct(self) -> int:
        """The number of different tokens: what UER-py takes as the size of the embedding."""
        return len(self._ids)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens, sentinels included."""
        named = (self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)
        own = frozenset(i for i in named if i is not None)
        return own | self._more_special | frozenset(self.sentinels)


def read_vocab_text(path: str | Path) -> str:
    """The text of a vocabulary file, without its byte order mark.

    Raises:
        VocabError: the file is missing, a folder, empty, or not UTF-8 text (line and byte named).
    """
    hint = None
    if Path(path).suffix == ".model":
        hint = "A sentencepiece model is named with `spm_model_path`."
    text = read_text_file(path, _LIMIT, what="vocabulary", error=VocabError, hint=hint)
    if not text.strip():
        raise VocabError(f"The vocabulary {path} is empty.", "It needs one token a line.")
    if text.count("\n") > _MOST_LINES:
        raise VocabError(f"The vocabulary {path} has more than {_MOST_LINES} lines.")
    for start, what, hint in _IMPOSTORS:
        if text.lstrip()[: len(start)].lower() == start:
            raise VocabError(f"The vocabulary {path} is {what}.", hint)
    if "\0" in text:
        raise VocabError(f"The vocabulary {path} is not a text file: it holds zero bytes.")
    return text


def split_lines(text: str) -> list[str]:
    """The lines of a text, ended by a line feed, a carriage return or both, as Python reads files.

    `str.splitlines` would also cut at characters such as U+2028, which occur in vocabularies.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines


def _entry(line: str) -> str:
    """The token of a vocabulary line: the part before the first blank."""
    parts = line.split(maxsplit=1)
    return parts[0] if parts else line


def _tokens_of_json(text: str, path: str | Path) -> list[str] | None:
    """The tokens of a JSON vocabulary in the order of their ids, None where it is not JSON."""
    try:
        table = parse_json(text, "It")
    except InputError:
        return None
    if not isinstance(table, dict) or not table:
        return None
    if not all(type(index) is int for index in table.values()):
        raise VocabError(f"The vocabulary {path} is JSON, but not a table of token to id.")
    tokens = sorted(table, key=table.__getitem__)
    if [table[token] for token in tokens] != list(range(len(tokens))):
        raise VocabError(f"The vocabulary {path} is JSON, but its ids are not 0, 1, 2, ...")
    return tokens


def load_sentencepiece(path: str | Path) -> object:
    """A `sentencepiece.SentencePieceProcessor` for a model file.

    Raises:
        MissingExtraError: sentencepiece is not installed.
        VocabError: the file is missing or no sentencepiece model.
    """
    sentencepiece = import_extra("sentencepiece", "spm", "A sentencepiece tokenizer")
    data = read_file(path, _LIMIT, what="sentencepiece model", error=VocabError)
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=data)
    except (RuntimeError, OSError, TypeError):
        raise VocabError(
            f"{path} is not a sentencepiece model.",
            "A vocabulary of one token a line is given with `vocab_path`.",
        ) from None


def pieces_of(processor: object) -> list[str]:
    """The pieces of a sentencepiece model, in the order of their ids."""
    size: int = processor.get_piece_size()  # type: ignore[attr-defined]
    pieces: list[str] = processor.id_to_piece(list(range(size)))  # type: ignore[attr-defined]
    return pieces
