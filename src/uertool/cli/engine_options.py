"""`--engine ray`: the options of commands that also run on a cluster."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.engine.run import Order
    from uertool.engine.work import Work


def is_ray(engine: EngineSettings) -> bool:
    """Whether the command runs on Ray.

    Raises:
        UsageError: it does not, but options were given that belong to it.
    """
    if engine.engine == "ray":
        return True
    given = [
        "--" + field.name.replace("_", "-")
        for field in dataclasses.fields(engine)
        if field.name != "engine" and getattr(engine, field.name) not in (None, False)
    ]
    if given:
        raise UsageError(f"{', '.join(given)} belongs to --engine ray.", "Give --engine ray.")
    return False


def order_for(
    engine: EngineSettings,
    work: Work,
    *,
    inputs: Sequence[str],
    output: str,
    identity: Mapping[str, Any],
    text: InputSettings | None = None,
    device: DeviceSettings | None = None,
    overwrite: bool = False,
) -> Order:
    """What the engine shall do.

    Args:
        work: what becomes of lines.
        inputs: files, folders, globs.
        output: the folder for shards.
        identity: what decides the results beside the input.
        text: how lines are read; its input is `inputs`.
        device: where workers run the model.
        overwrite: replace what another run wrote.
    """
    from uertool.engine.cluster import Resources
    from uertool.engine.inputs import Reading
    from uertool.engine.run import Order

    return Order(
        work=work,
        inputs=list(inputs),
        output=output,
        identity=identity,
        reading=Reading(text.column, text.field) if text is not None else Reading(),
        resources=Resources(engine.actors, engine.cpus_per_actor or 1.0, engine.gpus_per_actor),
        address=engine.ray_address,
        device=_one_device(device),
        threads=device.threads if device is not None else None,
        block_lines=engine.shard_lines,
        strict=engine.strict,
        overwrite=overwrite,
    )


def inputs_for(text: InputSettings, arguments: Sequence[str] | None) -> list[str]:
    """The input of a command that reads lines.

    Raises:
        UsageError: it is not one that can be shared out.
    """
    if arguments:
        raise UsageError(
            "Texts on the command line are too few for --engine ray.",
            "Name files, folders or globs with --test-path.",
        )
    if text.test_path is None:
        raise UsageError(
            "--engine ray needs files.", "Name files, folders or globs with --test-path."
        )
    if text.shard is not None:
        raise UsageError("--shard and --engine ray were both given: Ray shares out the work.")
    return [text.test_path]


def refuse_on_ray(**options: object) -> None:
    """Complain about options that only one machine can heed; names are theirs."""
    given = [
        "--" + name.replace("_", "-")
        for name, value in options.items()
        if value not in (None, False)
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot go with --engine ray.", "Leave it out, or run locally."
        )


def _one_device(device: DeviceSettings | None) -> str | None:
    if device is None or device.device == "auto":
        return None
    if "," in device.device or ":" in device.device:
        raise UsageError(
            f"--device {device.device} and --engine ray were both given: Ray shares out devices.",
            "Give --device cpu or cuda, and say with --gpus-per-actor what a worker gets.",
        )
    return device.device


def absolute_model(model: ModelSettings) -> ModelSettings:
    """The same model for workers that stand in other folders."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if isinstance(value, Path):
            changes[field.name] = value.absolute()
        elif field.name == "load_model_path" and value is not None and _is_file(value):
            changes[field.name] = os.path.abspath(value)
    return dataclasses.replace(model, **changes)


def _is_file(reference: str) -> bool:
    return os.path.exists(reference) or os.path.exists(reference + ".index")


def model_identity(model: ModelSettings) -> dict[str, Any]:
    """What a model is: its name, the digests of its files and the settings that were given."""
    from uertool.io.atomic import sha256_of

    digests: dict[str, str] = {}
    for item in model.files():
        if item is None:
            continue
        parts = [Path(item)]
        if not parts[0].exists():  # a TensorFlow prefix, or no file at all
            parts = sorted(parts[0].parent.glob(parts[0].name + ".*"))
        digests.update({part.name: sha256_of(part) for part in parts if part.exists()})
    given = {
        field.name: str(value)
        for field in dataclasses.fields(model)
        if (value := getattr(model, field.name)) is not None
        and not isinstance(value, Path)
        and field.name != "load_model_path"
    }
    name = Path(model.reference).name if _is_file(model.reference) else model.reference
    return {"model": name, "model files": digests, "model settings": given}
