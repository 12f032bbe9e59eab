"""Words that could stand in a word's place: its neighbours within a sentence.

The target is replaced by every candidate in turn, and the last layer's states in its place are
compared with its own, as UER-py's topn_words_dep.py does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uertool.engine.work import Figures
from uertool.errors import UsageError
from uertool.io.display import Report, table
from uertool.loading.device import token_budget
from uertool.loading.registry import LoadedModel
from uertool.settings import as_keywords
from uertool.tasks.cloze.job import UNUSED, length_for
from uertool.tasks.embeddings.settings import SubstituteSettings
from uertool.text.detokenize import UNDERLINE, readable
from uertool.text.readers import as_texts
from uertool.text.scripts import scripts_of
from uertool.text.vocab import Vocab

#: Candidates that are tokenized, grouped by length and compared together.
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Substitute:
    """A word that could stand there, and the cosine of its state and the target's."""

    word: str
    score: float


@dataclass(frozen=True, slots=True, repr=False)
class Substitutes(Report):
    """What was found for one target in its sentence.

    Attributes:
        target, sentence: what was asked.
        position: the token at which the target begins, special tokens counted, or None.
        neighbours: nearest first.
        problem: why there are none, a sentence, or None.
        remark: what a user should know although there are some, or None.
        left_out: candidates that could not stand there.
        compared: all candidates.
    """

    target: str
    sentence: str
    position: int | None = None
    neighbours: tuple[Substitute, ...] = ()
    problem: str | None = None
    remark: str | None = None
    left_out: int = 0
    compared: int = 0

    def _repr_html_(self) -> str:
        caption = f"{self.target} in: {self.sentence} {self.problem or ''}"
        return table(("word", "score"), ((n.word, n.score) for n in self.neighbours), caption)


class SubstituteSearch:
    """A loaded model that compares candidates.

    Args:
        loaded: any model with an encoder.
        candidates: words; what is no entry of the vocabulary is cut into tokens. None stands for
            the entries of the vocabulary that are whole words in the script of the target, or for
            all of them, see `all_candidates`.
        settings: how.

    Attributes:
        unknown: candidates that the vocabulary cannot spell, which are left out.

    Raises:
        UsageError: seq_length is beyond the position table.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        candidates: Sequence[str] | None = None,
        settings: SubstituteSettings | None = None,
    ) -> None:
        self.settings = settings or SubstituteSettings()
        self.model = loaded.model
        self.device = loaded.device
        self.tokenizer = loaded.tokenizer
        self.candidates = self.tokenizer.vocab.tokens if candidates is None else candidates
        self._are_entries = candidates is None
        self._is_usual = candidates is None and not self.settings.all_candidates
        self._by_scripts: dict[frozenset[str], list[int]] | None = None
        self.unknown = 0
        self.prefix: tuple[int, ...] = ()
        self.suffix: tuple[int, ...] = ()
        if self.settings.add_special:
            self.prefix, self.suffix = loaded.tokenizer.prefix_ids, loaded.tokenizer.suffix_ids
        self.seq_length = length_for(loaded, self.settings.seq_length)
        self.room = self.seq_length - len(self.prefix) - len(self.suffix)
        self.pad_to = self.seq_length if loaded.config.needs_full_length else 0
        self.pad_id = loaded.tokenizer.pad_id or 0
        # Attention and the linear layers work on a batch at once, and a batch should stay in the
        # caches; see token_budget.
        self.budget = token_budget(loaded.device)

    def find(
        self, target: str, sentence: str, on_candidates: Callable[[int], None] | None = None
    ) -> Substitutes:
        """The nearest candidates for a target in a sentence.

        Args:
            target: a word of the sentence.
            sentence: a text.
            on_candidates: called with the number of candidates just compared.
        """
        ids = self.tokenizer.encode(sentence)
        spot, problem, remark = self._locate(target, ids)
        if spot is None:
            return Substitutes(target, sentence, problem=problem)
        frame = _Frame(
            [*self.prefix, *ids[: spot.start]], ids[spot.stop : self.room], list(self.suffix)
        )
        own = tuple(ids[spot.start : spot.stop])
        wanted = self._states(frame, [own])[0]
        best: list[tuple[float, int, str]] = []
        left_out = 0
        words = self._candidates_for(target)
        for start, chunk in self._spelled(words):
            kept, lost = self._compare(frame, own, wanted, start, chunk)
            best = sorted([*best, *kept], key=lambda row: (-row[0], row[1]))[: self.settings.topn]
            left_out += lost
            if on_candidates is not None:
                on_candidates(len(chunk))
        return Substitutes(
            target,
            sentence,
            len(frame.before),
            tuple(Substitute(self._shown(word), score) for score, _, word in best),
            remark=remark,
            left_out=left_out,
            compared=len(words),
        )

    def _shown(self, word: str) -> str:
        """A candidate for people; entries of the vocabulary may be spelled in bytes."""
        return readable(word, self.tokenizer.joining) if self._are_entries else word

    # -- the target -------------------------------------------------------------------------------

    def _locate(
        self, target: str, ids: Sequence[int]
    ) -> tuple[slice | None, str | None, str | None]:
        """The position of the target among the ids, or a problem; and a remark."""
        spellings = self._spellings(target)
        if not spellings:
            return None, "The target word is not in the vocabulary.", None
        for spelling in spellings:
            width = len(spelling)
            places = [
                place
                for place in range(len(ids) - width + 1)
                if tuple(ids[place : place + width]) == spelling
            ]
            if not places:
                continue
            number = self.settings.occurrence or 1
            if number > len(places):
                count = "once" if len(places) == 1 else f"{len(places)} times"
                return None, f"The target word occurs only {count} in the sentence.", None
            place = places[number - 1]
            if place + width > self.room:
                return (
                    None,
                    f"The target word comes after the {self.room} tokens that are read.",
                    None,
                )
            remark = None
            if len(places) > 1 and self.settings.occurrence is None:
                remark = (
                    f"The target word {target} occurs {len(places)} times; the first is taken. "
                    "`occurrence` chooses another."
                )
            return slice(place, place + width), None, remark
        return None, "The target word is not in the sentence.", None

    def _spellings(self, word: str) -> list[tuple[int, ...]]:
        """The ids that a word may have in a sentence: as one entry, or cut into tokens."""
        entry = self.tokenizer.vocab.find(word)
        cut = tuple(self.tokenizer.encode(word))
        found: list[tuple[int, ...]] = [] if entry is None else [(entry,)]
        if cut and cut not in found and self.tokenizer.unk_id not in cut:
            found.append(cut)
        return found

    # -- candidates -------------------------------------------------------------------------------

    def _candidates_for(self, target: str) -> Sequence[str]:
        """The candidates for one target."""
        if not self._is_usual:
            return self.candidates
        if self._by_scripts is None:
            self._by_scripts = {}
            for number, word in self._whole_words():
                self._by_scripts.setdefault(scripts_of(word), []).append(number)
        wanted = scripts_of(target)
        numbers = [
            n for scripts, some in self._by_scripts.items() if scripts <= wanted for n in some
        ]
        return [self.candidates[number] for number in sorted(numbers)]

    def _whole_words(self) -> Iterator[tuple[int, str]]:
        """The entries of the vocabulary that are not special nor go on a word, as they are read."""
        vocab = self.tokenizer.vocab
        for number, token in enumerate(vocab.tokens):
            word = token
            if self.tokenizer.joining == "bytes":
                word = self.tokenizer.decode([number])
            elif self.tokenizer.joining == "wordpieces" and token.startswith("##") and token[2:]:
                continue
            word = word.replace(UNDERLINE, " ").strip()
            if word and number not in vocab.special_ids and not UNUSED.fullmatch(token):
                yield number, word

    def _spelled(
        self, candidates: Sequence[str]
    ) -> Iterator[tuple[int, list[tuple[str, tuple[int, ...]]]]]:
        """Candidates with their ids in chunks; those without ids cannot be spelled."""
        vocab, unk = self.tokenizer.vocab, self.tokenizer.unk_id
        stream = iter(candidates)
        start = 0
        self.unknown = 0
        while words := list(itertools.islice(stream, CHUNK)):
            others = [word for word in words if word not in vocab]
            cut = dict(zip(others, self.tokenizer.encode_batch(others), strict=True))
            chunk: list[tuple[str, tuple[int, ...]]] = []
            for word in words:
                entry = vocab.find(word)
                ids = tuple(cut[word]) if entry is None else (entry,)
                if entry is None and unk in ids:
                    ids = ()
                chunk.append((word, ids))
            self.unknown += sum(not ids for _, ids in chunk)
            yield start, chunk
            start += len(words)

    def _compare(
        self,
        frame: _Frame,
        own: tuple[int, ...],
        wanted: Tensor,
        start: int,
        chunk: Sequence[tuple[str, tuple[int, ...]]],
    ) -> tuple[list[tuple[float, int, str]], int]:
        """The best of a chunk as (score, number, word), and how many do not fit."""
        groups: dict[int, list[int]] = {}
        lost = 0
        for place, (_, ids) in enumerate(chunk):
            if not ids or ids == own:
                continue  # the target is not its own neighbour
            if len(frame.before) + len(ids) + len(frame.suffix) > self.seq_length:
                lost += 1
                continue
            groups.setdefault(len(ids), []).append(place)
        kept: list[tuple[float, int, str]] = []
        for places in groups.values():
            states = self._states(frame, [chunk[place][1] for place in places])
            scores = torch.nn.functional.cosine_similarity(states, wanted[None])
            values, at = scores.topk(min(self.settings.topn, len(places)))
            kept.extend(
                (value, start + places[n], chunk[places[n]][0])
                for value, n in zip(values.tolist(), at.tolist(), strict=True)
            )
        return kept, lost

    # -- the model --------------------------------------------------------------------------------

    @torch.inference_mode()
    def _states(self, frame: _Frame, words: Sequence[tuple[int, ...]]) -> Tensor:
        """The last layer's states where words of equally many tokens stand [words, hidden]."""
        width = len(words[0])
        most = self.seq_length - len(frame.before) - width - len(frame.suffix)
        after = [*frame.after[:most], *frame.suffix]
        start = len(frame.before)
        row = [*frame.before, *([0] * width), *after]
        length = max(len(row), self.pad_to)
        padded = [*row, *([self.pad_id] * (length - len(row)))]
        base = torch.tensor(padded, device=self.device)
        segs = (torch.arange(length, device=self.device) < len(row)).long()
        columns = torch.arange(start, start + width, device=self.device)
        many = max(1, self.budget // length)
        if self.settings.batch_size is not None:
            many = min(many, self.settings.batch_size)
        found: list[Tensor] = []
        for first in range(0, len(words), many):
            part = torch.tensor(words[first : first + many], device=self.device)
            ids = base.repeat(len(part), 1)
            ids[:, start : start + width] = part
            states = self.model.encode(
                ids, segs.expand(len(part), -1), positions=columns.expand(len(part), -1)
            )
            assert isinstance(states, Tensor)
            found.append(states.float().mean(1))
        return torch.cat(found)


@dataclass(frozen=True)
class _Frame:
    """The ids around a target."""

    before: list[int]
    after: list[int]
    suffix: list[int] = field(default_factory=list)


@as_keywords("plot")
def substitutes(
    loaded: LoadedModel,
    word: str,
    sentence: str,
    *,
    candidates: Sequence[str] | None = None,
    settings: SubstituteSettings,
) -> Substitutes:
    """Words that could replace a word in a sentence, by the model's last states in its place.

    Args:
        word: a word of the sentence.
        sentence: a text.
        candidates: words that are compared; None for those of `cand_vocab_path`, or the model's
            vocabulary.

    Raises:
        UsageError: the word is not in the sentence, or not in the vocabulary.
    """
    as_texts([word, sentence])
    found = search_with(loaded, settings, candidates).find(word, sentence)
    if found.problem is not None:
        raise UsageError(found.problem)
    return found


def search_with(
    loaded: LoadedModel, settings: SubstituteSettings, candidates: Sequence[str] | None = None
) -> SubstituteSearch:
    """The search among given candidates, those of a file, or the model's vocabulary."""
    if candidates is None and settings.cand_vocab_path is not None:
        candidates = Vocab.load(settings.cand_vocab_path).tokens
    return SubstituteSearch(loaded, candidates, settings)


@dataclass
class SubstituteSummary(Figures):
    """Figures of a run, added up line by line.

    Attributes:
        lines: words with sentences.
        found: of these, answered ones.
        remarked: of these, those that a user should look at.
        unread: lines that are not a word and a sentence.
        compared: candidates that were compared, over all answers.
        problems: how many were not answered, and why.
    """

    lines: int = 0
    found: int = 0
    remarked: int = 0
    unread: int = 0
    compared: int = 0
    problems: dict[str, int] = field(default_factory=dict)

    def add(self, result: Substitutes) -> None:
        """Count one result."""
        self.lines += 1
        self.found += result.problem is None
        self.remarked += result.remark is not None
        if result.problem is not None:
            self.problems[result.problem] = self.problems.get(result.problem, 0) + 1

    @property
    def is_clean(self) -> bool:
        """Whether every line was understood without a doubt."""
        return self.found == self.lines and not self.remarked and not self.unread
