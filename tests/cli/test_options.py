"""Options: both spellings, the old forms, and groups spread over a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
import typer.main

from uertool.cli import app as entry
from uertool.cli.argv import kebab, normalize
from uertool.cli.options import OutputSettings, with_settings
from uertool.cli.parser import Command
from uertool.errors import SettingError, UsageError
from uertool.loading.registry import load_from_settings
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.settings import Setting, Settings, fields_of
from uertool.text.settings import InputSettings

TargetName = Literal["mlm", "sp", "lm", "cls", "token_cls"]


@dataclass(frozen=True)
class Many(Settings):
    """Settings that take several values."""

    model_list_path: Annotated[tuple[str, ...], Setting("Models", several=True)] = ()
    target: Annotated[tuple[TargetName, ...], Setting("Targets", several=True)] = ()
    weights: Annotated[tuple[float, ...], Setting("Weights", several=True)] = ()
    layers: Annotated[tuple[int, ...], Setting("Layers")] = ()


def parse(*argv: str) -> dict[str, Any]:
    """What a command with every shared group receives for these arguments."""
    seen: dict[str, Any] = {}

    @with_settings
    def command(
        texts: Annotated[list[str] | None, typer.Argument()] = None,
        *,
        model: ModelSettings,
        text: InputSettings,
        device: DeviceSettings,
        output: OutputSettings,
        topn: Annotated[int, typer.Option("--topn")] = 10,
        many: Many,
    ) -> None:
        seen.update(locals())

    app = typer.Typer(context_settings={"token_normalize_func": kebab})
    app.command(cls=Command)(command)
    parser = typer.main.get_command(app)
    with parser.make_context("test", list(argv)) as context:
        parser.invoke(context)
    return seen


def test_nothing_given_overrides_nothing() -> None:
    assert parse()["model"].overrides() == {}


@pytest.mark.parametrize("option", ["--load_model_path", "--load-model-path", "--model", "-m"])
def test_every_spelling_names_the_model(option: str) -> None:
    assert parse(option, "a_b.bin")["model"].load_model_path == "a_b.bin"


@pytest.mark.parametrize("spelling", ["--max_seq_length=64", "--max-seq-length=64"])
def test_a_value_may_be_attached(spelling: str) -> None:
    assert parse(spelling)["model"].overrides() == {"max_seq_length": 64}


@pytest.mark.parametrize(
    "words",
    [["word", "pos", "seg"], ["word_pos_seg"], ["word,pos,seg"], ["word_pos", "seg"]],
    ids=" ".join,
)
@pytest.mark.parametrize("option", ["--embedding"])
def test_embeddings_may_be_written_apart_or_joined(option: str, words: list[str]) -> None:
    seen = parse(option, *words, "今天[MASK]")
    assert seen["model"].overrides() == {"embedding": ("word", "pos", "seg")}
    assert seen["texts"] == ["今天[MASK]"]


def test_several_models_after_one_option() -> None:
    seen = parse("--model_list_path", "a", "b", "c,d", "--topn", "3")
    assert seen["many"].model_list_path == ("a", "b", "c,d")
    assert seen["topn"] == 3


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--do_lower_case", "false"], False),
        (["--do-lower-case=True"], True),
        (["--do_lower_case"], True),
        (["--no-do-lower-case"], False),
    ],
    ids=str,
)
def test_lower_casing_takes_a_truth(argv: list[str], meant: bool) -> None:
    assert parse(*argv)["model"].overrides() == {"do_lower_case": meant}


def test_a_truth_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(SettingError, match="`do_lower_case`: 'perhaps' .must be true or false"):
        parse("--do_lower_case=perhaps")


@pytest.mark.parametrize("option", ["--tie_weight", "--tie_weights", "--tie-weights"])
def test_the_old_name_of_tied_weights(option: str) -> None:
    assert parse(option)["model"].overrides() == {"tie_weights": True}


def test_a_switch_may_be_turned_off() -> None:
    assert parse("--no-tie-weights")["model"].overrides() == {"tie_weights": False}


def test_targets_are_joined_and_leave_arguments_alone() -> None:
    seen = parse("--target", "mlm", "token_cls", "text")
    assert seen["many"].target == ("mlm", "token_cls")
    assert seen["texts"] == ["text"]


@pytest.mark.parametrize(
    "argv", [["0.5", "-1", "2e-1"], ["0.5,-1,2e-1"], ["0.5, -1, 2e-1"]], ids=str
)
def test_numbers_may_be_written_apart_or_with_commas(argv: list[str]) -> None:
    assert parse("--weights", *argv)["many"].weights == (0.5, -1.0, 0.2)


def test_a_list_of_numbers_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(SettingError, match="`layers`: '1,x' .must be whole numbers, separated by"):
        parse("--layers", "1,x")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--test-path", "a", "--test-path=b"], "--test-path must be given once."),
        (["--test_path", "a", "-i", "b"], "--test_path and -i are the same option"),
        (["--layers", "1", "--layers", "2"], "Separate several values by commas."),
        (["--weights", "1", "2", "--weights", "3"], "Separate several values by commas."),
        (["--do_lower_case", "false", "--do_lower_case", "true"], "must be given once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_value_is_lost_where_an_option_is_repeated(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*argv)
    assert words in str(caught.value)


def test_messages_name_the_option_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["cloze", "-n", "0", "好"]) == 2
    assert "Invalid -n: 0" in capsys.readouterr().err
    assert entry.main(["cloze", "--input", "a", "-o", "-", "--resume"]) == 2
    assert "Name one with -o." in capsys.readouterr().err


def test_lists_and_switches_may_be_repeated() -> None:
    seen = parse("--model-list-path", "a", "b", "--model-list-path", "c", "--json", "--json")
    assert seen["many"].model_list_path == ("a", "b", "c")
    assert seen["output"].json


def test_an_option_after_two_hyphens_is_text() -> None:
    assert parse("--topn", "3", "--", "--topn", "4")["texts"] == ["--topn", "4"]


def test_nothing_after_two_hyphens_is_touched() -> None:
    argv = ["--", "--embedding", "word", "pos", "--do_lower_case"]
    assert normalize(argv, fields_of(ModelSettings)) == argv


def test_an_option_without_its_value_stays_for_the_parser_to_refuse() -> None:
    argv = ["--embedding", "--topn", "3"]
    assert normalize(argv, fields_of(ModelSettings)) == argv


def test_a_shard_is_a_pair() -> None:
    assert parse("--shard", "2/8")["text"].parts() == (2, 8)


def test_saving_a_run_needs_an_output() -> None:
    with pytest.raises(UsageError, match="--save-run"):
        parse("--save-run")["output"].apply()


def test_a_config_without_a_model_is_a_usage_error() -> None:
    seen = parse("--config-path", "c.json")
    with pytest.raises(UsageError, match="`config_path`"):
        load_from_settings(seen["model"], seen["device"])


def test_commands_may_be_written_with_underscores() -> None:
    parser = typer.main.get_command(entry.app)
    with parser.make_context("uertool", ["extract_features"]) as context:
        assert parser.resolve_command(context, ["extract_features"])[0] == "extract-features"
