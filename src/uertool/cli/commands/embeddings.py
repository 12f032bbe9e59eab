"""`uertool extract-embeddings`: the word vectors of a model as a word2vec file."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import ReportSettings, is_typed, with_settings
from uertool.errors import UsageError
from uertool.tasks.embeddings.settings import ExportSettings, TableSettings


@with_settings
def extract_embeddings(
    model: Annotated[
        str | None, typer.Argument(help="The model; or use --load-model-path.")
    ] = None,
    *,
    table: TableSettings,
    export: ExportSettings,
    report: ReportSettings,
) -> None:
    r"""The word vectors of a model's embedding layer, one for each entry of the vocabulary.

        uertool extract-embeddings --model zh-mlm-small -o embeddings.txt

    Numbers have the shortest form that reads back to the same float32. White space within a word
    is written as \uXXXX and an empty word as \empty, since blanks separate the numbers.
    """
    report.apply()
    if model is not None and is_typed("load_model_path", table.load_model_path):
        raise UsageError("Two models were named.", "Give one of them.")
    if export.word_embedding_path is None:
        raise UsageError("There is no output.", "Name a file with --word-embedding-path.")
    target = export.word_embedding_path
    if model is not None:
        table = dataclasses.replace(table, load_model_path=model)

    from uertool.tasks.embeddings.export import check_export, export_words
    from uertool.tasks.embeddings.word_vectors import table_for

    check_export(target, binary=export.binary, overwrite=export.overwrite)
    vectors = table_for(table, projected=export.projected)
    started = time.perf_counter()
    written = export_words(
        vectors,
        target,
        binary=export.binary,
        drop_unused=export.drop_unused,
        overwrite=export.overwrite,
    )
    seconds = time.perf_counter() - started
    where = "" if target == "-" else f" in {target}"
    left_out = f", {written.dropped:,} left out" if written.dropped else ""
    console.note(
        f"{counted(written.words, 'vector')} of {written.size}{where}{left_out} ({seconds:.2f} s)"
    )
    console.warn(*written.notices)
    figures = {"words": written.words, "size": written.size, "dropped": written.dropped}
    report.record(target, table.files(), results=figures)
