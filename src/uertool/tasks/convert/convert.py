"""Conversion between UER-py's two generations, Hugging Face and Google, proven or refused.

Every conversion runs through canonical names: the source is mapped to them by its table, changed
where that was asked for, and mapped to the target's names by its table. Tensors are read, changed
and written one at a time. The output is then read back and compared (`verification`).
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from uertool.bundled import bundled_models
from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.checkpoints.writer import FORMATS, is_weight_file
from uertool.config import LEGACY_TARGETS
from uertool.errors import CheckpointError, UertoolError, UsageError
from uertool.loading.hub import is_hub_reference
from uertool.loading.registry import find_model
from uertool.tasks.convert.job import ConversionJob
from uertool.tasks.convert.types import ConversionOptions, ConversionReport, MappingRow, Target

__all__ = [
    "ConversionOptions",
    "ConversionReport",
    "MappingRow",
    "Target",
    "checkpoints_in",
    "convert",
    "convert_folder",
    "heads_of_word",
]


_WORDS = {"uer": "UER-py", "hf": "Hugging Face", "tf": "Google"}


def convert(
    source: str | Path,
    target: str | Path,
    to: Target,
    options: ConversionOptions | None = None,
    *,
    sources: tuple[str, ...] = (),
    dry_run: bool = False,
) -> ConversionReport:
    """Convert one checkpoint.

    Args:
        source: a weight file, a Hugging Face folder, a TensorFlow prefix, the name of a bundled
            model or hf:owner/name.
        target: a folder for Hugging Face, a file, or a TensorFlow prefix. A .bin or .safetensors
            path takes the weights alone.
        to: whose names and files to write; "safetensors" is UER-py's names in that format.
        options: see ConversionOptions.
        sources: layouts that the source may have ("uer", "hf", "tf"); any if empty.
        dry_run: report what would be written, write nothing.

    Raises:
        UertoolError: the source is not understood or not whole, an option contradicts it,
            something would be lost, or the output is not what it should be.
    """
    began = time.perf_counter()
    chosen = options or ConversionOptions()
    with open_checkpoint(_located(source), arch=chosen.arch) as checkpoint:
        _check_layout(checkpoint, sources)
        job = ConversionJob(checkpoint, Path(target), to, chosen)
        if dry_run:
            return job.report()
        files, proof = job.run()
    return job.report(files, proof, time.perf_counter() - began)


def convert_folder(
    source: str | Path,
    target: str | Path,
    to: Target,
    options: ConversionOptions | None = None,
    *,
    sources: tuple[str, ...] = (),
    dry_run: bool = False,
) -> Iterator[tuple[Path, ConversionReport | UertoolError]]:
    """Convert every checkpoint of a folder, yielding what became of each.

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
                    place.parent.rmdir()  # unless something lies in it
            yield item, error


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
    stems = Counter(_stem(item) for item in found)
    for item in found:
        stem = _stem(item)
        name = stem if stems[stem] == 1 else item.name.replace(".", "-")
        if to == "google":
            yield item, folder / name / "bert_model.ckpt"
        elif to == "hf":
            yield item, folder / name
        else:
            yield item, folder / (name + (".safetensors" if to == "safetensors" else ".bin"))


def _stem(item: Path) -> str:
    """The name without a suffix of weights; UER-py's training step is a part of it."""
    suffix, mark, step = item.suffix.partition("-")
    return item.stem + mark + step if suffix in FORMATS else item.name


def _located(source: str | Path) -> str | Path:
    """The path of a model that is named rather than pointed to."""
    name = str(source)
    if is_hub_reference(name) or (name in bundled_models() and not Path(name).exists()):
        return find_model(name)
    return source


def _check_layout(checkpoint: Checkpoint, sources: tuple[str, ...]) -> None:
    if sources and checkpoint.layout not in sources:
        wanted = " or ".join(_WORDS[layout] for layout in sources)
        raise UsageError(
            f"{checkpoint.path} has the names of {_WORDS[checkpoint.layout]}, not of {wanted}.",
            "`uertool convert auto IN OUT` takes any.",
        )


def heads_of_word(word: str) -> tuple[str, ...]:
    """Heads for the words of `target` or `type`: bert, albert, mlm, sp, lm, cls, qa, token_cls.

    Several are separated by commas.

    Raises:
        UsageError: there is no such word.
    """
    known = {**LEGACY_TARGETS, "qa": ("qa",), "token_cls": ("token_cls",), "ner": ("token_cls",)}
    heads: list[str] = []
    for part in word.split(","):
        if part not in known:
            raise UsageError(f"There is no target {part!r}; known ones are {', '.join(known)}.")
        heads.extend(known[part])
    return tuple(dict.fromkeys(heads))
