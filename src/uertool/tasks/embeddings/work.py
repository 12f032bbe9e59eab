"""Substitutes of words in many sentences, as `uertool.engine.work.Work`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

import torch

from uertool.engine.work import Event, Finished, Notice, Progress, Tasks
from uertool.errors import counted
from uertool.io.json_text import json_text
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.embeddings.settings import SubstituteSettings
from uertool.tasks.embeddings.substitutes import Substitutes, SubstituteSummary, search_with


@dataclass(frozen=True)
class SubstituteWork:
    """Lines of `word TAB sentence`, compared with all candidates.

    Attributes:
        model, device, settings: which model is used, where and how.
        form: "text", UER-py's layout, or "jsonl".
        suffix, name, window, block_lines: see `uertool.engine.work.Work`.
    """

    model: ModelSettings
    device: DeviceSettings
    settings: SubstituteSettings
    form: str
    suffix: str
    name: str = "topn dep"
    window: int = 4  # a line is compared with a whole vocabulary
    block_lines: int | None = 64
    in_hand: int = 2

    def open(self, device: torch.device | None) -> _Processor:
        """Load the model and the candidates."""
        return _Processor(self, device)


class _Processor:
    def __init__(self, work: SubstituteWork, device: torch.device | None) -> None:
        from uertool.loading.registry import load_from_settings

        loaded = load_from_settings(work.model, work.device.on(device), heads=())
        self.form = work.form
        self.vocab_size = len(loaded.tokenizer.vocab)
        self.search = search_with(loaded, work.settings)
        self.notices: Sequence[str] = loaded.notes
        self.details: Sequence[str] = loaded.described()

    def run(self, tasks: Tasks) -> Iterator[Event]:
        for task in tasks:
            summary = SubstituteSummary()
            with open(task.path, "w", encoding="utf-8", newline="\n") as stream:
                if task.index == 0 and self.form == "text":
                    stream.write(f"Vocabulary size:  {self.vocab_size}\n")
                    stream.write(f"Vocabulary size:  {len(self.search.candidates)}\n")
                for line in task.lines:
                    if line.text.strip():
                        yield from self._answer(line.number, line.text, summary, stream)
                    stream.flush()
                    yield Progress(task.index, 1)
            yield Finished(task.index, {"rows": summary.lines, **summary.counts()})

    def _answer(
        self, number: int, text: str, summary: SubstituteSummary, stream: TextIO
    ) -> Iterator[Notice]:
        parts = text.strip().split("\t")
        if len(parts) != 2:
            summary.unread += 1
            yield Notice(f"line {number + 1} is not: word TAB sentence", once=True)
            return
        found = self.search.find(parts[0].strip(), parts[1])
        summary.add(found)
        if found.problem is None:
            summary.compared += found.compared
        for said in (found.problem, found.remark):
            if said is not None:
                yield Notice(f"line {number + 1}: {said}", once=True)
        if self.search.unknown:
            count = self.search.unknown
            yield Notice(f"The vocabulary cannot spell {counted(count, 'candidate')}", once=True)
        stream.write(written(found, self.form, number))


def written(found: Substitutes, form: str, number: int) -> str:
    """What was found for a line, as text or a line of JSON."""
    if form == "jsonl":
        record: dict[str, object] = {
            "line": number + 1,
            "word": found.target,
            "sentence": found.sentence,
            "position": found.position,
            "neighbours": [{"word": n.word, "score": n.score} for n in found.neighbours],
        }
        record |= {k: v for k, v in (("problem", found.problem), ("remark", found.remark)) if v}
        return json_text(record) + "\n"
    lines = [f"Original sentence: {found.sentence}", f"Target word: {found.target}"]
    if found.problem is not None:
        lines.append(found.problem)
    lines.extend(f"{n.word}\t{n.score}" for n in found.neighbours)
    return "".join(f"{line}\n" for line in lines)
