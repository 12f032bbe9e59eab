"""One file of weights as a lazy mapping, its format chosen by its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from uertool.checkpoints.formats.identify import FileKind, identify, not_a_checkpoint
from uertool.checkpoints.formats.pickle_scan import scan_pickle
from uertool.checkpoints.formats.pickle_verdicts import Verdict, refusal
from uertool.checkpoints.formats.safetensors_file import SafetensorsFile
from uertool.checkpoints.formats.tensor_file import TensorFile
from uertool.checkpoints.formats.torch_file import TorchLegacyFile, TorchZipFile

#: Formats that are one file; others are recognised by `opener`.
READERS: Mapping[FileKind, Callable[[Path], TensorFile]] = {
    FileKind.TORCH_ZIP: TorchZipFile,
    FileKind.TORCH_LEGACY: TorchLegacyFile,
    FileKind.SAFETENSORS: SafetensorsFile,
}


def open_weight_file(path: Path) -> TensorFile:
    """Open one weight file.

    Raises:
        CheckpointError: it is not a weight file; the message says what it is instead.
    """
    kind = identify(path)
    if kind in READERS:
        return READERS[kind](path)
    # That a pickle would run code matters more than that it is not a checkpoint.
    bad = scan_pickle(path).suspicious
    if any(use.verdict is Verdict.DANGEROUS for use in bad):
        raise refusal(path, bad)
    raise not_a_checkpoint(path, kind)
