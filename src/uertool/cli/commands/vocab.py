"""`uertool vocab`: build a vocabulary from a corpus, compare two, and change a model's."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uertool.cli import console, run_record
from uertool.cli.options import Command, WriteSettings, opt, truth, with_settings
from uertool.cli.pipeline import (
    check_engine,
    new_order,
    refuse_on_ray,
    report_errors,
    show_plan,
    watching,
)
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.tasks.vocab.settings import BuildSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from uertool.tasks.vocab.adaptation import AdaptReport
    from uertool.tasks.vocab.building import BuiltVocab
    from uertool.tasks.vocab.change import SideReport
    from uertool.tasks.vocab.diff import Coverage, VocabDiff

app = typer.Typer(no_args_is_help=True, help="Build, compare and change vocabularies.")

_COUNTED = "Counted vocabularies"
_TRAINED = "Trained subword vocabularies"
_CORPUS = "On a corpus"
_DECODER = "A decoder with a vocabulary of its own"
_OLD_TOKENIZER = "The old tokenizer, which takes new words apart"
_NEW_ROWS = "Rows of new words"

_Corpus = Annotated[
    list[str] | None,
    typer.Argument(metavar="CORPUS...", help="Text files, .gz files or folders; - is stdin."),
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
    """Build a vocabulary: reserved tokens, then by falling count, ties by first appearance."""
    from uertool.tasks.vocab import building

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
    corpora = [*(corpus or ()), *settings.corpus_path]
    path = settings.reserved_vocab_path
    reserved = None if path is None else building.load_reserved(path)
    make = _counted if settings.model is None else _trained
    built, written = make(settings, output, engine, corpora, reserved)
    figures = _figures(built, written)
    if output.save_run:
        run_record.write(target, inputs=[*corpora, path], results=figures)
    if output.json:
        console.json_line(figures)
    else:
        _say_built(built, written)


def _counted(
    settings: BuildSettings,
    output: WriteSettings,
    engine: EngineSettings,
    corpora: list[str],
    reserved: Sequence[str] | None,
) -> tuple[BuiltVocab, list[Path]]:
    """A vocabulary by counting, on the engine."""
    from uertool.engine.run import gather
    from uertool.tasks.vocab import building
    from uertool.tasks.vocab.counting import CorpusStream, TallyWork, corpus_files, tally_of

    assert settings.output_path is not None
    on_ray = engine.engine == "ray"
    if on_ray and settings.output_path == "-":
        raise UsageError(
            "`engine` ray keeps its work next to the output.", "Name a file with `output_path`."
        )
    counting = building.counting_for(
        settings.delimiter or settings.tokenizer or "char", settings.normalization
    )
    files = corpora if on_ray else [str(path) for path in corpus_files(corpora)]
    stream = None if on_ray or engine.dry_run else CorpusStream(files, counting)
    order = new_order(
        engine,
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
            built = building.build_vocab(
                files,
                reserved=reserved,
                min_count=settings.min_count,
                max_size=settings.max_size,
                coverage=settings.coverage,
                tally=tally_of(found.shards, settings.max_types),
            )
            written = building.save_vocab(
                built,
                settings.output_path,
                counts_path=settings.counts,
                overwrite=found.overwrite or found.is_complete,
            )
    report_errors(found, order.output)
    return built, written


def _trained(
    settings: BuildSettings,
    output: WriteSettings,
    engine: EngineSettings,
    corpora: list[str],
    reserved: Sequence[str] | None,
) -> tuple[BuiltVocab, list[Path]]:
    """A subword vocabulary."""
    del engine
    from uertool.io.atomic import refuse_existing
    from uertool.tasks.vocab import building
    from uertool.tasks.vocab.counting import corpus_files, total_bytes

    assert settings.output_path is not None and settings.model is not None
    refuse_existing(settings.output_path, output.overwrite)  # before the work
    files = corpus_files(corpora)
    with console.progress(total_bytes(files), "Counting", unit="bytes") as ticker:
        built = building.train_vocab(
            files,
            model=settings.model,
            size=settings.vocab_size or 0,
            reserved=reserved,
            min_count=settings.min_count,
            do_lower_case=settings.do_lower_case,
            normalization=settings.normalization,
            on_bytes=ticker,
        )
    return built, building.save_vocab(built, settings.output_path, overwrite=output.overwrite)


def _figures(built: BuiltVocab, written: list[Path]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "size": len(built.tokens),
        "reserved": built.reserved,
        "files": [str(path) for path in written],
    }
    if built.counts:
        figures.update(
            tokens=built.total,
            distinct=built.distinct,
            covered=built.covered,
            coverage=built.coverage,
            cut=list(built.cut),
        )
    return figures


def _say_built(built: BuiltVocab, written: list[Path]) -> None:
    """What was done, beside the vocabulary and so on standard error."""
    if built.cut:
        shown = ", ".join(repr(word) for word in built.cut[:5])
        console.warn(
            f"{len(built.cut)} words hold a blank that is no space, where readers of the "
            f"vocabulary will cut them: {shown}"
        )
    console.note(f"Vocabulary size: {len(built.tokens)} ({built.reserved} reserved)")
    if built.counts:
        console.note(
            f"Corpus: {built.total} tokens, {built.distinct} different; "
            f"{100 * built.coverage:.4f}% are in the vocabulary"
        )
    for path in written:
        console.note(f"wrote {path}")


# -- diff -----------------------------------------------------------------------------------------


@app.command("diff")
def diff(
    vocab_1: Annotated[str | None, opt("--vocab-1", help="A vocabulary", metavar="FILE")] = None,
    vocab_2: Annotated[str | None, opt("--vocab-2", help="Another one", metavar="FILE")] = None,
    corpus_path: Annotated[
        list[str] | None,
        opt("--corpus-path", "--corpus", help="Text that both are tried on", panel=_CORPUS),
    ] = None,
    delimiter: Annotated[
        str, opt("--delimiter", help="Whose coverage is counted: char or space", panel=_CORPUS)
    ] = "char",
    tokenizer: Annotated[
        str, opt("--tokenizer", help="For the [UNK] rate: bert, char or space", panel=_CORPUS)
    ] = "bert",
    do_lower_case: Annotated[
        str,
        opt("--do-lower-case", help="For bert", panel=_CORPUS, metavar="true|false"),
    ] = "true",
    workers_num: Annotated[
        int, opt("--workers-num", help="Processes that count", panel=_CORPUS)
    ] = 1,
    lists: Annotated[
        list[str] | None,
        opt("--list", help="Also list only_1, only_2, common, moved or duplicates"),
    ] = None,
    json: Annotated[bool, opt("--json", help="The figures as one line of JSON")] = False,
) -> None:
    """Compare two vocabularies: sizes, differences, moved ids, and coverage of a corpus."""
    from uertool.tasks.vocab.diff import diff_vocabs
    from uertool.text.vocab import Vocab

    if vocab_1 is None or vocab_2 is None:
        raise UsageError("Two vocabularies are needed.", "Name them with --vocab_1 and --vocab_2.")
    wanted = [name.replace("-", "_") for name in lists or ()]
    for name in wanted:
        if name not in _LISTS:
            raise UsageError(f"There is no list {name!r}.", f"Choose of {', '.join(_LISTS)}.")
    found = diff_vocabs(
        Vocab.load(vocab_1),
        Vocab.load(vocab_2),
        corpus=corpus_path or None,
        delimiter=delimiter,
        tokenizer=tokenizer,
        do_lower_case=truth("--do-lower-case", do_lower_case),
        workers=workers_num,
    )
    if json:
        record = {"vocab_1": vocab_1, "vocab_2": vocab_2, **found.as_record()}
        if wanted:
            record["lists"] = {name: list(_LISTS[name](found)) for name in wanted}
        console.json_line(record)
        return
    for line in _diff_lines(vocab_1, vocab_2, found):
        console.out(line)
    for name in wanted:
        console.out(f"\n{name}:")
        for entry in _LISTS[name](found):
            console.out("\t".join(str(part) for part in entry))


_LISTS: dict[str, Callable[[VocabDiff], Iterator[list[Any]]]] = {
    "only_1": lambda found: ([token] for token in found.only_1),
    "only_2": lambda found: ([token] for token in found.only_2),
    "common": lambda found: ([token] for token in found.common),
    "moved": lambda found: ([*entry] for entry in found.moved),
    "duplicates": lambda found: (
        [which, token, *ids]
        for which, table in (("1", found.duplicates_1), ("2", found.duplicates_2))
        for token, ids in table.items()
    ),
}


def _diff_lines(vocab_1: str, vocab_2: str, found: VocabDiff) -> Iterator[str]:
    """The old script's lines first, as it wrote them, then what it did not know."""
    yield f"vocab_1: {vocab_1}, size: {found.size_1}"
    yield f"vocab_2: {vocab_2}, size: {found.size_2}"
    yield f"vocab_1 - vocab_2 = {len(found.only_1)}"
    yield f"vocab_2 - vocab_1 = {len(found.only_2)}"
    yield f"vocab_1 & vocab_2 = {len(found.common)}"
    yield f"Jaccard: {found.jaccard:.4f}"
    yield f"common tokens with another id: {len(found.moved)}"
    yield f"duplicates: {len(found.duplicates_1)} in vocab_1, {len(found.duplicates_2)} in vocab_2"
    yield f"blank entries: {found.blanks_1} in vocab_1, {found.blanks_2} in vocab_2"
    for name, coverage in (("vocab_1", found.coverage_1), ("vocab_2", found.coverage_2)):
        if coverage is not None:
            yield f"corpus with {name}: {_coverage_words(coverage)}"


def _coverage_words(coverage: Coverage) -> str:
    return (
        f"covers {100 * coverage.share:.4f}% of {coverage.units} "
        f"({coverage.covered_kinds} of {coverage.kinds} different), "
        f"[UNK] rate {100 * coverage.unknown_rate:.4f}% of {coverage.tokens} tokens"
    )


# -- adapt ----------------------------------------------------------------------------------------


@app.command("adapt")
def adapt(
    old_model_path: Annotated[
        str | None,
        opt(
            "--old-model-path",
            "--load-model-path",
            "--model",
            "-m",
            help="A checkpoint of UER-py, or a Hugging Face file or folder",
        ),
    ] = None,
    old_vocab_path: Annotated[
        str | None,
        opt("--old-vocab-path", help="Its vocabulary (of a folder: by default the one in it)"),
    ] = None,
    new_vocab_path: Annotated[
        str | None,
        opt("--new-vocab-path", help="The vocabulary that it gets: a file, or a tokenizer folder"),
    ] = None,
    new_model_path: Annotated[
        str | None,
        opt(
            "--new-model-path",
            "--output",
            "-o",
            help="A .bin or .safetensors file, or a folder if the model is one",
        ),
    ] = None,
    old_spm_model_path: Annotated[
        str | None, opt("--old-spm-model-path", help="Sentencepiece model as the old vocabulary")
    ] = None,
    new_spm_model_path: Annotated[
        str | None, opt("--new-spm-model-path", help="Sentencepiece model as the new vocabulary")
    ] = None,
    init: Annotated[
        str,
        opt("--init", help="mean-of-pieces, normal, zero or similar", panel=_NEW_ROWS),
    ] = "mean-of-pieces",
    similar_path: Annotated[
        str | None,
        opt(
            "--similar-path",
            "--word-vectors-path",
            help="For similar: vectors of old and new words, as word2vec writes them",
            panel=_NEW_ROWS,
        ),
    ] = None,
    neighbours: Annotated[
        int, opt("--neighbours", help="For similar: how many of the nearest count", panel=_NEW_ROWS)
    ] = 10,
    temperature: Annotated[
        float,
        opt("--temperature", help="For similar: of the softmax over cosines", panel=_NEW_ROWS),
    ] = 0.1,
    seed: Annotated[int, opt("--seed", help="Decides what is drawn", panel=_NEW_ROWS)] = 7,
    tokenizer: Annotated[
        str,
        opt("--tokenizer", help="bert, char, space, bpe or xlmroberta", panel=_OLD_TOKENIZER),
    ] = "bert",
    merges_path: Annotated[
        str | None, opt("--merges-path", help="Merges of bpe", panel=_OLD_TOKENIZER)
    ] = None,
    do_lower_case: Annotated[
        str,
        opt("--do-lower-case", help="For bert", panel=_OLD_TOKENIZER, metavar="true|false"),
    ] = "true",
    old_tgt_vocab_path: Annotated[
        str | None, opt("--old-tgt-vocab-path", help="What it has", panel=_DECODER)
    ] = None,
    new_tgt_vocab_path: Annotated[
        str | None, opt("--new-tgt-vocab-path", help="What it gets", panel=_DECODER)
    ] = None,
    arch: Annotated[
        str | None, opt("--arch", help="The architecture, where names do not tell")
    ] = None,
    dry_run: Annotated[bool, opt("--dry-run", help="Say what would change, write nothing")] = False,
    lists: Annotated[
        list[str] | None,
        opt("--list", help="Also list composed, drawn, zero, renamed or dropped words"),
    ] = None,
    overwrite: Annotated[bool, opt("--overwrite", help="Replace an existing output")] = False,
    json: Annotated[bool, opt("--json", help="The report as one line of JSON")] = False,
    save_run: Annotated[
        bool, opt("--save-run", help="Write arguments and hashes of the inputs beside the output")
    ] = False,
    quiet: Annotated[bool, opt("--quiet", "-q", help="No progress and no summary")] = False,
) -> None:
    """Give a model another vocabulary: rows of shared words are copied, new ones are made."""
    from uertool.loading.registry import local_path
    from uertool.tasks.vocab import adaptation as vocab_adaptation
    from uertool.tasks.vocab.change import VocabChange

    console.set_level(quiet=quiet)
    if old_model_path is None:
        raise UsageError("No model was named.", "Name one with --old_model_path.")
    if save_run and (new_model_path is None or dry_run):
        raise UsageError("--save-run goes beside an output, and there is none.")
    wanted = [name.replace("-", "_") for name in lists or ()]
    for name in wanted:
        if name not in _WORD_LISTS:
            raise UsageError(f"There is no list {name!r}.", f"Choose of {', '.join(_WORD_LISTS)}.")
    if (old_tgt_vocab_path is None) != (new_tgt_vocab_path is None):
        raise UsageError("--old_tgt_vocab_path and --new_tgt_vocab_path go together.")
    with console.tensor_progress("Writing") as progress:
        report = vocab_adaptation.adapt_vocab(
            local_path(old_model_path),
            new_model_path,
            VocabChange(old_vocab_path, new_vocab_path, old_spm_model_path, new_spm_model_path),
            target_change=VocabChange(old_tgt_vocab_path, new_tgt_vocab_path),
            init=init,  # type: ignore[arg-type]  # checked there, with the list of methods
            tokenizer=tokenizer,
            merges_path=merges_path,
            do_lower_case=truth("--do-lower-case", do_lower_case),
            similar_path=similar_path,
            neighbours=neighbours,
            temperature=temperature,
            seed=seed,
            arch=arch,
            dry_run=dry_run,
            overwrite=overwrite,
            progress=progress,
        )
    if save_run and new_model_path is not None:
        named = (old_model_path, old_vocab_path, new_vocab_path, old_spm_model_path)
        more = (new_spm_model_path, old_tgt_vocab_path, new_tgt_vocab_path, similar_path)
        run_record.write(new_model_path, inputs=[*named, *more], results=_adapt_record(report, ()))
    if json:
        console.json_line(_adapt_record(report, wanted))
    else:
        _say_adapted(report, wanted)


_WORD_LISTS = ("composed", "drawn", "zero", "renamed", "dropped")


def _adapt_record(report: AdaptReport, lists: Sequence[str]) -> dict[str, Any]:
    """The report as JSON types."""

    def side(found: SideReport) -> dict[str, Any]:
        record = {k: v for k, v in vars(found).items() if k != "words"}
        if lists:
            record["lists"] = {name: list(found.words[name]) for name in lists}
        return record

    return {
        "init": report.init,
        "vocabularies": [side(found) for found in report.sides],
        "tensors": [vars(tensor) for tensor in report.tensors],
        "kept": report.kept,
        "written": [str(path) for path in report.written],
        "notes": report.notes,
    }


def _say_adapted(report: AdaptReport, lists: Sequence[str]) -> None:
    for sentence in report.notes:
        console.note(sentence)
    if not console.is_quiet():
        numbers = ("copied", "renamed", "composed", "drawn", "zero", "dropped")
        columns = ("vocabulary", "old", "new", *numbers)
        console.table(
            columns,
            [
                (s.side, s.old_size, s.new_size, *(getattr(s, name) for name in numbers))
                for s in report.sides
            ],
            right=columns[1:],
        )
        console.table(
            ("tensor", "was", "becomes"),
            [
                (t.name, "x".join(map(str, t.old_shape)), "x".join(map(str, t.new_shape)))
                for t in report.tensors
            ],
        )
        console.out(f"{report.kept} tensors stay as they are")
    for found in report.sides:
        for name in lists:
            console.out(f"\n{name} ({found.side}):")
            for word in found.words[name]:
                console.out(word)
    if not console.is_quiet():
        for path in report.written:
            console.out(f"wrote {path}")
        if not report.written:
            console.note("Nothing was written (--dry-run).")
