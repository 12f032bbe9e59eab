"""`uertool cloze`: fill in masked words, score given ones, or write variants of lines."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from uertool.cli import console, run_record
from uertool.cli.engine_options import is_ray
from uertool.cli.options import OutputSettings, lines_of, load, opt, option_groups, source_of
from uertool.cli.render.cloze import summary_line, writer_for
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    import torch

    from uertool.tasks.cloze.job import ClozeJob, ClozeSettings, ClozeSummary
    from uertool.text.readers import BadLine

_MASKS = "What is masked (where a line has no [MASK])"
_ASKED = "What is asked"

#: Targets of pre-training that include a masked language model; the old flag names one.
MLM_TARGETS = frozenset({"bert", "mlm", "albert"})


@option_groups
def cloze(
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; write [MASK] where something is to be guessed."),
    ] = None,
    *,
    topn: Annotated[
        int | None,
        opt(
            "--topn",
            help="Guesses for each mask [default: 10]; with --augment draw from so many of the "
            "best [default: 100]",
            panel=_ASKED,
            min=1,
        ),
    ] = None,
    targets: Annotated[
        str | None,
        opt(
            "--targets",
            help="Score these words in the place of the masks, with commas between",
            panel=_ASKED,
            metavar="A,B,C",
        ),
    ] = None,
    fill_order: Annotated[
        Literal["left-to-right", "most-certain"],
        opt("--fill-order", help="How the tokens of a longer word are filled", panel=_ASKED),
    ] = "left-to-right",
    augment: Annotated[
        int,
        opt("--augment", help="Write N variants of every line", panel=_ASKED, metavar="N", min=0),
    ] = 0,
    temperature: Annotated[
        float,
        opt("--temperature", help="Of variants; below 1 prefers the likely", panel=_ASKED),
    ] = 1.0,
    target: Annotated[
        str | None,
        opt("--target", help="bert, mlm or albert; the file tells by itself", panel=_ASKED),
    ] = None,
    mask_word: Annotated[
        str | None,
        opt("--mask-word", help="Mask this word wherever it stands", panel=_MASKS),
    ] = None,
    mask_ratio: Annotated[
        float | None,
        opt("--mask-ratio", help="Mask this share of the tokens, as 0.15", panel=_MASKS),
    ] = None,
    whole_word: Annotated[
        bool,
        opt("--whole-word", help="Mask all tokens of a word together", panel=_MASKS),
    ] = False,
    word_list: Annotated[
        Path | None,
        opt(
            "--word-list",
            help="With --whole-word: Chinese words, one a line; the longest that fits",
            panel=_MASKS,
        ),
    ] = None,
    seq_length: Annotated[
        int | None,
        opt(
            "--seq-length",
            help="Tokens of a line that are read [default: 128, or the model's positions]",
            panel=_ASKED,
            min=1,
        ),
    ] = None,
    batch_size: Annotated[
        int, opt("--batch-size", help="Most lines of a batch", panel="Device and speed", min=1)
    ] = 64,
    form: Annotated[
        Literal["auto", "table", "text", "jsonl"],
        opt("--format", help="table on a terminal, else the old text", panel="Output"),
    ] = "auto",
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    output: OutputSettings,
    engine: EngineSettings,
) -> None:
    """Fill in masked words: the n best for every [MASK], or for a token masked at random.

    Without `[MASK]` in a line one random token of it is masked, seeded, never a special one.
    With `--targets` given words of any length are scored, with `--augment` variants are written.

        uertool cloze "今天天气很[MASK]。"

        uertool cloze --test-path lines.txt --prediction-path output.txt --seed 7

        cat lines.txt | uertool cloze --mask-ratio 0.15 --json
    """
    _check_target(target)
    written = output.form(form)
    if not is_ray(engine):
        output.apply()
        lines_from = source_of(text, texts, "text")

    from uertool.loading.device import resolve_devices
    from uertool.tasks.cloze.job import ClozeSettings, ClozeSummary, cloze_lines, split_words
    from uertool.tasks.cloze.masking import MaskRule, read_word_list
    from uertool.text.readers import read_lines

    words = frozenset[str]()
    if word_list is not None:
        words = read_word_list(line.text for line in read_lines(word_list))
    settings = ClozeSettings(
        topn=topn,
        seq_length=seq_length,
        batch_size=batch_size,
        rule=MaskRule(mask_word, mask_ratio, whole_word, words, output.seed),
        targets=() if targets is None else split_words(targets),
        fill_order=fill_order,
        augment=augment,
        temperature=temperature,
    )
    if is_ray(engine):
        from uertool.cli import engine_commands

        call = engine_commands.Call(engine, model, text, device, output, texts)
        started = time.perf_counter()
        found = engine_commands.cloze(call, settings, written)
        if found is not None:
            _report(found, time.perf_counter() - started, settings, [])
        return
    devices = resolve_devices(device.device)
    bad: list[BadLine] = []
    summary = ClozeSummary()
    if len(devices) == 1:
        loaded = load(model, device, heads=("mlm",))
        make_job = functools.partial(_job_of, loaded, settings)
    else:
        make_job = functools.partial(_job, model, device, settings)
    started = time.perf_counter()
    with (
        output.opened() as stream,
        _progress(output) as advance,
    ):
        write = writer_for(written, stream, column=text.column)
        results = cloze_lines(
            lines_of(text, texts, "text", bad),
            make_job,
            devices,
            threads=device.threads,
            on_notice=console.warn,
        )
        for result in results:
            summary.add(result)
            write(result)
            advance(result.variant == 0)
    seconds = time.perf_counter() - started
    _report(summary, seconds, settings, bad)
    if output.save_run and output.prediction_path is not None:
        run_record.write(
            output.prediction_path,
            inputs=[*model.files(), lines_from, word_list],
            settings=_plain(settings),
            results={**dataclasses.asdict(summary), "seconds": round(seconds, 3)},
        )


def _job_of(loaded: Any, settings: ClozeSettings, device: torch.device) -> ClozeJob:
    from uertool.tasks.cloze.job import ClozeJob

    return ClozeJob(loaded, settings)


def _job(
    model: ModelSettings, options: DeviceSettings, settings: ClozeSettings, device: torch.device
) -> ClozeJob:
    """Load the model in a worker of its own."""
    from uertool.tasks.cloze.job import ClozeJob

    here = dataclasses.replace(options, device=str(device), threads=None)
    from uertool.loading.registry import load_from_settings

    loaded = load_from_settings(model, here, heads=("mlm",))
    return ClozeJob(loaded, settings, notices=loaded.notes)


def _check_target(target: str | None) -> None:
    if target is not None and not MLM_TARGETS & set(target.split(",")):
        raise UsageError(
            f"--target {target} has no masked words to guess.",
            "A cloze test runs with bert, mlm or albert; or leave --target out.",
        )


def _progress(output: OutputSettings) -> contextlib.AbstractContextManager[console.Ticker]:
    if output.prediction_path in (None, "-") and console.out_is_terminal():
        return contextlib.nullcontext(console.Ticker())  # the results themselves show progress
    return console.progress(None, "Cloze", unit="lines")


def _report(
    summary: ClozeSummary, seconds: float, settings: ClozeSettings, bad: list[BadLine]
) -> None:
    console.note(summary_line(summary, seconds, settings.best))
    if settings.rule.whole_words and not settings.rule.word_list:
        console.note(
            "Without --word-list each Chinese character counts as a word; "
            "words of letters were kept whole"
        )
    reasons = {
        "blank": "blank",
        "no known token": "no token that the vocabulary knows",
        "no such word": "the word to mask is not there",
        "beyond the cut": "[MASK] stands beyond the tokens that are read",
    }
    for reason, count in summary.unmasked.items():
        console.note(
            f"Nothing is masked in {count:,} {_lines(count)}: {reasons.get(reason, reason)}"
        )
    if summary.cut:
        console.warn(
            f"{summary.cut:,} {_lines(summary.cut)} longer than what is read, and cut; "
            "see --seq-length"
        )
    if bad:
        first = bad[0]
        console.warn(
            f"{len(bad):,} {_lines(len(bad))} left out; the first is line {first.number + 1}: "
            f"{first.reason}"
        )


def _lines(count: int) -> str:
    return "line" if count == 1 else "lines"


def _plain(settings: ClozeSettings) -> dict[str, Any]:
    plain = dataclasses.asdict(settings)
    plain["rule"]["word_list"] = len(settings.rule.word_list)
    plain["topn"] = settings.best
    return plain
