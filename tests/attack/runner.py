"""Runs cases one after the other, each in a child of its own, and prints what they did as JSON.

    python -m tests.attack.runner SEED FIRST COUNT STEP SECONDS FOLDER

The children are forked after the heavy imports, so that a case takes a fraction of a second; they
have limits of memory and time that stop what the program should have refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

_CPU = 20  # seconds after which a child is stopped
_MEMORY = 6 << 30  # bytes of addresses, most of which the libraries only reserve


def prepare(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Write the files of a case; returns the paths of what commands name."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    names = ("model", "vocab", "config", "text", "folder", "out")
    return {name: str(folder / name) for name in names}


def state_of(folder: Path) -> dict[str, str]:
    """The digest of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run main in a child; returns its exit code, messages, processor time and peak memory."""
    said = folder.parent / f"{folder.name}.stderr"
    child = os.fork()
    if child == 0:
        _child(arguments, said)
    _, status, usage = os.wait4(child, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "said": said.read_text("utf-8", "replace"),
        "seconds": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss << 10,
    }


def _child(arguments: list[str], said: Path) -> None:
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU + 1))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(60)
        os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        from uertool.cli.app import main

        code = main(arguments)
        sys.stderr.flush()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 98
    finally:
        os._exit(code)


def main() -> None:
    """Run the cases FIRST, FIRST + STEP, ... for at most SECONDS."""
    seed, first, count, step, seconds = map(int, sys.argv[1:6])
    top = Path(sys.argv[6])
    import torch

    from tests.attack.cases import case, ordinary

    torch.set_num_threads(1)
    ordinary()
    warm_up(top)
    end = time.monotonic() + seconds
    for number in range(first, count, step):
        if time.monotonic() > end:
            break
        found = case(seed, number)
        folder = top / str(number)
        paths = prepare(folder, {**ordinary(), **found.files})
        before = state_of(folder)
        arguments = [word.format(**paths) for word in found.command.split()]
        outcome = run(arguments, folder)
        after = state_of(folder)
        made = sorted(set(after) - set(before))
        changed = sorted(name for name in before if after.get(name) != before[name])
        outcome.update(
            number=number,
            kind=found.kind,
            command=found.command.split()[0],
            harmless=found.harmless,
            made=made,
            changed=changed,
            folder=str(folder),
        )
        print(json.dumps(outcome), flush=True)


def warm_up(top: Path) -> None:
    """Run every command on sound files, so that the children have what it imports."""
    from tests.attack.cases import COMMANDS, FOLDER_COMMANDS, ordinary
    from uertool.cli.app import main

    paths = prepare(top / "sound", ordinary())
    for number, command in enumerate((*COMMANDS.values(), *FOLDER_COMMANDS.values())):
        paths["out"] = str(top / "sound" / f"out{number}")
        arguments = [word.format(**paths) for word in command.split()]
        with (
            contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")),
            contextlib.redirect_stderr(io.StringIO()) as said,
        ):
            code = main(arguments)
        if code != 0:
            raise SystemExit(f"{command} fails on sound files: {said.getvalue()}")


if __name__ == "__main__":
    main()
