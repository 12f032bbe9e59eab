"""Generation as distributed work: prompts in blocks, their texts in shards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from uertool.engine.work import Counts, OnFailure, Write, clause
from uertool.errors import InputError
from uertool.tasks.generation.job import Generated, Prompt
from uertool.tasks.generation.job import Generator as TextGenerator
from uertool.tasks.generation.settings import Decoding
from uertool.text.readers import Line

#: Prompts that are looked at together before they are worked on, and texts that are written so.
_TOGETHER = 256
#: Prompts of a block: writing a text takes a hundred times as long as reading one.
_BLOCK_LINES = 2048


@dataclass(frozen=True)
class GenerationWork:
    """Texts for every line.

    Attributes:
        name, suffix: see `uertool.engine.work.Work`.
        make_generator: loads the model for a device and sees that it fits; picklable.
        settings: how texts are generated.
        open_writer: opens a shard: given its path, the number of its block and the generator.
    """

    name: str
    suffix: str
    make_generator: Callable[[torch.device], TextGenerator]
    settings: Decoding
    open_writer: Callable[[Path, int, TextGenerator], AbstractContextManager[Write]]
    block_lines: int | None = _BLOCK_LINES

    def open(self, device: torch.device) -> _Processor:
        """Load the model."""
        return _Processor(self, self.make_generator(device))


class _Processor:
    def __init__(self, work: GenerationWork, generator: TextGenerator) -> None:
        self.work = work
        self.generator = generator

    def run(
        self, lines: Iterator[Line], path: Path, block: int, on_failure: OnFailure
    ) -> Generator[int, None, Counts]:
        counts: Counts = {"rows": 0, "empty": 0}

        def count_empty(prompt: Prompt) -> None:
            counts["empty"] += 1

        settings = self.work.settings
        prompts = self._fitting(lines, on_failure)
        found = self.generator.generate(prompts, settings, on_empty=count_empty)
        with self.work.open_writer(path, block, self.generator) as write:
            while results := list(itertools.islice(found, _TOGETHER)):
                for name, count in write(results).items():
                    counts[name] = counts.get(name, 0) + count
                yield len(results)
        return counts

    def _fitting(self, lines: Iterator[Line], on_failure: OnFailure) -> Iterator[Prompt]:
        """The prompts that the model can take; one that it cannot would end all in progress."""
        while window := list(itertools.islice(lines, _TOGETHER)):
            prompts = [Prompt(line.number, line.text, line.fields) for line in window]
            try:
                self.generator.check(prompts, self.work.settings)
                yield from prompts
            except InputError:
                yield from (prompt for prompt in prompts if self._fits(prompt, on_failure))

    def _fits(self, prompt: Prompt, on_failure: OnFailure) -> bool:
        try:
            self.generator.check([prompt], self.work.settings)
        except InputError as error:
            on_failure(prompt.number, clause(error))
            return False
        return True


def count_texts(results: list[list[Generated]]) -> Counts:
    """What a window of texts adds to the counts of a run."""
    counts = {
        "rows": sum(map(len, results)),
        "prompts": len(results),
        "tokens": sum(len(text.ids) for texts in results for text in texts),
        "truncated": sum(bool(texts and texts[0].truncated) for texts in results),
    }
    for text in itertools.chain.from_iterable(results):
        name = f"reason.{text.reason}"
        counts[name] = counts.get(name, 0) + 1
    return counts
