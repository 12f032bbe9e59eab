"""Settings become an order: what commands and functions that run on the engine share."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, TokenizerSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uertool.engine.order import Order

M = TypeVar("M", bound=TokenizerSettings)

_ON_RAY = ("ray_address", "actors", "gpus_per_actor", "cpus_per_actor")


def refuse_same(source: str, target: str) -> None:
    """Raise UsageError if an input would be replaced by its output."""
    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise UsageError(
            f"The output {target} is the input itself.", "Name another file for the output."
        )


def check_engine(engine: EngineSettings) -> None:
    """Refuse settings of a cluster without one."""
    given = [f"`{name}`" for name in _ON_RAY if getattr(engine, name) is not None]
    if given and engine.engine != "ray":
        raise UsageError(f"{', '.join(given)} belongs to `engine` ray.", "Give `engine` ray.")


def refuse_on_ray(engine: EngineSettings, **settings: object) -> None:
    """Refuse settings, by their names, that need the model in this process."""
    given = [f"`{name}`" for name, value in settings.items() if value not in (None, False)]
    if given and engine.engine == "ray":
        raise UsageError(
            f"{', '.join(given)} cannot be combined with `engine` ray.",
            "Leave it out, or use `engine` local.",
        )


def new_order(
    engine: EngineSettings,
    text: InputSettings | None = None,
    *,
    device: DeviceSettings | None = None,
    **more: Any,
) -> Order:
    """The order for the engine.

    Args:
        engine: where.
        text: how lines are read.
        device: where the model runs; None for work without one.
        more: see `Order`.
    """
    from uertool.engine.inputs.sources import Reading
    from uertool.engine.order import Order, Resources

    on_ray = engine.engine == "ray"
    text = text or InputSettings()
    if on_ray and text.shard is not None:
        raise UsageError("`shard` and `engine` ray were both given: Ray distributes the work.")
    if engine.strict and text.skip_bad:
        raise UsageError("`strict` and `skip_bad` were both given.", "Give one of the two.")
    devices: list[str | None] = [None]
    if device is not None and not on_ray:
        from uertool.loading.device import resolve_devices

        devices = [str(found) for found in resolve_devices(device.device)]
        more["identity"]["device"] = sorted({name.split(":")[0] for name in map(str, devices)})
    reading = Reading(text.column, text.field, part=text.parts(), encoding=text.encoding)
    return Order(
        **{
            "engine": engine.engine,
            "devices": devices,
            "resources": Resources(
                engine.actors, engine.cpus_per_actor or 1.0, engine.gpus_per_actor
            ),
            "address": engine.ray_address,
            "device": _one_device(device) if on_ray else None,
            "threads": device.threads if device is not None else None,
            "block_lines": engine.shard_lines,
            "strict": engine.strict if on_ray else not text.skip_bad,
            "resume": engine.resume,
            "reading": reading,
            **more,
        }
    )


def order_of_lines(
    engine: EngineSettings,
    model: TokenizerSettings,
    text: InputSettings,
    device: DeviceSettings | None,
    *,
    source: str | None,
    texts: Sequence[str] | None,
    **more: Any,
) -> Order:
    """The order to run a model on lines.

    Args:
        engine, model, text, device: where, which model, and how lines are read; no device if the
            model does not run.
        source: the input: a path, "-", or None if it is the texts.
        texts: the lines themselves.
        more: see `Order`; with the identity of what is done.
    """
    on_ray = engine.engine == "ray"
    more["identity"] = {
        **model_identity(model, digests=on_ray),
        **({} if device is None else {"dtype": device.dtype}),
        **({} if on_ray else {"skip_bad": text.skip_bad}),
        **more["identity"],
    }
    return new_order(
        engine,
        text,
        inputs=[] if source is None else [source],
        texts=list(texts or ()) if source is None else None,
        device=device,
        in_shards=on_ray,
        **more,
    )


def _one_device(device: DeviceSettings | None) -> str | None:
    if device is None or device.device == "auto":
        return None
    if "," in device.device or ":" in device.device:
        raise UsageError(
            f"`device` {device.device} and `engine` ray were both given: Ray assigns the devices.",
            "Give `device` cpu or cuda, and with `gpus_per_actor` what a worker gets.",
        )
    return device.device


def absolute_model(model: M) -> M:
    """The same model for workers that run in other folders."""
    changes: dict[str, Any] = {}
    for one in dataclasses.fields(model):
        value = getattr(model, one.name)
        if isinstance(value, Path):
            changes[one.name] = value.absolute()
        elif one.name == "load_model_path" and value is not None and _is_file(value):
            changes[one.name] = os.path.abspath(value)
    return dataclasses.replace(model, **changes)


def _is_file(reference: str) -> bool:
    return os.path.exists(reference) or os.path.exists(reference + ".index")


def model_identity(model: TokenizerSettings, *, digests: bool) -> dict[str, Any]:
    """What a model is: its name, its files and the settings that were given.

    Args:
        model: which model.
        digests: identify files by their digests, not by size and time.
    """
    from uertool.io.atomic import sha256_of

    files: dict[str, Any] = {}
    for item in model.files():
        if item is None:
            continue
        parts = [Path(item)]
        if not parts[0].exists():  # a TensorFlow prefix, or no file at all
            parts = sorted(parts[0].parent.glob(parts[0].name + ".*"))
        for part in parts:
            if part.exists():
                files[part.name] = sha256_of(part) if digests else state_of(part)
    given = {
        field.name: str(value)
        for field in dataclasses.fields(model)
        if (value := getattr(model, field.name)) not in (None, ())
        and not isinstance(value, Path)
        and field.name != "load_model_path"
    }
    name = Path(model.reference).name if _is_file(model.reference) else model.reference
    return {"model": name, "model files": files, "model settings": given}


def state_of(path: Path) -> list[Any]:
    """Size and time of a file; of a folder those of its files."""
    if path.is_dir():
        return [[item.name, *state_of(item)] for item in sorted(path.iterdir()) if item.is_file()]
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]
