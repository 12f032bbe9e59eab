"""Writing Google's TensorFlow checkpoints: an index and data files, part by part."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.formats.tf_bundle import import_tensorflow
from uertool.errors import OutputError, shown
from uertool.io.atomic import refuse_existing, scratch_folder

#: Bytes that are handed to tensorflow at once, which copies them.
_PART = 64 << 20


def save_google(
    tensors: Iterable[tuple[str, torch.Tensor]],
    prefix: str | Path,
    *,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write a TensorFlow checkpoint under a prefix such as FOLDER/bert_model.ckpt.

    Args:
        tensors: names and tensors, consumed one at a time.
        prefix: the path without .index and .data-....
        overwrite: whether files of that prefix may be replaced.
        check: looks at the finished checkpoint under a partial prefix; if it raises, nothing is
            put in place.

    Returns:
        The files written.

    Raises:
        OutputError: files of that prefix exist, or the folder does not.
        MissingExtraError: tensorflow is not installed.
    """
    target = Path(prefix)
    index = target.with_name(target.name + ".index")
    refuse_existing(index, overwrite)
    tensorflow = import_tensorflow("Writing a TensorFlow checkpoint")
    with scratch_folder(target) as aside:
        parts = []
        for number, part in enumerate(_parts(tensors)):
            place = aside / f"part-{number}"
            with _system_errors(tensorflow, target):
                _save(tensorflow, place, part)
            parts.append(str(place))
        whole = aside / target.name
        with _system_errors(tensorflow, target):
            tensorflow.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=parts, destination_prefix=str(whole), delete_old_dirs=False
            )
        if check is not None:
            check(whole)
        made = sorted(aside.glob(f"{target.name}.*"))
        for old in target.parent.glob(f"{target.name}.data-*"):
            old.unlink()
        # The index goes last: without it the prefix is no checkpoint.
        for item in sorted(made, key=lambda item: item.suffix == ".index"):
            item.replace(target.parent / item.name)
        return [target.parent / item.name for item in made]


@contextmanager
def _system_errors(tensorflow: Any, target: Path) -> Iterator[None]:
    """Turn TensorFlow's errors of writing into those of the operating system."""
    try:
        yield
    except tensorflow.errors.ResourceExhaustedError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    except tensorflow.errors.OpError as error:
        reason = shown(str(error.message).partition("\n")[0])
        raise OutputError(f"TensorFlow cannot write {target}: {reason}.") from error


def _parts(
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    part: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in tensors:
        part.append((name, tensor))
        size += tensor.numel() * tensor.element_size()
        if size >= _PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def _save(tensorflow: Any, place: Path, part: Sequence[tuple[str, torch.Tensor]]) -> None:
    values = []
    for _, tensor in part:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype is torch.bfloat16:
            raw = tensor.view(torch.uint16).numpy()
            values.append(tensorflow.bitcast(tensorflow.constant(raw), tensorflow.bfloat16))
        else:
            values.append(tensorflow.constant(tensor.numpy()))
    tensorflow.raw_ops.SaveV2(
        prefix=str(place),
        tensor_names=[name for name, _ in part],
        shape_and_slices=[""] * len(part),
        tensors=values,
    )
