"""open_tensor_file: a weight file, folder or TensorFlow prefix, recognised by its content."""

from __future__ import annotations

from pathlib import Path

from uertool.checkpoints.formats import hf_folder, tf_bundle
from uertool.checkpoints.formats.identify import FileKind, identify
from uertool.checkpoints.formats.tensor_file import TensorFile
from uertool.checkpoints.formats.weight_file import READERS, open_weight_file
from uertool.errors import CheckpointError


def open_tensor_file(path: str | Path) -> TensorFile:
    """Open a weight file, folder or TensorFlow prefix, chosen by its content.

    Raises:
        CheckpointError: there is nothing at `path`, or no checkpoint; the message says what it is.
        MissingExtraError: a TensorFlow checkpoint without tensorflow.
    """
    try:
        return _open(Path(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def _open(path: Path) -> TensorFile:
    kind = identify(path) if path.is_file() else None
    if kind not in READERS:
        prefix = tf_bundle.prefix_of(path)
        if prefix is not None:
            return tf_bundle.TensorFlowBundle(prefix)
        if path.is_dir():
            return hf_folder.open_folder(path)
        if kind is FileKind.JSON and hf_folder.is_index(path):
            return hf_folder.HuggingFaceFolder.from_index(path)
    return open_weight_file(path)
