"""`uertool check`: what a checkpoint is, whether it is sound and safe, and what it is good for."""

from __future__ import annotations

from typing import Annotated

import typer

from uertool.cli import console
from uertool.cli.options import WriteSettings, given_once, with_settings
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings
from uertool.tasks.check.settings import CheckSettings


@with_settings
def check(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A weight file, folder or TensorFlow prefix."),
    ] = None,
    *,
    settings: CheckSettings,
    device: DeviceSettings,
    output: WriteSettings,
) -> int:
    """Check a checkpoint: what it is, what is wrong with it, and what it can be used for.

        uertool check model.bin --vocab-path vocab.txt

        uertool check model_folder/ --run

        uertool check untrusted.bin --to-safetensors safe.safetensors

        uertool check a.bin --compare b.bin

    The exit code is 1 if there are problems or --compare finds differences. A pickle is never
    executed.
    """
    from uertool.io.atomic import refuse_existing

    output.apply()
    reference = given_once("FILE", "load_model_path", file, settings.load_model_path)
    if output.save_run and settings.fix is None and settings.to_safetensors is None:
        raise UsageError("`save_run` needs an output: `fix` or `to_safetensors`.")
    for copy in filter(None, (settings.fix, settings.to_safetensors)):
        refuse_existing(copy, output.overwrite)  # before the work

    from uertool.cli.render import check as render
    from uertool.loading.device import set_threads
    from uertool.loading.references import local_path
    from uertool.tasks.check import inspection, repair, tensor_health

    path = local_path(reference)
    set_threads(device.threads)
    if settings.compare is not None:
        first, second, by_meaning = inspection.open_alike(path, local_path(settings.compare))
        with first, second, console.tensor_progress("Comparing") as progress:
            found = list(tensor_health.compare(first, second, progress=progress))
        return render.show_comparison(found, by_meaning=by_meaning, as_json=output.json)
    with console.tensor_progress("Reading the numbers") as progress:
        result = inspection.inspect_checkpoint(
            path, settings, numbers=not settings.fast, progress=progress
        )
    if settings.run and result.layout:
        inspection.run_once(result, device, settings)
    render.show(result, as_json=output.json)
    for target, write in (
        (settings.fix, repair.write_clean),
        (settings.to_safetensors, repair.to_safetensors),
    ):
        if target is None:
            continue
        render.show_copy(write(path, target, overwrite=output.overwrite), as_json=output.json)
        output.record(target, [path])
    return 0 if result.good else 1
