"""`uertool vocab`: build a vocabulary from a corpus, compare two, and change a model's."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.options import JsonReportSettings, WriteSettings, with_settings
from uertool.cli.parser import Command, Group
from uertool.cli.pipeline import report_errors, show_plan, watching
from uertool.engine.ordering import check_engine, new_order, refuse_on_ray
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.tasks.vocab.settings import AdaptSettings, BuildSettings, DiffSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.vocab.building import BuiltVocab

app = typer.Typer(cls=Group, no_args_is_help=True, help="Build, compare and change vocabularies.")

_Corpus = Annotated[
    list[str] | None,
    typer.Argument(metavar="CORPUS", help="Text files, .gz files or folders; - is standard input."),
]


# -- build ----------------------------------------------------------------------------------------


@app.command("build", cls=Command)
@with_settings
def build(
    corpus: _Corpus = None,
    *,
    settings: BuildSettings,
    output: WriteSettings,
    engine: EngineSettings,
) -> None:
    """Build a vocabulary: reserved tokens first, then tokens in descending order of counts.

    uertool vocab build --corpus-path corpus.txt --output-path vocab.txt

    uertool vocab build corpus.txt.gz -o spm.model --model bpe --vocab-size 8000
    """
    from uertool.cli.render.vocab import build_record, show_built
    from uertool.io.atomic import refuse_existing

    output.apply()
    check_engine(engine)
    refuse_on_ray(engine, model=settings.model)
    target = settings.output_path
    if target is None:
        raise UsageError("There is no output.", "Name a file with `output_path`, or - for stdout.")
    if target == "-" and (output.json or output.save_run):
        raise UsageError(
            "`json` and `save_run` need the vocabulary to go to a file.",
            "Name one with `output_path`.",
        )
    for path in filter(None, (target, settings.counts)):
        refuse_existing(path, output.overwrite)  # before the work
    corpora = [*(corpus or ()), *settings.corpus_path]
    if settings.model is None:
        built, written = _counted(settings, output, engine, corpora)
    else:
        built, written = _trained(settings, output, corpora)
    figures = build_record(built, written)
    output.record(target, [*corpora, settings.reserved_vocab_path], results=figures)
    if output.json:
        console.json_line(figures)
    else:
        show_built(built, written)


def _counted(
    settings: BuildSettings,
    output: WriteSettings,
    engine: EngineSettings,
    corpora: list[str],
) -> tuple[BuiltVocab, list[Path]]:
    """A vocabulary by counting, on the engine."""
    from uertool.engine.run import gather
    from uertool.tasks.vocab import building
    from uertool.tasks.vocab.counting import CorpusStream, TallyWork, corpus_files, tally_of
    from uertool.tasks.vocab.tallies import Counting

    assert settings.output_path is not None
    on_ray = engine.engine == "ray"
    if on_ray and settings.output_path == "-":
        raise UsageError(
            "`engine` ray keeps its work next to the output.", "Name a file with `output_path`."
        )
    reserved = building.reserved_for(settings)  # before the work
    counting = Counting(settings.unit, settings.form, settings.encoding)
    files = corpora if on_ray else [str(path) for path in corpus_files(corpora)]
    stream = None if on_ray or engine.dry_run else CorpusStream(files, counting)
    order = new_order(
        engine,
        InputSettings(encoding=settings.encoding),
        work=TallyWork(counting=counting),
        inputs=files,
        stream=stream,
        output=settings.output_path,
        sides=[] if settings.counts is None else [settings.counts],
        identity=dataclasses.asdict(counting),
        overwrite=output.overwrite,
        devices=[None] * (1 if stream is None else stream.workers(settings.workers_num)),
        joins=False,
    )
    if engine.dry_run:
        show_plan(order, as_json=output.json)
    unit = "lines" if on_ray else "bytes"
    with watching("Counting", unit, engine) as (meter, watch):
        if not on_ray and "-" not in files:
            meter.begin(sum(os.path.getsize(path) for path in files))
        with gather(order, watch) as found:
            tally = tally_of(found.shards, settings.max_types)
            built = building.build_vocab(files, settings, reserved=reserved, tally=tally)
            written = building.save_vocab(
                built,
                settings.output_path,
                counts_path=settings.counts,
                overwrite=found.overwrite or found.is_complete,
            )
    report_errors(found, order.output)
    return built, written


def _trained(
    settings: BuildSettings, output: WriteSettings, corpora: list[str]
) -> tuple[BuiltVocab, list[Path]]:
    """A subword vocabulary."""
    from uertool.tasks.vocab import building
    from uertool.tasks.vocab.counting import corpus_files, total_bytes
    from uertool.tasks.vocab.subwords import train_vocab

    assert settings.output_path is not None and settings.model is not None
    files = corpus_files(corpora)
    with console.progress(total_bytes(files), "Counting", unit="bytes") as ticker:
        built = train_vocab(files, settings, on_bytes=ticker)
    return built, building.save_vocab(built, settings.output_path, overwrite=output.overwrite)


# -- diff -----------------------------------------------------------------------------------------


@app.command("diff", cls=Command)
@with_settings
def diff(
    vocabularies: Annotated[
        list[str] | None,
        typer.Argument(metavar="A B", help="Two vocabularies; or `vocab_1` and `vocab_2`."),
    ] = None,
    *,
    settings: DiffSettings,
    output: JsonReportSettings,
) -> None:
    """Compare two vocabularies: sizes, differences, moved ids, and coverage of a corpus.

    uertool vocab diff a.txt b.txt --list only-2

    uertool vocab diff a.txt b.txt --corpus corpus.txt --json
    """
    output.apply()
    from uertool.cli.render.vocab import show_diff
    from uertool.tasks.vocab.diff import diff_vocabs
    from uertool.text.vocab import Vocab

    paths = [*(vocabularies or ()), *filter(None, (settings.vocab_1, settings.vocab_2))]
    if len(paths) != 2:
        raise UsageError(
            f"Two vocabularies are needed, not {len(paths)}.",
            "Name them as arguments, or with `vocab_1` and `vocab_2`.",
        )
    settings = dataclasses.replace(settings, vocab_1=Path(paths[0]), vocab_2=Path(paths[1]))
    first, second = Vocab.load(paths[0]), Vocab.load(paths[1])
    show_diff(diff_vocabs(first, second, settings), settings, as_json=output.json)


# -- adapt ----------------------------------------------------------------------------------------


@app.command("adapt", cls=Command)
@with_settings
def adapt(*, settings: AdaptSettings, output: WriteSettings) -> None:
    r"""Give a model another vocabulary: rows of shared words are copied, new ones are made.

    uertool vocab adapt --model bert.bin --old-vocab-path old.txt \
            --new-vocab-path new.txt -o new.bin

    uertool vocab adapt --model model_folder/ --new-vocab-path new.txt --dry-run
    """
    from uertool.cli.render.vocab import adapt_record, show_adapted
    from uertool.tasks.vocab.adaptation import adapt_vocab

    output.apply()
    if output.save_run and (settings.new_model_path is None or settings.dry_run):
        raise UsageError("`save_run` writes next to the output, but there is no output.")
    with console.tensor_progress("Writing") as progress:
        report = adapt_vocab(settings, overwrite=output.overwrite, progress=progress)
    output.record(settings.new_model_path, settings.files(), results=adapt_record(report, ()))
    if output.json:
        console.json_line(adapt_record(report, settings.lists))
    else:
        show_adapted(report, settings.lists)
