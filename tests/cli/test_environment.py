"""Defaults of options from variables of the environment."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import TESTS
from uertool.cli.app import main

MODEL = str(TESTS / "fixtures" / "bert-modular")
TEXT = "今天[MASK]气"


def test_variables_are_defaults_and_reported_with_verbose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UERTOOL_MODEL", MODEL)
    monkeypatch.setenv("UERTOOL_DTYPE", "bfloat16")
    monkeypatch.setenv("UERTOOL_DEVICE", "cpu")
    assert main(["cloze", TEXT, "--verbose"]) == 0
    said = capsys.readouterr().err
    assert f"--load-model-path is {MODEL}, from UERTOOL_MODEL." in said
    assert "--dtype is bfloat16, from UERTOOL_DTYPE." in said
    assert "--device is cpu, from UERTOOL_DEVICE." in said
    assert "in bfloat16" in said


def test_an_option_is_preferred_to_a_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UERTOOL_MODEL", "no/such/model")
    monkeypatch.setenv("UERTOOL_DTYPE", "bfloat16")
    assert main(["cloze", TEXT, "-m", MODEL, "--dtype", "float32", "--verbose"]) == 0
    said = capsys.readouterr().err
    assert "UERTOOL" not in said
    assert "in float32" in said


@pytest.mark.parametrize(
    ("name", "value"), [("UERTOOL_DTYPE", "float33"), ("UERTOOL_THREADS", "0")]
)
def test_a_wrong_variable_is_an_error_of_its_option(
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["cloze", TEXT]) == 2
    assert value in capsys.readouterr().err


def test_a_model_of_the_environment_gives_way_to_what_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("UERTOOL_MODEL", "no/such/model")
    vectors = f"{tmp_path}/e.npy"
    assert main(["extract-embeddings", MODEL, "-o", vectors, "-q"]) == 0
    assert np.load(vectors).shape[1] == 32
    assert main(["topn", "indep", "今", "--vectors", vectors, "-q"]) == 0


def test_help_names_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cloze", "--help-all"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in ("MODEL", "DEVICE", "DTYPE", "THREADS"):
        assert f"[environment: UERTOOL_{name}]" in text


def test_a_wrong_value_of_the_command_line_does_not_name_a_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("UERTOOL_DTYPE", raising=False)
    assert main(["cloze", TEXT, "--dtype", "int4"]) == 2
    assert "Invalid --dtype: 'int4' (must be one of" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["none", "-1"])
def test_a_wrong_value_of_a_variable_names_it(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UERTOOL_THREADS", value)
    assert main(["cloze", TEXT]) == 2
    assert "It comes from the environment variable UERTOOL_THREADS." in capsys.readouterr().err
