"""What would this pickle import? Pickles are walked instruction by instruction, never executed.

A pickle is a program. `walk` follows it with inert stand-ins: a global is a name, a call is a
record of who would have been called with what. So a state dict can be read, and an attack be
named, without importing or running anything.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO, Any

from uertool.errors import CheckpointError

#: Bounds for one pickle; a state dict of ten thousand tensors stays far below them.
MAX_BYTES = 128 << 20
MAX_OPCODES = 2_000_000
MAX_STACK = 200_000
MAX_NESTING = 4

_MARK = object()

#: Stand in for the module of a global whose name the pickle computes, or hides behind a number.
_COMPUTED = "(computed name)"
_EXTENSION = "(copyreg extension)"


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
            )
        ),
    ]
)

#: Found in training checkpoints beside the weights; building them runs nothing.
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
        *("mmap", "fileinput", "glob", "torch.hub", "torch.serialization"),
        *("torch.storage", "torch.jit", "torch.utils", "torch.distributed"),
        *("torch.package", "torch.ops", "torch.fx", "torch._inductor"),
        *("torch._dynamo", "numpy.testing", "numpy.f2py", "numpy.distutils"),
    ]
)
_DANGEROUS_NAMES = frozenset(["torch.load", "torch.save", "torch.compile", "numpy.load"])

#: Callees that unpickle the bytes given to them; those bytes are walked too.
_UNPICKLERS = frozenset(["loads", "_loads", "load", "_load_from_bytes", "Unpickler"])


@dataclass(frozen=True)
class Global:
    """A name that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that the pickle would make, and what it would then put into the result."""

    function: object
    arguments: object
    state: object = None
    items: dict[Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: in torch files, a storage."""

    identity: object


@dataclass(eq=False)
class Walked:
    """A pickle that was followed to its end, or as far as it went.

    Attributes:
        value: what it would build, of plain Python values and the stand-ins above.
        end: the offset after its last instruction.
        globals: the names it would import, in order of appearance.
        calls: the names that it would call.
        duplicates: keys that were set twice in one dictionary.
        storages: the persistent identities it refers to.
        error: why the walk stopped early, or None.
    """

    value: object = None
    end: int = 0
    globals: list[Global] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)
    duplicates: list[str] = field(default_factory=list)
    storages: list[object] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class GlobalUse:
    """A global of a pickle with its verdict; `where` names the pickle inside the file."""

    name: str
    verdict: Verdict
    called: bool
    where: str


@dataclass(frozen=True)
class PickleReport:
    """What the pickles of a file would import.

    Attributes:
        path: the file.
        format: "torch-zip", "torch-legacy", "pickle" or "none" (there is no pickle in it).
        globals: every name, judged.
        errors: pickles that are broken, with the reason.
    """

    path: Path
    format: str
    globals: tuple[GlobalUse, ...]
    errors: tuple[str, ...] = ()

    @property
    def suspicious(self) -> tuple[GlobalUse, ...]:
        """The names that keep the file from being loaded."""
        return tuple(
            use for use in self.globals if use.verdict in (Verdict.UNKNOWN, Verdict.DANGEROUS)
        )

    @property
    def safe(self) -> bool:
        """Whether nothing suspicious was found and every pickle could be followed."""
        return not self.suspicious and not self.errors


def judge(module: str, name: str) -> Verdict:
    """Whether a global belongs in a checkpoint."""
    full = f"{module}.{name}"
    if full in TENSOR_GLOBALS:
        return Verdict.TENSOR
    if full in DATA_GLOBALS:
        return Verdict.DATA
    parents = [module[:i] for i, letter in enumerate(module) if letter == "."]
    if full in _DANGEROUS_NAMES or any(m in _DANGEROUS_MODULES for m in (module, *parents)):
        return Verdict.DANGEROUS
    if module in (_COMPUTED, _EXTENSION):
        return Verdict.DANGEROUS
    # A dotted name walks attributes, which is how allowed modules are used to reach others.
    return Verdict.DANGEROUS if "." in name else Verdict.UNKNOWN


def walk(stream: IO[bytes]) -> Walked:
    """Follow one pickle from the current position of `stream`, executing nothing.

    Time and memory are bounded by MAX_OPCODES, MAX_STACK and MAX_BYTES. A pickle that is broken
    gives what was found before the break, with `error` set; nothing is raised.
    """
    walker = _Walker(stream.tell())
    bounded = _Bounded(stream, MAX_BYTES)
    try:
        with warnings.catch_warnings():
            # Broken strings make the decoders warn about escapes that mean nothing.
            warnings.simplefilter("ignore")
            walker.run(bounded)
    except _StopWalkError as stop:
        walker.result.error = str(stop)
    except MemoryError:
        walker.result.error = "an instruction asks for more memory than there is"
    except Exception as error:
        # pickletools raises whatever its decoders raise on broken bytes.
        walker.result.error = f"it is not a well-formed pickle ({error})"
    walker.result.end = stream.tell()
    return walker.result


def starts_pickle(path: Path) -> bool:
    """Whether a file begins with a pickle that imports something, of whatever protocol.

    Text often begins with letters that are instructions, so a broken one must also call.
    """
    with open(path, "rb") as stream:
        walked = walk(stream)
    return bool(walked.globals) and (walked.error is None or bool(walked.calls))


def scan_pickle(path: str | Path) -> PickleReport:
    """List and judge what every pickle in a file would import, without executing anything.

    Reads torch files of both formats (every .pkl entry, every pickle in a row), plain pickles,
    and pickles given as bytes to a call that would unpickle them.

    Raises:
        CheckpointError: the file cannot be read.
    """
    from uertool.checkpoints.formats.identify import FileKind, identify

    source = Path(path)
    kind = identify(source)
    if kind in (FileKind.TORCH_ZIP, FileKind.TORCH_SCRIPT, FileKind.ZIP, FileKind.NPZ):
        return _scan_zip(source)
    if kind is FileKind.TORCH_TRUNCATED:
        return PickleReport(source, "torch-zip", (), ("the archive is broken",))
    with open(source, "rb") as stream:
        if kind is FileKind.TORCH_LEGACY:
            return _scan_row(source, stream, "torch-legacy", most=5)
        if kind is FileKind.PICKLE:
            return _scan_row(source, stream, "pickle", most=64)
    return PickleReport(source, "none", ())


def refusal(path: Path, uses: Iterable[GlobalUse]) -> CheckpointError:
    """The error for a pickle that names globals which no checkpoint needs."""
    names = list(dict.fromkeys(use.name for use in uses))
    bad = [use for use in uses if use.verdict is Verdict.DANGEROUS]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    if bad:
        return CheckpointError(
            f"{path} is not loaded: its pickle would import {shown}, which can run code.",
            "Nothing was executed. Do not open this file with torch.load; "
            "get the weights from a source you trust, best as .safetensors.",
        )
    return CheckpointError(
        f"{path} is not loaded: its pickle would import {shown}; a checkpoint needs only tensors.",
        "It may hold a whole model object: save its weights alone with "
        "torch.save(model.state_dict(), path).",
    )


def judged(walked: Walked, where: str) -> list[GlobalUse]:
    """The globals of a pickle with their verdicts, each once."""
    seen = dict.fromkeys(walked.globals)
    return [
        GlobalUse(str(item), judge(item.module, item.name), str(item) in walked.calls, where)
        for item in seen
    ]


def _scan_zip(path: Path) -> PickleReport:
    uses: list[GlobalUse] = []
    errors: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith((".pkl", ".pickle")):
                    continue
                if entry.file_size > min(MAX_BYTES, 2 * path.stat().st_size):
                    errors.append(f"{entry.filename} is too large to be inspected")
                    continue
                # Zipfile inflates no more than the declared size, whatever the bytes say.
                with archive.open(entry) as packed:
                    walked = walk(io.BytesIO(packed.read()))
                uses.extend(judged(walked, entry.filename))
                if walked.error:
                    errors.append(f"{entry.filename}: {walked.error}")
    except Exception as error:  # zipfile raises many kinds of errors on broken archives
        errors.append(f"the archive is broken ({error})")
    return PickleReport(path, "torch-zip", tuple(uses), tuple(errors))


def _scan_row(path: Path, stream: IO[bytes], form: str, most: int) -> PickleReport:
    """Scan pickles that follow one another; bytes after the last one are not pickles."""
    uses: list[GlobalUse] = []
    errors: list[str] = []
    stream.seek(0)
    for number in range(most):
        where = f"pickle {number + 1}"
        walked = walk(stream)
        if walked.error and number and form == "pickle":
            uses.extend(judged(walked, where))
            break
        uses.extend(judged(walked, where))
        if walked.error:
            errors.append(f"{where}: {walked.error}")
            break
        if stream.tell() == path.stat().st_size:
            break
    return PickleReport(path, form, tuple(uses), tuple(errors))


class _StopWalkError(Exception):
    """The pickle goes beyond what is followed."""


class _Bounded:
    """The part of a stream that one pickle may take."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream = stream
        self.left = limit

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.left:
            raise _StopWalkError("an instruction reads past what a checkpoint's pickle may hold")
        data = self.stream.read(size)
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self.stream.readline(1 << 20)
        if len(data) > self.left:
            raise _StopWalkError("it is too large")
        self.left -= len(data)
        return data

    def tell(self) -> int:
        return self.stream.tell()


class _Walker:
    """The stack machine of pickle, with stand-ins in place of every import and call."""

    def __init__(self, start: int, depth: int = 0) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result = Walked(end=start)
        self.depth = depth

    def run(self, stream: Any) -> None:
        actions = _ACTIONS
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPCODES:
                raise _StopWalkError(f"it has more than {MAX_OPCODES} instructions")
            if len(self.stack) > MAX_STACK:
                raise _StopWalkError("it piles up values as no checkpoint does")
            name = opcode.name
            if name == "STOP":
                self.result.value = self.pop()
                return
            action = actions.get(name)
            if action is not None:
                action(self, argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name not in _IGNORED:
                raise _StopWalkError(f"the instruction {name} has no place in a checkpoint")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _StopWalkError("an instruction takes a value where there is none")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _StopWalkError("an instruction takes a value where there is none")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise _StopWalkError("an instruction looks for a mark that is not there")

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise _StopWalkError("it recalls a value that it never stored")
        self.stack.append(self.memo[index])

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.top()

    def import_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            # The name is computed by a call, so nobody can say what it would be.
            module, name = _COMPUTED, "?"
        item = Global(module, name)
        self.result.globals.append(item)
        self.stack.append(item)

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.import_name(module, name)

    def stack_global(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        self.import_name(module, name)

    def extension(self, argument: object) -> None:
        self.import_name(_EXTENSION, str(argument))

    def call(self, function: object, arguments: Any) -> None:
        if isinstance(function, Global):
            self.result.calls.add(str(function))
            if function.name in _UNPICKLERS:
                self.look_inside(arguments)
            if str(function) == "collections.OrderedDict" and not arguments:
                self.stack.append({})
                return
            if str(function) == "_codecs.encode" and _is_latin(arguments):
                # How protocol 2, which has none, spells bytes.
                self.stack.append(arguments[0].encode("latin-1", "replace"))
                return
        self.stack.append(Call(function, arguments))

    def look_inside(self, arguments: object) -> None:
        """Walk bytes that a call would unpickle, and add what they would import."""
        if self.depth >= MAX_NESTING or not isinstance(arguments, (tuple, list)):
            return
        for value in arguments:
            if isinstance(value, str):
                value = value.encode("latin-1", "replace")
            if not isinstance(value, (bytes, bytearray)):
                continue
            inner = _Walker(0, self.depth + 1)
            try:
                inner.run(_Bounded(io.BytesIO(value), MAX_BYTES))
            except Exception as error:
                inner.result.error = str(error)
            self.result.globals.extend(inner.result.globals)
            self.result.calls.update(inner.result.calls)

    def reduce(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        self.call(function, arguments)

    def instance(self, argument: str) -> None:
        arguments = tuple(self.pop_mark())
        self.global_(argument)
        self.call(self.stack.pop(), arguments)

    def object_(self, _: object) -> None:
        items = self.pop_mark()
        if not items:
            raise _StopWalkError("an instruction takes a value where there is none")
        self.call(items[0], tuple(items[1:]))

    def new_object(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        self.call(function, arguments)

    def new_object_ex(self, _: object) -> None:
        keywords, arguments, function = self.pop(), self.pop(), self.pop()
        self.call(function, (arguments, keywords))

    def build(self, _: object) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Call):
            target.state = state
        # The state of a dictionary is torch's _metadata: versions of modules, not weights.

    def append(self, _: object) -> None:
        value, target = self.pop(), self.top()
        if isinstance(target, list):
            target.append(value)

    def appends(self, _: object) -> None:
        items, target = self.pop_mark(), self.top()
        if isinstance(target, list):
            target.extend(items)

    def set_item(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self.put(self.top(), key, value)

    def set_items(self, _: object) -> None:
        items, target = self.pop_mark(), self.top()
        if len(items) % 2:
            raise _StopWalkError("a dictionary has a key without a value")
        for index in range(0, len(items), 2):
            self.put(target, items[index], items[index + 1])

    def put(self, target: object, key: object, value: object) -> None:
        if isinstance(target, Call):
            target.items = {} if target.items is None else target.items
            target = target.items
        if not isinstance(target, dict):
            return
        if not isinstance(key, (str, int, float, bytes, type(None))):
            # Hashing nested tuples can take exponential time, and no weight is named so.
            key = ("no name", len(target))
        elif key in target and isinstance(key, str):
            self.result.duplicates.append(key)
        target[key] = value

    def mark(self, _: object) -> None:
        self.stack.append(_MARK)

    def pop_one(self, _: object) -> None:
        if not self.stack:
            raise _StopWalkError("an instruction takes a value where there is none")
        self.stack.pop()

    def pop_to_mark(self, _: object) -> None:
        self.pop_mark()

    def duplicate(self, _: object) -> None:
        self.stack.append(self.top())

    def empty_list(self, _: object) -> None:
        self.stack.append([])

    def empty_dict(self, _: object) -> None:
        self.stack.append({})

    def empty_set(self, _: object) -> None:
        self.stack.append(Call(Global("builtins", "set"), ()))

    def frozen_set(self, _: object) -> None:
        self.stack.append(Call(Global("builtins", "frozenset"), tuple(self.pop_mark())))

    def list_(self, _: object) -> None:
        self.stack.append(self.pop_mark())

    def tuple_(self, _: object) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def dict_(self, _: object) -> None:
        items: dict[Any, Any] = {}
        values = self.pop_mark()
        for index in range(0, len(values) - 1, 2):
            self.put(items, values[index], values[index + 1])
        self.stack.append(items)

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def persistent(self, argument: object) -> None:
        self.result.storages.append(argument)
        self.stack.append(Persistent(argument))

    def persistent_from_stack(self, _: object) -> None:
        self.persistent(self.pop())


def _is_latin(arguments: object) -> bool:
    return (
        isinstance(arguments, tuple)
        and len(arguments) == 2
        and isinstance(arguments[0], str)
        and arguments[1] in ("latin1", "latin-1")
    )


_CONSTANTS: dict[str, object] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}

_LITERALS = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"),
        *("SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BYTEARRAY8"),
    ]
)

_IGNORED = frozenset(["PROTO", "FRAME", "READONLY_BUFFER"])

_ACTIONS: dict[str, Callable[[_Walker, Any], None]] = {
    "MARK": _Walker.mark,
    "POP": _Walker.pop_one,
    "POP_MARK": _Walker.pop_to_mark,
    "DUP": _Walker.duplicate,
    "GET": _Walker.recall,
    "BINGET": _Walker.recall,
    "LONG_BINGET": _Walker.recall,
    "PUT": _Walker.remember,
    "BINPUT": _Walker.remember,
    "LONG_BINPUT": _Walker.remember,
    "MEMOIZE": _Walker.memoize,
    "GLOBAL": _Walker.global_,
    "STACK_GLOBAL": _Walker.stack_global,
    "EXT1": _Walker.extension,
    "EXT2": _Walker.extension,
    "EXT4": _Walker.extension,
    "REDUCE": _Walker.reduce,
    "INST": _Walker.instance,
    "OBJ": _Walker.object_,
    "NEWOBJ": _Walker.new_object,
    "NEWOBJ_EX": _Walker.new_object_ex,
    "BUILD": _Walker.build,
    "APPEND": _Walker.append,
    "APPENDS": _Walker.appends,
    "ADDITEMS": _Walker.appends,
    "SETITEM": _Walker.set_item,
    "SETITEMS": _Walker.set_items,
    "EMPTY_LIST": _Walker.empty_list,
    "EMPTY_DICT": _Walker.empty_dict,
    "EMPTY_SET": _Walker.empty_set,
    "FROZENSET": _Walker.frozen_set,
    "LIST": _Walker.list_,
    "TUPLE": _Walker.tuple_,
    "DICT": _Walker.dict_,
    "TUPLE1": lambda walker, _: walker.tuple_of(1),
    "TUPLE2": lambda walker, _: walker.tuple_of(2),
    "TUPLE3": lambda walker, _: walker.tuple_of(3),
    "PERSID": _Walker.persistent,
    "BINPERSID": _Walker.persistent_from_stack,
}
