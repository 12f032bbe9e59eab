"""Builds pickles that would run code if anything executed them; nothing here ever does.

Each would create the file CANARY, whose absence the tests assert.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Caller:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def system(canary: Path) -> Caller:
    return Caller(os.system, f"touch {canary}")


def evaluation(canary: Path) -> Caller:
    return Caller(eval, f"open({str(canary)!r}, 'w').close()")


def pack(entries: dict[str, bytes], **options: Any) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return packed.getvalue()


def torch_zip(value: Any) -> bytes:
    """What torch.save writes of `value`, which may hold callers."""
    written = io.BytesIO()
    torch.save(value, written)
    return written.getvalue()


def corpus(canary: Path) -> dict[str, bytes]:
    """File content by the name of the attack."""
    touch = f"touch {canary}".encode()
    code = f"open({str(canary)!r}, 'w').close()".encode()
    weights = torch.ones(2, 2)
    inner = pickle.dumps(system(canary))
    legacy = io.BytesIO()
    torch.save(
        {"weight": weights, "extra": system(canary)},
        legacy,
        _use_new_zipfile_serialization=False,
    )
    good = torch_zip({"weight": weights})
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).split("/")[0]
    evil = {**entries, f"{root}/data.pkl": pickle.dumps({"w": system(canary)}, protocol=2)}
    return {
        "os-system": pickle.dumps(system(canary), protocol=2),
        "protocol-0": b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        "protocol-0-inst": b"(S'" + touch + b"'\nios\nsystem\n.",
        "obj-opcode": b"(cos\nsystem\nS'" + touch + b"'\no.",
        "protocol-5-frames": pickle.dumps({"a": [evaluation(canary)]}, protocol=5),
        "builtins-eval": pickle.dumps(evaluation(canary), protocol=4),
        "exec-python-2": b"c__builtin__\nexec\n(S'" + code.replace(b"'", b'"') + b"'\ntR.",
        "breaks-after-the-call": b"\x80\x02cos\nsystem\n(X"
        + len(touch).to_bytes(4, "little")
        + touch
        + b"tRI'broken",
        "nested-loads": pickle.dumps(Caller(pickle.loads, inner), protocol=4),
        "load-from-bytes": torch_zip(
            {"weight": weights, "x": Caller(torch.storage._load_from_bytes, inner)}  # type: ignore[attr-defined]
        ),
        "computed-name": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x01a\x85R.",
        "attribute-walk": b"\x80\x04\x8c\x05torch\x8c\x12serialization.os.x\x93\x8c\x01a\x85R.",
        "getattr-import": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n"
        + b"(S'os'\ntRS'system'\ntR(S'"
        + touch
        + b"'\ntR.",
        "extension-registry": b"\x80\x02\x82\x01)R.",
        "torch-zip": torch_zip({"weight": weights, "hook": system(canary)}),
        "torch-zip-data-pkl": pack(evil),
        "torch-zip-build": torch_zip({"weight": weights, "s": Caller(torch.hub.load, "a/b", "c")}),
        "torch-legacy": legacy.getvalue(),
        "second-pickle": pickle.dumps({"harmless": 1}, protocol=2)
        + pickle.dumps(system(canary), protocol=2),
        "whole-model": torch_zip(torch.nn.Linear(2, 2)),
    }


def globals_of(content: bytes) -> set[str]:
    """The globals of a plain pickle by pickletools, as a second opinion."""
    found = set()
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", "."))
    return found
