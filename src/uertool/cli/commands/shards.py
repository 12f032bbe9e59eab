"""`uertool shards`: put the shards of a distributed run together, or check them."""

from __future__ import annotations

from typing import Annotated

import typer

from uertool.cli import console
from uertool.cli.engine_run import counted
from uertool.cli.options import opt
from uertool.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Merge or verify what --engine ray wrote.")

_Folder = Annotated[str, typer.Argument(help="The folder of shards, or its URI.")]
_Json = Annotated[bool, opt("--json", help="The figures as one line of JSON")]
_Quiet = Annotated[bool, opt("--quiet", "-q", help="No progress and no summary")]


@app.command("merge")
def merge(
    folder: _Folder,
    output_path: Annotated[
        str | None,
        opt(
            "--output-path",
            "--prediction-path",
            "--output",
            "-o",
            help="The file to write, of the shards' format; - is stdout for text",
        ),
    ] = None,
    overwrite: Annotated[bool, opt("--overwrite", help="Replace an existing file")] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Put shards together into the file that one machine would have written.

    uertool shards merge features.npy -o all.npy
    """
    console.set_level(quiet=quiet)
    if output_path is None:
        raise UsageError("Nowhere to write to.", "Name a file with --output-path.")
    if json and output_path == "-":
        raise UsageError("--json and the shards cannot both go to standard output.")
    from uertool.tasks import shards

    _, manifest = shards.open_folder(folder)
    with console.progress(shards.total_bytes(manifest), "Merging", unit="bytes") as ticker:
        shards.merge(folder, output_path, overwrite=overwrite, on_bytes=ticker)
    figures = {
        "output": output_path,
        "shards": len(manifest["shards"]),
        "lines": manifest["lines"],
        "rows": manifest["rows"],
        "errors": manifest["errors"],
    }
    if json:
        console.json_line(figures)
    elif output_path != "-":
        console.note(
            f"{counted(manifest['rows'], 'row')} of {counted(len(manifest['shards']), 'shard')} "
            f"in {output_path}"
        )
    if manifest["errors"]:
        console.warn(f"{counted(manifest['errors'], 'line')} could not be processed then")


@app.command("verify")
def verify(
    folder: _Folder,
    inputs: Annotated[
        bool, opt("--inputs", help="Also look whether the input files are as they were")
    ] = False,
    quick: Annotated[
        bool, opt("--quick", help="Compare names and sizes only, not every byte")
    ] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> int:
    """Compare shards with their manifest: files, sizes, digests, lines. Exit code 1 if not good.

    uertool shards verify features.npy
    """
    console.set_level(quiet=quiet)
    from uertool.tasks import shards

    _, manifest = shards.open_folder(folder)
    with console.progress(shards.total_bytes(manifest), "Verifying", unit="bytes") as ticker:
        found = shards.verify(folder, inputs=inputs, quick=quick, on_bytes=ticker)
    if json:
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
            console.out("  sizes are right" if quick else "  everything is right")
    return 1 if found.problems else 0
