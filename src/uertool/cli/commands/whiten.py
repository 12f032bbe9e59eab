"""`uertool whiten`: fit a whitening on vectors that exist already, and apply one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uertool.cli import console, run_record
from uertool.cli.engine_options import is_ray
from uertool.cli.options import opt, option_groups
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError

if TYPE_CHECKING:
    from uertool.tasks.features.whitening_files import WhiteningReport

app = typer.Typer(
    no_args_is_help=True,
    help="Fit or apply a whitening: vectors turned so that their cosines tell more.",
)

_Quiet = Annotated[bool, opt("--quiet", "-q", help="No progress and no summary")]
_Overwrite = Annotated[bool, opt("--overwrite", help="Replace an existing output")]
_Json = Annotated[bool, opt("--json", help="The figures as one line of JSON")]
_SaveRun = Annotated[
    bool, opt("--save-run", help="Write arguments and hashes of the inputs beside the output")
]


@app.command("fit")
@option_groups
def fit(
    vectors: Annotated[
        list[str],
        typer.Argument(help="Files of vectors: .npy, .pt, .safetensors, .parquet or .jsonl."),
    ],
    save_whitening: Annotated[
        Path | None,
        opt("--save-whitening", "--output", "-o", help="The .safetensors file to write"),
    ] = None,
    whitening_size: Annotated[
        int | None, opt("--whitening-size", help="Dimensions to keep [default: all]", min=1)
    ] = None,
    overwrite: _Overwrite = False,
    json: _Json = False,
    save_run: _SaveRun = False,
    quiet: _Quiet = False,
    *,
    engine: EngineSettings,
) -> None:
    """Fit a whitening on vectors, so that others can be brought into the same space.

        uertool whiten fit features.npy --whitening-size 64 -o whitening.safetensors

    Rows of zeros (blank lines) take no part.
    """
    console.set_level(quiet=quiet)
    if save_whitening is None:
        raise UsageError("Nowhere to write to.", "Name a file with --save-whitening.")

    from uertool.io.atomic import refuse_existing
    from uertool.tasks.features.whitening import check_path
    from uertool.tasks.features.whitening_files import fit_files

    check_path(save_whitening)
    refuse_existing(save_whitening, overwrite)
    about = {"vectors": ", ".join(Path(path).name for path in vectors)}
    if is_ray(engine):
        from uertool.cli.engine_commands import fit_whitening

        whitening, report = fit_whitening(
            engine,
            vectors,
            save_whitening,
            whitening_size,
            about=about,
            overwrite=overwrite,
            as_json=json,
        )
    else:
        with console.progress(None, "Fitting", unit="rows") as advance:
            whitening, report = fit_files(vectors, whitening_size, about=about, on_rows=advance)
    whitening.save(save_whitening, overwrite=overwrite)
    _say(report, as_json=json)
    if save_run:
        run_record.write(save_whitening, inputs=vectors, results=report.to_json())


@app.command("apply")
def apply(
    vectors: Annotated[
        str,
        typer.Argument(help="A file of vectors: .npy, .pt, .safetensors, .parquet or .jsonl."),
    ],
    load_whitening: Annotated[
        Path | None,
        opt("--load-whitening", "--whitening", "-w", help="A whitening that was saved"),
    ] = None,
    prediction_path: Annotated[
        str | None,
        opt(
            "--prediction-path",
            "--output",
            "-o",
            help="The file to write, whose suffix is its format; - is JSON lines to stdout",
        ),
    ] = None,
    whitening_size: Annotated[
        int | None, opt("--whitening-size", help="Keep fewer dimensions than were saved", min=1)
    ] = None,
    normalize: Annotated[
        bool, opt("--normalize/--no-normalize", help="Scale vectors to length 1")
    ] = True,
    precision: Annotated[
        Literal["float32", "float16", "int8", "binary"],
        opt("--precision", help="How numbers are stored"),
    ] = "float32",
    overwrite: _Overwrite = False,
    json: _Json = False,
    save_run: _SaveRun = False,
    quiet: _Quiet = False,
) -> None:
    """Whiten the vectors of a file.

    uertool whiten apply features.npy -w whitening.safetensors -o whitened.npy
    """
    console.set_level(quiet=quiet)
    if load_whitening is None:
        raise UsageError("No whitening was named.", "Name one with --load-whitening.")
    if prediction_path is None:
        raise UsageError("Nowhere to write to.", "Name a file with --prediction-path.")
    if json and prediction_path == "-":
        raise UsageError("--json and the vectors cannot both go to standard output.")

    from uertool.io.atomic import refuse_existing
    from uertool.io.vector_writer import check_output
    from uertool.tasks.features.whitening import Whitening
    from uertool.tasks.features.whitening_files import apply_file

    check_output(prediction_path, precision)
    refuse_existing(prediction_path, overwrite)
    whitening = Whitening.load(load_whitening).cut(whitening_size)
    with console.progress(None, "Whitening", unit="rows") as advance:
        report = apply_file(
            vectors,
            whitening,
            prediction_path,
            normalize=normalize,
            precision=precision,
            overwrite=overwrite,
            on_rows=advance,
        )
    _say(report, as_json=json)
    if save_run and prediction_path != "-":
        run_record.write(
            prediction_path, inputs=[vectors, load_whitening], results=report.to_json()
        )


def _say(report: WhiteningReport, *, as_json: bool) -> None:
    if as_json:
        console.json_line(report.to_json())
    else:
        console.note(
            f"{report.rows:,} vectors of {report.dims}; {report.size} dimensions keep "
            f"{report.explained:.1%} of the variance of the {report.fitted_on:,} that were "
            f"fitted on; mean cosine of all pairs {report.cosine_before:.4f} before, "
            f"{report.cosine_after:.4f} after"
        )
    for remark in report.remarks:
        console.warn(remark)
