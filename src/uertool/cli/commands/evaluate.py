"""`uertool evaluate`: evaluation of sentence vectors and masked language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.options import (
    JsonReportSettings,
    is_typed,
    lines_of,
    report_bad,
    report_model,
    source_of,
    with_settings,
)
from uertool.cli.parser import Command, Group
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.evaluate.settings import EveryWordSettings, PairSettings, StsSettings
from uertool.tasks.features.settings import FittedSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel
    from uertool.text.readers import BadLine

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Evaluate sentence vectors and masked language models, several in one table.",
)

_Models = Annotated[
    list[str] | None,
    typer.Argument(help="Models, as for --load-model-path; without any, the bundled one."),
]


@app.command("sts", cls=Command)
@with_settings
def sts(
    models: _Models = None,
    *,
    pairs: PairSettings,
    settings: StsSettings,
    vectors: FittedSettings,
    model: ModelSettings,
    device: DeviceSettings,
    report: JsonReportSettings,
) -> None:
    r"""Measure how well cosines of sentence vectors agree with scores of pairs.

    The input has a header line with text_a, text_b and score (or label). Correlations are
    multiplied by 100, as in publications. With two values as scores, the area under the ROC curve
    is given too. A whitening that is fitted here learns from the texts, not from the scores.

        uertool evaluate sts --test-path pairs.tsv

        uertool evaluate sts bert-base-chinese/ model.bin --test-path pairs.tsv \
            --pooling first,first-last-mean --whitening-size 256
    """
    report.apply()
    from uertool.cli.render.evaluate import show_sts
    from uertool.tasks.evaluate.pairs import read_pairs
    from uertool.tasks.evaluate.sts import evaluate_sts

    found = read_pairs(pairs.test_path, pairs)
    more = [read_pairs(path, pairs) for path in settings.fit_path]
    texts = len(found.texts) * len(pairs.features())
    results = []
    for name, loaded in _loaded(models, model, device, pairs.heads):
        with console.progress(texts, name, unit="texts") as advance:
            for result in evaluate_sts(
                loaded,
                found,
                pairs,
                vectors,
                more=more,
                name=name,
                resamples=settings.resamples,
                advance=advance,
            ):
                results.append(result)
                if report.json:
                    console.json_line(result.to_json())
    if vectors.load_whitening is not None and not any(result.whitening for result in results):
        raise UsageError(
            f"{vectors.load_whitening} was fitted on another pooling than {pairs.pooling}.",
            "Name its pooling with `pooling`.",
        )
    if not report.json:
        show_sts(results)


@app.command("cloze", cls=Command)
@with_settings
def cloze(
    models: _Models = None,
    *,
    settings: EveryWordSettings,
    text: InputSettings,
    model: ModelSettings,
    device: DeviceSettings,
    report: JsonReportSettings,
) -> None:
    r"""Measure how well models predict text: each token, or each word, is masked in turn.

    The pseudo-perplexity depends on the vocabulary: compare models that have the same.

        uertool evaluate cloze --test-path lines.txt

        uertool evaluate cloze bert.bin roberta.bin --test-path lines.txt \
            --whole-word --word-list words.txt
    """
    report.apply()
    from uertool.cli.render.evaluate import show_cloze
    from uertool.tasks.cloze.masking import words_of
    from uertool.tasks.evaluate.cloze import evaluate_cloze

    if source_of(text, None, "text") == "-" and len(models or ()) > 1:
        raise UsageError(
            "Standard input can be read once, but there are several models.",
            "Name a file with `test_path`.",
        )
    asked = settings.with_words(words_of(settings.word_list or (), encoding=text.encoding))
    results = []
    bad: list[BadLine] = []
    for name, loaded in _loaded(models, model, device, ("mlm",)):
        bad.clear()  # they are the same for every model
        lines = lines_of(text, None, bad=bad)
        with console.progress(None, name) as advance:
            result = evaluate_cloze(loaded, lines, asked, name=name, advance=advance)
        results.append(result)
        if report.json:
            console.json_line(result.to_json())
        if result.cut:
            console.warn(f"{console.counted(result.cut, 'line')} truncated (see `seq_length`)")
    report_bad(bad)
    if not report.json:
        show_cloze(results, whole_words=asked.whole_word)


def _loaded(
    models: Sequence[str] | None,
    settings: ModelSettings,
    device: DeviceSettings,
    heads: tuple[str, ...],
) -> Iterator[tuple[str, LoadedModel]]:
    """The models one after the other, with their names."""
    if models and is_typed("load_model_path", settings.load_model_path):
        raise UsageError(
            "Models were given as arguments and as `load_model_path`.", "Give them in one place."
        )
    from uertool.loading.registry import forget_models, load_from_settings

    for name in models or [settings.reference]:
        one = dataclasses.replace(settings, load_model_path=name)
        loaded = load_from_settings(one, device, heads=heads)
        report_model(loaded)
        yield name, loaded
        forget_models()  # one in memory at a time
