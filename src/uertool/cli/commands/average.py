"""`uertool average`: several checkpoints of one model into one."""

from __future__ import annotations

from typing import Annotated

import typer

from uertool.cli import console
from uertool.cli.options import WriteSettings, with_settings
from uertool.tasks.average.settings import AverageSettings


@with_settings
def average(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, or patterns such as 'models/*.bin-*'."),
    ] = None,
    *,
    settings: AverageSettings,
    output: WriteSettings,
) -> None:
    r"""Average checkpoints of one model, tensor by tensor, or merge fine-tuned ones.

    uertool average models/model.bin-1000 models/model.bin-2000 -o mean.bin

    uertool average models/ --last 5 --ema 0.9 -o mean.safetensors

    uertool average sentiment.bin topics.bin --method ties --base bert.bin \
            -o both.bin
    """
    output.apply()
    from uertool.cli.render.average import show_differences, show_merge, show_step
    from uertool.tasks.average.averaging import LayoutError
    from uertool.tasks.average.job import average as run

    try:
        with console.tensor_progress("Merging") as progress:
            report = run(
                settings,
                models or (),
                overwrite=output.overwrite,
                on_step=None if output.json else show_step,
                progress=progress,
            )
    except LayoutError as error:
        show_differences(error, as_json=output.json)
        raise
    show_merge(report, as_json=output.json)
    inputs = [*report.paths, settings.base]
    output.record(settings.output_model_path, inputs, settings={"weights": report.weights})
