"""Conversion between UER-py's two generations, Hugging Face and Google, verified or refused.

Every conversion runs through canonical names: the table of the source maps its names to them,
tensors are changed if settings say so, and the table of the target maps the names to its own.
Tensors are read, changed and written one at a time. The output is then read back and compared
(`verification`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from uertool.checkpoints.companions import stem_of
from uertool.checkpoints.formats.hf_folder import STANDARD_NAMES
from uertool.checkpoints.reader import Checkpoint
from uertool.checkpoints.writer import is_weight_file
from uertool.errors import CheckpointError, UertoolError, UsageError
from uertool.loading.references import find_model
from uertool.tasks.convert.plan import ConversionPlan
from uertool.tasks.convert.results import ConversionReport
from uertool.tasks.convert.settings import ConvertSettings, Target
from uertool.tasks.convert.source import open_source
from uertool.tasks.convert.writing import ConversionWriter

#: Naming -> the library that it is of.
_WORDS = {"uer": "UER-py", "hf": "Hugging Face", "tf": "Google"}


def convert(
    source: str | Path,
    target: str | Path,
    to: Target,
    options: ConvertSettings | None = None,
    *,
    sources: tuple[str, ...] = (),
    dry_run: bool = False,
) -> ConversionReport:
    """Convert one checkpoint.

    Args:
        source: a weight file, a Hugging Face folder, a TensorFlow prefix, the name of a bundled
            model or hf:owner/name.
        target: a folder for Hugging Face and sentence-transformers, a file, or a TensorFlow prefix.
            A .bin or .safetensors path takes the weights alone.
        to: the naming and the files to write; "safetensors" is UER-py's names in that format.
        options: see ConvertSettings.
        sources: namings that the source may have ("uer", "hf", "tf"); any if empty.
        dry_run: report what would be written, write nothing.

    Raises:
        UertoolError: the source is not understood or incomplete, a setting contradicts it,
            something would be lost, or the output is not right.
    """
    began = time.perf_counter()
    chosen = options or ConvertSettings()
    with open_source(find_model(source), chosen) as checkpoint:
        _check_layout(checkpoint, sources)
        plan = ConversionPlan(checkpoint, Path(target), to, chosen)
        if dry_run:
            return plan.report()
        writer = ConversionWriter(plan)
        files = writer.write()
        return dataclasses.replace(
            plan.report(),
            files=tuple(files),
            verification=writer.verification,
            seconds=time.perf_counter() - began,
        )


def convert_folder(
    source: str | Path,
    target: str | Path,
    to: Target,
    options: ConvertSettings | None = None,
    *,
    sources: tuple[str, ...] = (),
    dry_run: bool = False,
) -> Iterator[tuple[Path, ConversionReport | UertoolError]]:
    """Convert every checkpoint of a folder; yields each with its report or its error.

    Checkpoints are the weight files and TensorFlow prefixes of the folder, and its sub-folders with
    weights. A failure does not stop the others.

    Raises:
        CheckpointError: the folder holds no checkpoints.
    """
    found = checkpoints_in(Path(source))
    if not found:
        raise CheckpointError(f"{source} holds no checkpoints.")
    folder = Path(target)
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
    for item, place in _places(found, folder, to):
        if to == "google" and not dry_run:
            place.parent.mkdir(exist_ok=True)
        try:
            yield item, convert(item, place, to, options, sources=sources, dry_run=dry_run)
        except UertoolError as error:
            if to == "google" and not dry_run:
                with contextlib.suppress(OSError):
                    place.parent.rmdir()  # unless it holds files
            yield item, error


def holds_several(source: Path) -> bool:
    """Whether a folder holds several checkpoints rather than being one."""
    if not source.is_dir() or any((source / name).exists() for name in STANDARD_NAMES):
        return False
    if list(source.glob("*.index.json")):
        return False
    found = checkpoints_in(source)
    return len(found) > 1 or (len(found) == 1 and found[0].is_dir())


def checkpoints_in(folder: Path) -> list[Path]:
    """The weight files and TensorFlow prefixes of a folder, and its sub-folders with one model."""
    found = []
    for item in folder.iterdir():
        if item.is_dir():
            if any(_holds_weights(file) for file in item.iterdir()):
                found.append(item)
        elif item.suffix == ".index" and item.is_file():
            found.append(item.with_suffix(""))
        elif item.is_file() and is_weight_file(item):
            found.append(item)
    return sorted(found)


def _holds_weights(file: Path) -> bool:
    return file.is_file() and (is_weight_file(file) or file.suffix == ".index")


def _places(found: Sequence[Path], folder: Path, to: Target) -> Iterator[tuple[Path, Path]]:
    """Where each checkpoint goes; names that would be the same keep their suffix as well."""
    stems = [stem_of(item) if is_weight_file(item) else item.name for item in found]
    for item, stem in zip(found, stems, strict=True):
        name = stem if stems.count(stem) == 1 else item.name.replace(".", "-")
        if to == "google":
            yield item, folder / name / "bert_model.ckpt"
        elif to in ("hf", "sentence-transformers"):
            yield item, folder / name
        else:
            yield item, folder / (name + (".safetensors" if to == "safetensors" else ".bin"))


def _check_layout(checkpoint: Checkpoint, sources: tuple[str, ...]) -> None:
    if sources and checkpoint.layout not in sources:
        wanted = " or ".join(_WORDS[layout] for layout in sources)
        raise UsageError(
            f"{checkpoint.path} has the names of {_WORDS[checkpoint.layout]}, not of {wanted}.",
            "`uertool convert auto IN OUT` takes any.",
        )
