"""Broken and hostile files give one clear sentence: no traceback, no hang, no flood of memory."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from tests.checkpoints.malicious import pack, torch_zip
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.pickle_scan import scan_pickle
from uertool.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3)}


def legacy_file() -> bytes:
    written = io.BytesIO()
    torch.save(TENSORS, written, _use_new_zipfile_serialization=False)
    return written.getvalue()


WHOLE = {
    "torch-zip": torch_zip(TENSORS),
    "torch-legacy": legacy_file(),
    "safetensors": save(TENSORS),
}

fast = settings(
    max_examples=60,
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_all(path: Path) -> dict[str, torch.Tensor] | None:
    """Every tensor of a file, or None where it was refused in a sentence."""
    try:
        with open_tensor_file(path) as file:
            return {name: file.tensor(name).clone() for name in file}
    except CheckpointError as error:
        assert str(path.name) in error.message or str(path) in error.message
        assert len(error.message) < 1000
        return None


@pytest.mark.parametrize("form", WHOLE)
def test_truncated_at_any_byte(form: str, tmp_path: Path) -> None:
    whole = WHOLE[form]
    path = tmp_path / "model.bin"
    step = max(1, len(whole) // 250)
    for size in {*range(0, len(whole), step), *range(len(whole) - 20, len(whole))}:
        path.write_bytes(whole[:size])
        assert read_all(path) is None, size
        assert scan_pickle(path).suspicious == ()


@pytest.mark.parametrize("form", WHOLE)
@fast
@given(data=st.data())
def test_flipped_bits(form: str, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(WHOLE[form])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(content))
    found = read_all(path)
    if found is not None:  # the flip was in the numbers, a name, or padding
        assert sum(tensor.numel() for tensor in found.values()) <= len(content)
    scan_pickle(path)


@fast
@given(
    content=st.binary(max_size=400), head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"("])
)
def test_random_bytes(tmp_path: Path, content: bytes, head: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(head + content)
    assert read_all(path) is None
    scan_pickle(path)


@fast
@given(
    body=st.binary(max_size=40),
    header=st.recursive(
        st.none() | st.booleans() | st.integers(-5, 2**70) | st.text(max_size=5) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner
            )
        ),
        max_leaves=12,
    ),
)
def test_headers_of_any_json(tmp_path: Path, header: object, body: bytes) -> None:
    text = json.dumps({"w": header}).encode()
    path = tmp_path / "m"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    found = read_all(path)
    assert found is None or sum(tensor.nbytes for tensor in found.values()) == len(body)


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors", ".index", ".json", ".txt", ""])
def test_the_extension_does_not_matter(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(WHOLE[form])
    found = read_all(path)
    assert found is not None
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def tar() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.bin"))
    return written.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 409000000\n"
NOT_CHECKPOINTS = {
    "empty": (b"", "an empty file"),
    "lfs": (LFS, "git-lfs pointer.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
    "html-bare": (b"<html>\n<head>", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML document"),
    "json": (b'{"model_type": "bert", "hidden_size": 768}', "a JSON file.*`config_path`"),
    "text": ("[PAD]\n[UNK]\n天\n气\n".encode(), "a text file.*`vocab_path`"),
    "bom": ("\ufeff{broken".encode(), "a text file"),
    "gzip": (gzip.compress(WHOLE["torch-zip"]), "gzip"),
    "tar": (tar(), "a tar archive"),
    "npz": (pack({"a.npy": b"x"}), "npz"),
    "zip": (pack({"notes.txt": b"x"}), "zip archive that torch.save did not write"),
    "npy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5"),
    "gguf": (b"GGUF\x03\0\0\0", "GGUF"),
    "zeros": (b"\0" * 5000, "zero bytes"),
    "pickle": (b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94.", "a Python pickle"),
    "torchscript": (pack({"m/data.pkl": b"", "m/code/a.py": b""}), "TorchScript"),
    "binary": (bytes(range(128, 256)) * 4, "unknown format"),
    "png": (b"\x89PNG\r\n\x1a\n", "picture"),
    "gbk": ("中文词表\n".encode("gbk") * 3, "unknown format"),
}


@pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(kind: str, tmp_path: Path) -> None:
    content, words = NOT_CHECKPOINTS[kind]
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_tensor_file(path)


def test_a_missing_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "model.bin-1000").write_text("")
    with pytest.raises(CheckpointError, match=r"There is no file .*model\.bin.*model\.bin-1000"):
        open_tensor_file(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="no folder"):
        open_tensor_file(tmp_path / "no" / "model.bin")
    with pytest.raises(CheckpointError):
        open_tensor_file(tmp_path / ("x" * 5000))


def entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_zip_bomb_is_refused_before_anything_is_inflated(tmp_path: Path) -> None:
    parts = entries(WHOLE["torch-zip"])
    storage = next(name for name in parts if "/data/" in name)
    path = tmp_path / "bomb.bin"
    path.write_bytes(pack({**parts, storage: b"\0" * (64 << 20)}, compression=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match="compressed"):
        open_tensor_file(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "archive/../../evil", "..\\evil"])
def test_a_path_that_leaves_the_archive_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(pack({**entries(WHOLE["torch-zip"]), name: b"x"}))
    with pytest.raises(CheckpointError, match="outside the archive"):
        open_tensor_file(path)


def test_entries_of_one_name_or_on_one_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    parts = entries(WHOLE["torch-zip"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, pytest.warns(UserWarning):
        for name, content in [*parts.items(), *parts.items()]:
            archive.writestr(name, content)
    path.write_bytes(packed.getvalue())
    with pytest.raises(CheckpointError, match=r"two entries named|entries named data\.pkl"):
        open_tensor_file(path)
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.infolist()[-1].header_offset = archive.infolist()[-2].header_offset
        archive.infolist()[-1].file_size = archive.infolist()[-2].file_size
        archive.infolist()[-1].compress_size = archive.infolist()[-2].compress_size
    path.write_bytes(packed.getvalue())
    with pytest.raises(CheckpointError, match=r"overlap|broken"):
        open_tensor_file(path)


def test_a_flipped_bit_in_the_names_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(WHOLE["torch-zip"].replace(b"a.weight", b"a.wfight", 1))
    with pytest.raises(CheckpointError, match="checksum"):
        open_tensor_file(path)


def test_flipped_bits_in_the_numbers_are_found_on_request(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    content = bytearray(WHOLE["torch-zip"])
    content[content.index(TENSORS["a.weight"].numpy().tobytes()) + 9] ^= 1
    path.write_bytes(bytes(content))
    assert open_tensor_file(path).damage() == ["a.weight"]
    path.write_bytes(WHOLE["torch-zip"])
    assert open_tensor_file(path).damage() == []


def header(table: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return (length or len(text)).to_bytes(8, "little") + text + body


def entry(start: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BAD_HEADERS = {
    "huge": (header({"a": 1}, length=1 << 62), "header claims"),
    "too-long": (header({"a": 1}, length=5000), "header claims 5000 bytes"),
    "no-json": (header(b'{"a": nothing}'), "not valid JSON"),
    "not-utf8": (header(b'{"\xff": 1}'), "not valid JSON"),
    "deep": (header(b'{"a":' + b"[" * 100_000), "nested too deep"),
    "overlap": (header({"a": entry(0, 4, [4]), "b": entry(2, 6, [4])}, b"123456"), "overlaps"),
    "hole": (header({"a": entry(0, 2, [2]), "b": entry(4, 6, [2])}, b"123456"), "no tensor"),
    "beyond": (header({"a": entry(0, 99, [99])}, b"1234"), "truncated"),
    "backwards": (header({"a": entry(4, 0, [4])}, b"1234"), "offsets"),
    "negative": (header({"a": entry(-4, 0, [4])}, b"1234"), "data_offsets"),
    "absurd": (header({"a": entry(0, 1 << 60, [1 << 60])}, b"1234"), "shape"),
    "overflow": (header({"a": entry(0, 4, [1 << 40, 1 << 40])}, b"1234"), "too many"),
    "zero": (header({"a": entry(0, 0, [0, 1 << 40, 1 << 40])}), "too many"),
    "surrogate": (header(b'{"\\ud800": {}}'), "surrogate"),
    "digits": (header(b'{"a": ' + b"1" * 5000 + b"}"), "not valid JSON"),
    "wrong-size": (header({"a": entry(0, 4, [5])}, b"1234"), "take 5 bytes"),
    "trailing": (header({"a": entry(0, 2, [2])}, b"1234"), "2 bytes at its end"),
    "twice": (header(b'{"a":{},"a":{}}'), "'a' twice"),
    "type": (header({"a": entry(0, 4, [4], "F4")}, b"1234"), "type 'F4'"),
    "metadata": (header({"__metadata__": {"a": 1}}), "__metadata__"),
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_a_bad_safetensors_header_is_explained(kind: str, tmp_path: Path) -> None:
    content, words = BAD_HEADERS[kind]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_tensor_file(path)


def test_tensors_that_claim_more_than_their_storage_are_refused(tmp_path: Path) -> None:
    chance = random.Random(1)
    path = tmp_path / "m.bin"
    for big in (b"K\x0c", b"K\x04"):  # the shape and strides of a.weight, as pickled integers
        parts = entries(WHOLE["torch-zip"])
        pkl = next(name for name in parts if name.endswith("data.pkl"))
        size = chance.randrange(1 << 20, 1 << 30).to_bytes(4, "little")
        parts[pkl] = parts[pkl].replace(big, b"J" + size, 1)
        path.write_bytes(pack(parts))
        with pytest.raises(CheckpointError, match=r"damaged|claims"):
            open_tensor_file(path)


def many(name: bytes, count: int) -> bytes:
    return b"\x80\x02" + name * count + b"."


BOMBS = {
    "lists": many(b"]", 300_000),
    "list-of-lists": many(b"(" + b"]" * 1000 + b"l0", 100),
    "dictionaries": many(b"}", 300_000),
    "bytes-8": b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.",
    "unicode-8": b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"x.",
    "long-4": b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little") + b"x.",
    "memo-index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "frame": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"N.",
    "digits": b"L" + b"9" * 200_000 + b"L\n.",
    "doubling": b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * 5000 + b".",
    "self": b"\x80\x02}q\x00" + b"(" + b"".join(b"K%ch\x00" % i for i in range(200)) + b"u.",
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_bomb_takes_little_memory_and_no_time(bomb: str, tmp_path: Path) -> None:
    parts = entries(WHOLE["torch-zip"])
    pkl = next(name for name in parts if name.endswith("data.pkl"))
    path = tmp_path / "m.bin"
    for content in (BOMBS[bomb], pack({**parts, pkl: BOMBS[bomb]})):
        path.write_bytes(content)
        tracemalloc.start()
        assert read_all(path) is None
        scan_pickle(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Small objects take more than the one byte that makes them, but only up to a bound.
        assert peak < 2 * len(content) + (24 << 20)


def test_a_compressed_pickle_is_not_inflated_to_be_inspected(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    content = pack({"m/data.pkl": b"N" * (32 << 20)}, compression=zipfile.ZIP_DEFLATED)
    path.write_bytes(content)
    tracemalloc.start()
    report = scan_pickle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "too large" in report.errors[0]
    assert peak < 1 << 20
