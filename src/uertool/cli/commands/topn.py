"""`uertool topn`: words near a word, by the embedding layer (indep) or within a sentence (dep)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import (
    ResultSettings,
    is_typed,
    lines_of,
    report_empty,
    source_of,
    with_settings,
)
from uertool.cli.parser import Command, Group
from uertool.cli.pipeline import Call
from uertool.engine.ordering import refuse_on_ray
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.io.json_text import json_text
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.embeddings.settings import NeighbourSettings, SubstituteSettings, TableSettings
from uertool.tasks.pictures import require_drawing
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.embeddings.neighbours import Found
    from uertool.tasks.embeddings.substitutes import SubstituteSummary
    from uertool.tasks.embeddings.word_files import WordSource
    from uertool.text.readers import Line

#: Words whose neighbours a picture shows.
_MOST_DRAWN = 8

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Words near a word, with or without context."
)


# -- indep ----------------------------------------------------------------------------------------


@app.command("indep", cls=Command)
@with_settings
def indep(
    words: Annotated[
        list[str] | None, typer.Argument(help="Words whose neighbours are searched.")
    ] = None,
    *,
    settings: NeighbourSettings,
    table: TableSettings,
    text: InputSettings,
    output: ResultSettings,
) -> int:
    """Words whose vectors in the embedding layer are nearest to a word's own.

        uertool topn indep 好 人

        uertool topn indep --test-path words.txt --topn 5

        uertool topn indep 国王 --plus 女人 --minus 男人 --vectors sgns.txt

    Exit code 1 says that a word was not in the vocabulary; the others are still answered.
    """
    shown = output.form
    output.apply()
    named = is_typed("load_model_path", table.load_model_path)
    require_drawing(settings.plot, overwrite=output.overwrite)
    if settings.vectors is not None and (named or table.vocab_path or table.spm_model_path):
        raise UsageError("`vectors` and a model were both given.", "Give one of them.")
    source_of_words: str | None = None
    lines: Iterator[Line] = iter(())
    if words or text.test_path or not settings.plus:
        source_of_words = source_of(text, words, "word")
        lines = lines_of(text, words, "word")

    from uertool.tasks.embeddings.neighbours import Query, neighbours
    from uertool.tasks.embeddings.word_files import WordFile
    from uertool.tasks.embeddings.word_vectors import table_for

    # As in UER-py a line's word ends at the first blank.
    asked = [line.text.split()[0] for line in lines if line.text.strip()]
    queries = [Query((word, *settings.plus), settings.minus) for word in asked]
    if not queries and (settings.plus or settings.minus):
        queries = [Query(settings.plus, settings.minus)]
    source: WordSource
    if settings.vectors is not None:
        source = WordFile(settings.vectors)
    else:
        source = table_for(table)
        console.warn(*source.notes)
    started = time.perf_counter()
    with console.progress(len(source), "Comparing", unit="words") as advance:
        results = neighbours(source, queries, topn=settings.topn, by=settings.by, on_rows=advance)
    seconds = time.perf_counter() - started
    records = [_record(found, settings.by) for found in results]
    _write(records, output, shown, vocabulary_size=len(source))
    _draw(settings.plot, records, settings.by, output)
    missing = [str(found.query) for found in results if found.problem is not None]
    console.note(f"{counted(len(results), 'word')} among {len(source):,} ({seconds:.2f} s)")
    report_empty(len(results))
    if missing:
        console.warn(
            f"{counted(len(missing), 'word')} not in the vocabulary, the first is {missing[0]}"
        )
    inputs = table.files() if settings.vectors is None else [settings.vectors]
    figures = {"words": len(results), "missing": len(missing)}
    output.record(output.prediction_path, [*inputs, source_of_words], results=figures)
    return 1 if missing else 0


def _record(found: Found, by: str) -> dict[str, Any]:
    record: dict[str, Any] = {
        "word": str(found.query),
        "by": by,
        "neighbours": [{"word": n.word, "score": n.score, "id": n.id} for n in found.neighbours],
    }
    if found.query.is_analogy:
        record |= {"plus": list(found.query.plus), "minus": list(found.query.minus)}
    return record if found.problem is None else {**record, "problem": found.problem}


def _write(
    records: Iterable[Mapping[str, Any]],
    output: ResultSettings,
    shown: str,
    *,
    vocabulary_size: int,
) -> None:
    with output.opened() as stream:
        if shown == "text":
            stream.write(f"Vocabulary size:  {vocabulary_size}\n")
        for record in records:
            if shown == "table":
                _table(record)
            else:
                stream.write(_text(record) if shown == "text" else json_text(record) + "\n")


def _text(record: Mapping[str, Any]) -> str:
    """UER-py's layout."""
    lines = [f"Target word: {record['word']}"]
    if "problem" in record:
        lines.append(record["problem"])
    lines.extend(f"{near['word']}\t{near['score']}" for near in record["neighbours"])
    return "".join(f"{line}\n" for line in [*lines, ""])


# -- dep ------------------------------------------------------------------------------------------


@app.command("dep", cls=Command)
@with_settings
def dep(
    pair: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORD SENTENCE", help="A word and a sentence that contains it."),
    ] = None,
    *,
    settings: SubstituteSettings,
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    output: ResultSettings,
    engine: EngineSettings,
) -> int:
    r"""Words that could replace a word in a sentence.

    The word is replaced by every candidate, and the model's last states in its place are compared.
    Lines of the input are: word TAB sentence. A word of several tokens is represented by their
    mean.

        uertool topn dep 好 今天天气很好。

        uertool topn dep --cand-vocab-path words.txt --test-path sentences.txt \
            --tokenizer space

    Exit code 1 says that a line could not be answered, or that its word occurs more than once and
    `--occurrence` was not given; the others are still answered.
    """
    lines = _one_line(pair)
    what = "word with a sentence"
    inputs = [settings.cand_vocab_path]
    call = Call(engine, model, text, device, output, lines, what, inputs, tabs=True)
    shown = output.form

    from uertool.tasks.embeddings.substitutes import SubstituteSummary
    from uertool.tasks.embeddings.work import SubstituteWork

    form = "jsonl" if shown == "table" else shown
    records: list[Mapping[str, Any]] = []
    show = _table if shown == "table" else None
    if settings.plot is not None:
        refuse_on_ray(engine, plot=settings.plot)
        require_drawing(settings.plot, overwrite=output.overwrite)
        if form == "text":
            raise UsageError("`plot` needs results as a table or JSON lines.", "Give `json`.")
        if not output.to_file:
            show = functools.partial(_kept, records, show or console.json_line)
    found, meter = call.run(
        "Comparing",
        SubstituteWork(call.for_workers(model), device, settings, form, call.suffix_for(form)),
        {**_identity(settings), "form": form},
        show,
    )
    if settings.plot is not None:
        if output.to_file:
            with open(call.target, encoding="utf-8") as lines_of_json:
                records += map(json.loads, itertools.islice(lines_of_json, _MOST_DRAWN))
        _draw(settings.plot, records, "cosine", output)
    summary = SubstituteSummary.of(found.manifest["counts"])
    _report(summary, meter.seconds)
    call.report(found, meter.rate)
    call.record({}, {"lines": summary.lines, "answered": summary.found})
    return 0 if summary.is_clean and not found.manifest["errors"] else 1


def _one_line(pair: list[str] | None) -> list[str] | None:
    """The word and the sentence of the command line as a line of input."""
    if not pair or pair == ["-"]:
        return pair
    if len(pair) != 2:
        raise UsageError(
            f"A word and a sentence are expected, not {len(pair)} arguments.",
            'For example: uertool topn dep 好 "今天天气很好"',
        )
    return ["\t".join(pair)]


def _kept(
    records: list[Mapping[str, Any]],
    show: Callable[[Mapping[str, Any]], None],
    record: Mapping[str, Any],
) -> None:
    """Show a record, and keep the first ones for a picture."""
    show(record)
    if len(records) < _MOST_DRAWN:
        records.append(record)


def _identity(settings: SubstituteSettings) -> dict[str, Any]:
    from uertool.io.atomic import sha256_of

    path = settings.cand_vocab_path
    digest = None if path is None or not path.is_file() else sha256_of(path)
    known = {**dataclasses.asdict(settings), "cand_vocab_path": digest}
    del known["plot"]
    return known


def _report(summary: SubstituteSummary, seconds: float) -> None:
    rate = f", {summary.compared / seconds:,.0f} candidates/s" if seconds > 0 else ""
    each = summary.compared // summary.found if summary.found else 0
    console.note(
        f"{counted(summary.lines, 'word')} with sentences, {summary.found:,} answered, "
        f"{counted(each, 'candidate')}{rate}"
    )
    for problem, count in summary.problems.items():
        console.note(f"{count:,} unanswered: {problem}")
    if summary.remarked:
        console.note(f"{summary.remarked:,} with a word that occurs more than once")
    if summary.unread:
        console.warn(f"{counted(summary.unread, 'line')} could not be read")


# -- both -----------------------------------------------------------------------------------------


def _title(record: Mapping[str, Any], between: str) -> str:
    """The word, and its sentence if there is one."""
    return between.join(record[name] for name in ("word", "sentence") if name in record)


def _draw(
    path: Path | None, records: Sequence[Mapping[str, Any]], measure: str, output: ResultSettings
) -> None:
    if path is None:
        return
    from uertool.tasks.pictures import bars

    groups = [
        (_title(record, ": "), [(near["word"], near["score"]) for near in record["neighbours"]])
        for record in records
    ]
    console.warn(*bars(path, groups, measure=measure, overwrite=output.overwrite))


def _table(record: Mapping[str, Any]) -> None:
    """Words with their scores, and bars that start at zero."""
    console.heading(_title(record, "  in  "))
    if "problem" in record:
        console.out(f"     {record['problem']}")
    rows = [(near["word"], near["score"]) for near in record["neighbours"]]
    console.bars(rows, form="8.4f")
    console.out()
