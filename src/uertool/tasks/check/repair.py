"""Clean copies of a checkpoint: without the multi-GPU prefix, in modular names, as safetensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import (
    TensorFile,
    kept_metadata,
    release_after,
    ties_of,
)
from uertool.checkpoints.reader import open_canonical, open_checkpoint
from uertool.checkpoints.writer import save_tensors
from uertool.errors import UsageError
from uertool.io.atomic import refuse_existing

PREFIX = "module."


@dataclass(frozen=True)
class CleanReport:
    """What a clean copy holds.

    Attributes:
        written: the files written.
        tensors: how many tensors they hold.
        renamed: how many have another name than before.
    """

    written: tuple[Path, ...]
    tensors: int
    renamed: int


def write_clean(path: str | Path, output: str | Path, *, overwrite: bool = False) -> CleanReport:
    """Write a single-GPU copy with modular names (Hugging Face names stay what they are).

    Args:
        path: the checkpoint.
        output: a .bin or .safetensors file.
        overwrite: whether an existing file may be replaced.

    Raises:
        CheckpointError: the checkpoint cannot be read, or has unknown names.
        UsageError: it is a TensorFlow checkpoint, which `uertool convert` is for.
        OutputError: the output cannot be written.
    """
    source, target = Path(path), Path(output)
    refuse_existing(target, overwrite)
    with open_checkpoint(source) as checkpoint:
        naming = checkpoint.layout
    if naming == "tf":
        raise UsageError(
            f"{path} is a TensorFlow checkpoint, which cannot be copied with UER-py's names.",
            "Use: uertool convert google2uer",
        )
    if naming == "hf":
        with open_tensor_file(source) as file:
            names = {name: name.removeprefix(PREFIX) for name in file}
            return _copy(file, names, target, overwrite)
    with open_canonical(source) as canonical:
        report = _copy(canonical, {name: name for name in canonical}, target, overwrite)
        renamed = sum(canonical.source_name(name) != name for name in canonical)
        return replace(report, renamed=renamed)


def to_safetensors(path: str | Path, output: str | Path, *, overwrite: bool = False) -> CleanReport:
    """Write the tensors of a checkpoint under their own names as safetensors.

    The pickle of a torch file is interpreted but never executed, so this is safe for any file.
    """
    if Path(output).suffix != ".safetensors":
        raise UsageError(f"`to_safetensors` writes a .safetensors file, not {output}.")
    refuse_existing(output, overwrite)
    with open_tensor_file(path) as file:
        names = {name: name for name in file}
        return _copy(file, names, Path(output), overwrite)


def _copy(file: TensorFile, names: dict[str, str], output: Path, overwrite: bool) -> CleanReport:
    """Copy tensors under new names; tied ones stay tied."""
    tied = ties_of(names, file.storage_key)
    written = save_tensors(
        ((names[name], tensor) for name, tensor in release_after(file, names)),
        output,
        infos=[file.info(name)._replace(name=new) for name, new in names.items()],
        tied={names[alias]: names[kept] for alias, kept in tied.items()},
        metadata=kept_metadata(file),
        overwrite=overwrite,
    )
    renamed = sum(name != new for name, new in names.items())
    return CleanReport(tuple(written), len(names), renamed)
