"""Clean copies of a checkpoint: without the multi-GPU prefix, in modular names, as safetensors."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import TIED, TensorFile, release_after
from uertool.checkpoints.writer import Ties, save_tensors
from uertool.errors import CheckpointError, UsageError
from uertool.io.atomic import refuse_existing

if TYPE_CHECKING:
    from uertool.checkpoints.reader import Checkpoint

PREFIX = "module."


@dataclass(frozen=True)
class CleanReport:
    """What a clean copy holds.

    Attributes:
        written: the files written.
        tensors: how many tensors they hold.
        renamed: how many have another name than before.
        dropped: raw names that were left out.
    """

    written: tuple[Path, ...]
    tensors: int
    renamed: int
    dropped: tuple[str, ...]


def write_clean(path: str | Path, output: str | Path, *, overwrite: bool = False) -> CleanReport:
    """Write a single-GPU copy with modular names (Hugging Face names stay what they are).

    Args:
        path: the checkpoint.
        output: a .bin or .safetensors file.
        overwrite: whether an existing file may be replaced.

    Raises:
        CheckpointError: the checkpoint cannot be read, or has names that nobody understands.
        UsageError: it is a TensorFlow checkpoint, which `uertool convert` is for.
        OutputError: the output cannot be written.
    """
    from uertool.checkpoints.reader import open_checkpoint

    refuse_existing(output, overwrite)
    checkpoint = open_checkpoint(path)
    if checkpoint.layout == "tf":
        raise UsageError(
            f"{path} is a TensorFlow checkpoint, which has no copy in UER-py's names.",
            "Use: uertool convert google2uer",
        )
    if checkpoint.layout == "hf":
        return _strip(Path(path), Path(output), overwrite)
    if checkpoint.unmapped:
        raise CheckpointError(
            f"{path} has {len(checkpoint.unmapped)} names that are not understood, such as "
            f"{', '.join(checkpoint.unmapped[:3])}, so a clean copy would lose them."
        )
    return _canonical(checkpoint, Path(output), overwrite)


def to_safetensors(path: str | Path, output: str | Path, *, overwrite: bool = False) -> CleanReport:
    """Write the tensors of a checkpoint under their own names as safetensors.

    A torch file's pickle is followed but never executed, so this is the safe way out of one.
    """
    if Path(output).suffix != ".safetensors":
        raise UsageError(f"`to_safetensors` writes a .safetensors file, not {output}.")
    refuse_existing(output, overwrite)
    with open_tensor_file(path) as file:
        names = {name: name for name in file}
        return _copy(file, names, Path(output), overwrite)


def _strip(path: Path, output: Path, overwrite: bool) -> CleanReport:
    with open_tensor_file(path) as file:
        names = {name: name.removeprefix(PREFIX) for name in file}
        return _copy(file, names, output, overwrite)


def _copy(file: TensorFile, names: dict[str, str], output: Path, overwrite: bool) -> CleanReport:
    """Copy tensors under new names; what is tied stays so."""
    infos = [file.info(name)._replace(name=new) for name, new in names.items()]
    pairs = ((names[name], tensor) for name, tensor in release_after(file, names))
    tied: dict[str, str] = {}
    first: dict[Hashable, str] = {}
    for name, new in names.items():
        key = file.storage_key(name)
        if first.setdefault(key, new) != new:
            tied[new] = first[key]
    metadata = {k: v for k, v in file.metadata.items() if k not in (TIED, "unwrapped")}
    ties: Ties = "copy"
    written = save_tensors(
        pairs, output, infos=infos, tied=tied, ties=ties, metadata=metadata, overwrite=overwrite
    )
    renamed = sum(name != new for name, new in names.items())
    return CleanReport(tuple(written), len(names), renamed, tuple(file.skipped))


def _canonical(checkpoint: Checkpoint, output: Path, overwrite: bool) -> CleanReport:
    names = list(checkpoint.keys())
    infos = []
    renamed = 0
    for name in names:
        infos.append(checkpoint.info(name)._replace(name=name))
        renamed += checkpoint.source_name(name) != name
    tied = {name: group[0] for group in checkpoint.tied for name in group[1:]}

    def pairs() -> Iterator[tuple[str, torch.Tensor]]:
        for name in names:
            yield name, checkpoint.tensor(name)
            checkpoint.release(name)

    metadata = {k: v for k, v in checkpoint.metadata.items() if k not in (TIED, "unwrapped")}
    written = save_tensors(
        pairs(), output, infos=infos, tied=tied, metadata=metadata, overwrite=overwrite
    )
    return CleanReport(tuple(written), len(names), renamed, tuple(checkpoint.dropped))
