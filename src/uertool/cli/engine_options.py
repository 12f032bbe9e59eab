"""`--engine ray`: the options of commands that also run on a cluster."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from uertool.cli.options import DeviceOptions, ModelOptions, OptionGroup, TextOptions, opt
from uertool.errors import UsageError

if TYPE_CHECKING:
    from uertool.engine.run import Order
    from uertool.engine.work import Work

_ENGINE = "Engine (see docs/scaling.md)"


@dataclass(frozen=True)
class EngineOptions(OptionGroup):
    """Where a command runs; None means not given."""

    engine: Annotated[
        Literal["local", "ray"],
        opt(
            "--engine",
            help="local, or ray for a cluster: what has a row for every line becomes a folder of "
            "shards, and the same command again goes on with what is not done",
            panel=_ENGINE,
        ),
    ] = "local"
    ray_address: Annotated[
        str | None,
        opt(
            "--ray-address",
            help="local starts Ray here, auto finds one that runs here, HOST:PORT is a head node "
            "[default: RAY_ADDRESS, or local]",
            panel=_ENGINE,
            metavar="auto|local|HOST:PORT",
        ),
    ] = None
    actors: Annotated[
        int | None,
        opt(
            "--actors",
            help="Workers, each of which holds the model [default: as many as there is room for]",
            panel=_ENGINE,
        ),
    ] = None
    gpus_per_actor: Annotated[
        float | None,
        opt("--gpus-per-actor", help="GPUs of a worker [default: 1, if there are]", panel=_ENGINE),
    ] = None
    cpus_per_actor: Annotated[
        float | None,
        opt("--cpus-per-actor", help="Processors of a worker [default: 1]", panel=_ENGINE),
    ] = None
    shard_lines: Annotated[
        int | None,
        opt("--shard-lines", help="Lines of a shard [default: by the input]", panel=_ENGINE),
    ] = None
    strict: Annotated[
        bool,
        opt(
            "--strict",
            help="Stop at a line that cannot be processed; else it goes to errors.jsonl",
            panel=_ENGINE,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        opt("--dry-run", help="Tell blocks, workers and time from a sample", panel=_ENGINE),
    ] = False

    @property
    def is_ray(self) -> bool:
        """Whether the command runs on Ray.

        Raises:
            UsageError: it does not, but options were given that belong to it.
        """
        if self.engine == "ray":
            return True
        given = [
            "--" + field.name.replace("_", "-")
            for field in dataclasses.fields(self)
            if field.name != "engine" and getattr(self, field.name) not in (None, False)
        ]
        if given:
            raise UsageError(f"{', '.join(given)} belongs to --engine ray.", "Give --engine ray.")
        return False

    def order(
        self,
        work: Work,
        *,
        inputs: Sequence[str],
        output: str,
        identity: Mapping[str, Any],
        text: TextOptions | None = None,
        device: DeviceOptions | None = None,
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
            resources=Resources(self.actors, self.cpus_per_actor or 1.0, self.gpus_per_actor),
            address=self.ray_address,
            device=_one_device(device),
            threads=device.threads if device is not None else None,
            block_lines=self.shard_lines,
            strict=self.strict,
            overwrite=overwrite,
        )

    def inputs(self, text: TextOptions, arguments: Sequence[str] | None) -> list[str]:
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

    @staticmethod
    def refuse(**options: object) -> None:
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


def _one_device(device: DeviceOptions | None) -> str | None:
    if device is None or device.device == "auto":
        return None
    if "," in device.device or ":" in device.device:
        raise UsageError(
            f"--device {device.device} and --engine ray were both given: Ray shares out devices.",
            "Give --device cpu or cuda, and say with --gpus-per-actor what a worker gets.",
        )
    return device.device


def absolute_model(model: ModelOptions) -> ModelOptions:
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


def model_identity(model: ModelOptions) -> dict[str, Any]:
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
