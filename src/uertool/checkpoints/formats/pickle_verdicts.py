"""Which names a checkpoint's pickle may import, and which ones can run code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from uertool.checkpoints.formats.pickle_walk import COMPUTED, EXTENSION, Walked
from uertool.errors import CheckpointError, listed


class Verdict(Enum):
    """How a global that a pickle names is judged."""

    TENSOR = "rebuilds tensors"
    DATA = "plain data"
    UNKNOWN = "not on the list of what a checkpoint needs"
    DANGEROUS = "can run code or reach files"


TENSOR_GLOBALS = frozenset(
    [
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
        "torch.Size",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.serialization._get_layout",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        *(
            f"{module}.{kind}Storage"
            for module in ("torch", "torch.cuda")
            for kind in (
                *("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char"),
                *("Byte", "Bool", "ComplexFloat", "ComplexDouble", "Untyped"),
            )
        ),
        *(
            f"torch.{name}"
            for name in (
                *("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
                *("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
                *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
                "float8_e8m0fnu",
            )
        ),
    ]
)

#: Found in training checkpoints next to the weights; building them runs nothing.
DATA_GLOBALS = frozenset(
    [
        "argparse.Namespace",
        "collections.defaultdict",
        "collections.Counter",
        "collections.deque",
        "datetime.datetime",
        "datetime.date",
        "datetime.timedelta",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "pathlib.PureWindowsPath",
        "torch.device",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_sparse_csr_tensor",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
        "_codecs.encode",
        *(
            f"numpy{core}.{name}"
            for core in ("", ".core.multiarray", "._core.multiarray")
            for name in ("_reconstruct", "scalar", "ndarray", "dtype")
        ),
        *(
            f"{builtins}.{name}"
            for builtins in ("builtins", "__builtin__")
            for name in (
                *("set", "frozenset", "complex", "bytearray", "bytes", "slice", "range"),
                *("int", "float", "str", "bool", "list", "dict", "tuple", "object", "long"),
            )
        ),
    ]
)

_DANGEROUS_MODULES = frozenset(
    [
        *("os", "posix", "nt", "posixpath", "ntpath", "subprocess", "sys", "importlib", "imp"),
        *("shutil", "socket", "ssl", "runpy", "pty", "pdb", "bdb", "ctypes", "_ctypes", "cffi"),
        *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "types"),
        *("code", "codeop", "webbrowser", "urllib", "requests", "http", "httpx", "aiohttp"),
        *("ftplib", "smtplib", "telnetlib", "operator", "_operator", "functools"),
        *("itertools", "inspect", "signal", "threading", "multiprocessing", "asyncio"),
        *("concurrent", "commands", "popen2", "platform", "tempfile", "pathlib", "io"),
        *("_io", "zipimport", "pkgutil", "site", "builtins", "__builtin__", "timeit"),
        *("trace", "profile", "cProfile", "doctest", "unittest", "distutils", "setuptools"),
        *("pip", "atexit", "gc", "weakref", "ast", "linecache", "logging", "sqlite3", "xmlrpc"),
        *("mmap", "fileinput", "glob", "httplib", "imaplib", "ensurepip", "venv", "pydoc", "uuid"),
        *("idlelib", "test", "_osx_support", "_aix_support", "_pyrepl"),
        *("torch.hub", "torch.serialization"),
        *("torch.storage", "torch.jit", "torch.utils", "torch.distributed"),
        *("torch.package", "torch.ops", "torch.fx", "torch._inductor"),
        *("torch._dynamo", "numpy.testing", "numpy.f2py", "numpy.distutils"),
    ]
)
_DANGEROUS_NAMES = frozenset(["torch.load", "torch.save", "torch.compile", "numpy.load"])


@dataclass(frozen=True)
class GlobalUse:
    """A global of a pickle with its verdict; `where` names the pickle inside the file."""

    name: str
    verdict: Verdict
    called: bool
    where: str


def judge(module: str, name: str) -> Verdict:
    """Whether a global belongs in a checkpoint."""
    full = f"{module}.{name}"
    if full in TENSOR_GLOBALS:
        return Verdict.TENSOR
    if full in DATA_GLOBALS:
        return Verdict.DATA
    first, second, *_ = [*module.split(".", 2), ""]
    if full in _DANGEROUS_NAMES or not _DANGEROUS_MODULES.isdisjoint((first, f"{first}.{second}")):
        return Verdict.DANGEROUS
    if module in (COMPUTED, EXTENSION):
        return Verdict.DANGEROUS
    # A dotted name walks attributes, which is how allowed modules are used to reach others.
    return Verdict.DANGEROUS if "." in name else Verdict.UNKNOWN


def refusal(path: Path, uses: Iterable[GlobalUse]) -> CheckpointError:
    """The error for a pickle that names globals which no checkpoint needs."""
    names = list(dict.fromkeys(use.name for use in uses))
    bad = [use for use in uses if use.verdict is Verdict.DANGEROUS]
    if bad:
        return CheckpointError(
            f"{path} is not loaded: its pickle would import {listed(names)}, which can run code.",
            "Nothing was executed. Do not open this file with torch.load; "
            "get the weights from a source you trust, best as .safetensors.",
        )
    return CheckpointError(
        f"{path} is not loaded: its pickle would import {listed(names)}; a checkpoint needs only "
        "tensors.",
        "It may hold a whole model object: save its weights alone with "
        "torch.save(model.state_dict(), path).",
    )


def judged(walked: Walked, where: str) -> list[GlobalUse]:
    """The globals of a pickle with their verdicts, each once."""
    return [
        GlobalUse(str(item), judge(item.module, item.name), item in walked.calls, where)
        for item in walked.globals
    ]
