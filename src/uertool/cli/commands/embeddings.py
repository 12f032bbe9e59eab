"""`uertool extract-embeddings`: the word vectors of a model as a word2vec file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from uertool.cli import console, run_record
from uertool.cli.options import BUNDLED_MODEL, opt
from uertool.errors import UsageError

_MODEL = "Model"
_FORM = "What is written"


def extract_embeddings(
    model: Annotated[
        str | None, typer.Argument(help="The model; or use --load-model-path.")
    ] = None,
    *,
    load_model_path: Annotated[
        str | None,
        opt(
            "--load-model-path",
            "--model",
            "-m",
            help="A checkpoint of UER-py, a Hugging Face folder, a TensorFlow prefix, "
            f"hf:owner/name, or a bundled model [default: {BUNDLED_MODEL}]",
            panel=_MODEL,
            metavar="MODEL",
        ),
    ] = None,
    vocab_path: Annotated[
        Path | None, opt("--vocab-path", help="Vocabulary, one token a line", panel=_MODEL)
    ] = None,
    spm_model_path: Annotated[
        Path | None,
        opt("--spm-model-path", help="Sentencepiece model in place of it", panel=_MODEL),
    ] = None,
    tokenizer: Annotated[
        str | None,
        opt(
            "--tokenizer",
            help="xlmroberta: ids in fairseq's order; others make no difference",
            panel=_MODEL,
        ),
    ] = None,
    word_embedding_path: Annotated[
        str | None,
        opt(
            "--word-embedding-path",
            "--output",
            "-o",
            help="word2vec text, or by suffix .bin (word2vec binary), .npy (words in "
            "STEM.vocab.txt) or .safetensors; - is text to standard output",
            panel=_FORM,
            metavar="FILE",
        ),
    ] = None,
    binary: Annotated[
        bool, opt("--binary", help="word2vec's binary format, whatever the suffix", panel=_FORM)
    ] = False,
    drop_unused: Annotated[
        bool,
        opt(
            "--drop-unused",
            help="Leave out [unusedN], special tokens and empty entries",
            panel=_FORM,
        ),
    ] = False,
    projected: Annotated[
        bool,
        opt(
            "--projected",
            help="Of a factorised embedding (ALBERT): vectors of the hidden size",
            panel=_FORM,
        ),
    ] = False,
    overwrite: Annotated[bool, opt("--overwrite", help="Replace an existing output")] = False,
    save_run: Annotated[
        bool, opt("--save-run", help="Write arguments and hashes of the inputs beside the output")
    ] = False,
    quiet: Annotated[bool, opt("--quiet", "-q", help="No summary")] = False,
) -> None:
    r"""The word vectors of a model's embedding layer, one for each entry of the vocabulary.

        uertool extract-embeddings --model zh-mlm-small --word-embedding-path embeddings.txt

    Numbers have the shortest form that reads back to the same float32. White space within a word
    is written as \uXXXX and an empty word as \empty, since blanks separate the numbers.
    """
    console.set_level(quiet=quiet)
    if model is not None and load_model_path is not None:
        raise UsageError("Two models were named.", "Give one of them.")
    if word_embedding_path is None:
        raise UsageError("Nowhere to write to.", "Name a file with --word-embedding-path.")
    reference = model or load_model_path or BUNDLED_MODEL

    from uertool.tasks.embeddings.export import check_export, export_words
    from uertool.tasks.embeddings.word_vectors import table_of

    check_export(word_embedding_path, binary=binary, overwrite=overwrite)
    table = table_of(
        reference, vocab=vocab_path, spm=spm_model_path, tokenizer=tokenizer, projected=projected
    )
    started = time.perf_counter()
    report = export_words(
        table, word_embedding_path, binary=binary, drop_unused=drop_unused, overwrite=overwrite
    )
    seconds = time.perf_counter() - started
    where = "" if word_embedding_path == "-" else f" in {word_embedding_path}"
    left_out = f", {report.dropped:,} left out" if report.dropped else ""
    console.note(f"{report.words:,} vectors of {report.size}{where}{left_out} ({seconds:.2f} s)")
    for notice in report.notices:
        console.warn(notice)
    if save_run and word_embedding_path != "-":
        run_record.write(
            word_embedding_path,
            inputs=[reference, vocab_path, spm_model_path],
            results={"words": report.words, "size": report.size, "dropped": report.dropped},
        )
