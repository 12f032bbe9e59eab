"""Help: two levels, nothing cut at 80 columns, examples that can be copied."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from uertool.cli.app import COMMANDS, SCRIPTS, load_command, main
from uertool.cli.argv import nearest
from uertool.cli.render.help import parts_of

#: Options that the short help of a command lists at most, --help included.
MOST_OPTIONS = 25


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below a command, with what is typed to call them."""
    below = getattr(command, "commands", None)
    if not below:
        yield path, command
        return
    for name, found in below.items():
        yield from leaves(found, (*path, name))


ALL = [leaf for entry in COMMANDS for leaf in leaves(load_command(entry.name), (entry.name,))]
each_command = pytest.mark.parametrize(
    ("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL]
)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@each_command
def test_short_help_is_short(path: tuple[str, ...], command: Any) -> None:
    listed = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    assert len(listed) + 1 <= MOST_OPTIONS, [param.name for param in listed]


@each_command
def test_help_fits_80_columns_and_cuts_nothing(
    path: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for level in ("--help", "--help-all"):
        assert main([*path, level]) == 0
        shown = capsys.readouterr().out
        assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
        assert "…" not in shown
        assert "<bool>" not in shown
    for param in command.params:
        if param.param_type_name == "option" and param.name != "help":
            assert f"--{param.name.replace('_', '-')}" in shown


@each_command
def test_every_command_has_examples(path: tuple[str, ...], command: Any) -> None:
    examples = parts_of(inspect.cleandoc(command.help or ""))[1]
    assert any(f"uertool {' '.join(path)}" in example for example in examples)
    assert all(len(line) <= 78 for example in examples for line in example.splitlines())


def test_a_seed_is_offered_where_something_is_random() -> None:
    seeded = {" ".join(path) for path, command in ALL if "seed" in {p.name for p in command.params}}
    assert seeded == {
        "average", "cloze", "ensemble fit", "ensemble search", "generate lm", "generate seq2seq",
        "vocab adapt", "whiten tune",
    }  # fmt: skip


def test_rare_options_are_in_the_long_help_only(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cloze", "--help"])
    short = capsys.readouterr().out
    main(["cloze", "--help-all"])
    long = capsys.readouterr().out
    assert "--heads-num" not in short
    assert "more options" in short
    assert "--heads-num" in long
    assert long.count("  uertool cloze") + long.count("| uertool cloze") == 3


@pytest.mark.parametrize(
    "words", [[], ["cloze"], ["generate"], ["generate", "lm"]], ids=lambda words: " ".join(words)
)
def test_the_word_help_is_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    expected = capsys.readouterr().out
    assert main(["help", *words]) == 0
    assert capsys.readouterr().out == expected


def test_help_all_after_two_hyphens_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cloze", "--targets", "--help-all", "--help"])
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("--topm", ["--topn"]),
        ("--modle", ["--model"]),
        ("--batchsize", ["--batch-size"]),
        ("--xyzzy", []),
    ],
)
def test_nearest_ranks_by_edits(typed: str, names: list[str]) -> None:
    options = ["--topn", "--dtype", "--model", "--encoder", "--batch-size", "--emb-size"]
    assert nearest(typed, options) == names


def test_scripts_of_both_generations_are_commands() -> None:
    documented = 26 + 1  # one of them has two names
    assert len(SCRIPTS) == documented + 16  # converters that came later


@pytest.mark.parametrize("name", SCRIPTS)
def test_old_scripts_are_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    written = f"scripts/{name.replace('-', '_')}.py"
    assert main([written, "--help"]) == 0
    printed = capsys.readouterr()
    command = "uertool " + " ".join(SCRIPTS[name])
    assert printed.err == f"note: {written} is now {command}\n"
    assert printed.out.startswith(f"Usage: {command.partition(' --')[0]}")


def test_old_scripts_are_not_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "cloze_test" not in capsys.readouterr().out
