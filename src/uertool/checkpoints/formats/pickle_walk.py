"""A pickle as a program that is followed step by step, never executed.

`walk` follows it with inert stand-ins: a global is a name, a call is a record of the function that
would have been called and of its arguments. So a state dict can be read, and an attack be named,
without importing or running anything.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

#: Bounds for one pickle; a state dict of ten thousand tensors stays far below them.
MAX_BYTES = 128 << 20
MAX_OPCODES = 2_000_000
MAX_STACK = 200_000
MAX_NESTING = 4

_MARK = object()

#: Stand in for the module of a global whose name the pickle computes, or hides behind a number.
COMPUTED = "(computed name)"
EXTENSION = "(copyreg extension)"

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
            module, name = COMPUTED, "?"
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
        self.import_name(EXTENSION, str(argument))

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
