"""The hint that another number type would be faster."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import TESTS
from uertool.cli.app import main
from uertool.config import ModelConfig
from uertool.engine import faster_type

MODEL = str(TESTS / "fixtures" / "bert-modular")
TEXTS = ["今天[MASK]气", "天[MASK]很好"]
LM = str(TESTS / "data" / "models" / "zh-lm-small")
CONFIG = ModelConfig(100, 64, 2, feedforward_size=256)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster_type, "SECONDS", 0.0)
    monkeypatch.setattr(faster_type, "faster_type", lambda *_: ("bfloat16", 2.51))


@pytest.mark.usefixtures("soon")
def test_a_long_run_says_once_which_type_would_be_faster(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["cloze", *TEXTS, "-m", MODEL, "--batch-size", "1"]) == 0
    said = capsys.readouterr().err
    assert said.count("--dtype bfloat16 would be about 2.5 times as fast on this processor") == 1


@pytest.mark.usefixtures("soon")
def test_generation_says_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["今天", "天气"]
    assert main(["generate", "lm", *prompts, "-m", LM, "--max-new-tokens", "2"]) == 0
    said = capsys.readouterr().err
    assert said.count("--dtype bfloat16 would be about 2.5 times as fast on this processor") == 1


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("given", [["--quiet"], ["--dtype", "bfloat16"]])
def test_nothing_is_said_if_unwanted_or_done(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cloze", *TEXTS, "-m", MODEL, *given]) == 0
    assert "times as fast" not in capsys.readouterr().err


def test_a_short_run_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(faster_type, "faster_type", None)
    assert main(["cloze", *TEXTS, "-m", MODEL]) == 0


@pytest.mark.parametrize(("took", "expected"), [(0.2, ("bfloat16", 1 / 0.48)), (0.8, None)])
def test_the_gain_is_that_of_the_products_share(
    took: float, expected: tuple[str, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(layer: torch.nn.Module, x: torch.Tensor) -> float:
        return took if x.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(faster_type, "_seconds", seconds)
    assert faster_type.faster_type(CONFIG, 100) == (
        None if expected is None else pytest.approx(expected)
    )


def test_measuring_leaves_random_numbers_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = faster_type.faster_type(CONFIG, 20)
    assert torch.equal(torch.get_rng_state(), state)
    assert found is None or found[1] >= 1.5
