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

from uertool.errors import shown

#: Bounds for all pickles of one file together; a state dict of ten thousand tensors with its
#: optimizer stays far below them. They keep a walk below 5 seconds and 1 GB.
MAX_BYTES = 64 << 20
MAX_OPCODES = 2_000_000
MAX_STACK = 200_000
MAX_GLOBALS = 10_000
MAX_NESTING = 4

#: The bytes and instructions that are enough to recognise a pickle.
_GLANCE = (1 << 16, 20_000)

_MARK = object()

#: In place of the module of a global whose name the pickle computes, or hides behind a number.
COMPUTED = "(computed name)"
EXTENSION = "(copyreg extension)"

#: Callees that unpickle the bytes given to them; those bytes are walked too.
_UNPICKLERS = frozenset(["loads", "_loads", "load", "_load_from_bytes", "Unpickler"])


@dataclass
class Budget:
    """What is left of the bytes and instructions that the pickles of one file may take."""

    bytes: int = field(default_factory=lambda: MAX_BYTES)
    opcodes: int = field(default_factory=lambda: MAX_OPCODES)

    def spend(self, count: int) -> None:
        """Take off bytes that are read or made."""
        self.bytes -= count
        if self.bytes < 0:
            raise _OverBudgetError("it holds more bytes than a checkpoint's pickle may")


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
        globals: the names it would import, in order of appearance.
        calls: those that it would call.
        duplicates: keys that were set twice in one dictionary.
        storages: the persistent identities it refers to.
        error: why the walk stopped early, or None.
        over_budget: whether it stopped because the budget was used up.
    """

    value: object = None
    globals: dict[Global, None] = field(default_factory=dict)
    calls: set[Global] = field(default_factory=set)
    duplicates: list[str] = field(default_factory=list)
    storages: list[object] = field(default_factory=list)
    error: str | None = None
    over_budget: bool = False


def walk(stream: IO[bytes], budget: Budget | None = None) -> Walked:
    """Follow one pickle from the current position of `stream`, executing nothing.

    A pickle that is broken or goes beyond the budget gives what was found before, with `error`
    set; nothing is raised. The stream is left after its last instruction.

    Args:
        stream: the bytes.
        budget: what is left for it; several pickles of one file share one.
    """
    walker = _Walker(budget or Budget())
    with warnings.catch_warnings():
        # Broken strings make the decoders warn about invalid escapes.
        warnings.simplefilter("ignore")
        walker.walk(stream)
    return walker.result


def starts_pickle(path: Path) -> bool:
    """Whether a file begins with a pickle that imports something, of any protocol.

    Text often begins with letters that are instructions, so a broken one must also call.
    """
    with open(path, "rb") as stream:
        walked = walk(stream, Budget(*_GLANCE))
    whole = walked.error is None or walked.over_budget
    return bool(walked.globals) and (whole or bool(walked.calls))


class _StopWalkError(Exception):
    """The pickle goes beyond what is followed."""


class _OverBudgetError(_StopWalkError):
    """It takes more bytes or instructions than a checkpoint needs."""


class _Bounded:
    """The arguments of instructions, read within the budget."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self.stream = stream
        self.budget = budget

    def read(self, size: int) -> bytes:
        self.budget.spend(size)
        return self.stream.read(size)

    def readline(self) -> bytes:
        line = self.stream.readline(1 << 20)
        self.budget.spend(len(line))
        return line


class _Walker:
    """The stack machine of pickle, with stand-ins in place of every import and call."""

    def __init__(self, budget: Budget, depth: int = 0) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result = Walked()
        self.budget = budget
        self.depth = depth

    def walk(self, stream: IO[bytes]) -> None:
        """Follow a pickle and note why that ended early."""
        try:
            self.run(stream)
        except _StopWalkError as stop:
            self.result.error = str(stop)
            self.result.over_budget = isinstance(stop, _OverBudgetError)
        except Exception as error:
            # The decoders of pickletools raise whatever broken bytes make them raise.
            self.result.error = f"it is not a well-formed pickle ({shown(error, 80)})"

    def run(self, stream: IO[bytes]) -> None:
        bounded: Any = _Bounded(stream, self.budget)
        while code := stream.read(1):
            self.budget.opcodes -= 1
            if self.budget.opcodes < 0:
                raise _OverBudgetError("it has more instructions than a checkpoint needs")
            if len(self.stack) > MAX_STACK:
                raise _StopWalkError("it stacks more values than a checkpoint needs")
            if code == b".":
                self.result.value = self.pop()
                return
            if code not in _INSTRUCTIONS:
                raise _StopWalkError(f"the instruction {code!r} is not used in checkpoints")
            decode, action = _INSTRUCTIONS[code]
            action(self, decode(bounded) if decode is not None else None)
        raise _StopWalkError("it ends before its last instruction")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _StopWalkError("an instruction needs a value that is not there")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _StopWalkError("an instruction needs a value that is not there")
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
            # The name is computed by a call, so it cannot be known.
            module, name = COMPUTED, "?"
        item = Global(module, name)
        self.result.globals[item] = None
        if len(self.result.globals) > MAX_GLOBALS:
            raise _OverBudgetError("it imports more names than a checkpoint needs")
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
            self.result.calls.add(function)
            if function.name in _UNPICKLERS:
                self.look_inside(arguments)
            if str(function) == "collections.OrderedDict" and not arguments:
                self.stack.append({})
                return
            if str(function) == "_codecs.encode" and _is_latin(arguments):
                # How protocol 2, which has none, spells bytes.
                self.budget.spend(len(arguments[0]))
                self.stack.append(arguments[0].encode("latin-1", "replace"))
                return
        self.stack.append(Call(function, arguments))

    def look_inside(self, arguments: object) -> None:
        """Walk bytes that a call would unpickle, and add what they would import."""
        if not isinstance(arguments, (tuple, list)):
            return
        for value in arguments:
            if not isinstance(value, (str, bytes, bytearray)):
                continue
            if self.depth >= MAX_NESTING:
                raise _OverBudgetError("it holds pickles within pickles")
            self.budget.spend(len(value))
            data = value.encode("latin-1", "replace") if isinstance(value, str) else value
            inner = _Walker(self.budget, self.depth + 1)
            inner.walk(io.BytesIO(data))
            self.result.globals.update(inner.result.globals)
            self.result.calls.update(inner.result.calls)
            if inner.result.over_budget:
                raise _OverBudgetError(inner.result.error)

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
            raise _StopWalkError("an instruction needs a value that is not there")
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
        plain = isinstance(key, (str, float, bytes, type(None)))
        if not plain and not (isinstance(key, int) and abs(key) < 1 << 64):
            # Hashing nested tuples can take exponential time, and no weight is named like this.
            key = ("no name", len(target))
        elif key in target and isinstance(key, str):
            self.result.duplicates.append(key)
        target[key] = value

    def pop_one(self, _: object) -> None:
        if not self.stack:
            raise _StopWalkError("an instruction needs a value that is not there")
        self.stack.pop()

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


def _is_latin(arguments: object) -> bool:
    return (
        isinstance(arguments, tuple)
        and len(arguments) == 2
        and isinstance(arguments[0], str)
        and arguments[1] in ("latin1", "latin-1")
    )


_Action = Callable[[_Walker, Any], object]


def _push(walker: _Walker, value: object) -> None:
    walker.stack.append(value)


def _ignore(_: _Walker, __: object) -> None:
    pass


_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)

_ACTIONS: dict[str, _Action] = {
    **dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), _ignore),
    **dict.fromkeys((*_LITERALS, "NONE"), _push),
    "NEWTRUE": lambda walker, _: walker.stack.append(True),
    "NEWFALSE": lambda walker, _: walker.stack.append(False),
    "EMPTY_TUPLE": lambda walker, _: walker.stack.append(()),
    "MARK": lambda walker, _: walker.stack.append(_MARK),
    "POP": _Walker.pop_one,
    "POP_MARK": lambda walker, _: walker.pop_mark(),
    "DUP": lambda walker, _: walker.stack.append(walker.top()),
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
    "EMPTY_LIST": lambda walker, _: walker.stack.append([]),
    "EMPTY_DICT": lambda walker, _: walker.stack.append({}),
    "EMPTY_SET": lambda walker, _: walker.stack.append(Call(Global("builtins", "set"), ())),
    "FROZENSET": lambda walker, _: walker.stack.append(
        Call(Global("builtins", "frozenset"), tuple(walker.pop_mark()))
    ),
    "LIST": lambda walker, _: walker.stack.append(walker.pop_mark()),
    "TUPLE": lambda walker, _: walker.stack.append(tuple(walker.pop_mark())),
    "DICT": _Walker.dict_,
    "TUPLE1": lambda walker, _: walker.tuple_of(1),
    "TUPLE2": lambda walker, _: walker.tuple_of(2),
    "TUPLE3": lambda walker, _: walker.tuple_of(3),
    "PERSID": _Walker.persistent,
    "BINPERSID": lambda walker, _: walker.persistent(walker.pop()),
}

#: Instruction to the decoder of its argument, if it has one, and what it does.
_INSTRUCTIONS: dict[bytes, tuple[Callable[[Any], Any] | None, _Action]] = {
    opcode.code.encode("latin-1"): (
        opcode.arg.reader if opcode.arg is not None else None,
        _ACTIONS[opcode.name],
    )
    for opcode in pickletools.opcodes
    if opcode.name in _ACTIONS
}
