"""The kind of a file, recognised by its first bytes and not by its name."""

from __future__ import annotations

import os
import zipfile
from enum import Enum
from pathlib import Path

from uertool.checkpoints.formats.pickle_walk import starts_pickle
from uertool.errors import CheckpointError, InputError
from uertool.io.small_files import JSON_LIMIT, parse_json

_HEAD = 4096

#: How a file written by torch.save before 1.6 begins: a pickle of a magic number.
TORCH_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class FileKind(Enum):
    """Kinds of files that users give as checkpoints; the value describes it in words."""

    TORCH_ZIP = "a torch checkpoint"
    TORCH_LEGACY = "a torch checkpoint of the format before torch 1.6"
    SAFETENSORS = "a safetensors file"
    EMPTY = "an empty file"
    LFS_POINTER = "a git-lfs pointer (the place holder of a large file), not the file itself"
    HTML = "an HTML page"
    XML = "an XML document"
    JSON = "a JSON file"
    TORCH_TRUNCATED = "a zip archive without its end (a truncated download?)"
    TORCH_SCRIPT = "a TorchScript program, not a state dict"
    TORCH_TAR = "a torch checkpoint of the tar format before torch 0.1.10, which is not supported"
    TAR = "a tar archive"
    ZIP = "a zip archive that torch.save did not write"
    NPZ = "a NumPy .npz archive"
    NPY = "a NumPy array"
    GZIP = "a gzip-compressed file"
    COMPRESSED = "a compressed file (bzip2, xz, zstandard, 7z or rar)"
    HDF5 = "an HDF5 file (Keras or TensorFlow weights)"
    GGUF = "a GGUF file of llama.cpp"
    PICKLE = "a Python pickle that torch.save did not write"
    TF_DATA = "a data shard of a TensorFlow checkpoint"
    TF_INDEX = "the index of a TensorFlow checkpoint"
    SENTENCEPIECE = "a sentencepiece model (a tokenizer)"
    PICTURE = "a picture or a PDF document"
    ZEROS = "a file of zero bytes only (an interrupted download?)"
    TEXT = "a text file"
    UNKNOWN = "a file of an unknown format"


_HINTS: dict[FileKind, str] = {
    FileKind.EMPTY: "Download or copy it again.",
    FileKind.LFS_POINTER: "Fetch the real file with: git lfs pull",
    FileKind.HTML: "The download saved a web page; use the direct link of the file.",
    FileKind.JSON: "A configuration goes to `config_path`; `load_model_path` takes the weights.",
    FileKind.TORCH_TRUNCATED: "Download or copy it again and compare the size.",
    FileKind.TORCH_SCRIPT: "Save the weights with torch.save(model.state_dict(), path).",
    FileKind.TAR: "Unpack it and name the checkpoint inside.",
    FileKind.ZIP: "Unpack it and name the checkpoint inside.",
    FileKind.GZIP: "Unpack it first.",
    FileKind.COMPRESSED: "Unpack it first.",
    FileKind.HDF5: "Use the PyTorch or safetensors weights of the same model.",
    FileKind.GGUF: "Use the PyTorch or safetensors weights of the same model.",
    FileKind.PICKLE: "`uertool check` lists what it would import, without running it.",
    FileKind.TF_DATA: "Name the prefix, for example bert_model.ckpt.",
    FileKind.SENTENCEPIECE: "A sentencepiece model goes to `spm_model_path`.",
    FileKind.ZEROS: "Download or copy it again.",
    FileKind.TEXT: "A vocabulary goes to `vocab_path`; `load_model_path` takes the weights.",
}

_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"version https://git-lfs.github.com", FileKind.LFS_POINTER),
    (b"\x93NUMPY", FileKind.NPY),
    (b"\x1f\x8b", FileKind.GZIP),
    (b"BZh", FileKind.COMPRESSED),
    (b"\xfd7zXZ\x00", FileKind.COMPRESSED),
    (b"\x28\xb5\x2f\xfd", FileKind.COMPRESSED),
    (b"7z\xbc\xaf\x27\x1c", FileKind.COMPRESSED),
    (b"Rar!\x1a\x07", FileKind.COMPRESSED),
    (b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
    (b"GGUF", FileKind.GGUF),
    (b"\x89PNG", FileKind.PICTURE),
    (b"\xff\xd8\xff", FileKind.PICTURE),
    (b"GIF8", FileKind.PICTURE),
    (b"%PDF", FileKind.PICTURE),
)

_TEXT_STARTS: tuple[tuple[bytes, FileKind], ...] = (
    (b"<!doctype html", FileKind.HTML),
    (b"<html", FileKind.HTML),
    (b"<head", FileKind.HTML),
    (b"<?xml", FileKind.XML),
    (b"<error", FileKind.XML),
)


def identify(path: Path) -> FileKind:
    """The kind of the file at `path`.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"There is no file {path}.", _similar(path))
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file, so it cannot be a checkpoint.")
        size = path.stat().st_size
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read: {reason}.") from error
    if not head:
        return FileKind.EMPTY
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02")):
        return _zip_kind(path)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:1] == b"\x80" and TORCH_LEGACY_MAGIC in head[:32]:
        return FileKind.TORCH_LEGACY
    if _is_safetensors(head, size):
        return FileKind.SAFETENSORS
    return _binary_kind(path, head, size) or _text_kind(path, head, size)


def not_a_checkpoint(path: Path, kind: FileKind) -> CheckpointError:
    """The error for a file that is not a checkpoint, with what it is instead."""
    return CheckpointError(f"{path} is {kind.value}.", _HINTS.get(kind))


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of header length, then a JSON object; an absurd length is left to the reader."""
    if len(head) < 9 or not head[8:].lstrip(b" ").startswith(b'{"'):
        return head[8:10] == b"{}" and size >= 10
    return True


def _zip_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises many kinds of errors on broken archives
        return FileKind.TORCH_TRUNCATED
    if any("/" in name and name.split("/", 1)[1].startswith("code/") for name in names):
        return FileKind.TORCH_SCRIPT
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return FileKind.TORCH_ZIP
    if names and all(name.endswith(".npy") for name in names):
        return FileKind.NPZ
    return FileKind.ZIP


def _binary_kind(path: Path, head: bytes, size: int) -> FileKind | None:
    if head[257:262] == b"ustar":
        inner = head[:100].rstrip(b"\0")
        return FileKind.TORCH_TAR if inner in (b"storages", b"sys_info") else FileKind.TAR
    if _ends_like_tf_index(path, size):
        return FileKind.TF_INDEX
    if ".data-" in path.name:
        return FileKind.TF_DATA
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return FileKind.PICKLE
    if not head.strip(b"\0") and _only_zeros(path):
        return FileKind.ZEROS
    if head[:1] == b"\n" and b"<unk>" in head[:64]:
        return FileKind.SENTENCEPIECE
    # Pickles of the oldest protocols have no signature.
    return FileKind.PICKLE if starts_pickle(path) else None


def _text_kind(path: Path, head: bytes, size: int) -> FileKind:
    text = _as_text(head)
    if text is None:
        return FileKind.UNKNOWN
    start = text.lstrip("\ufeff \t\r\n").encode()
    for magic, kind in _TEXT_STARTS:
        if start[: len(magic)].lower() == magic:
            return kind
    if start[:1] in (b"{", b"["):
        return FileKind.JSON if _is_json(path, size) else FileKind.TEXT
    return FileKind.TEXT


def _ends_like_tf_index(path: Path, size: int) -> bool:
    """An SSTable, which a TensorFlow index is, ends with its magic number."""
    if size < 48:
        return False
    with open(path, "rb") as stream:
        stream.seek(-8, os.SEEK_END)
        return stream.read(8) == bytes.fromhex("57fb808b247547db")


def _only_zeros(path: Path) -> bool:
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            if chunk.count(0) != len(chunk):
                return False
    return True


def _as_text(head: bytes) -> str | None:
    """The first bytes as UTF-8 text, or None; their end may be within a character."""
    if b"\0" in head:
        return None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < _HEAD:
            return None
        text = head[: error.start].decode("utf-8")
    controls = sum(ord(letter) < 32 and letter not in "\t\r\n\f" for letter in text)
    return text if controls * 20 <= len(text) else None


def _is_json(path: Path, size: int) -> bool:
    if size > JSON_LIMIT:
        return True  # too long to parse for a name; it begins like JSON
    try:
        parse_json(path.read_bytes(), "It")
    except InputError:
        return False
    return True


def _similar(path: Path) -> str | None:
    """A hint with the files of the same folder that have similar names."""
    parent = path.parent
    if not parent.is_dir():
        return f"There is no folder {parent} either."
    near = sorted(
        item.name
        for item in parent.iterdir()
        if item.name.lower().startswith(path.name.lower()[:4]) and not item.name.startswith(".")
    )[:5]
    return f"Similar names in its folder: {', '.join(near)}." if near else None
