"""`uertool cloze`: fill in masked words, score given ones, or write variants of lines."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import ResultSettings, report_model, with_settings
from uertool.cli.pipeline import Call
from uertool.cli.render.cloze import summary_line, table
from uertool.engine.ordering import refuse_on_ray
from uertool.engine.settings import EngineSettings
from uertool.errors import UertoolError, UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.cloze.settings import ClozeSettings, DialogueSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.cloze.results import ClozeSummary

_REASONS = {
    "blank": "blank",
    "no known token": "no token that the vocabulary knows",
    "no such word": "the word to mask does not occur",
    "beyond the cut": "[MASK] comes after the tokens that are read",
}


@with_settings
def cloze(
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; write [MASK] where something is to be guessed."),
    ] = None,
    *,
    settings: ClozeSettings,
    dialogue: DialogueSettings,
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    output: ResultSettings,
    engine: EngineSettings,
) -> None:
    """Fill in masked words: the n best for every [MASK], or for a token masked at random.

    In a line without `[MASK]` one random token is masked (see `--seed`), never a special token.
    `--targets` scores given words of any length, `--augment` writes variants of lines.

        uertool cloze "今天天气很[MASK]。"

        uertool cloze --test-path lines.txt --prediction-path output.txt --seed 7

        cat lines.txt | uertool cloze --mask-ratio 0.15 --json
    """
    call = Call(engine, model, text, device, output, texts, inputs=[settings.word_list])
    shown = output.form

    from uertool.tasks.cloze import work
    from uertool.tasks.cloze.job import split_words
    from uertool.tasks.cloze.masking import words_of
    from uertool.tasks.cloze.results import ClozeSummary

    words = words_of(settings.word_list or (), encoding=text.encoding)
    targets = tuple(word for given in settings.targets for word in split_words(given))
    settings = dataclasses.replace(settings, targets=targets, words=words)
    if dialogue.interactive:
        _converse(call, model, device, settings, shown)
        return
    form = "jsonl" if shown == "table" else shown
    found, meter = call.run(
        "Cloze",
        work.cloze_work(
            call.for_workers(model), device, settings, form, call.suffix_for(form), text.column
        ),
        work.identity(settings, form),
        table if shown == "table" else None,
    )
    summary = ClozeSummary.of(found.manifest["counts"])
    _report(summary, meter.rate, settings)
    call.report(found, meter.rate)
    plain = {**dataclasses.asdict(settings), "words": len(words), "topn": settings.best}
    call.record(plain, {**dataclasses.asdict(summary), "seconds": round(meter.seconds, 3)})


def _converse(
    call: Call, model: ModelSettings, device: DeviceSettings, settings: ClozeSettings, form: str
) -> None:
    """Ask for texts and answer them until the input ends."""
    refuse_on_ray(call.engine, interactive=True)
    named = call.texts or call.text.test_path or call.output.prediction_path
    if named or form == "jsonl":
        raise UsageError(
            "`interactive` asks for texts and answers on the terminal; it takes no texts, files or "
            "`json`."
        )
    from uertool.engine.jobs import run_job
    from uertool.loading.registry import load_from_settings
    from uertool.tasks.cloze.job import ClozeJob
    from uertool.tasks.cloze.writing import record, writer_for
    from uertool.text.readers import Line

    loaded = load_from_settings(model, device, heads=["mlm"])
    report_model(loaded)
    job = ClozeJob(loaded, settings)
    write = writer_for("text", sys.stdout)
    console.note("Write a text with [MASK] and press Enter. Ctrl-D ends.")
    for number, line in enumerate(console.typed_lines()):
        try:
            for result in run_job(job, [Line(number, line)], on_notice=console.warn):
                table(record(result)) if form == "table" else write(result)
        except UertoolError as error:
            console.error(error.message, error.hint)


def _report(summary: ClozeSummary, rate: float, settings: ClozeSettings) -> None:
    console.note(summary_line(summary, rate, settings.best))
    for reason, count in summary.unmasked.items():
        console.note(
            f"Nothing is masked in {counted(count, 'line')}: {_REASONS.get(reason, reason)}"
        )
    if summary.cut:
        were = "was" if summary.cut == 1 else "were"
        console.warn(f"{counted(summary.cut, 'line')} {were} truncated (see `seq_length`)")
