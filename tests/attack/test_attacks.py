"""Whatever a file holds, a command ends soon, in one sentence, and changes no file.

`make attack N=10000` runs more of the same; UERTOOL_ATTACK_SEED chooses others.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.malicious import corpus
from tests.conftest import TESTS
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.pickle_scan import scan_pickle
from uertool.checkpoints.formats.pickle_verdicts import Verdict, judge
from uertool.errors import CheckpointError

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("UERTOOL_ATTACK_SEED", "0"))
COUNT = int(os.environ.get("UERTOOL_ATTACKS", "260"))
RUNNERS = 2

#: An ordinary run stops after so many seconds whatever it has done; a longer one never.
SECONDS = 80 if "UERTOOL_ATTACKS" not in os.environ else 10**9


def problem_of(outcome: dict[str, Any]) -> str | None:
    """What is wrong with the way a command ended, or None."""
    said = str(outcome["said"]).replace(outcome["folder"], "DIR")
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    if outcome["code"] not in ((0, 1, 2) if outcome["harmless"] else (1, 2)):
        return f"exit code {outcome['code']}"
    if "Traceback" in said or "internal error" in said:
        return "a traceback"
    if outcome["code"] and outcome["command"] != "check" and len(errors) != 1:
        return f"{len(errors)} sentences"
    # The sentence, and what it says about the next step.
    if outcome["code"] and (max(map(len, errors), default=0) >= 400 or len(said) >= 1000):
        return f"{len(said)} characters"
    if outcome["changed"] or (outcome["code"] and outcome["made"]):
        return f"files changed: {outcome['changed']} {outcome['made']}"
    if outcome["seconds"] >= 5 or outcome["peak"] >= 1 << 30:
        return f"{outcome['seconds']:.1f} s, {outcome['peak'] >> 20} MiB"
    return None


@pytest.mark.slow
@pytest.mark.timeout(0 if "UERTOOL_ATTACKS" in os.environ else 180)
def test_broken_and_hostile_files(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS.parent)]),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RUST_BACKTRACE": "0",
    }
    runners = []
    for number in range(RUNNERS):
        (tmp_path / str(number)).mkdir()
        arguments = [SEED, number, COUNT, RUNNERS, SECONDS, tmp_path / str(number)]
        runners.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.attack.runner", *map(str, arguments)],
                stdout=subprocess.PIPE,
                env=environment,
                cwd=TESTS.parent,
            )
        )
    outcomes = []
    for runner in runners:
        printed, _ = runner.communicate()
        assert runner.returncode == 0
        outcomes += [json.loads(line) for line in printed.splitlines()]
    assert len(outcomes) > 50
    bad = [
        f"case {outcome['number']} ({outcome['kind']}, {outcome['command']}): {problem}\n"
        f"    {outcome['said'][-500:]!r}"
        for outcome in outcomes
        if (problem := problem_of(outcome)) is not None
    ]
    assert not bad, f"{len(bad)} of {len(outcomes)}:\n" + "\n".join(bad[:40])


def test_what_picklescan_calls_dangerous_is_never_allowed() -> None:
    scanner = pytest.importorskip("picklescan.scanner")
    for module, names in scanner._unsafe_globals.items():
        for name in ["anything"] if names == "*" else names:
            assert judge(module, name) is Verdict.DANGEROUS, f"{module}.{name}"


def test_files_that_picklescan_calls_dangerous_are_refused(tmp_path: Path) -> None:
    scanner = pytest.importorskip("picklescan.scanner")
    flagged = 0
    for name, content in corpus(tmp_path / "canary").items():
        file = tmp_path / f"{name}.bin"
        file.write_bytes(content)
        try:
            result = scanner.scan_bytes(io.BytesIO(content), str(file), ".bin")
        except Exception:  # it stops at files that are broken on purpose
            continue
        if result.issues_count:
            flagged += 1
            assert scan_pickle(file).suspicious, name
            with pytest.raises(CheckpointError):
                open_tensor_file(file)
    assert flagged > 10
    assert not (tmp_path / "canary").exists()
