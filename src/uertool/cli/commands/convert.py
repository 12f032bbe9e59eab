"""`uertool convert`: checkpoints of UER-py, Hugging Face and Google into each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from uertool.cli import console
from uertool.cli.options import opt
from uertool.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from uertool.tasks.convert.results import ConversionReport
    from uertool.tasks.convert.settings import ConversionOptions, Target

app = typer.Typer(
    no_args_is_help=True,
    help="Convert checkpoints between UER-py (2021, 2023 and later), Hugging Face and Google.",
)

_TARGETS = ("hf", "uer", "google", "safetensors")

_Source = Annotated[
    str | None,
    typer.Argument(
        metavar="IN", help="A weight file, a folder, a TensorFlow prefix, or hf:owner/name."
    ),
]
_Target = Annotated[
    str | None,
    typer.Argument(metavar="OUT", help="A folder, a file, or a TensorFlow prefix."),
]
_InputPath = Annotated[str | None, opt("--input-model-path", help="The same as IN.")]
_OutputPath = Annotated[str | None, opt("--output-model-path", help="The same as OUT.")]
_To = Annotated[
    str | None, opt("--to", help="What to write: hf, uer, google or safetensors (UER-py's names).")
]
_LayersNum = Annotated[
    int | None, opt("--layers-num", help="Checked against the file, which knows it.")
]
_DecoderLayersNum = Annotated[
    int | None, opt("--decoder-layers-num", help="Checked against the file, which knows it.")
]
_TargetHeads = Annotated[
    str | None,
    opt("--target", help="Heads to convert: bert (mlm and sp), mlm, sp, cls, qa, token_cls, lm."),
]
_Type = Annotated[
    str | None, opt("--type", help="The old scripts' word: t5, t5-v1_1, bert or mlm.")
]
_Arch = Annotated[
    str | None, opt("--arch", help="The architecture, where the names alone do not tell.")
]
_Layout = Annotated[
    str | None, opt("--layout", help="Names of a UER-py output: legacy (2021) or modular.")
]
_ExactNorm = Annotated[
    bool,
    opt("--exact-norm", help="Change gamma so that the converted model computes the same."),
]
_Dtype = Annotated[
    str | None, opt("--dtype", help="Type of the output: float32, float16 or bfloat16.")
]
_MaxShardSize = Annotated[
    str | None, opt("--max-shard-size", help="The most bytes of one file in a folder: 5GB.")
]
_ConfigPath = Annotated[
    str | None, opt("--config-path", help="Configuration of the source, in anyone's words.")
]
_HeadsNum = Annotated[int | None, opt("--heads-num", help="Attention heads, if no file says.")]
_HiddenAct = Annotated[str | None, opt("--hidden-act", help="Activation, if no file says.")]
_Assume = Annotated[str | None, opt("--assume", help="Accept a guess: heads=hidden/64.")]
_VocabPath = Annotated[
    str | None, opt("--vocab-path", help="The vocabulary, for the tokenizer files.")
]
_SpmPath = Annotated[
    str | None, opt("--spm-model-path", help="A sentencepiece model in place of a vocabulary.")
]
_DoLowerCase = Annotated[
    str, opt("--do-lower-case", help="Whether the tokenizer lower-cases: true or false.")
]
_Labels = Annotated[
    str | None, opt("--labels", help="Names of a classifier's labels, with commas between them.")
]
_Verify = Annotated[
    bool,
    typer.Option("--verify/--no-verify", help="Read the output back, compare it and run both."),
]
_DryRun = Annotated[bool, opt("--dry-run", help="Show the mapping as a table, write nothing.")]
_AllowNan = Annotated[bool, opt("--allow-nan", help="Accept NaN and infinite weights.")]
_AllowLoss = Annotated[
    bool, opt("--allow-loss", help="Go on where something has no place in the output.")
]
_Overwrite = Annotated[bool, opt("--overwrite", help="Replace an existing output.")]
_Json = Annotated[bool, opt("--json", help="The report as JSON, one line per checkpoint.")]


def _command(
    sources: tuple[str, ...], to: str | None, layout: str | None, text: str
) -> Callable[..., None]:
    """One direction as a command.

    Args:
        sources: layouts that it takes ("uer", "hf", "tf"); empty for all.
        to: what it writes; None: --to says it.
        layout: generation that it writes; None: --layout says it.
        text: its help.
    """

    def command(
        source: _Source = None,
        target: _Target = None,
        input_model_path: _InputPath = None,
        output_model_path: _OutputPath = None,
        to_word: _To = to,
        arch: _Arch = None,
        target_heads: _TargetHeads = None,
        type_word: _Type = None,
        layers_num: _LayersNum = None,
        decoder_layers_num: _DecoderLayersNum = None,
        layout_word: _Layout = layout,
        exact_norm: _ExactNorm = False,
        dtype: _Dtype = None,
        max_shard_size: _MaxShardSize = None,
        config_path: _ConfigPath = None,
        heads_num: _HeadsNum = None,
        hidden_act: _HiddenAct = None,
        assume: _Assume = None,
        vocab_path: _VocabPath = None,
        spm_model_path: _SpmPath = None,
        do_lower_case: _DoLowerCase = "true",
        labels: _Labels = None,
        verify: _Verify = True,
        dry_run: _DryRun = False,
        allow_nan: _AllowNan = False,
        allow_loss: _AllowLoss = False,
        overwrite: _Overwrite = False,
        json: _Json = False,
    ) -> None:
        _run(
            sources,
            to_word,
            _one("IN", "--input_model_path", source, input_model_path),
            _one("OUT", "--output_model_path", target, output_model_path),
            {
                "arch": arch,
                "target": target_heads,
                "type": type_word,
                "layers_num": layers_num,
                "decoder_layers_num": decoder_layers_num,
                "layout": layout_word,
                "exact_norm": exact_norm,
                "dtype": dtype,
                "max_shard_size": max_shard_size,
                "config_path": config_path,
                "heads_num": heads_num,
                "hidden_act": hidden_act,
                "assume": assume,
                "vocab_path": vocab_path,
                "spm_model_path": spm_model_path,
                "do_lower_case": do_lower_case,
                "labels": labels,
                "verify": verify,
                "allow_nan": allow_nan,
                "allow_loss": allow_loss,
                "overwrite": overwrite,
            },
            dry_run=dry_run,
            as_json=json,
        )

    # What a direction fixes is no option of it.
    fixed = {name for name, value in (("to_word", to), ("layout_word", layout)) if value}
    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    kept = [
        value.replace(annotation=hints[name])
        for name, value in signature.parameters.items()
        if name not in fixed
    ]
    command.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    command.__annotations__ = {value.name: value.annotation for value in kept}
    command.__doc__ = text
    return command


_DIRECTIONS: tuple[tuple[str, tuple[str, ...], str | None, str | None, str], ...] = (
    ("hf2uer", ("hf",), "uer", None, "Hugging Face to UER-py."),
    ("uer2hf", ("uer",), "hf", "modular", "UER-py, either generation, to a Hugging Face folder."),
    ("google2uer", ("tf",), "uer", None, "Google's TensorFlow BERT or ALBERT to UER-py."),
    ("uer2google", ("uer",), "google", "modular", "UER-py to Google's TensorFlow format."),
    ("legacy2modular", ("uer",), "uer", "modular", "UER-py's names of 2021 to those of today."),
    ("modular2legacy", ("uer",), "uer", "legacy", "UER-py's names of today to those of 2021."),
    ("auto", (), None, None, "Whatever IN is, to what --to says."),
)

for _name, *_direction in _DIRECTIONS:
    app.command(_name)(_command(*_direction))  # type: ignore[arg-type]


def _one(place: str, option: str, argument: str | None, value: str | None) -> str:
    if argument is not None and value is not None and argument != value:
        raise UsageError(f"{place} is {argument}, but {option} is {value}.", "Give it once.")
    found = argument or value
    if found is None:
        raise UsageError(f"{place} is missing.", f"Give it as an argument or as {option}.")
    return found


def _run(
    sources: tuple[str, ...],
    to: str | None,
    source: str,
    target: str,
    words: dict[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from pathlib import Path

    from uertool.tasks.convert.job import convert, holds_several

    if to not in _TARGETS:
        raise UsageError(
            f"--to is {to!r}; it must be one of {', '.join(_TARGETS)}."
            if to
            else "--to is missing.",
            None if to else f"It is one of {', '.join(_TARGETS)}.",
        )
    if to == "uer" and Path(target).suffix == ".safetensors" and words["layout"] != "legacy":
        to = "safetensors"
    if "-" in (source, target):
        raise UsageError("A checkpoint cannot be read from or written to a pipe.", "Name a file.")
    kind: Target = to  # type: ignore[assignment]
    options = _options(words)
    if holds_several(Path(source)):
        _run_many(
            Path(source), Path(target), kind, options, sources, dry_run=dry_run, as_json=as_json
        )
        return
    report = convert(source, target, kind, options, sources=sources, dry_run=dry_run)
    _show(report, dry_run=dry_run, as_json=as_json)


def _options(words: dict[str, Any]) -> ConversionOptions:
    from pathlib import Path

    from uertool.tasks.convert.settings import ConversionOptions, heads_of_word

    values = dict(words)
    target, kind = values.pop("target"), values.pop("type")
    layout = values.pop("layout") or "modular"
    if layout not in ("legacy", "modular"):
        raise UsageError(f"--layout is {layout!r}; it must be legacy or modular.")
    lower = str(values.pop("do_lower_case")).lower()
    if lower not in ("true", "false"):
        raise UsageError(f"--do_lower_case is true or false, not {lower!r}.")
    if kind in ("t5", "t5-v1_1"):
        if values["arch"] not in (None, kind):
            raise UsageError(f"--arch is {values['arch']}, but --type is {kind}.")
        values["arch"] = kind
        kind = None
    if target and kind and target != kind:
        raise UsageError(f"--target is {target}, but --type is {kind}.", "They mean the same.")
    word = target or kind
    for name in ("config_path", "vocab_path", "spm_model_path"):
        values[name] = Path(values[name]) if values[name] is not None else None
    labels = values.pop("labels")
    return ConversionOptions(
        **values,
        heads=heads_of_word(word) if word else (),
        layout="legacy" if layout == "legacy" else "modular",
        do_lower_case=lower == "true",
        labels=tuple(labels.split(",")) if labels else (),
    )


def _run_many(
    source: Path,
    target: Path,
    to: Target,
    options: ConversionOptions,
    sources: tuple[str, ...],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from uertool.errors import UertoolError
    from uertool.tasks.convert.job import convert_folder

    rows = []
    failures = []
    done = convert_folder(source, target, to, options, sources=sources, dry_run=dry_run)
    for item, outcome in done:
        if isinstance(outcome, UertoolError):
            failures.append(f"{item.name}: {outcome}")
            rows.append((item.name, "", "", "", "", "failed"))
            if as_json:
                console.json_line({"source": str(item), "error": str(outcome)})
            continue
        if as_json:
            console.json_line(outcome.to_json(rows=dry_run))
        kind = outcome.hf_class or outcome.architecture or "UER-py's own"
        result = f"{len(outcome.rows)} tensors" + ("" if dry_run else f", {_verdict(outcome)}")
        place = outcome.target.relative_to(target)
        rows.append((item.name, str(place), kind, *_largest(outcome), result))
        for note in outcome.notes:
            console.detail(f"{item.name}: {note}")
    if not as_json:
        columns = ("checkpoint", "output", "kind", "off source", "off transformers", "result")
        console.table(columns, rows, right=columns[3:5])
    for failure in failures:
        console.err(failure)
    if failures:
        raise UertoolError(f"{len(failures)} of {len(rows)} checkpoints could not be converted.")


def _largest(report: ConversionReport) -> tuple[str, str]:
    """The largest difference of any output from the source's, and from that of transformers."""
    found = report.verification.differences if report.verification else {}
    values = [f"{max(values.values()):.1e}" for values in found.values()]
    return (values[0] if values else "", values[1] if len(values) > 1 else "")


def _verdict(report: ConversionReport) -> str:
    return "equal" if report.verification is not None else "not verified"


def _show(report: ConversionReport, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        console.json_line(report.to_json(rows=dry_run))
        return
    kind = report.hf_class or report.architecture or "a model of UER-py's own"
    heads = f", heads {', '.join(report.heads)}" if report.heads else ""
    console.out(f"{report.direction}: {kind}{heads}, {len(report.rows)} tensors")
    if dry_run:
        _show_mapping(report)
    console.out(console.spell(f"layer norms: {report.norm}"))
    for note in report.notes:
        console.note(note)
    if dry_run:
        return
    console.out(_proof(report))
    proof = report.verification
    if proof is not None:
        for what, values in proof.differences.items():
            told = ", ".join(f"{value:.2g} ({name})" for name, value in values.items())
            console.out(f"largest difference, {what}: {told}")
        for note in proof.notes:
            console.note(note)
    for file in report.files:
        console.out(f"wrote {file}")


def _show_mapping(report: ConversionReport) -> None:
    """The mapping in columns, a tensor a line however long its names are."""
    rows = [("output", "shape", "type", "from", "change")]
    rows.extend(
        (row.name, "x".join(map(str, row.shape)), row.dtype, " ".join(row.sources), row.change)
        for row in report.rows
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        console.out("  ".join([*cells, row[4]]).rstrip())
    for title, names in (("left over", report.left_over), ("dropped", report.dropped)):
        if names:
            console.out(f"{title}: {', '.join(names)}")


def _proof(report: ConversionReport) -> str:
    if report.verification is None:
        return "not verified"
    return f"{report.verification.tensors} tensors read back, equal bit for bit"
