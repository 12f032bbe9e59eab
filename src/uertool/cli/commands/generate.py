"""`uertool generate`: continue texts with a language model, or transform them."""

from __future__ import annotations

from typing import Annotated

import typer

from uertool.cli.generate_run import run
from uertool.cli.options import OutputSettings, with_settings
from uertool.cli.parser import Command, Group
from uertool.engine.settings import EngineSettings
from uertool.loading.settings import DeviceSettings
from uertool.tasks.generation.settings import (
    Decoding,
    LmDecoding,
    LmModel,
    LmText,
    Seq2seqModel,
    Seq2seqText,
)
from uertool.text.settings import InputSettings

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Continue text with a language model, or transform it with an encoder-decoder.",
)

_Prompts = Annotated[list[str] | None, typer.Argument(help="Texts, each a prompt.")]


@app.command("lm", cls=Command)
@with_settings
def lm(
    prompts: _Prompts = None,
    *,
    decoding: LmDecoding,
    shown: LmText,
    text: InputSettings,
    output: OutputSettings,
    device: DeviceSettings,
    model: LmModel,
    engine: EngineSettings,
) -> None:
    """Continue every line of a text with a language model.

    Tokens are drawn from the 70 best unless other options are given. Every line has a random stream
    of its own, so its text depends on the line and `--seed` only.

        uertool generate lm "今天天气"

        uertool generate lm --test-path beginnings.txt -o texts.jsonl --greedy

        uertool generate lm --test-path lines.txt --model gpt2_folder --score
    """
    run("lm", prompts, decoding, shown, text, output, device, model, engine)


@app.command("seq2seq", cls=Command)
@with_settings
def seq2seq(
    prompts: _Prompts = None,
    *,
    decoding: Decoding,
    shown: Seq2seqText,
    text: InputSettings,
    output: OutputSettings,
    device: DeviceSettings,
    model: Seq2seqModel,
    engine: EngineSettings,
) -> None:
    r"""Transform every line of a text with an encoder-decoder: translate, summarize, fill gaps.

    For plain encoder-decoders, T5, T5 v1.1, BART and Pegasus. As in UER-py, tokens are drawn from
    the 70 best unless other options are given; `--beam 4` is the usual way to translate.

        uertool generate seq2seq --test-path english.txt -o chinese.txt --beam 4 \
            --model iwslt.bin --vocab-path en.txt --tgt-vocab-path zh.txt

        uertool generate seq2seq "今天<extra_id_0>很好" --model t5_folder --fill
    """
    run("seq2seq", prompts, decoding, shown, text, output, device, model, engine)
