"""`uertool generate`: continue texts with a language model, or transform them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from uertool.cli.engine_options import is_ray, refuse_on_ray
from uertool.cli.generate_options import DecodingOptions, GenerationDevice, TargetOptions
from uertool.cli.generate_run import Run
from uertool.cli.options import OutputSettings, opt, option_groups
from uertool.cli.render.generation import Form, choose_form
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.loading.settings import ModelSettings
from uertool.text.settings import InputSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Continue text with a language model, or transform it with an encoder-decoder.",
)

_OUTPUT = "Output"
_LENGTH = "Length and end"
_TEXT = "Input"

#: Targets of training that each command can use; the old flag names one.
LM_TARGETS = frozenset({"lm"})
SEQ2SEQ_TARGETS = frozenset({"seq2seq", "t5", "bart", "gsg", "prefixlm", "lm"})

_Prompts = Annotated[list[str] | None, typer.Argument(help="Texts, each a prompt.")]
_Form = Annotated[
    Form,
    opt(
        "--format",
        help="old (prompt, then text), text or jsonl; in a file old, else text",
        panel=_OUTPUT,
    ),
]
_Raw = Annotated[
    bool,
    opt("--raw-tokens", help="Join tokens as the old scripts did, ## and all", panel=_OUTPUT),
]
_Stream = Annotated[
    bool, opt("--stream", help="Show every text as it grows, one by one", panel=_OUTPUT)
]
_Interactive = Annotated[
    bool, opt("--interactive", help="Ask for prompts, one after the other", panel=_TEXT)
]
_LmBias = Annotated[
    bool | None,
    opt(
        "--has-lmtarget-bias/--no-has-lmtarget-bias",
        help="The output layer has a bias; the file tells by itself",
        panel="Model settings (each overrides the config file; seldom needed)",
    ),
]


@app.command("lm")
@option_groups
def lm(
    prompts: _Prompts = None,
    *,
    decoding: DecodingOptions,
    seq_length: Annotated[
        int | None,
        opt(
            "--seq-length",
            help="Most tokens of prompt and text together; default 128",
            panel=_LENGTH,
        ),
    ] = None,
    score: Annotated[
        bool,
        opt("--score", help="Generate nothing; give the perplexity of each line", panel=_OUTPUT),
    ] = False,
    interactive: _Interactive = False,
    stream: _Stream = False,
    raw_tokens: _Raw = False,
    form: _Form = "auto",
    target: Annotated[
        str | None, opt("--target", help="lm; the file tells by itself", panel=_OUTPUT)
    ] = None,
    text: InputSettings,
    output: OutputSettings,
    device: GenerationDevice,
    model: ModelSettings,
    has_lmtarget_bias: _LmBias = None,
    engine: EngineSettings,
) -> None:
    """Continue every line of a text with a language model.

    Tokens are drawn among the 70 best unless other options say how; every line draws from a random
    stream of its own, so a text depends on its line and `--seed` only.

        uertool generate lm "今天天气" --model gpt2.bin --vocab-path vocab.txt --stream

        uertool generate lm --test-path beginnings.txt --prediction-path texts.jsonl --greedy

        uertool generate lm --test-path lines.txt --model gpt2_folder --score
    """
    _check_target(target, LM_TARGETS, "uertool generate seq2seq")
    run = Run(
        settings=decoding.decoding(seed=output.seed, seq_length=seq_length),
        text=text,
        output=output,
        form=choose_form(form, output),
        live=stream,
        raw=raw_tokens,
    )
    if score and (stream or interactive):
        raise UsageError("--score generates nothing, so --stream and --interactive have no sense.")
    overrides = _given(has_lmtarget_bias=has_lmtarget_bias)
    if is_ray(engine):
        refuse_on_ray(score=score, interactive=interactive, stream=stream)
        run.on_cluster(engine, model, device, prompts, overrides, seq2seq=False)
        return
    run.check(prompts, interactive=interactive)
    generator = device.generator(model, **overrides)
    if generator.seq2seq:
        raise UsageError(
            f"{generator.name} is an encoder-decoder.", "Use it with: uertool generate seq2seq."
        )
    if score:
        run.score(generator, prompts, seq_length, decoding.truncate, model.files())
    elif interactive:
        run.converse(generator)
    else:
        run.generate(generator, prompts, model.files())


@app.command("seq2seq")
@option_groups
def seq2seq(
    prompts: _Prompts = None,
    *,
    decoding: DecodingOptions,
    seq_length: Annotated[
        int | None,
        opt("--seq-length", help="Most tokens of a source; default all", panel=_LENGTH),
    ] = None,
    tgt_seq_length: Annotated[
        int | None,
        opt("--tgt-seq-length", help="Most tokens of a target; default 128", panel=_LENGTH),
    ] = None,
    fill: Annotated[
        bool,
        opt("--fill", help="T5: print the source with its <extra_id_N> filled", panel=_OUTPUT),
    ] = False,
    reference: Annotated[
        Path | None,
        opt("--reference", help="Expected outputs; BLEU and chrF are reported", panel=_OUTPUT),
    ] = None,
    bleu_tokenize: Annotated[
        str,
        opt("--bleu-tokenize", help="auto, 13a, zh, char, intl or none", panel=_OUTPUT),
    ] = "auto",
    interactive: _Interactive = False,
    stream: _Stream = False,
    raw_tokens: _Raw = False,
    form: _Form = "auto",
    target: Annotated[
        str | None, opt("--target", help="seq2seq or t5; the file tells by itself", panel=_OUTPUT)
    ] = None,
    text: InputSettings,
    output: OutputSettings,
    device: GenerationDevice,
    model: ModelSettings,
    decoder: TargetOptions,
    has_lmtarget_bias: _LmBias = None,
    engine: EngineSettings,
) -> None:
    """Transform every line of a text with an encoder-decoder: translate, summarize, fill gaps.

    Plain encoder-decoders, T5, T5 v1.1, BART and Pegasus. As in UER-py tokens are drawn among the
    70 best unless told otherwise; `--beam 4` is the usual way to translate.

        uertool generate seq2seq --test-path english.txt --prediction-path chinese.txt --beam 4

        uertool generate seq2seq "今天<extra_id_0>很好" --model t5_folder --greedy --fill
    """
    _check_target(target, SEQ2SEQ_TARGETS, "uertool generate lm")
    run = Run(
        settings=decoding.decoding(
            seed=output.seed, seq_length=seq_length, tgt_seq_length=tgt_seq_length
        ),
        text=text,
        output=output,
        form=choose_form(form, output),
        live=stream,
        raw=raw_tokens,
        fill=fill,
        reference=reference,
        bleu_tokenize=bleu_tokenize,
    )
    overrides = {**decoder.overrides(), **_given(has_lmtarget_bias=has_lmtarget_bias)}
    if is_ray(engine):
        refuse_on_ray(reference=reference, interactive=interactive, stream=stream)
        run.on_cluster(engine, model, device, prompts, overrides, seq2seq=True)
        return
    run.check(prompts, interactive=interactive)
    generator = device.generator(model, **overrides)
    if not generator.seq2seq:
        raise UsageError(
            f"{generator.name} is a language model without a decoder.",
            "Use it with: uertool generate lm.",
        )
    if fill and not generator.gaps:
        raise UsageError(
            f"--fill needs sentinels, and {generator.tokenizer.vocab.source} has none.",
            "It is for T5, whose vocabulary has <extra_id_0> and so on.",
        )
    if interactive:
        run.converse(generator)
    else:
        files = [*model.files(), decoder.tgt_vocab_path, decoder.tgt_spm_model_path, reference]
        run.generate(generator, prompts, files)


def _check_target(target: str | None, fitting: frozenset[str], other: str) -> None:
    if target is not None and not fitting & set(target.split(",")):
        raise UsageError(
            f"--target {target} does not fit; this command takes {', '.join(sorted(fitting))}.",
            f"Perhaps {other} is meant; or leave --target out.",
        )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
