"""`uertool shards`: join the shards of a run, or the parts of an input; check shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import ConsoleSettings, JsonSettings, with_settings
from uertool.cli.parser import Command, Group
from uertool.errors import UsageError
from uertool.settings import Setting, Settings

app = typer.Typer(cls=Group, no_args_is_help=True, help="Join or check the shards of a run.")


@dataclass(frozen=True)
class MergeSettings(Settings):
    """Where the joined file is written."""

    output_path: Annotated[
        str | None,
        Setting(
            "The file to write, in the format of the shards; - is standard output for text",
            names=("prediction_path", "output", "o"),
            metavar="FILE",
        ),
    ] = None
    overwrite: Annotated[bool, Setting("Replace an existing output")] = False


@dataclass(frozen=True)
class VerifySettings(Settings):
    """How much is checked."""

    inputs: Annotated[bool, Setting("Also check that the input files are unchanged")] = False
    quick: Annotated[bool, Setting("Compare names and sizes only, not every byte")] = False


@app.command("merge", cls=Command)
@with_settings
def merge(
    folder: Annotated[
        list[str],
        typer.Argument(help="A folder of shards or its URI, or the files of --shard 1/n to n/n."),
    ],
    *,
    settings: MergeSettings,
    output: JsonSettings,
    shown: ConsoleSettings,
) -> None:
    """Join shards into the file that one machine would have written, or parts into the whole.

    uertool shards merge features.npy -o all.npy

    uertool shards merge part1.jsonl part2.jsonl -o all.jsonl
    """
    shown.apply()
    if settings.output_path is None:
        raise UsageError("There is no output.", "Name a file with `output_path`.")
    if output.json and settings.output_path == "-":
        raise UsageError("`json` and the shards cannot both go to standard output.")
    from uertool.tasks import shards

    if len(folder) > 1:
        rows = shards.merge_parts(folder, settings.output_path, overwrite=settings.overwrite)
        figures = {"output": settings.output_path, "parts": len(folder), "rows": rows}
        parts = counted(len(folder), "part")
    else:
        _, manifest = shards.open_folder(folder[0])
        with console.progress(shards.total_bytes(manifest), "Merging", unit="bytes") as ticker:
            shards.merge(
                folder[0], settings.output_path, overwrite=settings.overwrite, on_bytes=ticker
            )
        figures = {
            "output": settings.output_path,
            "shards": len(manifest["shards"]),
            "lines": manifest["lines"],
            "rows": manifest["rows"],
            "errors": manifest["errors"],
        }
        rows, parts = manifest["rows"], counted(len(manifest["shards"]), "shard")
        if manifest["errors"]:
            console.warn(f"{counted(manifest['errors'], 'line')} could not be processed then")
    if output.json:
        console.json_line(figures)
    elif settings.output_path != "-":
        console.note(f"{counted(rows, 'row')} of {parts} in {settings.output_path}")


@app.command("verify", cls=Command)
@with_settings
def verify(
    folder: Annotated[str, typer.Argument(help="The folder of shards, or its URI.")],
    *,
    settings: VerifySettings,
    output: JsonSettings,
    shown: ConsoleSettings,
) -> int:
    """Compare shards with their manifest: files, sizes, digests, lines. Exit code 1 if they differ.

    uertool shards verify features.npy
    """
    shown.apply()
    from uertool.tasks import shards

    _, manifest = shards.open_folder(folder)
    with console.progress(shards.total_bytes(manifest), "Verifying", unit="bytes") as ticker:
        found = shards.verify(folder, inputs=settings.inputs, quick=settings.quick, on_bytes=ticker)
    if output.json:
        console.json_line({"folder": folder, **found.to_json()})
    else:
        console.out(
            f"{folder}: {counted(found.shards, 'shard')}, {counted(found.lines, 'line')}, "
            f"{counted(found.rows, 'row')}, {found.bytes / 1e6:,.1f} MB, "
            f"{counted(found.errors, 'error')}"
        )
        for problem in found.problems:
            console.out(f"  {problem}")
        if not found.problems:
            console.out("  sizes are right" if settings.quick else "  everything is right")
    return 1 if found.problems else 0
