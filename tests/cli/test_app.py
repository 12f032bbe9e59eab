"""The entry point: help, completion, exit codes, and errors in words."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from uertool import __version__
from uertool.cli import app as entry
from uertool.cli.app import COMMANDS, main
from uertool.errors import CheckpointError, MissingExtraError, UsageError

HEAVY = (
    "torch",
    "numpy",
    "safetensors",
    "tensorflow",
    "transformers",
    "tokenizers",
    "lightgbm",
    "optuna",
    "sklearn",
    "matplotlib",
    "pyarrow",
    "sentencepiece",
    "huggingface_hub",
    "click",
)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def run_uertool(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uertool", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def failing(error: BaseException) -> Callable[[list[str]], int]:
    def run(_: list[str]) -> int:
        raise error

    return run


# -- start-up -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["nonsense"]], ids=" ".join)
def test_start_up_loads_nothing_heavy(argv: list[str]) -> None:
    code = (
        f"import sys; from uertool.cli.app import main; main({argv!r}); "
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert run_python(code).stdout.rstrip().endswith("LOADED []")


@pytest.mark.slow
def test_importing_every_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, importlib; from uertool.cli.app import COMMANDS, load_command; "
        "[load_command(c.name) for c in COMMANDS]; "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, uertool; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_every_public_name_of_the_package_exists() -> None:
    import uertool

    for name in uertool.__all__:
        assert getattr(uertool, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = uertool.no_such_name


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(entry.name in shown for entry in COMMANDS)


def test_no_arguments_mean_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"uertool {__version__}\n"


# -- completion -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"), [("uertool clo", "cloze"), ("uertool cloze --top", "--topn")]
)
def test_completion_offers_names(typed: str, offered: str) -> None:
    done = run_uertool(
        _UERTOOL_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )
    assert offered in done.stdout.split()


@pytest.mark.slow
def test_completion_can_be_shown() -> None:
    done = run_uertool("--show-completion", "bash")
    shown = done.stdout + done.stderr
    assert "_UERTOOL_COMPLETE" in shown or "shell" in shown.lower()


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("a.bin is empty.", "Download it again."), 1),
        (UsageError("This cannot be.", "Do that."), 2),
        (MissingExtraError("tensorflow", "google", "Reading it"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_expected_error_is_a_sentence_and_a_hint(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(entry, "_run", failing(error))
    assert main(["cloze"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: {error.message}\n  {error.hint}\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["--debug", "UERTOOL_DEBUG"])
def test_a_traceback_only_on_request(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "_run", failing(CheckpointError("a.bin is empty.")))
    argv = ["cloze"]
    if how == "--debug":
        argv.append(how)
    else:
        monkeypatch.setenv(how, "1")
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("error: a.bin is empty.\n")


class RustPanic(BaseException):
    """What a panic of a Rust extension looks like."""


@pytest.mark.parametrize(
    "error", [KeyError("bug"), RustPanic("index out of bounds\nat 5")], ids=str
)
def test_an_internal_error_is_one_sentence_that_asks_for_a_report(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "_run", failing(error))
    assert main(["cloze"]) == 70
    reported = capsys.readouterr().err
    first = str(error).splitlines()[0]
    assert reported.splitlines() == [
        f"error: internal error: {type(error).__name__}: {first}",
        "  Please report it; --debug shows where.",
    ]


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "_run", failing(KeyboardInterrupt()))
    assert main(["cloze"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("Interrupted")
    assert said.count("\n") == 1


def test_a_closed_pipe_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "_run", failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert main(["cloze"]) == 141
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a.bin"), "a.bin: Permission denied"),
    ],
    ids=["memory", "full disk", "permission"],
)
def test_what_the_system_refuses_is_one_sentence(
    error: BaseException,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(entry, "_run", failing(error))
    assert main(["cloze"]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["cloz"], "Did you mean 'cloze'?"),
        (["generate", "ml"], "Did you mean 'lm'?"),
        (["vocab", "merge"], "No such command 'merge'."),
        (["whiten", "tune", "pairs.tsv"], "Unexpected argument: pairs.tsv."),
        (["shards", "merge"], "Missing argument FOLDER."),
        (["--verion"], "Did you mean --version?"),
        (["cloze", "--top_m", "3"], "--topn"),
        (["cloze", "--topn", "many"], "Invalid --topn: 'many' (must be a whole number)."),
        (
            ["cloze", "--fill-order", "no"],
            "--fill-order: 'no' (must be one of left-to-right, most-",
        ),
        (["cloze", "--topn"], "--topn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_names_the_nearest(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert "--help" in said


def test_a_value_out_of_its_bounds_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cloze", "--topn", "0"]) == 2
    assert capsys.readouterr().err == (
        "error: Invalid --topn: 0 (must be at least 1).\n  See: uertool cloze --help\n"
    )


# -- the process ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "uertool", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: The output cannot be written")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["cloze", "--help"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(argv: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "uertool", *argv],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize(
    "command",
    ["--version >&-", "cloze --test-path - <&-", "check nowhere.bin >&- <&-"],
    ids=["output", "input", "both"],
)
def test_a_closed_stream_is_one_sentence(command: str) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m uertool {command}",
        shell=True,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Bad file descriptor" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=str)
def test_signals_that_end_a_process_clean_up_as_ctrl_c_does(number: int) -> None:
    code = (
        "import sys, time; from uertool.cli import app\n"
        "def _run(arguments):\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(30)\n"
        "    finally:\n"
        "        print('cleaned', flush=True)\n"
        "app._run = _run; app.run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    rest, reported = process.communicate(timeout=30)
    assert rest == "cleaned\n"
    assert process.returncode == 128 + number
    assert reported.startswith("Interrupted") and "Traceback" not in reported


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_signal_during_an_import_is_not_lost(number: int, tmp_path: Path) -> None:
    (tmp_path / "swallowing.py").write_text(
        "import time\n"
        "print('importing', flush=True)\n"
        "try:\n"
        "    time.sleep(1)\n"
        "except BaseException:\n"
        "    pass  # as the start of an extension module does\n"
    )
    code = (
        "import sys, time; from uertool.cli import app\n"
        "def _run(arguments):\n"
        "    import swallowing\n"
        "    time.sleep(30)\n"
        "app._run = _run; app.run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, reported = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert reported.startswith("Interrupted") and "Traceback" not in reported


def test_an_option_without_its_value_names_the_help_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["vocab", "build", "--min-count"]) == 2
    assert "See: uertool vocab build --help" in capsys.readouterr().err


def test_no_variants_are_not_a_number_of_variants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cloze", "--augment", "0", "今天"]) == 2
    assert "Invalid --augment: 0 (must be at least 1)" in capsys.readouterr().err
