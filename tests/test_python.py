"""The functions in Python: their signatures, their documentation, and what type checkers see."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import uertool
from tests.conftest import TESTS
from tools.python_stub import STUB, stub
from uertool.cli.app import COMMANDS, load_command
from uertool.errors import InputError, SettingError, UertoolError, UsageError

PAGE = TESTS.parent / "docs" / "python.md"

#: Commands whose function has another name.
OTHERWISE = {
    **{f"convert {direction}": "convert" for direction in load_command("convert").commands},
    "generate lm": "generate",
    "generate seq2seq": "generate",
}

FUNCTIONS = [name for name in uertool.PUBLIC if inspect.isfunction(getattr(uertool, name))]


def command_names() -> list[str]:
    found = []
    for entry in COMMANDS:
        command = load_command(entry.name)
        below = getattr(command, "commands", None)
        found += [f"{entry.name} {name}" for name in below] if below else [entry.name]
    return found


@pytest.fixture
def model() -> uertool.Model:
    return uertool.load_model("zh-mlm-small", device="cpu")


@pytest.mark.parametrize("command", command_names())
def test_every_command_is_a_function(command: str) -> None:
    name = OTHERWISE.get(command, re.sub("[ -]", "_", command))
    assert name in FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_spelled_out_and_documented(name: str) -> None:
    function = getattr(uertool, name)
    parameters = inspect.signature(function).parameters.values()
    assert all(one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) for one in parameters)
    if uertool.PUBLIC[name].startswith("uertool.api."):
        described = re.findall(r"^ {4}([\w, ]+):", inspect.getdoc(function) or "", re.MULTILINE)
        names = {one for group in described for one in group.split(", ")}
        assert names >= {one.name for one in parameters}


def test_the_stub_is_up_to_date() -> None:
    assert STUB.read_text("utf-8") == stub(), "run: make tables"


def test_lists_and_numbers_of_numpy_are_settings(model: uertool.Model) -> None:
    expected = model.encode("今天", layers=(1, 2), batch_size=4)
    np.testing.assert_array_equal(
        model.encode("今天", layers=np.array([1, 2]), batch_size=np.int64(4)), expected
    )


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda m: m.encode([None]), InputError, "Text 0 is None"),
        (
            lambda m: m.cloze(None),
            SettingError,
            "`texts`: None (must be text or a path or",
        ),
        (lambda m: m.similarity("今", 3), SettingError, "`second`: 3"),
        (lambda m: m.cloze("今", topm=3), UsageError, "no setting `topm`. Perhaps `topn`"),
        (
            lambda m: uertool.extract_features("今", prediction_path="a.npy", model="b"),
            UsageError,
            "no setting `model`. Perhaps `load_model_path` is meant",
        ),
        (lambda m: uertool.load_model(heads="zzz"), UsageError, "Unknown head: zzz"),
        (lambda m: m.cloze("今", topn="3"), SettingError, "`topn`: '3' (must be a whole number)"),
        (lambda m: uertool.nearest(3, "今"), SettingError, "`source`: 3"),
        (lambda m: m.cloze("今", seed=None), SettingError, "`seed`: None (must be a whole number)"),
        (lambda m: m.encode("今", whitening=[1]), SettingError, "`whitening`"),
        (lambda m: uertool.convert("a", "b", "pt"), SettingError, "must be one of hf, uer"),
        (lambda m: uertool.shards_verify(3), SettingError, "`folder`: 3"),
        (lambda m: uertool.score("今", truncate="up"), SettingError, "`truncate`"),
        (lambda m: uertool.average([3], output_model_path="a"), InputError, "not 3"),
        (lambda m: uertool.search("今", []), InputError, "no lines"),
        (lambda m: m.encode("今", pooling=3), SettingError, "`pooling`"),
        (lambda m: m.neighbours("一二三四"), UsageError, "not in the vocabulary"),
        (lambda m: uertool.cloze("今", model=m, heads_num=2), UsageError, "`load_model`"),
        (lambda m: uertool.cloze("今", model="nowhere"), UertoolError, "nowhere does not exist"),
        (lambda m: uertool.average("a.bin"), UsageError, "`output_model_path`"),
        (lambda m: uertool.vocab_adapt(), UsageError, "`old_model_path`"),
        (lambda m: uertool.extract_features(prediction_path="a.npy"), UsageError, "`test_path`"),
        (lambda m: uertool.whiten_fit("a.npy"), UsageError, "`save_whitening`"),
        (lambda m: uertool.check("/nowhere", run="yes"), SettingError, "`run`"),
    ],
)
def test_what_is_wrong_is_said(
    model: uertool.Model, call: Callable[[uertool.Model], Any], kind: type, sentence: str
) -> None:
    with pytest.raises(kind, match=re.escape(sentence)):
        call(model)


def test_results_are_short_and_tables_in_a_notebook(model: uertool.Model) -> None:
    found = model.cloze(["今天<b>天气</b>很[MASK]。"] * 12, topn=2)
    assert repr(found).count("ClozeResult(") == 10
    assert "... and 2 more" in repr(found)
    shown = found._repr_html_()
    assert shown.count("<table>") == 12
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    near = model.neighbours(["好"], topn=2)[0]
    assert near._repr_html_().count("<tr>") == 3
    checked = uertool.check(model.reference)
    assert len(repr(checked)) < 400
    assert "<th>finding</th>" in checked._repr_html_() or not checked.findings


USES = """
import uertool

model: uertool.Model = uertool.load_model("x", heads_num=12)
token: str = model.cloze("a", topn=3, targets=["b"])[0].masks[0].guesses[0].token
score: float = uertool.topn_indep("a", by="dot")[0][0].score
good: bool = uertool.check("x", run=True).good
uertool.convert("a", "b", "hf", vocab_path="c", verify=False)
"""
MISUSES = {
    'model.cloze("a", topm=3)': "call-arg",
    'model.cloze("a", topn="3")': "arg-type",
    'uertool.convert("a", "b", "huggingface")': "arg-type",
    "uertool.cloze(3)": "arg-type",
    'uertool.extract_features("a")': "call-arg",
    "uertool.nothing": "attr-defined",
}


@pytest.mark.slow
def test_type_checkers_see_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "uses.py"
    file.write_text(USES + "\n".join(MISUSES), "utf-8")
    run = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    done = subprocess.run(
        [*run, f"--cache-dir={tmp_path}", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": str(TESTS.parent / "src")},
    )
    errors = re.findall(r"^.*uses\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    first = len(USES.splitlines()) + 1
    assert errors == [(str(first + n), code) for n, code in enumerate(MISUSES.values())]


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    file = tmp_path / "page.py"
    file.write_text("\n".join(blocks), "utf-8")
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
