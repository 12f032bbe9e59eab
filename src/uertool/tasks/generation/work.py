"""Texts for any number of prompts, as `uertool.engine.work.Work`."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from uertool.engine.faster_type import Advice
from uertool.engine.work import (
    Event,
    Finished,
    Notice,
    OnFailure,
    Progress,
    Task,
    Tasks,
    clause,
)
from uertool.errors import InputError, UsageError
from uertool.io.json_text import json_text
from uertool.tasks.generation.job import Generated, Generator, load_generator
from uertool.tasks.generation.prompts import Prompt
from uertool.tasks.generation.settings import Decoding, Form
from uertool.tasks.generation.writing import GenerationSummary, Writer
from uertool.text.readers import Line

if TYPE_CHECKING:
    import torch

    from uertool.engine.storage.shards import Shards
    from uertool.loading.settings import DeviceSettings
    from uertool.tasks.generation.settings import LmModel

#: Prompts that are checked together before texts are generated for them.
_TOGETHER = 256

#: The end of the name of what is written next to a shard for judging: line numbers and texts.
JUDGED = ".judged.jsonl"


@dataclass(frozen=True)
class GenerationWork:
    """Texts for every line.

    Attributes:
        kind: "lm" or "seq2seq".
        suffix, window, block_lines: see `uertool.engine.work.Work`. Blocks may be small: texts of
            several blocks are in progress at once.
        model, where: which model, and where it runs apart from the device.
        settings: how texts are generated.
        form, raw, fill: see `Writer`.
        judged: also write line number and first new text of every prompt.
    """

    kind: str
    suffix: str
    model: LmModel
    where: DeviceSettings
    settings: Decoding
    form: Form
    raw: bool = False
    fill: bool = False
    judged: bool = False
    window: int = 16
    block_lines: int | None = 2048
    in_hand: int = 16

    @property
    def name(self) -> str:
        """The command."""
        return f"generate {self.kind}"

    def open(self, device: torch.device | None) -> _Processor:
        """Load the model."""
        generator = load_for(self.kind, self.model, self.where.on(device), fill=self.fill)
        return _Processor(self, generator)


@dataclass
class _Open:
    """A block with its output files open; some of its texts may be missing."""

    task: Task
    writer: Writer
    files: ExitStack
    judged: TextIO | None
    expected: int = 0
    done: int = 0
    is_read: bool = False
    summary: GenerationSummary = field(default_factory=GenerationSummary)

    @property
    def is_done(self) -> bool:
        return self.is_read and self.done == self.expected


class _Processor:
    def __init__(self, work: GenerationWork, generator: Generator) -> None:
        self.work = work
        self.generator = generator
        self.notices: Sequence[str] = generator.notes
        self.details: Sequence[str] = generator.described()
        self.open: deque[_Open] = deque()
        self.block_of: dict[int, _Open] = {}  # of prompts in progress
        self.advice = Advice(generator.loaded)

    def run(self, tasks: Tasks) -> Iterator[Event]:
        """Generate the texts of all blocks that are there in one stream, so that none waits."""
        try:
            for task in tasks:
                yield from self._stream(itertools.chain([task], _while_ready(tasks)))
        finally:
            for block in self.open:
                block.files.close()
            self.open.clear()
            self.block_of.clear()

    def _stream(self, tasks: Iterator[Task]) -> Iterator[Event]:
        found = self.generator.generate(
            self._prompts(tasks), self.work.settings, on_empty=self._count_empty
        )
        for texts in found:
            yield from self._finished()
            block = self.open[0]
            self._write(block, texts)
            yield Progress(block.task.index, 1)
            rows = self.work.settings.batch_size or self.generator.rows
            if (sentence := self.advice.after(rows)) is not None:
                yield Notice(sentence, once=True, is_hint=True)
        yield from self._finished()

    def _prompts(self, tasks: Iterator[Task]) -> Iterator[Prompt]:
        for task in tasks:
            block = self._opened(task)
            self.open.append(block)
            lines = iter(task.lines)
            while window := list(itertools.islice(lines, _TOGETHER)):
                fitting = self._fitting(window, task.fail)
                block.expected += len(fitting)
                self.block_of.update((prompt.number, block) for prompt in fitting)
                yield from fitting
            block.is_read = True

    def _opened(self, task: Task) -> _Open:
        files = ExitStack()
        stream = files.enter_context(task.path.open("w", encoding="utf-8", newline="\n"))
        filled = self.generator.filled if self.work.fill else None
        writer = Writer(self.work.form, stream, raw=self.work.raw, fill=filled)
        writer.begun = task.index > 0  # shards that are joined are one text
        judged = None
        if self.work.judged:
            path = task.path.with_name(task.path.stem + JUDGED)
            judged = files.enter_context(path.open("w", encoding="utf-8", newline="\n"))
        return _Open(task, writer, files, judged)

    def _finished(self) -> Iterator[Finished]:
        while self.open and self.open[0].is_done:
            block = self.open.popleft()
            block.files.close()
            summary = block.summary
            yield Finished(block.task.index, {"rows": summary.texts, **summary.counts()})

    def _write(self, block: _Open, texts: list[Generated]) -> None:
        block.writer(texts)
        if block.judged is not None:
            text = texts[0].new_text if not self.work.fill else self.generator.filled(texts[0])
            block.judged.write(json_text([texts[0].prompt.number, text]) + "\n")
        block.summary.add(texts)
        block.done += 1
        self.block_of.pop(texts[0].prompt.number, None)

    def _count_empty(self, prompt: Prompt) -> None:
        self.block_of[prompt.number].summary.add_empty(prompt)

    def _fitting(self, window: Sequence[Line], fail: OnFailure | None) -> list[Prompt]:
        """The prompts that the model can take; one that it cannot would end all in progress."""
        prompts = [Prompt(line.number, line.text, line.fields, line.cut) for line in window]
        if fail is None:
            return prompts
        try:
            self.generator.check(prompts, self.work.settings)
        except InputError:
            return [prompt for prompt in prompts if self._fits(prompt, fail)]
        return prompts

    def _fits(self, prompt: Prompt, fail: OnFailure) -> bool:
        try:
            self.generator.check([prompt], self.work.settings)
        except InputError as error:
            fail(prompt.number, clause(error))
            return False
        return True


def _while_ready(tasks: Tasks) -> Iterator[Task]:
    while tasks.ready():
        task = next(tasks, None)
        if task is None:
            return
        yield task


def load_for(kind: str, model: LmModel, device: DeviceSettings, *, fill: bool = False) -> Generator:
    """The generator for a command, see `load_generator`.

    Raises:
        UsageError: the model is for the other command, or cannot fill gaps.
    """
    generator = load_generator(model, device)
    if generator.seq2seq != (kind == "seq2seq"):
        what, other = "a language model without a decoder", "lm"
        if generator.seq2seq:
            what, other = "an encoder-decoder", "seq2seq"
        raise UsageError(f"{generator.name} is {what}.", f"Use it with: uertool generate {other}.")
    if fill and not generator.gaps:
        raise UsageError(
            f"`fill` needs sentinels, and {generator.tokenizer.vocab.source} has none.",
            "It is for T5 models; their vocabularies have <extra_id_0> and so on.",
        )
    return generator


def judged_texts(shards: Shards) -> Iterator[tuple[int, str]]:
    """Line number and first new text of every prompt, of work that is `judged`."""
    rest = b""
    for chunk in shards.chunks(JUDGED):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number, text = json.loads(line)
            yield number, text
