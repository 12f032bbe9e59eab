"""`uertool topn`: words near a word, by the embedding layer (indep) or within a sentence (dep)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from uertool.cli import console, run_record
from uertool.cli.options import OutputSettings, lines_of, load, opt, option_groups, source_of
from uertool.errors import UsageError
from uertool.loading.settings import BUNDLED_MODEL, DeviceSettings, ModelSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.embeddings.neighbours import Found
    from uertool.tasks.embeddings.substitutes import Substitutes
    from uertool.tasks.embeddings.word_vectors import WordSource
    from uertool.text.readers import BadLine, Line

app = typer.Typer(no_args_is_help=True, help="Words near a word, with or without context.")

_ASKED = "What is asked"
_VECTORS = "Vectors"
_SPEED = "Device and speed"

Form = Literal["auto", "table", "text", "jsonl"]

_Topn = Annotated[int, opt("--topn", help="Neighbours of each word", panel=_ASKED, min=1)]
_Form = Annotated[
    Form, opt("--format", help="table on a terminal, else the old text", panel="Output")
]


# -- indep ----------------------------------------------------------------------------------------


@app.command("indep")
@option_groups
def indep(
    words: Annotated[list[str] | None, typer.Argument(help="Words to look around.")] = None,
    *,
    load_model_path: Annotated[
        str | None,
        opt(
            "--load-model-path",
            "--model",
            "-m",
            help="A checkpoint of UER-py, a Hugging Face folder, a TensorFlow prefix, "
            f"hf:owner/name, or a bundled model [default: {BUNDLED_MODEL}]",
            panel=_VECTORS,
            metavar="MODEL",
        ),
    ] = None,
    vocab_path: Annotated[
        Path | None, opt("--vocab-path", help="Vocabulary, one token a line", panel=_VECTORS)
    ] = None,
    spm_model_path: Annotated[
        Path | None,
        opt("--spm-model-path", help="Sentencepiece model in place of it", panel=_VECTORS),
    ] = None,
    vectors: Annotated[
        Path | None,
        opt(
            "--vectors",
            help="A file of word vectors in place of a model: word2vec text or binary, also .gz, "
            "or what extract-embeddings wrote",
            panel=_VECTORS,
            metavar="FILE",
        ),
    ] = None,
    plus: Annotated[
        list[str] | None,
        opt("--plus", help="Add this word to each one; may be repeated", panel=_ASKED),
    ] = None,
    minus: Annotated[
        list[str] | None,
        opt("--minus", help="Take this word away from each; may be repeated", panel=_ASKED),
    ] = None,
    topn: _Topn = 15,
    by: Annotated[
        Literal["cosine", "dot", "euclidean"],
        opt("--by", help="What counts as near", panel=_ASKED),
    ] = "cosine",
    form: _Form = "auto",
    text: InputSettings,
    output: OutputSettings,
) -> int:
    """Words whose vectors in the embedding layer are nearest to a word's own.

        uertool topn indep 好 人

        uertool topn indep --test-path words.txt --topn 5

        uertool topn indep 国王 --plus 女人 --minus 男人 --vectors sgns.txt

    Exit code 1 says that a word was not in the vocabulary; the others are answered all the same.
    """
    shown = output.form(form)
    output.apply()
    if vectors is not None and (load_model_path or vocab_path or spm_model_path):
        raise UsageError("--vectors and a model were both given.", "Give one of them.")
    analogy = bool(plus or minus)
    source_of_words: str | None = None
    bad: list[BadLine] = []
    lines: Iterator[Line] = iter(())
    if words or text.test_path or not (analogy and plus):
        source_of_words = source_of(text, words, "word")
        lines = lines_of(text, words, "word", bad)

    from uertool.tasks.embeddings.neighbours import Query, neighbours
    from uertool.tasks.embeddings.word_vectors import WordFile, table_of

    # As in UER-py a line's word ends at the first blank.
    asked = [line.text.split()[0] for line in lines if line.text.strip()]
    more, less = tuple(plus or ()), tuple(minus or ())
    queries = [Query((word, *more), less) for word in asked]
    if not queries and analogy:
        queries = [Query(more, less)]
    source: WordSource
    if vectors is not None:
        source = WordFile(vectors)
    else:
        source = table_of(load_model_path or BUNDLED_MODEL, vocab=vocab_path, spm=spm_model_path)
    started = time.perf_counter()
    with console.progress(len(source), "Comparing", unit="words") as advance:
        results = neighbours(source, queries, topn=topn, by=by, on_rows=advance)
    seconds = time.perf_counter() - started
    with output.opened() as stream:
        if shown == "text":
            stream.write(f"Vocabulary size:  {len(source)}\n")
        for found in results:
            _write_indep(found, shown, stream, by)
    missing = [str(found.query) for found in results if found.problem is not None]
    console.note(f"{len(results):,} words among {len(source):,} ({seconds:.2f} s)")
    if missing:
        console.warn(f"{len(missing):,} of them not in the vocabulary, the first is {missing[0]}")
    if output.save_run and output.prediction_path is not None:
        model = load_model_path or BUNDLED_MODEL
        inputs = [vectors or model, vocab_path, spm_model_path, source_of_words]
        run_record.write(
            output.prediction_path,
            inputs=inputs,
            results={"words": len(results), "missing": len(missing)},
        )
    return 1 if missing else 0


def _write_indep(found: Found, form: str, stream: TextIO, by: str) -> None:
    if form == "jsonl":
        record = {
            "word": str(found.query),
            "by": by,
            "neighbours": [
                {"word": n.word, "score": n.score, "id": n.id} for n in found.neighbours
            ],
        }
        if found.query.is_analogy:
            record |= {"plus": list(found.query.plus), "minus": list(found.query.minus)}
        if found.problem is not None:
            record["problem"] = found.problem
        stream.write(console.json_text(record) + "\n")
    elif form == "table":
        console.heading(str(found.query))
        _bars([(n.word, n.score) for n in found.neighbours], found.problem)
    else:
        stream.write(f"Target word: {found.query}\n")
        if found.problem is not None:
            stream.write(found.problem + "\n")
        for n in found.neighbours:
            stream.write(f"{n.word}\t{n.score}\n")
        stream.write("\n")


# -- dep ------------------------------------------------------------------------------------------


@app.command("dep")
@option_groups
def dep(
    pair: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD SENTENCE]", help="A word and a sentence that it stands in."),
    ] = None,
    *,
    cand_vocab_path: Annotated[
        str | None,
        opt(
            "--cand-vocab-path",
            help="Candidates, one a line [default: the model's vocabulary]",
            panel=_ASKED,
            metavar="FILE",
        ),
    ] = None,
    topn: _Topn = 15,
    seq_length: Annotated[
        int | None,
        opt(
            "--seq-length",
            help="Tokens of a sentence that are read [default: 128, or the model's positions]",
            panel=_ASKED,
            min=1,
        ),
    ] = None,
    add_special: Annotated[
        bool,
        opt(
            "--add-special/--no-add-special",
            help="Put [CLS] and [SEP] around sentences; the old script does not",
            panel=_ASKED,
        ),
    ] = False,
    occurrence: Annotated[
        int | None,
        opt(
            "--occurrence",
            help="Which one counts where a word stands several times [default: the first, with "
            "a warning]",
            panel=_ASKED,
            min=1,
        ),
    ] = None,
    batch_size: Annotated[
        int, opt("--batch-size", help="Most candidates of a batch", panel=_SPEED, min=1)
    ] = 256,
    form: _Form = "auto",
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    output: OutputSettings,
) -> int:
    """Words that could stand in a word's place within a sentence.

    The word is replaced by every candidate, and the model's last states in its place are compared.
    Lines of the input are: word TAB sentence. Of a word of several tokens the mean counts.

        uertool topn dep 好 今天天气很好。

        uertool topn dep --cand-vocab-path words.txt --test-path words_with_sentences.txt
        --tokenizer space

    Exit code 1 says that a line could not be answered, or its word stands in it more than once and
    no --occurrence chose; the others are answered all the same.
    """
    shown = output.form(form)
    output.apply()
    bad: list[BadLine] = []
    lines, source = _pairs(pair, text, bad)

    from uertool.loading.device import resolve_devices
    from uertool.tasks.embeddings.substitutes import (
        SubstituteSearch,
        SubstituteSettings,
        SubstituteSummary,
    )
    from uertool.text.vocab import Vocab

    settings = SubstituteSettings(topn, seq_length, batch_size, add_special, occurrence)
    if len(resolve_devices(device.device)) > 1:
        raise UsageError("topn dep runs on one device.", "Name one with --device.")
    candidates = None if cand_vocab_path is None else Vocab.load(cand_vocab_path)
    loaded = load(model, device, heads=())
    vocab = loaded.tokenizer.vocab
    search = SubstituteSearch(loaded, (candidates or vocab).tokens, settings)
    summary = SubstituteSummary()
    unread = 0
    started = time.perf_counter()
    with output.opened() as stream, _progress(output, shown) as advance:
        if shown == "text":
            stream.write(f"Vocabulary size:  {len(vocab)}\n")
            stream.write(f"Vocabulary size:  {len(search.candidates)}\n")
        for line in lines:
            found = _answer(search, line, advance)
            if found is None:
                unread += 1
                console.warn(f"line {line.number + 1} is not: word TAB sentence")
                continue
            summary.add(found)
            for said in (found.problem, found.remark):
                if said is not None:
                    console.warn(f"line {line.number + 1}: {said}")
            _write_dep(found, shown, stream, line.number)
    seconds = time.perf_counter() - started
    compared = summary.found * len(search.candidates)
    rate = f", {compared / seconds:,.0f} candidates/s" if seconds > 0 else ""
    console.note(
        f"{summary.lines:,} words with sentences, {summary.found:,} answered, "
        f"{len(search.candidates):,} candidates{rate}"
    )
    for problem, count in summary.problems.items():
        console.note(f"{count:,} unanswered: {problem}")
    if summary.remarked:
        console.note(f"{summary.remarked:,} with a word that stands there more than once")
    if search.unknown:
        console.warn(f"{search.unknown:,} candidates cannot be spelled by the vocabulary")
    if unread or bad:
        console.warn(f"{unread + len(bad):,} lines could not be read")
    if output.save_run and output.prediction_path is not None:
        run_record.write(
            output.prediction_path,
            inputs=[*model.files(), source, cand_vocab_path],
            results={"lines": summary.lines, "answered": summary.found},
        )
    return 0 if summary.is_clean and not unread and not bad else 1


def _pairs(
    pair: list[str] | None, text: InputSettings, bad: list[BadLine]
) -> tuple[Iterator[Line], str | None]:
    """Lines of word TAB sentence, and the path that they come from."""
    from uertool.text.readers import Line

    if pair and pair != ["-"]:
        if text.test_path is not None:
            raise UsageError(
                "A word was given on the command line and a file with --test-path.",
                "Give one of the two.",
            )
        if len(pair) != 2:
            raise UsageError(
                f"A word and a sentence are expected, not {len(pair)} arguments.",
                'For example: uertool topn dep 好 "今天天气很好"',
            )
        return iter([Line(0, "\t".join(pair))]), None
    source = source_of(text, pair, "word with a sentence")
    return (line for line in lines_of(text, pair, "word", bad) if line.text.strip()), source


def _answer(search: object, line: Line, advance: Callable[[int], None]) -> Substitutes | None:
    """What is found for a line, or None where it is not of the form word TAB sentence."""
    from uertool.tasks.embeddings.substitutes import SubstituteSearch

    assert isinstance(search, SubstituteSearch)
    parts = line.text.strip().split("\t")
    if len(parts) != 2:
        return None
    return search.find(parts[0].strip(), parts[1], advance)


def _write_dep(found: Substitutes, form: str, stream: TextIO, number: int) -> None:
    if form == "jsonl":
        record: dict[str, object] = {
            "line": number,
            "word": found.target,
            "sentence": found.sentence,
            "position": found.position,
            "neighbours": [{"word": n.word, "score": n.score} for n in found.neighbours],
        }
        record |= {k: v for k, v in (("problem", found.problem), ("remark", found.remark)) if v}
        stream.write(console.json_text(record) + "\n")
    elif form == "table":
        console.heading(f"{found.target}  in  {found.sentence}")
        _bars([(n.word, n.score) for n in found.neighbours], found.problem)
    else:
        stream.write(f"Original sentence: {found.sentence}\nTarget word: {found.target}\n")
        if found.problem is not None:
            stream.write(found.problem + "\n")
        for n in found.neighbours:
            stream.write(f"{n.word}\t{n.score}\n")


# -- both -----------------------------------------------------------------------------------------


def _progress(
    output: OutputSettings, form: str
) -> contextlib.AbstractContextManager[console.Ticker]:
    if form == "table":
        return contextlib.nullcontext(console.Ticker())  # the results themselves show progress
    return console.progress(None, "Comparing", unit="candidates")


def _bars(rows: Sequence[tuple[str, float]], problem: str | None) -> None:
    """Words with their scores and a bar each, the longest for the nearest."""
    if problem is not None:
        console.out(f"     {problem}")
    if rows:
        scores = [score for _, score in rows]
        low, high = min(scores), max(scores)
        widest = max(console.width_of(word) for word, _ in rows)
        rising = scores[0] <= scores[-1] and low != high  # distances: less is nearer
        for n, (word, score) in enumerate(rows):
            blanks = " " * (widest - console.width_of(word))
            # The bars' differences show, where all scores lie near each other.
            share = 1.0 if high == low else (score - low) / (high - low)
            share = 0.15 + 0.85 * (1 - share if rising else share)
            console.out(
                f"  {n + 1:>3}  {word}{blanks}  {score:>8.4f}  {console.bar(share).rstrip()}"
            )
    console.out()
