"""`uertool convert`: checkpoints of UER-py, Hugging Face and Google into each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from uertool.cli import console
from uertool.cli.options import JsonReportSettings, given_once, with_settings
from uertool.cli.parser import Command, Group
from uertool.errors import UertoolError, UsageError
from uertool.settings import Setting, Settings
from uertool.tasks.convert.settings import ConvertSettings, Target

if TYPE_CHECKING:
    from uertool.tasks.convert.results import ConversionReport

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Convert checkpoints between UER-py (2021, 2023 and later), Hugging Face and Google.",
)


@dataclass(frozen=True)
class PathSettings(Settings):
    """The paths, as the old scripts name them."""

    input_model_path: Annotated[
        str | None, Setting("The same as IN", names=("m",), metavar="PATH")
    ] = None
    output_model_path: Annotated[
        str | None, Setting("The same as OUT", names=("output", "o"), metavar="PATH")
    ] = None


def _command(
    sources: tuple[str, ...], text: str, *examples: str, **fixed: Any
) -> Callable[..., None]:
    """One direction as a command.

    Args:
        sources: naming schemes that it takes ("uer", "hf", "tf"); empty for all.
        text: its help.
        examples: arguments that its help shows.
        fixed: values of `to` and `layout`, which then are no options of the command.
    """

    @with_settings
    def command(
        in_: Annotated[
            str | None,
            typer.Argument(
                metavar="IN",
                help="A weight file, a folder, a TensorFlow prefix, or hf:owner/name.",
            ),
        ] = None,
        out: Annotated[
            str | None,
            typer.Argument(metavar="OUT", help="A folder, a file, or a TensorFlow prefix."),
        ] = None,
        *,
        to: Annotated[
            Target | None,
            typer.Option(
                "--to",
                metavar="|".join(get_args(Target)),
                help="What to write; safetensors has UER-py's names",
            ),
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show the mapping as a table; write nothing")
        ] = False,
        paths: PathSettings,
        convert: ConvertSettings,
        report: JsonReportSettings,
    ) -> None:
        report.apply()
        if to is None:
            raise UsageError("--to is missing.", f"It is one of {', '.join(get_args(Target))}.")
        source = given_once("IN", "input_model_path", in_, paths.input_model_path)
        target = given_once("OUT", "output_model_path", out, paths.output_model_path)
        if "-" in (source, target):
            raise UsageError(
                "A checkpoint cannot be read from or written to a pipe.", "Name a file."
            )
        _run(source, Path(target), to, convert, sources, dry_run=dry_run, as_json=report.json)

    signature = inspect.signature(command)
    kept = [value for name, value in signature.parameters.items() if name not in fixed]

    def direction(**given: Any) -> None:
        command(**given, **fixed)

    direction.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    direction.__annotations__ = {value.name: value.annotation for value in kept}
    direction.__doc__ = "\n\n".join((text, *(f"    uertool convert {line}" for line in examples)))
    direction.settings = command.settings  # type: ignore[attr-defined]
    return direction


_DIRECTIONS: dict[str, Callable[..., None]] = {
    "hf2uer": _command(
        ("hf",), "Hugging Face to UER-py.", "hf2uer bert-base-chinese/ bert.bin", to="uer"
    ),
    "uer2hf": _command(
        ("uer",),
        "UER-py, either generation, to a Hugging Face folder.",
        "uer2hf bert.bin bert_folder/ --vocab-path vocab.txt",
        to="hf",
        layout="modular",
    ),
    "google2uer": _command(
        ("tf",),
        "Google's TensorFlow BERT or ALBERT to UER-py.",
        "google2uer bert_model.ckpt bert.bin",
        to="uer",
    ),
    "uer2google": _command(
        ("uer",),
        "UER-py to Google's TensorFlow format.",
        "uer2google bert.bin google/bert_model.ckpt",
        to="google",
        layout="modular",
    ),
    "legacy2modular": _command(
        ("uer",),
        "UER-py's names of 2021 to those of today.",
        "legacy2modular old.bin new.bin",
        to="uer",
        layout="modular",
    ),
    "modular2legacy": _command(
        ("uer",),
        "UER-py's names of today to those of 2021.",
        "modular2legacy new.bin old.bin",
        to="uer",
        layout="legacy",
    ),
    "auto": _command(
        (),
        "Detect the format of IN, and convert it to the format that `--to` names.",
        "auto model_folder/ model.safetensors --to safetensors",
    ),
}

for _name, _direction in _DIRECTIONS.items():
    app.command(_name, cls=Command)(_direction)


def _run(
    source: str,
    target: Path,
    to: Target,
    settings: ConvertSettings,
    sources: tuple[str, ...],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from uertool.cli.render.convert import show_report, show_table
    from uertool.tasks.convert.job import convert, convert_folder, holds_several

    if to == "uer" and target.suffix == ".safetensors" and settings.layout != "legacy":
        to = "safetensors"
    if not holds_several(Path(source)):
        report = convert(source, target, to, settings, sources=sources, dry_run=dry_run)
        if as_json:
            console.json_line(report.to_json(rows=dry_run))
        else:
            show_report(report, dry_run=dry_run)
        return
    outcomes: list[tuple[Path, ConversionReport | None]] = []
    failures: list[str] = []
    for item, outcome in convert_folder(
        source, target, to, settings, sources=sources, dry_run=dry_run
    ):
        if isinstance(outcome, UertoolError):
            outcomes.append((item, None))
            failures.append(f"{item.name}: {outcome}")
            record = {"source": str(item), "error": console.spell(str(outcome))}
        else:
            outcomes.append((item, outcome))
            record = outcome.to_json(rows=dry_run)
            for note in outcome.notes:
                console.detail(f"{item.name}: {note}")
        if as_json:
            console.json_line(record)
    if not as_json:
        show_table(outcomes, target, dry_run=dry_run)
    for failure in failures:
        console.err(failure)
    if failures:
        raise UertoolError(
            f"{len(failures)} of {len(outcomes)} checkpoints could not be converted."
        )
