"""`uertool whiten`: fit a whitening on vectors that exist already, and apply one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console, run_record
from uertool.cli.console import counted
from uertool.cli.options import WriteSettings, with_settings
from uertool.cli.parser import Command, Group
from uertool.cli.pipeline import report_errors, show_plan, watching
from uertool.engine.ordering import check_engine, new_order
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.tasks.features.settings import ApplySettings, FitSettings

if TYPE_CHECKING:
    from uertool.tasks.features.whitening_work import WhiteningReport

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Fit or apply a whitening: vectors transformed so that their cosines say more.",
)

_Vectors = Annotated[
    list[str],
    typer.Argument(
        help="Files of vectors (.npy, .pt, .safetensors, .parquet or .jsonl), folders of shards."
    ),
]


@app.command("fit", cls=Command)
@with_settings
def fit(
    vectors: _Vectors,
    *,
    settings: FitSettings,
    output: WriteSettings,
    engine: EngineSettings,
) -> None:
    """Fit a whitening on vectors, so that others can be brought into the same space.

        uertool whiten fit features.npy --whitening-size 64 -o whitening.safetensors

    Rows of zeros (blank lines) are ignored.
    """
    output.apply()
    check_engine(engine)
    if settings.save_whitening is None:
        raise UsageError("There is no output.", "Name a file with `save_whitening`.")
    if engine.shard_lines is not None:
        raise UsageError("`shard_lines` has no meaning here: a file is a block.")

    from uertool.engine.inputs.sources import Reading
    from uertool.tasks.features import whitening_work
    from uertool.tasks.features.whitening import check_path

    check_path(settings.save_whitening)
    order = new_order(
        engine,
        work=whitening_work.MomentsWork(whitening_size=settings.whitening_size),
        inputs=vectors,
        output=str(settings.save_whitening),
        identity={name: getattr(settings, name) for name in ("whitening_size", "beta", "gamma")},
        reading=Reading(whole=True),
        overwrite=output.overwrite,
        joins=False,
    )
    if engine.dry_run:
        show_plan(order, as_json=output.json)
    about = {"vectors": ", ".join(Path(path).name for path in vectors)}
    with watching("Fitting", "files", engine) as (_, watch):
        report, found = whitening_work.fit(
            order,
            settings.whitening_size,
            beta=settings.beta,
            gamma=settings.gamma,
            about=about,
            watch=watch,
        )
    report_errors(found, order.output)
    _report(report, as_json=output.json)
    if output.save_run:
        run_record.write(order.output, inputs=vectors, results=report.to_json())


@app.command("apply", cls=Command)
@with_settings
def apply(
    vectors: _Vectors,
    *,
    settings: ApplySettings,
    output: WriteSettings,
    engine: EngineSettings,
) -> None:
    """Whiten the vectors of files.

    uertool whiten apply features.npy -w whitening.safetensors -o whitened.npy
    """
    output.apply()
    check_engine(engine)
    target = settings.prediction_path
    if settings.load_whitening is None:
        raise UsageError("No whitening was named.", "Name one with `load_whitening`.")
    if target is None:
        raise UsageError("There is no output.", "Name a file with `prediction_path`.")
    if output.json and target == "-":
        raise UsageError("`json` and the vectors cannot both go to standard output.")

    from uertool.engine.inputs.sources import Reading
    from uertool.io.atomic import sha256_of
    from uertool.io.vector_writer import check_output
    from uertool.tasks.features import whitening_work
    from uertool.tasks.features.whitening import Whitening

    check_output(target.rstrip("/"), settings.precision)
    whitening = Whitening.load(settings.load_whitening).cut(settings.whitening_size)
    on_ray = engine.engine == "ray"
    suffix = ".jsonl" if target == "-" else Path(target.rstrip("/")).suffix.lower()
    order = new_order(
        engine,
        work=whitening_work.ApplyWork(
            suffix=suffix,
            whitening=whitening,
            normalize=settings.normalize,
            precision=settings.precision,
            sums=not on_ray,
        ),
        inputs=vectors,
        output=target,
        identity={
            "whitening": sha256_of(settings.load_whitening),
            "size": settings.whitening_size,
            "normalize": settings.normalize,
            "precision": settings.precision,
        },
        reading=Reading(whole=True),
        overwrite=output.overwrite,
        in_shards=on_ray,
    )
    if engine.dry_run:
        show_plan(order, as_json=output.json)
    with watching("Whitening", "files", engine) as (_, watch):
        report, found = whitening_work.apply(order, whitening, watch)
    report_errors(found, target)
    _report(report, as_json=output.json)
    if output.save_run and target != "-":
        run_record.write(
            target, inputs=[*vectors, settings.load_whitening], results=report.to_json()
        )


def _report(report: WhiteningReport, *, as_json: bool) -> None:
    if as_json:
        console.json_line(report.to_json())
    else:
        console.note(
            f"{counted(report.rows, 'vector')} of {report.dims}; {report.size} dimensions keep "
            f"{report.explained:.1%} of the variance of the {report.fitted_on:,} that were "
            f"fitted on; mean cosine of all pairs {report.cosine_before:.4f} before, "
            f"{report.cosine_after:.4f} after"
        )
    for remark in report.remarks:
        console.warn(remark)
