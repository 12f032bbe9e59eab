"""`uertool tokenize`: tokens and ids of texts, and texts of ids."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import ResultSettings, with_settings
from uertool.cli.pipeline import Call
from uertool.cli.render.tokenize import table
from uertool.engine.settings import EngineSettings
from uertool.loading.settings import TokenizerSettings
from uertool.tasks.tokenize.settings import TokenizeSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.tokenize.work import TokenizeSummary


@with_settings
def tokenize(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, each a line.")] = None,
    *,
    settings: TokenizeSettings,
    model: TokenizerSettings,
    text: InputSettings,
    output: ResultSettings,
    engine: EngineSettings,
) -> None:
    """Tokens and ids of texts, their places in the text, and texts of ids.

        uertool tokenize "今天天气很好。"

        uertool tokenize --test-path lines.txt --vocab-path vocab.txt --json

    The weights of the model are not read: a vocabulary, or a folder with the files of a tokenizer,
    is sufficient.
    """
    call = Call(engine, model, text, None, output, texts)
    shown = output.form

    from uertool.tasks.tokenize.work import TokenizeSummary, TokenizeWork

    form = "jsonl" if shown == "table" else shown
    work = TokenizeWork(call.for_workers(model), settings, form, call.suffix_for(form))
    found, meter = call.run(
        "Tokenize",
        work,
        {**dataclasses.asdict(settings), "form": form},
        table if shown == "table" else None,
    )
    summary = TokenizeSummary.of(found.manifest["counts"])
    _report(summary, settings)
    call.report(found, meter.rate)
    call.record(dataclasses.asdict(settings), dataclasses.asdict(summary))


def _report(summary: TokenizeSummary, settings: TokenizeSettings) -> None:
    console.note(
        f"{counted(summary.lines, 'line')}, {counted(summary.tokens, 'token')}, "
        f"{summary.unknown:,} unknown"
    )
    changed = summary.lines - summary.kept
    if changed and not settings.decode:
        console.note(
            f"{counted(changed, 'line')} changed by decoding (case, accents or unknown characters; "
            "white space is ignored)"
        )
