"""Any number of lines as tokens, as `uertool.engine.work.Work`; no weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from uertool.engine.work import Event, Figures, Finished, Progress, Task, Tasks, clause
from uertool.errors import InputError, UertoolError
from uertool.io.json_text import json_text
from uertool.loading.settings import TokenizerSettings
from uertool.loading.tokenizers import load_tokenizer
from uertool.tasks.tokenize.job import Tokenized, decode, tokenize
from uertool.tasks.tokenize.settings import TokenizeSettings
from uertool.text.readers import Line, too_long


@dataclass(frozen=True)
class TokenizeWork:
    """Lines to tokens.

    Attributes:
        model: says which tokenizer it is.
        settings: what is written.
        form: "text", one line each, or "jsonl".
        suffix, name, window, block_lines, in_hand: see `uertool.engine.work.Work`.
    """

    model: TokenizerSettings
    settings: TokenizeSettings
    form: str
    suffix: str
    name: str = "tokenize"
    window: int = 1024
    block_lines: int | None = None
    in_hand: int = 2

    def open(self, device: object) -> _Processor:
        """Read the files of the tokenizer."""
        del device
        return _Processor(self)


class _Processor:
    def __init__(self, work: TokenizeWork) -> None:
        self.work = work
        self.notices: Sequence[str]
        self.tokenizer, self.notices = load_tokenizer(work.model)
        self.details = [repr(self.tokenizer).strip("<>")]

    def run(self, tasks: Tasks) -> Iterator[Event]:
        for task in tasks:
            summary = TokenizeSummary()
            with open(task.path, "w", encoding="utf-8", newline="\n") as stream:
                lines = iter(task.lines)
                while window := list(islice(lines, self.work.window)):
                    for line, found in self._tokenized(window, task):
                        summary.add(found)
                        stream.write(self._written(line, found) + "\n")
                    stream.flush()
                    yield Progress(task.index, len(window))
            yield Finished(task.index, {"rows": summary.lines, **summary.counts()})

    def _tokenized(self, lines: list[Line], task: Task) -> Iterator[tuple[Line, Tokenized]]:
        """The lines with their tokens; one that fails is left out, where the task wants that."""
        try:
            every = self._call(lines)
        except UertoolError:
            for line in lines:
                try:
                    found = self._call([line])
                except UertoolError as error:
                    if task.fail is None:
                        if line.cut:
                            raise
                        sentence = f"Line {line.number + 1}: {error.message}"
                        raise InputError(sentence, error.hint) from None
                    task.fail(line.number, clause(error))
                else:
                    yield line, found[0]
        else:
            yield from zip(lines, every, strict=True)

    def _call(self, lines: list[Line]) -> list[Tokenized]:
        for line in lines:
            if line.cut:
                raise too_long(line.number)
        texts = [line.text for line in lines]
        if self.work.settings.decode:
            return decode(self.tokenizer, texts)
        return tokenize(self.tokenizer, texts, self.work.settings)

    def _written(self, line: Line, found: Tokenized) -> str:
        if self.work.form == "jsonl":
            return json_text(record(line, found))
        if self.work.settings.decode:
            return found.text
        return " ".join(map(str, found.ids if self.work.settings.ids else found.tokens))


def record(line: Line, found: Tokenized) -> dict[str, Any]:
    """A line of JSON: tokens, ids, places in the text, and the text that the tokens give."""
    known: dict[str, Any] = {"line": line.number + 1, "text": found.text}
    if line.fields:
        known["fields"] = dict(line.fields)
    known |= {"tokens": list(found.tokens), "ids": list(found.ids)}
    if found.spans is not None:
        known["offsets"] = [None if span is None else list(span) for span in found.spans]
    return {**known, "decoded": found.decoded, "round_trip": found.is_kept}


@dataclass
class TokenizeSummary(Figures):
    """Figures of a run.

    Attributes:
        lines, tokens: how many there were.
        unknown: tokens that are [UNK].
        kept: lines whose tokens give the text back, apart from white space.
    """

    lines: int = 0
    tokens: int = 0
    unknown: int = 0
    kept: int = 0

    def add(self, found: Tokenized) -> None:
        """Count one line."""
        self.lines += 1
        self.tokens += len(found.ids)
        self.unknown += found.unknown
        self.kept += found.is_kept
