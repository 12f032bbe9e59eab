"""The entry point of the command line: the table of commands, and how errors are reported.

Commands are imported when they are called, so that `uertool --help` and completion are instant.

Exit codes: 0 done; 1 a failure, or "found something" for commands that compare or check; 2 wrong
usage; 70 an internal error; 130 stopped by Ctrl-C (143 by SIGTERM, 129 by SIGHUP); 141 the reader
of the output went away.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NamedTuple

import typer
import typer.main
from typer.core import TyperCommand

from uertool.cli import console, run_record
from uertool.cli.argv import kebab, nearest
from uertool.cli.parser import Command, Group
from uertool.errors import UertoolError, shown

INTERNAL = 70
INTERRUPTED = 130
READER_GONE = 141


class Entry(NamedTuple):
    """One command: its name, its module in `commands/`, what it does, and its panel of the help.

    The module defines the command as a function of that name, or a group of commands as `app`.
    """

    name: str
    module: str
    help: str
    panel: str


_VECTORS = "Vectors and neighbours"
_TEXT = "Text"
_CHECKPOINTS = "Checkpoints and vocabularies"
_ENSEMBLES = "Ensembles"
_SCALE = "Scale (--engine ray)"

COMMANDS: tuple[Entry, ...] = (
    Entry("cloze", "cloze", "Fill in masked words.", _TEXT),
    Entry("tokenize", "tokenize", "Tokens and ids of texts.", _TEXT),
    Entry("generate", "generate", "Continue or transform text.", _TEXT),
    Entry("extract-features", "features", "Sentence or token vectors of every line.", _VECTORS),
    Entry("whiten", "whiten", "Fit, apply or tune a whitening.", _VECTORS),
    Entry("search", "search", "The lines of a corpus that are nearest to queries.", _VECTORS),
    Entry("dedupe", "dedupe", "Leave out duplicates and near-duplicates of lines.", _VECTORS),
    Entry(
        "evaluate", "evaluate", "Evaluate sentence vectors and masked language models.", _VECTORS
    ),
    Entry(
        "extract-embeddings",
        "embeddings",
        "The word vectors of a model as a word2vec file.",
        _VECTORS,
    ),
    Entry("topn", "topn", "Words near a word, with or without context.", _VECTORS),
    Entry("convert", "convert", "Between UER-py, Hugging Face and Google.", _CHECKPOINTS),
    Entry("average", "average", "Average checkpoints.", _CHECKPOINTS),
    Entry("check", "check", "What a checkpoint is, and if it is sound.", _CHECKPOINTS),
    Entry("vocab", "vocab", "Build, compare and change vocabularies.", _CHECKPOINTS),
    Entry("ensemble", "ensemble", "Stack models with LightGBM.", _ENSEMBLES),
    Entry("shards", "shards", "Merge or verify shards.", _SCALE),
)


#: Models and directions of UER-py's converters; "original_tf" is a later word for Google's format.
_CONVERTERS: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    (("bert",), {"google-to-uer": "google2uer", "uer-to-google": "uer2google"}),
    (("bert", "albert"), {"original-tf-to-uer": "google2uer", "uer-to-original-tf": "uer2google"}),
    (
        ("bert", "bert-extractive-qa", "bert-text-classification", "bert-token-classification")
        + ("albert", "bart", "gpt2", "pegasus", "sbert", "t5", "xlmroberta"),
        {"huggingface-to-uer": "hf2uer", "uer-to-huggingface": "uer2hf"},
    ),
)

#: UER-py's scripts, which are commands too, with or without `scripts/` and `.py`; its
#: documentation calls average_models.py average_model.py.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "average-model": ("average",),
    "average-models": ("average",),
    "build-vocab": ("vocab", "build"),
    "check-model": ("check",),
    "cloze-test": ("cloze",),
    "diff-vocab": ("vocab", "diff"),
    "dynamic-vocab-adapter": ("vocab", "adapt"),
    "extract-embeddings": ("extract-embeddings",),
    "extract-features": ("extract-features",),
    "generate-lm": ("generate", "lm"),
    "generate-seq2seq": ("generate", "seq2seq"),
    "run-bayesopt": ("ensemble", "search"),
    "run-lgb": ("ensemble", "fit"),
    "topn-words-dep": ("topn", "dep"),
    "topn-words-indep": ("topn", "indep"),
    **{
        f"convert-{model}-from-{names}": ("convert", direction)
        for models, directions in _CONVERTERS
        for model in models
        for names, direction in directions.items()
    },
    # UER-py's files do not tell these from BERT and from question answering.
    "convert-xlmroberta-from-uer-to-huggingface": ("convert", "uer2hf", "--arch", "xlm-roberta"),
    "convert-bert-token-classification-from-uer-to-huggingface": (
        "convert",
        "uer2hf",
        "--target",
        "token_cls",
    ),
}
_SCRIPT = re.compile(r"(?:.*/)?([\w-]+?)(?:\.py)?")


class LazyGroup(Group):
    """The commands of `COMMANDS`: a stub each for help, the real one when it is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for entry in COMMANDS:
            self.commands[entry.name] = TyperCommand(
                name=entry.name, help=entry.help, rich_help_panel=entry.panel
            )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called, and import it."""
        script = _SCRIPT.fullmatch(args[0])
        command = SCRIPTS.get(kebab(script[1])) if script else None
        if command is not None and command != (kebab(args[0]),):
            console.note(f"note: {args[0]} is now uertool {' '.join(command)}")
            args = [*command, *args[1:]]
        name, stub, rest = super().resolve_command(ctx, args)
        return name, None if stub is None else load_command(str(stub.name)), rest


def load_command(name: str) -> Any:
    """The parser's command for a name of `COMMANDS`."""
    entry = next(entry for entry in COMMANDS if entry.name == name)
    module = importlib.import_module(f"uertool.cli.commands.{entry.module}")
    found = getattr(module, "app", None) or getattr(module, name.replace("-", "_"))
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name = entry.name
        return group
    single = typer.Typer(add_completion=False)
    single.command(name=entry.name, cls=Command)(found)
    return typer.main.get_command(single)


app = typer.Typer(
    name="uertool",
    cls=LazyGroup,
    help="The toolkit for Chinese pre-trained models of UER-py, Hugging Face and Google.",
    epilog="`uertool COMMAND --help` shows a command's usual options, `--help-all` all of them. "
    "Options may be written `--like-this` or `--like_this`.",
    context_settings={
        "token_normalize_func": kebab,
        "help_option_names": ["-h", "--help"],
    },
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from uertool.version import __version__

        console.out(f"uertool {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error (also UERTOOL_DEBUG=1)."),
    ] = False,
) -> None:
    # Both are dealt with elsewhere: the version by its callback, --debug by main, which accepts it
    # after the command too.
    del version, debug


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; the only place that catches errors.

    Args:
        argv: the arguments without the program's name; those of the process if None.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    debug, arguments = _without_debug(given)
    console.set_level()
    console.remember_spelling(given)
    run_record.begin(given)
    try:
        code = _run(arguments or ["--help"])
        sys.stdout.flush()
        return code
    except BaseException as error:  # panics of Rust libraries are BaseException only
        if isinstance(error, SystemExit):
            if isinstance(error.__context__, BrokenPipeError):  # rich ends the process itself
                return READER_GONE
            raise
        if debug:
            traceback.print_exc()
        return _exit_code(error)


def _exit_code(error: BaseException) -> int:
    """Report an error in one sentence, and return the exit code for it."""
    if isinstance(error, UertoolError):
        return _fail(error.exit_code, error.message, error.hint)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        kept = error.args[0] if error.args else "finished outputs are kept, others are removed"
        console.err(f"Interrupted; {kept}.")
        return 128 + error.signal if isinstance(error, Terminated) else INTERRUPTED
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return READER_GONE
    if isinstance(error, MemoryError):
        return _fail(
            1,
            "There is not enough memory.",
            "Use smaller batches (--batch-size), a smaller model, or --dtype bfloat16.",
        )
    sentence = _system_error(error) if isinstance(error, OSError) else None
    if sentence is not None:
        return _fail(1, sentence, None)
    text = shown(f"{type(error).__name__}: {error}".partition("\n")[0])
    return _fail(INTERNAL, f"internal error: {text}", "Please report it; --debug shows where.")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a run as Ctrl-C does: outputs are cleaned up.

    Args:
        signal: its number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class _Interrupts:
    """Turns signals into exceptions in the main thread.

    Extension modules swallow exceptions that are raised while they are imported, so a signal that
    comes during an import waits for its end.
    """

    _SECONDS = 0.05

    def __init__(self) -> None:
        self.waiting = int(signal.SIGINT)
        # nohup asks for SIGHUP to be ignored.
        before = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL}
        for name, usual in {**before, "SIGHUP": signal.SIG_DFL}.items():
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is usual:
                signal.signal(number, self.interrupt)
        self.can_wait = hasattr(signal, "setitimer")
        if self.can_wait:
            signal.signal(signal.SIGALRM, lambda _, frame: self.interrupt(self.waiting, frame))

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise the exception of a signal, now or soon."""
        if self.can_wait and _is_importing(frame):
            self.waiting = number
            signal.setitimer(signal.ITIMER_REAL, self._SECONDS)
            return
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def run() -> None:
    """The console script: prepare the standard streams and signals, then call `main`."""
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # Chinese text needs it where the system's own encoding is another one.
        if hasattr(stream, "reconfigure") and (stream.encoding or "").lower() != "utf-8":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _Interrupts()
    # torch makes some 100,000 objects that stay. Collecting garbage among them while they are
    # made, and once more at the end, takes a fifth of the time of a short command.
    gc.set_threshold(10_000)
    try:
        code = main()
    finally:
        gc.freeze()
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Open something in place of standard streams that the caller closed (`>&-`).

    Otherwise the next file to be opened would get their number. Using them is an error of the
    operating system, as it would be without this.
    """
    modes = (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_RDWR, "w"))
    for number, (name, access, mode) in enumerate(modes):
        if getattr(sys, name) is None:
            os.dup2(opened := os.open(os.devnull, access), number)
            if opened != number:
                os.close(opened)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _without_debug(argv: list[str]) -> tuple[bool, list[str]]:
    end = argv.index("--") if "--" in argv else len(argv)
    rest = [token for token in argv[:end] if token != "--debug"]
    wanted = len(rest) < end or os.environ.get("UERTOOL_DEBUG", "") not in ("", "0")
    return wanted, rest + argv[end:]


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if "_UERTOOL_COMPLETE" in os.environ:
        command.main(args=arguments, prog_name="uertool")
        return 0
    try:
        with command.make_context("uertool", arguments) as context:
            result = command.invoke(context)
    except typer.Exit as stop:
        return int(stop.exit_code)
    return result if isinstance(result, int) else 0


def _fail(code: int, message: str, hint: str | None) -> int:
    # Standard error may be gone too; the exit code still says it.
    with contextlib.suppress(OSError):
        console.error(message, hint)
    _drop_stdout_if_broken()
    return code


def _usage(error: Any) -> int:
    """What the parser says, in one line, with the nearest option and where to read on."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    context = getattr(error, "ctx", None)
    message = str(_of_value(error)).strip()
    if hasattr(error, "possibilities"):
        message = f"No such option: {error.option_name}"
        options = [
            name
            for param in (context.command.params if context is not None else ())
            for name in (*param.opts, *param.secondary_opts)
            if name.startswith("--")
        ]
        possible = nearest(kebab(error.option_name), options)
        if possible:
            message += f". Did you mean {' or '.join(possible)}?"
    path = context.command_path if context is not None else "uertool"
    code = int(getattr(error, "exit_code", 2))
    origin = console.origin(getattr(getattr(error, "param", None), "name", ""))
    return _fail(code, _sentence(message), origin or f"See: {path} --help")


def _of_value(error: Any) -> str:
    """What the parser says, and about a value in the form of a `SettingError`."""
    message = str(error.format_message())
    param = getattr(error, "param", None)
    if param is None:
        return re.sub(r"Got .* argument\(s\) \((.*)\)", r"Unexpected argument: \1", message)
    causes: list[Any] = getattr(error.__cause__, "errors", list)()
    if not causes:
        return message.replace(f"'{param.name}'", param.name.upper())
    # The parser has pydantic check values, whose sentences leave them out.
    kind, _, _ = causes[0]["type"].partition("_")
    wanted = _KINDS.get(kind) or f"one of {param.metavar.replace('|', ', ')}"
    return f"Invalid `{param.name}`: {causes[0]['input']!r} (must be {wanted})"


#: What is expected, by the first word of the type of pydantic's error.
_KINDS = {"int": "a whole number", "float": "a number"}


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def _system_error(error: OSError) -> str | None:
    """A sentence for an error of the operating system, or None if it names no file."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return f"The output cannot be written: {reason}."
    if error.errno == errno.EBADF:
        return f"Standard input or output cannot be used: {reason}."
    return None


def _drop_stdout_if_broken() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _drop_stdout() -> None:
    """Send what is still buffered nowhere, or Python would complain about it when it ends."""
    stdout = sys.__stdout__
    if stdout is None or sys.stdout is not stdout:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout.fileno())
    os.close(nowhere)
