"""The rows of a vocabulary-sized tensor when a model gets another vocabulary."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from uertool.tasks.vocab.settings import AdaptSettings, Init
from uertool.text.detokenize import CHAR_TO_BYTE, UNDERLINE, Joining, join
from uertool.text.tokenizers.base import Tokenizer
from uertool.text.vocab import SPECIAL_TOKENS, Vocab

#: The old script draws new rows from a normal distribution of this width.
NORMAL_STD = 0.02

#: Special tokens and placeholders, which have no text and so no pieces.
_NO_TEXT = re.compile(r"\[[A-Za-z_]+\d*\]|</?[A-Za-z_]+\d*>|<\|[^|]*\|>|##?")

#: The kind of a tokenizer follows from marks in its tokens if at least this share has one.
_MARKED = 0.01

#: Rows composed, or words searched for, at a time.
_CHUNK = 2048


@dataclass(frozen=True)
class RowPlan:
    """How every row of a new vocabulary is made.

    Attributes:
        size: rows of the new tensors.
        copied: (new id, old id) of words that both vocabularies have, and of special tokens with
            the same role under another name.
        composed: new id to the old ids that it is made of, with weights that sum to one.
        drawn: new ids of rows drawn at random.
        zero: new ids of rows of zeros.
        renamed: how many of `copied` are special tokens under another name.
        dropped: old words that the new vocabulary does not have.
        seed: decides what is drawn.
        centred: whether rows are drawn around the mean of the old ones, not around zero.
    """

    size: int
    copied: tuple[tuple[int, int], ...]
    composed: Mapping[int, Mapping[int, float]]
    drawn: tuple[int, ...]
    zero: tuple[int, ...]
    renamed: int = 0
    dropped: tuple[str, ...] = ()
    seed: int = 7
    centred: bool = False
    _places: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)

    def apply(self, tensor: torch.Tensor, name: str, *, axis: int = 0) -> torch.Tensor:
        """The tensor of the new vocabulary, in the type of the old one.

        Args:
            tensor: what the old vocabulary has, with its words along `axis`.
            name: canonical name, which with the seed decides the drawn rows.
            axis: 0, or 1 for a bias with a leading axis of one.
        """
        rows = tensor.movedim(axis, 0)
        made = rows.new_zeros(self.size, *rows.shape[1:])
        if not self._places:
            table = torch.tensor(self.copied, dtype=torch.int64).reshape(-1, 2)
            self._places.extend((table[:, 0], table[:, 1]))
        new, old = self._places
        made[new] = rows[old]
        composed = list(self.composed)
        for start in range(0, len(composed), _CHUNK):
            part = composed[start : start + _CHUNK]
            made[part] = self._compose(rows, part)
        if self.drawn:
            digest = hashlib.sha256(f"{self.seed}\0{name}".encode()).digest()
            chance = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            drawn = torch.randn((len(self.drawn), *rows.shape[1:]), generator=chance) * NORMAL_STD
            if self.centred:
                drawn += rows.double().mean(0).float()
            made[list(self.drawn)] = drawn.to(made.dtype)
        return made.movedim(0, axis).contiguous()

    def _compose(self, rows: torch.Tensor, part: Sequence[int]) -> torch.Tensor:
        """The weighted means of one chunk of new ids."""
        places, old, weights = [], [], []
        for place, new in enumerate(part):
            for index, weight in self.composed[new].items():
                places.append(place)
                old.append(index)
                weights.append(weight)
        shares = torch.tensor(weights, dtype=torch.float64)
        taken = rows[old].double() * shares.reshape(-1, *[1] * (rows.ndim - 1))
        total = taken.new_zeros(len(part), *rows.shape[1:])
        total.index_add_(0, torch.tensor(places), taken)
        return total.to(rows.dtype)


@dataclass(frozen=True)
class Similar:
    """Auxiliary vectors of words, for `init="similar"`.

    Attributes:
        vectors: word to its row in `table`.
        table: float32 [words, size], every row of length one.
        neighbours: how many of the nearest words count.
        temperature: of the softmax over their cosines.
    """

    vectors: Mapping[str, int]
    table: torch.Tensor
    neighbours: int = AdaptSettings.neighbours
    temperature: float = AdaptSettings.temperature

    def find(self, token: str, joining: Joining) -> int | None:
        """The row of a token, as it is or as its text."""
        for spelling in (token, surface(token, joining)[0].strip()):
            for text in (spelling, spelling.lower()):
                if text in self.vectors:
                    return self.vectors[text]
        return None


def plan_rows(
    old: Vocab,
    new: Vocab,
    tokenizer: Tokenizer,
    *,
    rows: int,
    init: Init = "mean-of-pieces",
    similar: Similar | None = None,
    new_joining: Joining | None = None,
    seed: int = 7,
) -> RowPlan:
    """Decide how the row of every new word is made.

    Words of both vocabularies are always copied. Of the others, special tokens are
    copied from the one with the same role ([CLS] for <s>) where there is one. Where the method
    does not apply, `similar` falls back to mean-of-pieces, and that to a row drawn around the mean
    of all old rows. Such a word begins with an average logit everywhere (Hewitt 2021, "Initializing
    New Word Embeddings for Pretrained Language Models"), while around zero it would be likelier
    than most trained words, whose logits are far below zero.

    Args:
        old: the vocabulary of the model.
        new: the one that it gets.
        tokenizer: the old tokenizer, which splits new words into pieces.
        rows: rows of the old tensors; old words beyond them have none.
        init: how rows of new words are made.
        similar: auxiliary vectors, needed by "similar" alone.
        new_joining: how tokens of the new vocabulary make words; by default inferred from them.
        seed: decides what is drawn.
    """
    known = {token: index for token, index in old.mapping.items() if index < rows}
    roles = _same_roles(old, new, known)
    joining = new_joining or joining_of(new)
    near = _nearest(similar, known, new, tokenizer.joining, joining) if similar else {}
    copied: list[tuple[int, int]] = []
    composed: dict[int, dict[int, float]] = {}
    drawn: list[int] = []
    zero: list[int] = []
    to_cut: dict[int, str] = {}
    for index, token in enumerate(new.tokens):
        if token in known:
            copied.append((index, known[token]))
        elif index in roles:
            copied.append((index, roles[index]))
        elif init == "zero":
            zero.append(index)
        elif init == "normal" or not token.strip() or _NO_TEXT.fullmatch(token):
            drawn.append(index)
        elif index in near:
            composed[index] = near[index]
        else:
            to_cut[index] = token
    pieces = _Pieces(tokenizer, known).of(to_cut, joining)
    composed.update((index, weights) for index, weights in pieces.items() if weights)
    drawn.extend(index for index in to_cut if index not in composed)
    return RowPlan(
        size=len(new),
        copied=tuple(copied),
        composed=composed,
        drawn=tuple(sorted(drawn)),
        zero=tuple(zero),
        renamed=sum(token not in known for token in (new.tokens[i] for i, _ in copied)),
        dropped=tuple(token for token in dict.fromkeys(old.tokens) if token not in new),
        seed=seed,
        centred=init != "normal",
    )


def _same_roles(old: Vocab, new: Vocab, known: Mapping[str, int]) -> dict[int, int]:
    """New id to old id of special tokens that have one role and two names."""
    found: dict[int, int] = {}
    for role in SPECIAL_TOKENS:
        before, after = getattr(old, role), getattr(new, role)
        if before is not None and after is not None and after not in known and before in known:
            found.setdefault(new.id(after), known[before])
    return found


def joining_of(vocab: Vocab) -> Joining:
    """How the tokens of a vocabulary make words, inferred from their marks."""
    words = [token for token in vocab.tokens if len(token) > 1]
    for mark, joining in ((UNDERLINE, "pieces"), ("\u0120", "bytes")):
        if sum(token.startswith(mark) for token in words) > _MARKED * max(len(words), 1):
            return joining  # type: ignore[return-value]
    return "wordpieces"


def surface(token: str, joining: Joining) -> tuple[str, bool]:
    """The text of a token, and whether it continues a word."""
    if joining == "wordpieces" and token.startswith("##") and len(token) > 2:
        return token[2:], True
    if joining == "bytes" and all(char in CHAR_TO_BYTE for char in token):
        return join([token], joining), False
    if joining == "pieces":
        return token.replace(UNDERLINE, " "), False
    return token, False


class _Pieces:
    """Splits new words into pieces with the old tokenizer."""

    def __init__(self, tokenizer: Tokenizer, known: Mapping[str, int]) -> None:
        self.tokenizer = tokenizer
        self.known = known
        self.rows = set(known.values())
        self.inside = any(token.startswith("##") for token in known)

    def of(self, tokens: Mapping[int, str], joining: Joining) -> dict[int, dict[int, float]]:
        """New id to old ids with equal weights that sum to one; none where no piece is known."""
        found: dict[int, list[int]] = {}
        plain: dict[int, str] = {}
        for index, token in tokens.items():
            text, goes_on = surface(token, joining)
            if goes_on and self.inside and self.tokenizer.joining == "wordpieces":
                found[index] = self._inside_a_word(text)
            if not found.get(index) and text.strip() and "\ufffd" not in text:
                plain[index] = text
        # Together, which is many times faster than one by one.
        encoded = self.tokenizer.encode_batch(list(plain.values()))
        found.update(zip(plain, encoded, strict=True))
        return {index: self._weights(ids) for index, ids in found.items()}

    def _weights(self, ids: Sequence[int]) -> dict[int, float]:
        ids = [index for index in ids if index != self.tokenizer.unk_id and index in self.rows]
        weights: dict[int, float] = {}
        for index in ids:
            weights[index] = weights.get(index, 0.0) + 1 / len(ids)
        return weights

    def _inside_a_word(self, text: str) -> list[int]:
        """The longest known pieces within a word, from the left; none if one is missing."""
        for spelling in dict.fromkeys((text, text.lower())):
            ids: list[int] = []
            start = 0
            while start < len(spelling):
                ends = range(len(spelling), start, -1)
                end = next((e for e in ends if "##" + spelling[start:e] in self.known), None)
                if end is None:
                    break
                ids.append(self.known["##" + spelling[start:end]])
                start = end
            else:
                return ids
        return []


def _nearest(
    similar: Similar,
    known: Mapping[str, int],
    new: Vocab,
    old_joining: Joining,
    new_joining: Joining,
) -> dict[int, dict[int, float]]:
    """New id to the old words that are nearest to it in the auxiliary vectors, with weights."""

    def placed(tokens: Mapping[str, int], joining: Joining) -> tuple[list[int], list[int]]:
        ids, rows = [], []
        for token, index in tokens.items():
            if _NO_TEXT.fullmatch(token):
                continue
            row = similar.find(token, joining)
            if row is not None:
                ids.append(index)
                rows.append(row)
        return ids, rows

    absent = {token: index for index, token in enumerate(new.tokens) if token not in known}
    old_ids, old_rows = placed(known, old_joining)
    new_ids, new_rows = placed(absent, new_joining)
    if not old_ids or not new_ids:
        return {}
    candidates = similar.table[old_rows]
    count = min(similar.neighbours, len(old_ids))
    found: dict[int, dict[int, float]] = {}
    for start in range(0, len(new_ids), _CHUNK):
        queries = similar.table[new_rows[start : start + _CHUNK]]
        cosines, places = (queries @ candidates.T).topk(count, dim=1)
        shares = torch.softmax(cosines.double() / similar.temperature, dim=1)
        for new_id, share, place in zip(
            new_ids[start:], shares.tolist(), places.tolist(), strict=False
        ):
            weights: dict[int, float] = {}
            for weight, number in zip(share, place, strict=True):
                weights[old_ids[number]] = weights.get(old_ids[number], 0.0) + weight
            found[new_id] = weights
    return found


def read_similar(
    path: str | Path,
    wanted: Collection[str],
    *,
    neighbours: int = AdaptSettings.neighbours,
    temperature: float = AdaptSettings.temperature,
) -> Similar:
    """Auxiliary vectors from a file of word vectors; only the wanted words are kept.

    Raises:
        InputError: the file is missing or not understood.
    """
    from uertool.tasks.embeddings.word_files import WordFile

    words: dict[str, int] = {}
    rows: list[torch.Tensor] = []
    for word, (_, vector) in WordFile(path).find(wanted).items():
        row = torch.from_numpy(vector).float()
        length = float(row.norm())
        if 0 < length < float("inf"):
            words[word] = len(rows)
            rows.append(row / length)
    table = torch.stack(rows) if rows else torch.zeros(0, 1)
    return Similar(words, table, neighbours, temperature)
